"""Which channels a pool keeps: those of the largest sensitivity, or a random sample."""

import numpy as np

from lowrank_bench.prune.sample_size import expected_distinct

TRIES = 100


def draw(
    probabilities: np.ndarray, distinct: int, variant: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `distinct` channels of a pool, and the factors of their weights.

    Parameters
    ----------
    probabilities
        Of each channel, float64, sum 1; or all 0, for channels that are never seen.
    distinct
        u, in 1..c.
    variant
        `deterministic`: the u likeliest, with factors 1. `random`: the distinct ones of m' samples
        with replacement, n_i of channel i with factor n_i/(m' p_i), where m' is the largest number
        that is expected to hold at most u. `mixed`: channels with p_i ≥ 1/m' for certain, with
        factor 1, the rest of u sampled from the others in the same way.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        Indices int64, and factors float64.

    References
    ----------
    Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
    Algorithm 1 (random) and section 4 (the derandomised ones).
    """
    order = np.argsort(-probabilities, kind="stable")
    positive = int((probabilities > 0).sum())
    if variant == "deterministic" or distinct >= positive:
        return order[:distinct], np.ones(distinct)
    if variant == "random":
        return _sample(probabilities, np.arange(len(order)), distinct, rng)
    certain = int((probabilities >= 1 / calibrated(probabilities, distinct)).sum())
    certain = min(certain, distinct)
    top, rest = order[:certain], order[certain:positive]
    if certain == distinct:
        return top, np.ones(certain)
    more, factors = _sample(probabilities, rest, distinct - certain, rng)
    return np.concatenate([top, more]), np.concatenate([np.ones(certain), factors])


def calibrated(probabilities: np.ndarray, distinct: int) -> int:
    """Return m', the largest number of samples with at most `distinct` expected channels, ≥ 1.

    Parameters
    ----------
    distinct
        Less than the number of channels with a positive probability.
    """
    low, high = 0, 1
    while expected_distinct(probabilities, high) <= distinct + 1e-12:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = expected_distinct(probabilities, middle) <= distinct + 1e-12
        low, high = (middle, high) if fits else (low, middle)
    return max(low, 1)


def _sample(
    probabilities: np.ndarray, among: np.ndarray, distinct: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw from some channels, again while there are more distinct ones than asked for."""
    parts = probabilities[among] / probabilities[among].sum()
    size = calibrated(parts, distinct)
    for attempt in range(10**9):
        counts = rng.multinomial(size, parts)
        if (counts > 0).sum() <= distinct:
            break
        if attempt >= TRIES:  # a budget that the expectation hardly ever keeps
            size = max(1, size - 1)
    found = np.flatnonzero(counts)
    return among[found], counts[found] / (size * parts[found])
