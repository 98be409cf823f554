"""How often a text uses each row of an embedding."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError


def token_counts(token_ids: Iterable[Sequence[int]], rows: int) -> Tensor:
    """Return how often each row of an embedding of `rows` rows is looked up, float64.

    Parameters
    ----------
    token_ids
        The ids of each text, padding left out.

    Raises
    ------
    LowRankError
        When the embedding has no row for an id.
    """
    counts = np.bincount(np.fromiter(chain.from_iterable(token_ids), np.int64), minlength=rows)
    if len(counts) > rows:
        raise LowRankError(
            f"the tokenizer gives id {len(counts) - 1}, the embedding has {rows} rows; take the "
            "network's own tokenizer"
        )
    return torch.from_numpy(counts).to(torch.float64)
