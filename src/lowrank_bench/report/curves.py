"""The papers' figure: drop against compression, one panel per task or per average."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lowrank_bench.report import frames
from lowrank_bench.report.page import (
    Heading,
    columns_for,
    empty_page,
    joined,
    new_page,
    panel_grid,
    say,
)
from lowrank_bench.report.style import GREY, Line, line_styles, page_style, save

TITLE_SIZE = 8.5  # points; longer titles shrink so that neighbours do not touch
NOTHING = "no cell was evaluated: see the status table"


def drop_curves(
    summary: pd.DataFrame,
    model: str,
    out_stem: Path,
    title: str = "",
    scores: pd.DataFrame | None = None,
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the drop of one network against compression, one panel per task.

    The form of the figure is that of Tukan et al. (Sensors 2021) and Maalouf et al. (ICLR 2021,
    fig. 5). A task with several metrics shows its headline metric (`frames.headline`), named in
    the panel's title; x is the compression achieved (for a budget of measured time, which no
    count tells, the compression asked), y the drop in points, the shade its 95 % interval. A lost
    cell breaks its line and is marked by a cross on the x-axis.

    Parameters
    ----------
    summary
        Columns of `score.schema.SUMMARY`; rows of other networks only serve the colours.
    model
        Name of the network.
    out_stem
        Path of the two files without their endings.
    title
        Put before the network's name, as the name of the experiment.
    scores
        Columns of `score.schema.SCORES`, to show failed and skipped cells.
    styles
        Lines by series, to share them between figures; else from the frames given.

    Returns
    -------
    list of Path
        The PNG and the PDF.
    """
    frame, scores = frames.tidy(summary), _tidied(scores)
    styles = styles or line_styles(frame if scores is None else scores)
    rows = frames.headline(frame)
    rows = rows[(rows["model"] == model) & rows["drop"].notna()]
    lost = frames.lost_cells(scores)
    lost = lost[lost["model"] == model]
    heading = _heading(f"{model}: drop against compression", title, rows, lost)
    tasks = frames.task_order([*rows["task"], *lost["task"]])
    if rows.empty:
        return empty_page(Path(out_stem), heading, NOTHING)
    panels = [(task, rows[rows["task"] == task], lost[lost["task"] == task]) for task in tasks]
    return _draw(panels, heading, Path(out_stem), styles)


