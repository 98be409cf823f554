"""How often a text uses each row of an embedding."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def token_counts(token_ids: Iterable[Sequence[int]], rows: int) -> Tensor:
    """Return how often each row of an embedding of `rows` rows is looked up, float64.

    Parameters
    ----------
    token_ids
        The ids of each text, padding left out.
    """
    counts = np.zeros(rows, dtype=np.int64)
    for ids in token_ids:
        np.add.at(counts, np.asarray(ids, dtype=np.int64), 1)
    return torch.from_numpy(counts).to(torch.float64)
