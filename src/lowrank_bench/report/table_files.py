"""One table in three formats: numbers for programs (csv), text for readers (md), papers (tex)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lowrank_bench.report.escape import csv_cells, markdown_text

PACKAGES = r"% needs \usepackage{booktabs,adjustbox}"
# adjustbox shrinks only a table that is wider or higher than the page.
SHRINK = r"max width=\textwidth, max totalheight=.85\textheight"
TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {sign: rf"\{sign}" for sign in "#$%&_"}

LEFT = {"method", "task", "metric", "status", "reason", "split", "tasks", "splits", "seeds", "part"}
COUNTS = [
    "seed",
    "finetune_epochs",
    "n_seeds",
    "n_examples",
    "modules",
]  # whole numbers in the csv files


@dataclass
class Table:
    """A table: `long` holds its numbers, `sections` what readers see, a part for each network."""

    name: str
    title: str
    caption: str
    long: pd.DataFrame
    sections: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)
    empty: str = "nothing to show"


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.csv`, `.md` and `.tex`, and return their paths in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    long = table.long.copy()
    counts = [name for name in COUNTS if name in long]
    long[counts] = long[counts].convert_dtypes()
    texts = {
        "csv": csv_cells(long).to_csv(index=False, lineterminator="\n"),
        "md": markdown(table),
        "tex": latex(table),
    }
    paths = [folder / f"{table.name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def markdown(table: Table) -> str:
    """Return the table as GitHub markdown: title, caption, notes, a section for each network."""
    parts = [
        f"# {table.title}",
        f"{table.caption}.",
        *(f"> {markdown_text(note)}" for note in table.notes),
    ]
    for name, rows in table.sections.items():
        cells = rows.rename(columns=_piped).map(_piped)
        numbers = ("left" if column in LEFT else "right" for column in rows)
        parts += [f"## {markdown_text(name)}"] if name else []
        parts += [cells.to_markdown(index=False, disable_numparse=True, colalign=tuple(numbers))]
    if not table.sections:
        parts.append(f"*{markdown_text(table.empty)}*")
    return "\n\n".join(parts) + "\n"


def _piped(text: object) -> str:
    return markdown_text(str(text)).replace("|", "\\|")


def latex(table: Table) -> str:
    """Return the table as LaTeX with booktabs rules, a float for each network.

    Text is escaped. Each caption contains the notes, so that no float is copied without them.
    """
    words = " ".join([f"{table.caption}.", *(f"Note: {note}." for note in table.notes)])
    if not table.sections:
        return f"{PACKAGES}\n\\begin{{center}}\n{tex(table.title)}: {tex(table.empty)}. " + (
            f"{tex(words)}\n\\end{{center}}\n"
        )
    return f"{PACKAGES}\n" + "\n".join(
        _float(table, name, rows, words) for name, rows in table.sections.items()
    )


def _float(table: Table, name: str, rows: pd.DataFrame, words: str) -> str:
    cells = rows.rename(columns=tex).map(lambda cell: _signed(tex(str(cell))))
    if len(cells.columns):  # after the end of a row, LaTeX reads [ and * as an argument of it
        first = cells.columns[0]
        cells[first] = cells[first].map(lambda cell: re.sub(r"^[\[*]", r"{\g<0>}", cell))
    sides = "".join("l" if column in LEFT else "r" for column in rows)
    title = f"{table.title}, {name}" if name else table.title
    label = re.sub(r"[^a-z0-9]+", "-", f"{table.name} {name}".lower()).strip("-")
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{tex(title)}. {tex(words)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{adjustbox}}{{{SHRINK}}}",
            cells.to_latex(index=False, column_format=sides).strip(),
            r"\end{adjustbox}",
            r"\end{table}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Return `text` on one line, with LaTeX's special characters escaped."""
    return "".join(TEX.get(sign, sign) for sign in re.sub(r"\s*[\r\n]\s*", " ", text))


def _signed(cell: str) -> str:
    """Set the signs of numbers in math mode: a minus, not a hyphen."""
    return re.sub(r"(?<![\w.)}])([-+])(?=\d)", r"$\1$", cell)