def average_curves(
    summary: pd.DataFrame,
    out_stem: Path,
    title: str = "",
    scores: pd.DataFrame | None = None,
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the average drop over the GLUE tasks, with and without WNLI if any has it, of networks.

    Parameters and files as in `drop_curves`; one row of panels per network. What an average
    leaves out (its note) stands under the title.
    """
    frame, scores = frames.tidy(summary), _tidied(scores)
    styles = styles or line_styles(frame if scores is None else scores)
    rows = frames.averages(frame)
    rows = rows[rows["drop"].notna()]
    tasks = set(frame["task"]) - set(frames.AVERAGES)
    if "wnli" not in map(frames.plain_name, tasks):
        rows = rows[rows["task"] == "glue"]  # the other average is the same
    rows = rows.assign(panel=rows["task"].map(frames.AVERAGES))
    lost = frames.lost_cells(scores)
    heading = _heading("average drop against compression", title, rows, lost)
    if rows.empty:
        return empty_page(Path(out_stem), heading, frames.no_average(scores, frame))
    rows = rows.assign(panel=rows["model"] + ": " + rows["panel"])
    panels = []
    for model in sorted(set(rows["model"])):
        own = rows[rows["model"] == model]
        for task in frames.task_order(own["task"]):
            panels.append((task, own[own["task"] == task], lost[lost["model"] == model]))
    return _draw(panels, heading, Path(out_stem), styles, columns=rows["task"].nunique())


def _tidied(scores: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if scores is None else frames.tidy(scores)


def _heading(name: str, title: str, rows: pd.DataFrame, lost: pd.DataFrame) -> Heading:
    return Heading(
        title=joined([title, name], " · "),
        subtitle=joined(
            [
                "drop in points, negative: a gain",
                "shaded: 95 % interval" if rows["drop_ci_low"].notna().any() else "",
                _epochs(rows),
                _seeds(rows),
            ]
        ),
        notes=frames.note_lines(rows),
        footer=frames.lost_line(lost),
    )


def _epochs(rows: pd.DataFrame) -> str:
    found = sorted(set(rows["finetune_epochs"].dropna()))
    if len(found) != 1:
        return ""
    return f"{frames.epochs(found[0])} of fine-tuning after" if found[0] else "no fine-tuning after"


def _seeds(rows: pd.DataFrame) -> str:
    found = sorted(set(rows["n_seeds"].dropna()))
    if not found or found[-1] <= 1:
        return ""
    few, many = f"{found[0]:g}", f"{found[-1]:g}"
    return f"mean of {many} seeds" if few == many else f"mean of {few} to {many} seeds"


def _draw(
    panels: list[tuple[str, pd.DataFrame, pd.DataFrame]],
    heading: Heading,
    stem: Path,
    styles: dict[str, Line],
    columns: int | None = None,
) -> list[Path]:
    columns = columns or columns_for(len(panels))
    lines = -(-len(panels) // columns)
    everything = pd.concat([rows for _, rows, _ in panels])
    named = set(everything["series"]).union(*(lost["series"] for _, _, lost in panels))
    budgets = set(everything["compression"])
    middle = 100 * min(budgets) if len(budgets) == 1 else None
    if heading.footer:
        heading.footer += "; × on an axis: no value there"
    heading.xlabel, heading.ylabel = _xlabel(everything), "drop (points)"
    if middle is not None:
        heading.subtitle += "; points are spread sideways"
    shown = {name: line for name, line in styles.items() if name in named}
    with page_style():
        height = (3.2, 2.9, 2.3)[columns - 1] if lines == 1 else 1.75 * lines + 0.25
        figure = new_page(height, heading, shown, points=middle is not None)
        for axes, (task, rows, lost) in zip(
            panel_grid(figure, len(panels), columns), panels, strict=True
        ):
            _panel(axes, task, rows, lost, shown, middle)
        return save(figure, stem)


def _xlabel(rows: pd.DataFrame) -> str:
    targets = sorted(set(rows["target"]))
    layers = frames.LAYERS.get(targets[0], targets[0]) if len(targets) == 1 else ""
    unit = frames.budget_unit(rows)
    asked = ", as asked" if (rows["budget"] == "latency").any() else ""
    share = f"% of {unit}{asked}" if unit else "%"
    return f"compression of {layers or 'the targeted layers'} ({share})"


def _panel(
    axes: Axes,
    task: str,
    rows: pd.DataFrame,
    lost: pd.DataFrame,
    styles: dict[str, Line],
    middle: float | None,
) -> None:
    words = frames.task_title(task) if rows.empty else rows["panel"].iloc[0]
    fits = 81 / axes.get_subplotspec().get_gridspec().ncols  # letters over one panel
    axes.set_title(words, fontsize=TITLE_SIZE if len(words) <= fits else TITLE_SIZE - 1)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="y")
    for place, (name, line) in enumerate(styles.items()):
        own = rows[rows["series"] == name].drop_duplicates("compression")
        gone = lost[(lost["series"] == name) & ~lost["compression"].isin(own["compression"])]
        if middle is None:
            _curve(axes, own, gone, line)
        else:
            own = own.assign(achieved_compression=own["compression"])
            _curve(axes, own, gone, line, 8 * ((place + 0.5) / len(styles) - 0.5))
    if rows.empty:
        say(axes, "every cell failed or was skipped", 18)
        axes.set_yticks([])
    _limits(axes, rows, middle)


def _curve(
    axes: Axes, rows: pd.DataFrame, gone: pd.DataFrame, line: Line, shift: float = 0.0
) -> None:
    """Draw one series; the rows of `gone` break it, so that a gap is never bridged."""
    gone = gone.drop_duplicates("compression")[["compression"]]
    rows = pd.concat([rows, gone]).sort_values("compression")
    counted = rows["achieved_compression"].where(rows["budget"] != "latency")  # of parameters there
    reached = counted.fillna(rows["compression"])
    x, y = 100 * reached.to_numpy(float) + shift, rows["drop"].to_numpy(float)
    low, high = (rows[f"drop_ci_{end}"].to_numpy(float) for end in ("low", "high"))
    axes.fill_between(x, low, high, color=line.color, alpha=0.13, linewidth=0, zorder=2)
    alone = ~np.isnan(y) & _missing_beside(y) & ~np.isnan(low)
    if alone.any():
        axes.vlines(x[alone], low[alone], high[alone], color=line.color, linewidth=1, zorder=2)
    front = 5 if line.color == (0, 0, 0) else 4
    axes.plot(x, y, zorder=front, **line.options())
    crosses = 100 * gone["compression"].to_numpy(float) + shift
    if crosses.size:
        options = {"color": line.color, "clip_on": False, "zorder": 6}
        axes.plot(crosses, 0 * crosses, "x", transform=axes.get_xaxis_transform(), **options)


def _missing_beside(y: np.ndarray) -> np.ndarray:
    """Say for each point whether it has no neighbour to share a shade with."""
    gaps = np.isnan(np.concatenate([[np.nan], y, [np.nan]]))
    return gaps[:-2] & gaps[2:]


def _limits(axes: Axes, rows: pd.DataFrame, middle: float | None) -> None:
    ends = rows[["drop", "drop_ci_low", "drop_ci_high"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    low, high = (min(0, ends.min()), max(0, ends.max())) if ends.size else (0, 0)
    room = max(high - low, 1.0)  # a task that loses nothing must not look like noise blown up
    axes.set_ylim(low - 0.06 * room, max(high, low + room) + 0.06 * room)
    if not rows.empty:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    if middle is None:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axes.set_xlim(middle - 5, middle + 5)
        axes.set_xticks([middle], [f"{middle:g}"])
