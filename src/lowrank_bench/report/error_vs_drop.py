"""Scatter plot of approximation error against drop: how well the error predicts the drop."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from lowrank_bench.report import frames
from lowrank_bench.report.page import Heading, empty_page, joined, new_page
from lowrank_bench.report.style import GREY, Line, line_styles, page_style, save

ERRORS = {"rel_error_fro": "Frobenius norm", "rel_error_l1": "entrywise ℓ1 norm"}


def error_vs_drop(
    scores: pd.DataFrame,
    out_stem: Path,
    title: str = "",
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the drop of every evaluated cell against the relative error of its approximation.

    Each network has one row of panels, each norm one column. A point is one cell (task, method,
    compression, seed) in its task's headline metric. The title of a panel gives Spearman's rank
    correlation of error and drop, taken within each task and seed and then averaged, because
    tasks differ in how far their metric can drop.

    Parameters
    ----------
    scores
        The score table `scores`.
    out_stem, title, styles
        As in `curves.drop_curves`.
    """
    frame = frames.tidy(scores)
    styles = styles or line_styles(frame)
    lost = frames.lost_cells(frame)
    rows = frames.headline(frame[frame["status"].isin(["ok", ""])])
    rows = rows[rows["drop"].notna()]
    reason = _nothing(rows)
    rows = rows[rows[list(ERRORS)].notna().any(axis=1)]
    heading = Heading(
        title=joined([title, "error of the approximation against drop"], " · "),
        subtitle="a point: one task, method, compression and seed; "
        "ρ: Spearman's correlation within a task and seed, averaged",
        notes=frames.note_lines(rows),
        footer=frames.lost_line(lost),
        ylabel="drop (points)",
    )
    if rows.empty:
        return empty_page(Path(out_stem), heading, reason)
    models = sorted(set(rows["model"]))
    shown = {name: line for name, line in styles.items() if name in set(rows["series"])}
    with page_style():
        figure = new_page(2.2 * len(models) + 0.4, heading, shown, points=True)
        grid = figure.subplots(len(models), 2, squeeze=False, sharey="row", sharex="col")
        for row, model in zip(grid, models, strict=True):
            for axes, error in zip(row, ERRORS, strict=True):
                _scatter(axes, rows[rows["model"] == model], error, shown)
        for axes, norm in zip(grid[-1], ERRORS.values(), strict=True):
            axes.set_xlabel(f"relative error, {norm}")
        return save(figure, Path(out_stem))


def _nothing(rows: pd.DataFrame) -> str:
    """Return the reason to show if no evaluated cell has an error."""
    if rows.empty:
        return "no cell was evaluated: see the status table"
    targets = sorted(set(rows["target"]))
    if "embedding" in targets or not set(targets) <= set(frames.LAYERS):
        return "no evaluated cell has an approximation error"
    layers = " and ".join(frames.LAYERS[target] for target in targets)
    return f"errors are recorded where the embedding alone is compressed; here {layers} are"


def _scatter(axes: Axes, rows: pd.DataFrame, error: str, styles: dict[str, Line]) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.grid()
    for name, line in styles.items():
        points = rows[rows["series"] == name]
        options = line.options() | {"linestyle": "none", "markersize": 3.2, "alpha": 0.75}
        axes.plot(points[error], points["drop"], zorder=3, **options)
    value = rank_correlation(rows, error)
    known = "" if pd.isna(value) else f" (ρ = {value:.2f})".replace("-", "−")
    axes.set_title(rows["model"].iloc[0] + known)


def rank_correlation(rows: pd.DataFrame, error: str) -> float:
    """Return Spearman's correlation of `error` with the drop within each task and seed, averaged.

    NaN if no task and seed has three cells whose errors and drops are not all equal.
    """
    values = []
    for _, part in rows.groupby(["task", "seed"], dropna=False):
        part = part[[error, "drop"]].dropna()
        if len(part) >= 3 and (part.nunique() > 1).all():
            values.append(part[error].corr(part["drop"], method="spearman"))
    return float(pd.Series(values, dtype=float).mean())
