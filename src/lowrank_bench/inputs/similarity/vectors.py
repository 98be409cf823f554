"""Sentence vectors and their cosines: what is predicted of sentences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.similarity.sentences import Encoded
from lowrank_bench.inputs.text.batches import Collator, length_sorted


def predict(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    output_order: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the cosines of every example, float32, in the order of the rows.

    Parameters
    ----------
    max_tokens
        Tokens of one batch, with padding; sentences of similar length share a batch.
    output_order
        Not used: there are no outputs for labels.

    Returns
    -------
    numpy.ndarray
        For pairs n×3: the cosine of the two vectors, then that of each with the dense network's
        vector of the same sentence. For single sentences n×1: the last alone. Cosines with the
        dense network are NaN where `encoded.dense` is None; cosines with a zero vector are 0.

    Raises
    ------
    LowRankError
        When the network returns no hidden states, or vectors of another size than the dense one.
    """
    vectors = sentence_vectors(model, tokenizer, encoded, max_tokens, device)
    parts = np.split(vectors, encoded.columns)
    cosines = [cosine(*parts)] if encoded.columns == 2 else []
    if encoded.dense is None:
        cosines += [np.full(len(part), np.nan) for part in parts]
    elif encoded.dense.shape != vectors.shape:
        raise LowRankError(
            f"the network's sentence vectors have {vectors.shape[1]} numbers, those of the dense "
            f"network {encoded.dense.shape[1]}; compare it with the network that it was made from"
        )
    else:
        dense = np.split(encoded.dense, encoded.columns)
        cosines += [cosine(part, other) for part, other in zip(parts, dense, strict=True)]
    return np.stack(cosines, axis=1).astype(np.float32)


def with_dense(
    model: nn.Module, tokenizer: Any, encoded: Encoded, max_tokens: int, device: str = "cpu"
) -> Encoded:
    """Return the rows with the vectors that `model`, the dense network, has of their sentences."""
    vectors = sentence_vectors(model, tokenizer, encoded, max_tokens, device)
    return replace(encoded, dense=vectors)


def sentence_vectors(
    model: nn.Module, tokenizer: Any, encoded: Encoded, max_tokens: int, device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the vector of every sentence, (n·c)×d float32, in the order of `encoded.sentences`.

    Its length is not normalised. A sentence without a token has the zero vector.

    References
    ----------
    Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, section 3: pooling by the mean of all hidden
    states of the last layer, padding left out, or by the first one (`cls`).
    """
    sentences, collate = encoded.sentences, Collator(tokenizer, device)
    left = tokenizer.padding_side == "left"
    full = np.flatnonzero(sentences.lengths)
    vectors: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for places in length_sorted(sentences.lengths[full], max_tokens):
            rows = full[places]
            states = _last_states(model(**collate(sentences, rows))).float()
            lengths = torch.from_numpy(sentences.lengths[rows]).to(states.device)
            pooled = _pooled(states, lengths, encoded.pooling, left).cpu().numpy()
            if vectors is None:
                vectors = np.zeros((len(sentences), pooled.shape[1]), dtype=np.float32)
            vectors[rows] = pooled
    if vectors is None:
        raise LowRankError("the split has no sentence with a token in it")
    return vectors


def cosine(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the cosine of each row of two n×d matrices, n float64; 0 with a zero vector."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    products: NDArray[np.float64] = (a * b).sum(axis=1)
    norms = np.sqrt((a * a).sum(axis=1)) * np.sqrt((b * b).sum(axis=1))
    # Not where > 0: the cosine of a vector with NaN must stay NaN.
    cosines: NDArray[np.float64] = np.zeros_like(products)
    np.divide(products, norms, out=cosines, where=norms != 0)
    return cosines


def _last_states(output: Any) -> Tensor:
    """Return the hidden states of the last layer, batch×length×d."""
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim != 3:
        raise LowRankError(
            f"the network returns a {type(output).__name__} without the hidden states of its "
            "last layer, of which sentence vectors are made; use an encoder of texts"
        )
    return states


def _pooled(states: Tensor, lengths: Tensor, pooling: str, left: bool) -> Tensor:
    """Return one vector for each row of batch×length×d hidden states, padding left out."""
    position = torch.arange(states.shape[1], device=states.device)
    if left:  # padding comes first: the real positions are the last ones
        position = position - (states.shape[1] - lengths)[:, None]
    if pooling == "cls":
        real: Tensor = (position == 0).expand(states.shape[:2])
    else:
        real = (position >= 0) & (position < lengths[:, None])
    # A product with 0 would let an infinite hidden state of the padding through.
    kept = torch.where(real[..., None], states, states.new_zeros(()))
    return kept.sum(dim=1) / real.sum(dim=1, keepdim=True)
