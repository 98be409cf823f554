"""The figure of the papers: drop against compression, one panel for each task or average."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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

TITLE_SIZE = 8.5  # points; long titles are smaller, so that neighbours do not touch
NOTHING = "no cell was evaluated: see the status table"


def drop_curves(
    summary: pd.DataFrame,
    model: str,
    out_stem: Path,
    title: str = "",
    scores: pd.DataFrame | None = None,
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the drop of one network against compression, one panel for each task.

    The form of the figure is that of Tukan et al. (Sensors 2021) and Maalouf et al. (ICLR 2021,
    fig. 5). A task with several metrics shows its headline metric (`frames.headline`), named in
    the panel's title. x is the compression achieved, or the compression requested for a budget of
    measured time, which is not counted; y is the drop in points, and the shade its 95 % interval.
    A lost cell breaks its line and is marked by a cross on the x-axis.

    Parameters
    ----------
    summary
        The score table `summary`; rows of other networks only decide the colours.
    model
        Name of the network.
    out_stem
        Path of the two files without their extensions.
    title
        Words before the network's name, such as the title of the experiment.
    scores
        The score table `scores`, to show failed and skipped cells.
    styles
        Lines by series, which figures of one report share; derived from the frames if None.

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
    """Draw the average drop over the GLUE tasks for each network, with and without WNLI.

    Parameters and files are those of `drop_curves`; each network has one row of panels. If no
    network was evaluated on WNLI, one average is drawn. The notes under the title say which tasks
    an average lacks.
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
        part = rows[rows["model"] == model]
        for task in frames.task_order(part["task"]):
            panels.append((task, part[part["task"] == task], lost[lost["model"] == model]))
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
    counts = sorted(set(rows["finetune_epochs"].dropna()))
    if len(counts) != 1:
        return ""
    (count,) = counts
    return f"{frames.epochs(count)} of fine-tuning after" if count else "no fine-tuning after"


def _seeds(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows["n_seeds"].dropna()))
    if not counts or counts[-1] <= 1:
        return ""
    few, many = f"{counts[0]:g}", f"{counts[-1]:g}"
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
    place_in_grid = axes.get_subplotspec()
    assert place_in_grid is not None  # panels are made by `Figure.subplots`
    fits = 81 / place_in_grid.get_gridspec().ncols  # letters that have room above one panel
    axes.set_title(words, fontsize=TITLE_SIZE if len(words) <= fits else TITLE_SIZE - 1)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="y")
    for place, (name, line) in enumerate(styles.items()):
        points = rows[rows["series"] == name].drop_duplicates("compression")
        gone = lost[(lost["series"] == name) & ~lost["compression"].isin(points["compression"])]
        if middle is None:
            _curve(axes, points, gone, line)
        else:
            # One compression: points are spread sideways around it, or they would overlap.
            points = points.assign(achieved_compression=points["compression"])
            _curve(axes, points, gone, line, 8 * ((place + 0.5) / len(styles) - 0.5))
    if rows.empty:
        say(axes, "every cell failed or was skipped", 18)
        axes.set_yticks([])
    _limits(axes, rows, middle)


def _curve(
    axes: Axes, rows: pd.DataFrame, gone: pd.DataFrame, line: Line, shift: float = 0.0
) -> None:
    """Draw one series; it is interrupted at the rows of `gone`, so that no line bridges a gap."""
    gone = gone.drop_duplicates("compression")[["compression"]]
    rows = pd.concat([rows, gone]).sort_values("compression")
    # With a budget of time, the achieved compression counts parameters; the requested one is drawn.
    counted = rows["achieved_compression"].where(rows["budget"] != "latency")
    drawn = counted.fillna(rows["compression"])
    x, y = 100 * drawn.to_numpy(float) + shift, rows["drop"].to_numpy(float)
    low, high = (rows[f"drop_ci_{end}"].to_numpy(float) for end in ("low", "high"))
    axes.fill_between(x, low, high, color=line.color, alpha=0.13, linewidth=0, zorder=2)
    # The shade of a point without neighbours has no width: its interval is drawn as a line.
    alone = ~np.isnan(y) & _missing_beside(y) & ~np.isnan(low)
    if alone.any():
        axes.vlines(x[alone], low[alone], high[alone], color=line.color, linewidth=1, zorder=2)
    front = 5 if line.color == (0, 0, 0) else 4
    axes.plot(x, y, zorder=front, **line.options())
    crosses = 100 * gone["compression"].to_numpy(float) + shift
    if crosses.size:
        axes.plot(
            crosses,
            0 * crosses,
            "x",
            transform=axes.get_xaxis_transform(),
            color=line.color,
            clip_on=False,
            zorder=6,
        )


def _missing_beside(y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say for each point whether both neighbours are missing."""
    gaps: NDArray[np.bool_] = np.isnan(np.concatenate([[np.nan], y, [np.nan]]))
    return gaps[:-2] & gaps[2:]


def _limits(axes: Axes, rows: pd.DataFrame, middle: float | None) -> None:
    ends = rows[["drop", "drop_ci_low", "drop_ci_high"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    low, high = (min(0, ends.min()), max(0, ends.max())) if ends.size else (0, 0)
    room = max(high - low, 1.0)  # at least a point, or noise would look like a drop
    axes.set_ylim(low - 0.06 * room, max(high, low + room) + 0.06 * room)
    if not rows.empty:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    if middle is None:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axes.set_xlim(middle - 5, middle + 5)
        axes.set_xticks([middle], [f"{middle:g}"])
