"""Style of the figures: a colour for each method, a shade for each parameter; fixed bytes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lowrank_bench.report.frames import natural

INK, GREY, FAINT, WARNING = "#1a1a1a", "#666666", "#d9d9d9", "#b03a00"
# Okabe and Ito's palette without yellow, which is too pale for lines, then darker colours of Tol's
# palette "muted".
HUES = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
    "#8C6D46",
]
MARKERS = "os^DvPXph<>"
# When all hues are used, they start again with markers that are this many places further on, far
# from those of a method with several parameters in the first round.
ROUND = 5
DASHES: tuple[Any, ...] = ("-", (0, (1.2, 1.2)), (0, (5, 1.5, 1, 1.5)))
SVD_DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (2, 2)), (0, (7, 2)))

RC: dict[Any, Any] = {  # keys of `matplotlib.rcParams`, which are typed one by one
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
    "figure.dpi": 150,
    "text.parse_math": False,  # a name with dollar signs is a name
}


@dataclass(frozen=True)
class Line:
    """How one series is drawn in every figure."""

    color: tuple[float, float, float]
    marker: str
    dashes: Any
    filled: bool

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `Axes.plot`."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "markerfacecolor": self.color if self.filled else "white",
            "markeredgecolor": self.color,
            "markeredgewidth": 0.9,
        }


@contextmanager
def page_style() -> Iterator[None]:
    """Draw and save with the settings of the report, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def line_styles(frame: pd.DataFrame) -> dict[str, Line]:
    """Return the line of every series of a tidied frame, in the order of the legend.

    Methods get hues and markers in alphabetical order. Methods for embeddings and methods for whole
    networks are never in one panel, so both start from the first hue. `svd` comes first, black and
    dashed. Within a method the parameters run from dark to light. Where two of them vary, each
    value of the first gets a separate hue, and the second decides the marker. All but the smallest
    number of epochs of fine-tuning have hollow markers and other dash patterns.
    """
    rows = frame[(frame["method"] != "dense") | (frame["finetune_epochs"] > 0)]
    rows = rows.assign(kind=_kinds(rows))
    methods = sorted(set(rows["method"]), key=lambda name: (name != "svd", name))
    epochs = sorted(set(rows["finetune_epochs"].dropna()))
    styles: dict[str, Line] = {}
    places: Counter[str] = Counter()  # of the next hue, for each kind of panel
    for method in methods:
        for kind, part in rows[rows["method"] == method].groupby("kind"):
            for family, markers in _families(part["label"]).items():
                members = part[part["label"].isin(markers)]
                drawn = _drawn(members, epochs, markers, family is None, places[kind])
                styles = {**drawn, **styles} if method == "svd" else {**styles, **drawn}
                places[kind] += method != "svd"
    return styles


def _kinds(rows: pd.DataFrame) -> pd.Series:
    """Return the kind of panel that each series is drawn in: one for each target of a network."""
    several = rows.groupby("model")["target"].nunique().max() > 1
    return rows["target"].map(lambda target: "" if several else target)


def _drawn(
    rows: pd.DataFrame, epochs: list[float], markers: dict[str, int], alone: bool, place: int
) -> dict[str, Line]:
    """Return the lines of a family of series, which share a method and a hue."""
    keys = rows[["label", "target"]].drop_duplicates().itertuples(index=False, name=None)
    shades = {key: rank for rank, key in enumerate(sorted(keys, key=natural))}
    series = rows[["series", "label", "target", "finetune_epochs"]].drop_duplicates("series")
    lines = {}
    for name, label, target, epoch in sorted(
        series.itertuples(index=False, name=None), key=natural
    ):
        turn = epochs.index(epoch) if epoch in epochs else 0
        marker = place + place // len(HUES) * ROUND if alone else markers[label]
        shade = (shades[label, target], len(shades))
        lines[name] = _line(rows["method"].iloc[0], place, marker, shade, turn)
    return lines


def _families(labels: pd.Series) -> dict[str | None, dict[str, int]]:
    """Return the labels of a method in families by the first parameter that varies, numbered.

    Labels of a family get a number for each combination of the other parameters that vary. If
    fewer than two parameters vary, all labels are in one family, None.
    """
    parts = {label: _parameters(label) for label in sorted(set(labels), key=natural)}
    names = dict.fromkeys(name for values in parts.values() for name in values)
    varying = [n for n in names if len({values.get(n) for values in parts.values()}) > 1]
    if len(varying) < 2:
        return {None: dict.fromkeys(parts, 0)}
    others = varying[1:]
    rest = {label: tuple(values.get(n, "") for n in others) for label, values in parts.items()}
    order = {value: number for number, value in enumerate(dict.fromkeys(sorted(rest.values())))}
    families: dict[str | None, dict[str, int]] = {}
    for label, values in parts.items():
        families.setdefault(values.get(varying[0], ""), {})[label] = order[rest[label]]
    return families


def _parameters(label: str) -> dict[str, str]:
    """Return the parameters that a label names, as `method (a=1, b=2)` does."""
    inside = label.partition(" (")[2].removesuffix(")")
    pairs = (part.partition("=") for part in inside.split(", ") if "=" in part)
    return {name: value for name, _, value in pairs}


def _line(method: str, place: int, marker: int, shade: tuple[int, int], turn: int) -> Line:
    if method == "svd":
        hue, shape = "#000000", "o"
    else:
        hue, shape = HUES[place % len(HUES)], MARKERS[1 + marker % (len(MARKERS) - 1)]
    dashes = SVD_DASHES if method == "svd" else DASHES
    return Line(_shade(hue, *shade), shape, dashes[turn % len(dashes)], filled=turn == 0)


def _shade(hue: str, place: int, count: int) -> tuple[float, float, float]:
    """Mix a hue with black (first of a family) to white (last); a single one is left as it is."""
    if count == 1:
        return to_rgb(hue)
    amount = -0.4 + 0.85 * place / (count - 1)
    end = 1.0 if amount > 0 else 0.0
    red, green, blue = ((1 - abs(amount)) * part + abs(amount) * end for part in to_rgb(hue))
    return red, green, blue


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `<stem>.png` and `<stem>.pdf` without dates or versions, and return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = (stem.with_name(stem.name + ending) for ending in (".png", ".pdf"))
    figure.draw_without_rendering()  # computes the layout
    figure.set_layout_engine("none")  # the same layout for both files
    for axes in figure.axes:  # the last bits of the solver depend on memory addresses
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return [png, pdf]
