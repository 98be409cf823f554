"""Embedding lookups: dense, and compressed in each of four ways."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from lowrank_bench.latency.clock import Clock, taken_in_turn
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.linalg.factors import (
    Approximation,
    BlockFactors,
    ClusteredFactors,
    DenseRows,
    Factors,
    SparseFactors,
)

ROWS, WIDTH = 30522, 384
CLUSTERS, TERMS = 5, 8
BATCHES = [(1, 16), (32, 16), (1, 128), (32, 128)]  # rows, tokens in each


def random(*shape: int) -> Tensor:
    """Return small random numbers."""
    return 0.05 * torch.randn(*shape)


def forms() -> dict[str, Approximation]:
    """Return approximations with random values that keep about half of the table."""
    rank = ROWS * WIDTH // 2 // (ROWS + WIDTH)
    labels = torch.randint(0, CLUSTERS, (ROWS,))
    half = (ROWS - 2000) * WIDTH // 2
    block = half // (ROWS + WIDTH)
    blocks = torch.ones(ROWS, dtype=torch.uint8)
    blocks[:2000] = 0
    parts = (
        DenseRows(random(2000, WIDTH)),
        Factors(random(ROWS - 2000, block), random(block, WIDTH)),
    )
    kept = ROWS // 2 - 1000
    terms = torch.full((ROWS,), TERMS, dtype=torch.uint8)
    terms[:kept] = 255
    number = TERMS * (ROWS - kept)
    indices = torch.randint(-32768, kept - 32768, (number,), dtype=torch.int16)
    return {
        "factorized": Factors(random(ROWS, rank), random(rank, WIDTH)),
        "clustered": ClusteredFactors(random(ROWS, rank), random(CLUSTERS, rank, WIDTH), labels),
        "blocks": BlockFactors(blocks, parts),
        "sparse": SparseFactors(random(kept, WIDTH), terms, indices, random(number)),
    }


def embeddings(quick: bool) -> Iterator[str]:
    """Yield a line for each form and batch: its time, and its share of a whole forward pass.

    The last column is the time that forming the table from two factors would take per forward pass.
    """
    torch.manual_seed(0)
    dense = nn.Embedding(ROWS, WIDTH)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 12}
    config = BertConfig(vocab_size=ROWS, num_hidden_layers=2 if quick else 6, **sizes)
    whole = BertForSequenceClassification(config).eval()
    found = forms()
    layers = {"dense": dense, **{k: compressed_embedding(dense, own) for k, own in found.items()}}
    table = found["factorized"]
    yield (
        f"embedding {ROWS}x{WIDTH}   rows tokens   look-up us   of dense   of the forward   "
        "forming the table over the look-up"
    )
    for rows, tokens in BATCHES[:2] if quick else BATCHES:
        indices = torch.randint(0, ROWS, (rows, tokens))
        calls = [partial(layer, indices) for layer in layers.values()]
        clock, rounds = Clock(torch.device("cpu")), 5 if quick else 15
        with torch.inference_mode():
            times = [min(own) for own in taken_in_turn(calls, clock, rounds, 3)]
            heavy = [partial(whole, input_ids=indices), table.dense]
            forward, forming = (min(own) for own in taken_in_turn(heavy, clock, 5, 1))
        for name, own in zip(layers, times, strict=True):
            part = own / (forward - times[0] + own)
            yield (
                f"{name:22s} {rows:4d} {tokens:6d} {1e6 * own:12.0f} {own / times[0]:9.1f}x "
                f"{part:15.2%} {forming / own:15.0f}x"
            )
