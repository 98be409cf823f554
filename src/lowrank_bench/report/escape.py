"""Texts that come from data, as plain text in each format: no tag, no link, no formula, no command.

Names and notes of ordinary experiments pass unchanged, so that their files keep every byte.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the Snakefile escapes texts too, and needs no pandas for that
    import pandas as pd

# A number that a text holds is one in a spreadsheet too, whatever its sign.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?%?", re.IGNORECASE)
# What docutils takes for a list, at the start of a paragraph.
_ITEM = re.compile(r"\(?(\d+|[a-z]|[ivxlcdm]+)[.)](\s|$)", re.IGNORECASE)


def markdown_text(text: str) -> str:
    """Return a text for Markdown: tags are shown and not read, links have no target.

    A `<` before a blank or a digit, as in `p < 0.05`, begins no tag.
    """
    text = re.sub(r"<(?=[/!?A-Za-z])", "&lt;", " ".join(text.split()))
    return re.sub(r"\](?=[(\[:])", r"\\]", text)


def csv_cells(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame in which no text is a formula of a spreadsheet.

    A text that begins with = + - @, a tab or a line break is written behind an apostrophe.
    """
    return frame.rename(columns=_csv_cell).apply(lambda column: column.map(_csv_cell))


def _csv_cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r", "\n"}:
        return value if _NUMBER.fullmatch(value) else f"'{value}"
    return value


def rst_text(text: str) -> str:
    """Return a text for reStructuredText as plain paragraphs; links to http and https alone."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join(_paragraph(part) for part in paragraphs if part)


def _paragraph(text: str) -> str:
    text = re.sub(r"([\\*`|_])", r"\\\1", text)
    text = re.sub(r"(?i)\b(?!https?:)([a-z][a-z0-9+.-]*):(?=\S)", r"\1\:", text)
    text = re.sub(r"::$", r":\:", text)
    # An escaped blank is nothing, and no mark of a list, a directive or a title begins with it.
    return rf"\ {text}" if not text[0].isalnum() or _ITEM.match(text) else text
