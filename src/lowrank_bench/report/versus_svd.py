"""Heat map of the gain over plain SVD at the same budget."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize

from lowrank_bench.report import frames
from lowrank_bench.report.page import (
    Heading,
    columns_for,
    empty_page,
    joined,
    new_page,
)
from lowrank_bench.report.style import GREY, Line, line_styles, page_style, save

COLORS = LinearSegmentedColormap.from_list(
    "versus", ["#D55E00", "#ffffff", "#0072B2"]
).with_extremes(bad="#f0f0f0")
COLORED = 0.95  # share of the numbers that lie within the range of colours
TITLE, FITTING = 8.5, 24  # font size in points; number of letters that fit above a panel
WIDE = 6  # most cells side by side with room for two digits and a decimal
BAR, BAR_PAD = 0.55, 0.08  # inches for the colour bar, and above it


@dataclass(frozen=True)
class _Block:
    """Networks whose panels have the same rows and columns."""

    models: list[str]
    series: list[str]
    budgets: list[float]

    @property
    def columns(self) -> int:
        """Number of panels side by side."""
        return min(columns_for(len(self.models)), 2 if len(self.budgets) <= 6 else 1)


def versus_svd(
    summary: pd.DataFrame,
    out_stem: Path,
    title: str = "",
    scores: pd.DataFrame | None = None,
    styles: dict[str, Line] | None = None,
) -> list[Path]:
    """Draw the gain over SVD at the same budget for each network, method and compression.

    The number is the gain of the GLUE average where the summary has one against SVD, with a star
    where its p-value is below 0.05; elsewhere it is the mean over the tasks' headline metrics.
    Below it are the numbers of tasks won (▲) and lost (▼) at p < 0.05, not corrected for the number
    of tests. A number in parentheses lacks some of the network's tasks.

    Parameters and files are those of `curves.drop_curves`.
    """
    frame = frames.tidy(summary)
    tidied = None if scores is None else frames.tidy(scores)
    order = list(styles or line_styles(frame))
    rows = frames.headline(frame)
    cells = compare(rows, frames.averages(frame))
    lost = frames.lost_cells(tidied)
    unit = frames.budget_unit(frame)
    heading = Heading(
        title=joined([title, "gain over svd at the same budget"], " · "),
        subtitle="points, positive: better than svd; ▲ ▼: tasks won and lost at p < 0.05"
        + ("; * p < 0.05 on average" if cells["p"].notna().any() else "")
        + ("; (…): some tasks missing" if (cells["tasks"] < cells["of"]).any() else ""),
        notes=frames.note_lines(_shown(rows, frames.averages(frame), cells)),
        footer=frames.lost_line(lost),
    )
    if cells.empty:
        reason = (
            "no cell has svd at the same budget"
            if "svd" in set(frame["method"])
            else "svd is not among the evaluated methods: there is nothing to compare with"
        )
        return empty_page(Path(out_stem), heading, reason)
    compared = rows["model"].isin(set(cells["model"])) & (rows["method"] != "dense")
    others = rows[compared & ~frames.is_baseline(rows)]
    xlabel = f"compression (%{f' of {unit}' if unit else ''})"
    return _draw(cells, _blocks(others, order), heading, xlabel, Path(out_stem))


def _blocks(rows: pd.DataFrame, order: list[str]) -> list[_Block]:
    """Group networks that have the same methods and compressions."""
    blocks: dict[tuple[tuple[str, ...], tuple[float, ...]], _Block] = {}
    for model, part in rows.groupby("model"):
        series = [name for name in order if name in set(part["series"])]
        budgets = sorted(set(part["compression"]))
        key = (tuple(series), tuple(budgets))
        blocks.setdefault(key, _Block([], series, budgets)).models.append(model)
    return list(blocks.values())


def _shown(rows: pd.DataFrame, averages: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the cells show, for their notes."""
    by_average = set(cells.loc[cells["basis"] == frames.AVERAGES["glue"], "model"])
    glue = averages[(averages["task"] == "glue") & averages["model"].isin(by_average)]
    glue = glue.assign(panel=frames.AVERAGES["glue"])
    rows = rows[rows["model"].isin(set(cells["model"]) - by_average)]
    shown = pd.concat([glue, rows])
    return shown[shown["vs_svd"].notna() & ~frames.is_baseline(shown)]


