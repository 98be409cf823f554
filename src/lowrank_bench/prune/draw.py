"""Choose the channels that a pool keeps: those of the largest sensitivity, or a random sample."""

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.prune.sample_size import expected_distinct


def draw(
    probabilities: NDArray[np.float64], distinct: int, variant: str, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return `distinct` channels of a pool, and the factors on their weights.

    With `random` and `mixed`, channel i is drawn with probability π_i and then has the factor
    1/π_i, so that the factor, 0 for channels that are not drawn, is 1 on average for every channel
    of positive probability, and every sum over the channels is right on average (Horvitz and
    Thompson). `pivotal` states how far it can be off.

    Parameters
    ----------
    probabilities
        Of each channel, float64, with sum 1; all 0 for channels that no data reach.
    distinct
        u, in 1..c.
    variant
        `deterministic`: the u likeliest channels, with factors 1. `random`: u channels, drawn with
        π_i = min(1, c·p_i), where c makes the sum u. `mixed`: all channels with p_i ≥ 1/m'
        with factor 1, and the rest of u drawn from the other channels as in `random`; m' is the
        largest number of samples with replacement that is expected to hold at most u channels.
        Where p_i ≥ 1/m' holds for u channels or more, all are drawn as in `random`: the others
        would never be.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        Indices int64, u of them and all different, and factors float64.

    References
    ----------
    Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
    Algorithm 1 (which samples with replacement) and section 4 (the derandomised variants).
    Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe",
    JASA 47 (1952).
    """
    order = np.argsort(-probabilities, kind="stable")
    positive = int((probabilities > 0).sum())
    if variant == "deterministic" or distinct >= positive:
        return order[:distinct], np.ones(distinct)
    certain = 0
    if variant == "mixed":
        # Channels that m' samples are expected to hold at least once are kept without drawing.
        certain = int((probabilities >= 1 / calibrated(probabilities, distinct)).sum())
        certain = certain if certain < distinct else 0
    top, rest = order[:certain], order[certain:positive]
    chances = inclusion(probabilities[rest], distinct - certain)
    places = pivotal(chances, rng)
    return (
        np.concatenate([top, rest[places]]),
        np.concatenate([np.ones(certain), 1 / chances[places]]),
    )


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


def inclusion(sizes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return π_i = min(1, c·size_i), with the c for which they add up to `count`.

    Parameters
    ----------
    sizes
        Positive numbers, the largest first.
    count
        In 0..n.
    """
    # Sums from the small end keep the digits of what is left beside a few large sizes.
    left = sizes[::-1].cumsum()[::-1]
    for certain in range(count):
        factor = (count - certain) / left[certain]
        if factor * sizes[certain] < 1:
            return np.concatenate([np.ones(certain), factor * sizes[certain:]])
    return (np.arange(len(sizes)) < count).astype(np.float64)


def pivotal(chances: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a sample of fixed size in which i has exactly its chance π_i; pivotal sampling.

    Two undecided units with chances a and b meet: if a + b < 1, one of them leaves and the other
    goes on with a + b; otherwise one is taken and the other goes on with a + b − 1. Each such step
    keeps the mean of both, so P(i is drawn) = π_i. Units meet in a random order.

    The draws are negatively associated for each order (Brändén and Jonasson, 2012), so
    E exp(λ Σ X_i) ≤ Π E exp(λ X_i) for X_i that rise with the draw of i, and the bounds of Chernoff
    and Bernstein for independent draws hold (Dubhashi and Ranjan, 1998); they are the same for all
    orders, so they hold for a random one. Let x_i ≥ 0 be the shares of channels in a sum, Σ x_i = 1
    and x_i ≤ s_i, the sensitivities, with S = Σ s_i and π_i = min(1, c·s_i/S). The terms
    x_i/π_i with π_i < 1 are at most S/c, and Bernstein's inequality gives

        P(|Σ_{i drawn} x_i/π_i − 1| ≥ ε) ≤ 2 exp(−ε² c / (S (2 + 2ε/3))),   c ≥ Σ π_i.

    Parameters
    ----------
    chances
        π, n numbers in (0, 1] whose sum is an integer up to rounding.

    Returns
    -------
    numpy.ndarray
        The places of the sample, int64, rising; as many as the sum says.

    References
    ----------
    Deville and Tillé, "Unequal probability sampling without replacement through a splitting
    method", Biometrika 85 (1998). Brändén and Jonasson, "Negative dependence in sampling",
    Scandinavian Journal of Statistics 39 (2012). Dubhashi and Ranjan, "Balls and bins: a study in
    negative dependence", Random Structures & Algorithms 13 (1998).
    """
    count = round(float(chances.sum()))
    taken = np.flatnonzero(chances >= 1).tolist()
    going, chance = -1, 0.0  # the undecided unit and its chance; none at first
    for unit in rng.permutation(np.flatnonzero(chances < 1)).tolist():
        other, toss = float(chances[unit]), float(rng.random())
        total = chance + other
        if total < 1:
            # `unit` goes on with the share b/(a + b), else the other one does.
            going, chance = unit if toss * total < other else going, total
        else:
            # `unit` goes on with the share (1 − b)/(2 − a − b); the one that is taken is done.
            stays = toss * (2 - total) < 1 - other
            taken.append(going if stays else unit)
            going, chance = unit if stays else going, total - 1
    # Rounding leaves the last chance next to 0 or 1: the size decides.
    if len(taken) < count:
        taken.append(going)
    return np.sort(np.array(taken, dtype=np.int64))
