"""File names of the report, so that the workflow can declare them without pandas or matplotlib."""

import re
from collections.abc import Iterable

TABLE_NAMES = ("dense", "drop", "average", "versus_svd", "left_out", "status")
# Score tables that get a table of the report each, when an experiment has them.
OPTIONAL_TABLES = {
    "halves": "winners_by_data",
    "saving_at_half_a_point": "saving_at_half_a_point",
    "latency": "latency",
    "claims": "claims",
    "paper_vs_ours": "paper_vs_ours",
}
TABLE_FORMATS = ("csv", "md", "tex")
SHARED_FIGURES = ("average", "versus_svd", "error_vs_drop")
COSTS = "costs"  # the figure of experiments that measure latency
FIGURE_FORMATS = ("png", "pdf")


def figure_names(models: Iterable[str], measured: bool = False) -> list[str]:
    """Return the figures of an experiment on `models`, relative to its results folder.

    Parameters
    ----------
    models
        Names of the networks; order and repetitions do not matter.
    measured
        Whether their latency was measured.

    Returns
    -------
    list of str
        `figures/drop_<model>.png`, …; each figure is a PNG and a PDF.
    """
    stems = [drop_stem(model) for model in sorted(set(models))] + shared_figures(measured)
    return [f"figures/{stem}.{ending}" for stem in stems for ending in FIGURE_FORMATS]


def shared_figures(measured: bool = False) -> list[str]:
    """Return the names, without extension, of the figures that show all networks."""
    return [*SHARED_FIGURES, COSTS] if measured else list(SHARED_FIGURES)


def table_names(scored: Iterable[str] = ()) -> list[str]:
    """Return the tables of an experiment, relative to its results folder.

    Parameters
    ----------
    scored
        Names of its score tables, those of `OPTIONAL_TABLES` among them.
    """
    names = [*TABLE_NAMES, *(name for source, name in OPTIONAL_TABLES.items() if source in scored)]
    return [f"tables/{name}.{ending}" for name in names for ending in TABLE_FORMATS]


def drop_stem(model: str) -> str:
    """Return the name, without extension, of the figure of one network's drops."""
    return f"drop_{model.replace('/', '--')}"


def label_text(text: str) -> str:
    """Return a text as a label of Snakemake's report: neither a wildcard nor a tag of HTML.

    Snakemake replaces `{name}`, and writes labels into a script of the page, which `</script>`
    would end. An invisible joiner behind the bracket keeps both from being read so.
    """
    return re.sub(r"\{(?=\s*\w)|<(?=[/!?A-Za-z])", "\\g<0>\u2060", text)
