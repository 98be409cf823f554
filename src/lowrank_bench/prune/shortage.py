"""Too few images: channels that nothing shows the use of are kept where the budget has room."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.errors import LowRankWarning
from lowrank_bench.prune.graph import ChannelGraph
from lowrank_bench.prune.select import Units, last_that_fits

NOISY = 16  # noisy copies of the images
MOST_NAMED = 3  # layers that the warning names


def filled(
    counts: Sequence[int], sizes: Sequence[int], fits: Callable[[list[int]], bool]
) -> list[int]:
    """Return the counts raised until no pool can keep one more channel.

    All pools first get the same share of what they lack, the largest that fits; then each pool, in
    order, as many more as fit.

    Parameters
    ----------
    counts, sizes
        Channels that each pool keeps, and the most that it may keep.
    fits
        Whether the budget allows these counts; true for `counts`, and false above what is too much.
    """
    lacking = [size - count for count, size in zip(counts, sizes, strict=True)]
    if not any(lacking):
        return list(counts)
    shares = np.unique(np.concatenate([np.arange(n + 1) / n for n in lacking if n]))

    def at(share: float) -> list[int]:
        """Return the counts with a share of what each pool lacks."""
        return [count + int(share * n + 1e-9) for count, n in zip(counts, lacking, strict=True)]

    kept = at(shares[last_that_fits(len(shares), lambda i: fits(at(shares[i])))])
    for place, size in enumerate(sizes):
        kept = _one_raised(kept, place, size, fits)
    return kept


def _one_raised(
    kept: list[int], place: int, size: int, fits: Callable[[list[int]], bool]
) -> list[int]:
    """Return the counts with that of one pool raised as far as it fits, to `size` at most."""

    def raised(more: int) -> list[int]:
        """Return the counts with `more` of the pool."""
        return [*kept[:place], kept[place] + more, *kept[place + 1 :]]

    return raised(last_that_fits(size - kept[place] + 1, lambda more: fits(raised(more))))


def noisy_copies(batches: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return copies of examples with noise as large as their own spread, `NOISY` or a few more.

    Channels that nothing turns on in the examples, but something near them does, are told apart
    from dead ones by them. Inputs that are not floating-point numbers stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    count = sum(len(next(iter(batch.values()))) for batch in batches)
    return [
        {name: _noisy(value, generator) for name, value in batch.items()}
        for _ in range(-(-NOISY // count))
        for batch in batches
    ]


def _noisy(values: Tensor, generator: torch.Generator) -> Tensor:
    if not values.is_floating_point():
        return values
    noise = torch.randn(values.shape, generator=generator).to(values)
    return values + noise * values.std(correction=0)


def unseen_by_layer(
    graph: ChannelGraph, unseen: NDArray[np.bool_], pools: Sequence[Units]
) -> dict[str, int]:
    """Return for each layer how many of its filters belong to `unseen` units of pools."""
    mask = np.zeros(graph.n_units, dtype=bool)
    for pool in pools:
        mask[pool] = unseen[pool]
    counts = {name: int(mask[units].sum()) for name, units in graph.writes.items()}
    return {name: count for name, count in counts.items() if count}


def warn_of_shortage(method: str, unseen: Mapping[str, int], images: int, advice: str) -> None:
    """Warn that some filters contribute nothing on the images, so that nothing ranks them.

    Parameters
    ----------
    unseen
        For each layer the number of such filters.
    advice
        How many images would do.
    """
    named = ", ".join(f"{name} ({count})" for name, count in list(unseen.items())[:MOST_NAMED])
    more = f" and {len(unseen) - MOST_NAMED} more layers" if len(unseen) > MOST_NAMED else ""
    number = f"{images} image{'s' if images != 1 else ''}"
    warnings.warn(
        f"{method}: {number} are too few for this compression: which filters contribute least "
        f"cannot be told in {named}{more}; {advice}",
        LowRankWarning,
        stacklevel=2,
    )
