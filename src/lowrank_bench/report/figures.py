"""All figures of an experiment, in one style."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lowrank_bench.report.costs import cost_curves
from lowrank_bench.report.curves import average_curves, drop_curves
from lowrank_bench.report.error_vs_drop import error_vs_drop
from lowrank_bench.report.frames import tidy
from lowrank_bench.report.names import COSTS, drop_stem
from lowrank_bench.report.style import line_styles
from lowrank_bench.report.versus_svd import versus_svd

__all__ = [
    "average_curves",
    "cost_curves",
    "drop_curves",
    "error_vs_drop",
    "versus_svd",
    "write_figures",
]


def write_figures(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    folder: Path,
    experiment_title: str,
    models: Iterable[str] | None = None,
    latency: pd.DataFrame | None = None,
) -> list[Path]:
    """Write every figure of an experiment; a figure without data says why it is empty.

    Parameters
    ----------
    scores, summary
        The score tables of these names.
    folder
        Results folder of the experiment; the figures are written into its `figures/`.
    experiment_title
        First words of every title.
    models
        Networks of the experiment; those in `scores` if None.
    latency
        The table `latency`, if the experiment measured it.

    Returns
    -------
    list of Path
        `folder / name` for every name of `names.figure_names(models, …)`, in that order.
    """
    models = sorted(set(tidy(scores)["model"] if models is None else models))
    styles = line_styles(tidy(scores))
    place = Path(folder) / "figures"
    paths = []
    for model in models:
        stem = place / drop_stem(model)
        paths += drop_curves(summary, model, stem, experiment_title, scores, styles)
    paths += average_curves(summary, place / "average", experiment_title, scores, styles)
    paths += versus_svd(summary, place / "versus_svd", experiment_title, scores, styles)
    paths += error_vs_drop(scores, place / "error_vs_drop", experiment_title, styles)
    if latency is not None:
        paths += cost_curves(scores, latency, place / COSTS, experiment_title, styles)
    return paths
