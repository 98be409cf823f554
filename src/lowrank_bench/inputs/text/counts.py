"""How often texts use each row of an embedding."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError


def token_counts(token_ids: Iterable[Sequence[int]], rows: int) -> Tensor:
    """Return how often each row of an embedding with `rows` rows is looked up, float64.

    Parameters
    ----------
    token_ids
        The token ids of each text, without padding.

    Raises
    ------
    LowRankError
        When the embedding has no row for a token id.
    """
    counts = np.bincount(np.fromiter(chain.from_iterable(token_ids), np.int64), minlength=rows)
    if len(counts) > rows:
        raise LowRankError(
            f"the tokenizer returns id {len(counts) - 1}, but the embedding has {rows} rows; use "
            "the network's own tokenizer"
        )
    return torch.from_numpy(counts).to(torch.float64)
