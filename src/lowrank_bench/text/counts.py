"""How often a text uses each row of an embedding."""

from collections.abc import Iterable, Sequence

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
    counts = np.zeros(rows, dtype=np.int64)
    for ids in token_ids:
        some = np.asarray(ids, dtype=np.int64)
        if some.size and some.max() >= rows:
            raise LowRankError(
                f"the tokenizer gives id {some.max()}, the embedding has {rows} rows; take the "
                "network's own tokenizer"
            )
        np.add.at(counts, some, 1)
    return torch.from_numpy(counts).to(torch.float64)
