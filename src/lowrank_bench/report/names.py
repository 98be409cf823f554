"""File names of the report, so that the workflow can declare them without pandas or matplotlib."""

from collections.abc import Iterable

TABLE_NAMES = ("dense", "drop", "average", "versus_svd", "status")
OWN_TABLES = {"halves": "leagues", "commensurate": "commensurate"}  # of further score tables
TABLE_FORMATS = ("csv", "md", "tex")
SHARED_FIGURES = ("average", "versus_svd", "error_vs_drop")
FIGURE_FORMATS = ("png", "pdf")


def figure_names(models: Iterable[str]) -> list[str]:
    """Return the figures of an experiment on `models`, relative to its results folder.

    Parameters
    ----------
    models
        Names of the networks; order and repetitions do not matter.

    Returns
    -------
    list of str
        `figures/drop_<model>.png`, …, one PNG and one PDF per figure.
    """
    stems = [drop_stem(model) for model in sorted(set(models))] + list(SHARED_FIGURES)
    return [f"figures/{stem}.{ending}" for stem in stems for ending in FIGURE_FORMATS]


def table_names(scored: Iterable[str] = ()) -> list[str]:
    """Return the tables of an experiment, relative to its results folder.

    Parameters
    ----------
    scored
        Names of its score tables; some of them have a table of their own.
    """
    names = [*TABLE_NAMES, *(name for own, name in OWN_TABLES.items() if own in scored)]
    return [f"tables/{name}.{ending}" for name in names for ending in TABLE_FORMATS]


def drop_stem(model: str) -> str:
    """Return the name, without ending, of the figure of one network's drops."""
    return f"drop_{model.replace('/', '--')}"