def compare(rows: pd.DataFrame, averages: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each network, method and compression that is compared with SVD.

    Parameters
    ----------
    rows
        Tidied rows of the tasks' headline metrics.
    averages
        Tidied rows of the averages; `glue` takes precedence over the mean over `rows`.

    Returns
    -------
    pandas.DataFrame
        Columns model, series, compression, gain (points), p (NaN unless the gain has a single
        test), won, lost, tasks (number compared), of (number of the network's tasks), basis.
    """
    other = rows[~frames.is_baseline(rows) & rows["vs_svd"].notna()]
    keys = ["model", "series", "compression"]
    sure = other["vs_svd_p"] < frames.LEVEL
    other = other.assign(won=sure & (other["vs_svd"] > 0), lost=sure & (other["vs_svd"] < 0))
    cells = other.groupby(keys, as_index=False).agg(
        gain=("vs_svd", "mean"),
        p=("vs_svd_p", "first"),
        won=("won", "sum"),
        lost=("lost", "sum"),
        tasks=("task", "nunique"),
    )
    cells["of"] = cells["model"].map(rows.groupby("model")["task"].nunique())
    cells["p"] = cells["p"].where(cells["of"] == 1)  # a mean of several tasks has no test
    cells["basis"] = [f"mean of {n} tasks" if n > 1 else "one task" for n in cells["of"]]
    glue = averages[(averages["task"] == "glue") & averages["vs_svd"].notna()]
    glue = glue[~frames.is_baseline(glue)].drop_duplicates(keys).set_index(keys)
    for place, key in enumerate(cells[keys].itertuples(index=False, name=None)):
        if key[0] in set(glue.index.get_level_values(0)):
            averaged = key in glue.index
            cells.loc[place, "gain"] = glue.at[key, "vs_svd"] if averaged else np.nan
            cells.loc[place, "p"] = glue.at[key, "vs_svd_p"] if averaged else np.nan
            cells.loc[place, "basis"] = frames.AVERAGES["glue"]
    return cells


def _draw(
    cells: pd.DataFrame, blocks: list[_Block], heading: Heading, xlabel: str, stem: Path
) -> list[Path]:
    columns = max(block.columns for block in blocks)
    lines = [(block, place) for block in blocks for place in range(0, len(block.models), columns)]
    heights = [0.33 * len(block.series) + 0.62 for block, _ in lines]
    # A quantile, because a few large gains would leave the other cells almost white.
    scale = max(float(cells["gain"].abs().quantile(COLORED)), 0.1)
    norm = Normalize(-scale, scale)
    with page_style():
        figure = new_page(sum(heights) + 0.35 + BAR, heading)
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        drawn = []
        for line, (block, first) in enumerate(lines):
            for column, model in enumerate(block.models[first : first + columns]):
                axes = figure.add_subplot(grid[line, column])
                part = cells[cells["model"] == model]
                _map(axes, part, block, norm, columns * len(block.budgets) > WIDE)
                axes.tick_params(labelleft=column == 0)
                axes.set_xlabel(xlabel)
                drawn.append(axes)
        beyond = (cells["gain"].abs() > scale).any()
        bar = figure.colorbar(
            ScalarMappable(norm, COLORS),
            ax=drawn,
            label="gain over svd (points)",
            location="bottom",
            shrink=0.5,
            aspect=40,
            pad=BAR_PAD / sum(heights),
            extend="both" if beyond else "neither",
        )
        bar.outline.set_visible(False)
        return save(figure, stem)


def _map(
    axes: Axes,
    cells: pd.DataFrame,
    block: _Block,
    norm: Normalize,
    narrow: bool,
) -> None:
    series, budgets = block.series, block.budgets
    table = cells.pivot(index="series", columns="compression", values="gain")
    table = table.reindex(index=series, columns=budgets)
    axes.pcolormesh(
        np.ma.masked_invalid(table.to_numpy(float)), cmap=COLORS, norm=norm, edgecolors="white"
    )
    title = f"{cells['model'].iloc[0]} ({cells['basis'].iloc[0]})"
    axes.set_title(title, fontsize=TITLE if len(title) <= FITTING else TITLE * FITTING / len(title))
    axes.set_xticks(np.arange(len(budgets)) + 0.5, [f"{100 * part:g}" for part in budgets])
    axes.set_yticks(np.arange(len(series)) + 0.5, series)
    axes.set_ylim(len(series), 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for cell in cells.itertuples():
        if np.isfinite(cell.gain):
            strong = abs(float(norm(cell.gain)) - 0.5) > 0.36
            x, y = budgets.index(cell.compression) + 0.5, series.index(cell.series) + 0.5
            axes.text(
                x,
                y,
                _words(cell, narrow),
                ha="center",
                va="center",
                fontsize=6.5,
                linespacing=1.15,
                color="white" if strong else "black",
            )
    blank = ~table.notna().to_numpy()
    for row, column in zip(*np.nonzero(blank), strict=True):
        axes.text(
            column + 0.5, row + 0.5, "no value", ha="center", va="center", fontsize=6, color=GREY
        )


def _words(cell: Any, narrow: bool) -> str:
    digits = 0 if narrow and abs(round(cell.gain, 1)) >= 10 else 1
    number = f"{round(cell.gain, digits) or 0.0:+.{digits}f}".replace("-", "−")
    number = f"({number})" if cell.tasks < cell.of else number
    star = "*" if cell.p < frames.LEVEL else ""
    tally = joined([f"▲{cell.won}" if cell.won else "", f"▼{cell.lost}" if cell.lost else ""], " ")
    return joined([number + star, tally], "\n")
