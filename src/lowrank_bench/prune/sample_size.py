"""How many channels each pool keeps: PFP's sample sizes for one error in all pools."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log, prod

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.network.layers import Layer

CONSTANT = 3  # K of the paper's Assumptions 1 and 2
LEAST_ERROR, MOST_ERROR = 1e-150, 1e150


@dataclass(frozen=True, eq=False)
class Pool:
    """A pool of channels to sample from.

    Attributes
    ----------
    sensitivity
        Sensitivity of each channel, float64 ≥ 0.
    alpha
        Logarithmic factor of the sample size (`log_factor`).
    """

    sensitivity: NDArray[np.float64]
    alpha: float

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Return the probability of each channel: its share of the total sensitivity."""
        total = self.sensitivity.sum()
        return self.sensitivity / total if total > 0 else np.zeros_like(self.sensitivity)

    def samples(self, error: float) -> float:
        """Return m(ε), the number of samples with replacement that the guarantee needs.

        References
        ----------
        Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
        Theorem 2 and Algorithm 1: ⌈K (6 + 2ε) S log(·) / ε²⌉.
        """
        size = 3 * (6 + 2 * error) * self.sensitivity.sum() * self.alpha / error**2
        return float(np.ceil(size)) if np.isfinite(size) else np.inf

    def keep(self, error: float) -> int:
        """Return how many distinct channels m(ε) samples are expected to hold, at least 1."""
        return max(1, ceil(expected_distinct(self.probabilities, self.samples(error)) - 1e-9))


def expected_distinct(probabilities: NDArray[np.float64], samples: float) -> float:
    """Return Σ 1 − (1 − p)^m: the expected number of distinct channels in m samples."""
    # log1p keeps the digits of small p; p = 1, and p = 0 with m = ∞, need no warnings.
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.exp(samples * np.log1p(-probabilities))
    return float(np.where(probabilities > 0, 1 - missed, 0).sum())


def log_factor(layers: Iterable[Layer], delta: float) -> float:
    """Return the largest 2 K log(8 (P + 1) k1 k2 / δ) of any layer, for P patches, kernel k1×k2."""
    return max(
        2 * CONSTANT * (log(8 * (layer.positions + 1) * prod(layer.shape[2:])) - log(delta))
        for layer in layers
    )


def images_needed(layers: Sequence[Layer], delta: float) -> int:
    """Return |S| = ⌈K log(8 η η* / δ)⌉ for η outputs in all layers, η* in the largest one.

    References
    ----------
    Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
    section 3.
    """
    outputs = [layer.positions * layer.shape[0] for layer in layers]
    return ceil(CONSTANT * (log(8 * sum(outputs)) + log(max(outputs)) - log(delta)))


def least_error(
    pools: Sequence[Pool], cost: Callable[[list[int]], float], allowance: float
) -> tuple[float, list[int]]:
    """Return the least error that the budget allows all pools, and the channels each then keeps.

    Parameters
    ----------
    cost
        Cost of the sliced network for the number of channels that each pool keeps; it must not
        fall when a pool keeps more.
    allowance
        Largest cost allowed; one channel in each pool must not exceed it.
    """

    def at(error: float) -> list[int]:
        """Return how many channels each pool keeps at this error."""
        return [pool.keep(error) for pool in pools]

    low, high = log(LEAST_ERROR), log(MOST_ERROR)
    if cost(at(np.exp(low))) <= allowance:
        return 0.0, at(np.exp(low))  # the budget has room for every channel that is ever used
    # Bisect on the logarithm: errors range over hundreds of orders of magnitude.
    while high - low > 1e-12 * max(1.0, abs(high)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        fits = cost(at(np.exp(middle))) <= allowance
        low, high = (low, middle) if fits else (middle, high)
    return float(np.exp(high)), at(np.exp(high))
