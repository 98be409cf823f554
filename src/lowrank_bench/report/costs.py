"""Drop against three savings side by side: parameters, multiply-adds, and measured time."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from lowrank_bench.report import frames
from lowrank_bench.report.page import Heading, empty_page, joined, new_page, say
from lowrank_bench.report.style import GREY, Line, line_styles, page_style, save
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import number

COUNTS = {
    "parameters": ("parameters_dense", "parameters_kept", "parameters saved (%)"),
    "multiply-adds": ("macs_dense", "macs_kept", "multiply-adds saved (%)"),
}
MEASURED_KEYS = ["model", "label", "target", "compression"]
NO_MACS = "look-ups have no multiply-adds"


def cost_curves(
    scores: pd.DataFrame,
    latency: pd.DataFrame,
    out_stem: Path,
    title: str = "",
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the mean drop over a network's tasks against each of three costs.

    Each network has one row of panels: parameters of the replaced layers, multiply-adds, and the
    speed relative to the dense network on the largest batch that was measured.

    Parameters
    ----------
    scores
        The score table `scores`.
    latency
        The table `latency`.
    out_stem, title, styles
        As in `curves.drop_curves`.
    """
    frame = frames.tidy(scores)
    styles = styles or line_styles(frame)
    rows = _points(frame, latency)
    heading = Heading(
        title=joined([title, "drop against what is saved"], " · "),
        subtitle="mean drop over the tasks, points, without training after; time: "
        + joined(sorted(set(latency["clock"].dropna()))),
        notes=frames.note_lines(frames.headline(frame)),
        ylabel="drop (points)",
    )
    if rows.empty:
        return empty_page(Path(out_stem), heading, "no compressed network was evaluated")
    models = sorted(set(rows["model"]))
    shown = {name: line for name, line in styles.items() if name in set(rows["series"])}
    with page_style():
        figure = new_page(2.2 * len(models) + 0.4, heading, shown)
        grid = figure.subplots(len(models), len(COUNTS) + 1, squeeze=False, sharey="row")
        for line, model in zip(grid, models, strict=True):
            part = rows[rows["model"] == model]
            for axes, column in zip(line, [*COUNTS, "ratio"], strict=True):
                _panel(axes, part, column, shown)
            line[0].set_title(model)
        return save(figure, Path(out_stem))


def _points(frame: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Return mean drop, savings and speed for each network, series and compression."""
    rows = frames.headline(frame[frame["status"].isin(["ok", ""])])
    rows = rows[~frames.as_trained(rows) & (rows["finetune_epochs"] == 0) & rows["drop"].notna()]
    for name, (dense, kept, _) in COUNTS.items():
        rows[name] = 100 * (1 - rows[kept] / rows[dense])
    keys = ["model", "series", "label", "target", "compression"]
    means = rows.groupby(keys, as_index=False)[["drop", *COUNTS]].mean()
    sizes = ["batch", "length"]
    # Of several batches the largest is drawn; the table lists them all.
    measured = latency.sort_values(sizes).drop_duplicates(MEASURED_KEYS, keep="last")
    measured = measured[[*MEASURED_KEYS, *sizes, "ratio"]]
    means = means.merge(measured, how="left", on=MEASURED_KEYS)
    return means.sort_values(keys)


def _panel(axes: Axes, rows: pd.DataFrame, column: str, styles: dict[str, Line]) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.grid()
    if column in COUNTS:
        axes.set_xlabel(COUNTS[column][2])
    else:
        axes.axvline(1, color=GREY, linewidth=0.8, zorder=1)
        axes.set_xlabel(_times(rows))
    if rows[column].isna().all():
        say(axes, NO_MACS if column in COUNTS else "not measured", 20)
        return
    for name, line in styles.items():
        points = rows[(rows["series"] == name) & rows[column].notna()]
        axes.plot(points[column], points["drop"], zorder=3, **line.options())


def _times(rows: pd.DataFrame) -> str:
    """Return the label of the speed axis, with the batch on which the speed was measured."""
    sizes = rows[["batch", "length"]].dropna()
    if sizes.empty:
        return "times as fast"
    batch, length = (int(value) for value in sizes.iloc[0])
    return f"times as fast ({batch} texts of {length})" if length else f"times as fast ({batch})"


def latency_table(latency: pd.DataFrame) -> Table:
    """Return speed, memory and disk size of every measured network relative to the dense one."""
    measured = latency[latency["ratio"].notna()]
    machines = measured[["clock", "threads", "device"]].drop_duplicates().astype(str)
    machine = "; ".join(f"{c}, {t} threads, {d}" for c, t, d in machines.itertuples(index=False))
    busy = measured["load"].max() if len(measured) else float("nan")
    note = f"the machine's load average reached {busy:.1f} while this was measured"
    return Table(
        name="latency",
        title="Measured speed",
        caption="Dense over compressed: seconds of the best and of the median forward, peak "
        "memory, bytes on disk; above 1 is faster or smaller"
        + (f" ({machine})" if machine else ""),
        long=latency,
        sections={model: _section(part) for model, part in latency.groupby("model")},
        notes=[note] if busy > 1.5 else [],
        empty="nothing was measured",
    )


def _section(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": rows["label"],
            "saved, %": (100 * rows["compression"]).map("{:g}".format),
            "batch": rows["batch"].astype(str),
            "tokens": rows["length"].map(lambda length: str(length) if length else ""),
            "best": rows["ratio"].map(lambda value: number(value, 2)),
            "median": rows["median_ratio"].map(lambda value: number(value, 2)),
            "memory": rows["memory_ratio"].map(lambda value: number(value, 2)),
            "disk": rows["file_ratio"].map(lambda value: number(value, 2)),
            "not measured because": rows["reason"],
        }
    )
