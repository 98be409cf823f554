"""Choose the channels that a pool keeps: those of the largest sensitivity, or a random sample."""

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.prune.sample_size import expected_distinct

TRIES = 100


def draw(
    probabilities: NDArray[np.float64], distinct: int, variant: str, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return at most `distinct` channels of a pool, and the factors on their weights.

    Parameters
    ----------
    probabilities
        Of each channel, float64, with sum 1; all 0 for channels that no data reach.
    distinct
        u, in 1..c.
    variant
        `deterministic`: the u likeliest channels, with factors 1. `random`: the distinct channels
        of m' samples with replacement, where m' is the largest number of samples that is expected
        to hold at most u of them; channel i, drawn n_i times, gets the factor n_i/(m' p_i).
        `mixed`: all channels with p_i ≥ 1/m', with factor 1, and the rest of u sampled from the
        other channels as in `random`.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        Indices int64, and factors float64.

    References
    ----------
    Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
    Algorithm 1 (random) and section 4 (the derandomised variants).
    """
    order = np.argsort(-probabilities, kind="stable")
    positive = int((probabilities > 0).sum())
    if variant == "deterministic" or distinct >= positive:
        return order[:distinct], np.ones(distinct)
    if variant == "random":
        return _sample(probabilities, np.arange(len(order)), distinct, rng)
    # Channels that m' samples are expected to hold at least once are kept without drawing.
    certain = int((probabilities >= 1 / calibrated(probabilities, distinct)).sum())
    certain = min(certain, distinct)
    top, rest = order[:certain], order[certain:positive]
    if certain == distinct:
        return top, np.ones(certain)
    drawn, factors = _sample(probabilities, rest, distinct - certain, rng)
    return np.concatenate([top, drawn]), np.concatenate([np.ones(certain), factors])


def calibrated(probabilities: NDArray[np.float64], distinct: int) -> int:
    """Return m' ≥ 1, the largest number of samples with at most `distinct` expected channels.

    Parameters
    ----------
    distinct
        Less than the number of channels with a positive probability.
    """
    low, high = 0, 1
    # Double `high` until it no longer fits; `low` always does. Then bisect.
    while expected_distinct(probabilities, high) <= distinct + 1e-12:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = expected_distinct(probabilities, middle) <= distinct + 1e-12
        low, high = (middle, high) if fits else (low, middle)
    return max(low, 1)


def _sample(
    probabilities: NDArray[np.float64],
    candidates: NDArray[np.int64],
    distinct: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw from the candidates, again and again until at most `distinct` of them are drawn."""
    parts = probabilities[candidates] / probabilities[candidates].sum()
    size = calibrated(parts, distinct)
    for attempt in range(10**9):
        counts = rng.multinomial(size, parts)
        if (counts > 0).sum() <= distinct:
            break
        if attempt >= TRIES:  # the expectation fits the budget, but hardly any draw does
            size = max(1, size - 1)
    drawn = np.flatnonzero(counts)
    # n_i is m' p_i on average: the factors keep the layer's output right on average.
    return candidates[drawn], counts[drawn] / (size * parts[drawn])
