"""The page around the panels: title and notes above, one legend and a footer below."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from lowrank_bench.report.frames import is_synthetic
from lowrank_bench.report.style import GREY, WARNING, Line, page_style, save

WIDTH = 7.2  # inches: the text width of an A4 page
MARGIN = 0.12
LABEL = 0.17
ROW = 0.155  # of the legend
# Of a line of text: height in inches, width in letters, font size in points.
TEXT_LINES = {"title": (0.21, 80, 10.0), "line": (0.16, 118, 7.5)}


@dataclass
class Heading:
    """The text of a page; notes are shown verbatim, those on synthetic data in bold."""

    title: str
    subtitle: str = ""
    notes: list[str] = field(default_factory=list)
    footer: str = ""
    xlabel: str = ""
    ylabel: str = ""


def new_page(
    height: float,
    heading: Heading,
    styles: dict[str, Line] | None = None,
    points: bool = False,
) -> Figure:
    """Return a figure that leaves `height` inches for panels between heading, legend and footer.

    Parameters
    ----------
    height
        Inches for the panels.
    heading
        The text around the panels.
    styles
        Lines of the legend by series, in its order; None for no legend.
    points
        Whether the legend shows markers without lines.
    """
    above = _lines(heading)
    top = sum(line["high"] for line in above) + 0.08
    footer = wrap(heading.footer, TEXT_LINES["line"][1])
    columns, rows = _legend_shape(list(styles or {}))
    under = MARGIN + len(footer) * TEXT_LINES["line"][0] + (0.04 if footer and rows else 0)
    below = under + rows * ROW + (0.08 if rows or footer else 0)
    bottom = below + (LABEL if heading.xlabel else 0)
    total = height + top + bottom + MARGIN
    side = MARGIN / WIDTH
    left = side + (LABEL / WIDTH if heading.ylabel else 0)
    layout = ConstrainedLayoutEngine()
    figure = Figure(figsize=(WIDTH, total), layout=layout)
    rect = (left, bottom / total, 1 - side - left, height / total)
    layout.set(rect=rect, w_pad=0.06, h_pad=0.05)
    y = total - MARGIN
    for line in above:
        figure.text(side, y / total, line["text"], va="top", **line["options"])
        y -= line["high"]
    for place, text in enumerate(reversed(footer)):
        y = MARGIN + place * TEXT_LINES["line"][0]
        figure.text(side, y / total, text, va="bottom", fontsize=7.5, color=GREY)
    middle = (bottom + height / 2) / total
    figure.text(side, middle, heading.ylabel, rotation=90, ha="left", va="center")
    figure.text((left + 1) / 2, below / total, heading.xlabel, ha="center", va="bottom")
    if styles:
        _legend(figure, styles, columns, under / total, points)
    return figure


def _lines(heading: Heading) -> list[dict[str, Any]]:
    """Return each line of text above the panels with its height and font options."""
    parts = [("title", heading.title, {"weight": "bold"})]
    parts += [("line", heading.subtitle, {"color": GREY})]
    for note in heading.notes:
        look = {"color": WARNING, "weight": "bold"} if is_synthetic(note) else {"color": WARNING}
        parts.append(("line", note, look))
    lines = []
    for kind, text, look in parts:
        high, letters, size = TEXT_LINES[kind]
        # Bold letters are wider.
        letters = int(letters * (0.88 if "weight" in look and kind == "line" else 1))
        options = {"fontsize": size, "parse_math": False, **look}
        lines += [{"text": t, "high": high, "options": options} for t in wrap(text, letters)]
    return lines


def _legend_shape(names: list[str]) -> tuple[int, int]:
    """Return how many columns and rows of names fit under the panels."""
    if not names:
        return 1, 0
    widths = [TextPath((0, 0), name, size=8).get_extents().width / 72 + 0.55 for name in names]
    # The fewest rows that fit; with as many rows, the fewest columns, which are then evenly filled.
    for rows in range(1, len(names)):
        for columns in range(-(-len(names) // rows), len(names) + 1):
            parts = np.array_split(widths, columns)  # as the legend distributes the names
            fits = sum(max(part) for part in parts) <= WIDTH - 2 * MARGIN
            if fits and len(parts[0]) == rows:
                return columns, rows
    return 1, len(names)


def _legend(figure: Figure, styles: dict[str, Line], columns: int, y: float, points: bool) -> None:
    only = {"linestyle": "none"} if points else {}
    handles = [Line2D([], [], label=name, **line.options() | only) for name, line in styles.items()]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, y),
        ncols=columns,
        borderaxespad=0,
        borderpad=0,
        handlelength=1 if points else 2.6,
        columnspacing=1.4,
        labelspacing=0.35,
    )
    legend.set_in_layout(False)  # `new_page` has already reserved its room


def empty_page(stem: Path, heading: Heading, reason: str) -> list[Path]:
    """Write a figure that says why it shows nothing, and return its paths."""
    with page_style():
        figure = new_page(2.4, Heading(heading.title, footer=heading.footer))
        axes = figure.subplots()
        axes.set_axis_off()
        say(axes, reason)
        return save(figure, stem)


def say(axes: Axes, reason: str, letters: int = 70) -> None:
    """Put a text in the middle of a panel."""
    text = "\n".join(wrap(reason, letters))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def panel_grid(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """Return `count` panels in rows of `columns`, sharing x; surplus axes are removed.

    The lowest panel of every column has tick labels, even above a gap in the last row.
    """
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, **options)
    for place, axes in enumerate(grid.flat):
        if place >= count:
            axes.remove()
        elif place + columns >= count:
            axes.tick_params(labelbottom=True)
    return list(grid.flat[:count])


def columns_for(count: int) -> int:
    """Return the number of panels side by side: 2 for four panels, otherwise at most 3."""
    return 2 if count == 4 else min(count, 3)


def joined(parts: Iterable[str], mark: str = "; ") -> str:
    """Join the parts that are not empty."""
    return mark.join(part for part in parts if part)
