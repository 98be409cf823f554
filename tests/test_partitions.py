"""Partitioned and sparse tables and their layers, against one row at a time."""

import copy

import pytest
import torch
from torch import nn

from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.linalg.factors import (
    KEPT,
    OFFSET,
    BlockFactors,
    ClusteredFactors,
    DenseRows,
    Factors,
    SparseFactors,
    restore,
)

N, D = 23, 6
IDS = torch.tensor([[0, 5, 5, 22], [7, 1, 0, 19]])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def clustered() -> tuple[ClusteredFactors, list[torch.Tensor]]:
    labels = torch.randint(3, (N,))
    left, right = random(N, 2), random(3, 2, D)
    rows = [left[i] @ right[int(labels[i])] for i in range(N)]
    return ClusteredFactors(left, right, labels), rows


def blocks() -> tuple[BlockFactors, list[torch.Tensor]]:
    labels = torch.arange(N) % 3
    sizes = [int((labels == block).sum()) for block in range(3)]
    dense, left, right = random(sizes[0], D), random(sizes[1], 3), random(3, D)
    nothing = Factors(random(sizes[2], 0), random(0, D))
    rows, seen = [], [0, 0, 0]
    for label in labels.tolist():
        place = seen[label]
        seen[label] += 1
        rows.append([dense[place], left[place] @ right, torch.zeros(D).double()][label])
    return BlockFactors(labels, (DenseRows(dense), Factors(left, right), nothing)), rows


def sparse() -> tuple[SparseFactors, list[torch.Tensor]]:
    kept_rows, terms = random(4, D), torch.tensor([KEPT, 2, 0, 1, KEPT] * 4 + [3, 0, 2])[:N]
    terms = torch.where((terms == KEPT).cumsum(0) > 4, torch.where(terms == KEPT, 1, terms), terms)
    counts = [0 if t == KEPT else int(t) for t in terms]
    indices, values = torch.randint(4, (sum(counts),)), random(sum(counts))
    rows, place, kept = [], 0, 0
    for term, count in zip(terms.tolist(), counts, strict=True):
        if term == KEPT:
            rows.append(kept_rows[kept])
            kept += 1
        else:
            row = torch.zeros(D).double()
            for k in range(place, place + count):
                row = row + values[k] * kept_rows[indices[k]]
            rows.append(row)
            place += count
    short = (indices - OFFSET).to(torch.int16)
    return SparseFactors(kept_rows, terms.to(torch.uint8), short, values), rows


@pytest.fixture(params=[clustered, blocks, sparse], ids=lambda make: make.__name__)
def example(request):
    torch.manual_seed(0)
    return request.param()


def test_dense_is_the_table_row_by_row(example):
    factors, rows = example
    table = torch.stack(rows)
    torch.testing.assert_close(factors.dense(), table)
    torch.testing.assert_close(factors.dense(4, 9), table[4:9])
    assert factors.shape == (N, D)
    again = restore(factors.tensors())
    assert torch.equal(again.dense(), factors.dense())


def test_the_layer_looks_up_rows(example):
    factors, rows = example
    layer = compressed_embedding(nn.Embedding(N, D, dtype=torch.float64), factors)
    torch.testing.assert_close(layer(IDS), torch.stack(rows)[IDS])
    torch.testing.assert_close(layer.weight, torch.stack(rows))
    assert sum(p.numel() for p in layer.parameters()) == factors.n_parameters
    assert layer(IDS[:0]).shape == (0, 4, D)
    assert copy.deepcopy(layer).float()(IDS).dtype == torch.float32


def test_gradients_are_those_of_the_dense_table(example):
    factors, _ = example
    layer = compressed_embedding(nn.Embedding(N, D, padding_idx=0, dtype=torch.float64), factors)
    target = random(*IDS.shape, D)
    layer(IDS).mul(target).sum().backward()
    values = {
        name: value.clone().requires_grad_() if value.is_floating_point() else value
        for name, value in factors.tensors().items()
    }
    rows = restore(values).dense()[IDS]
    rows.mul(target * (IDS != 0).unsqueeze(-1)).sum().backward()
    own = dict(layer.named_parameters())
    for name, value in values.items():
        if value.is_floating_point() and value.numel():
            found = own[name if name in own else f"parts.{name}"].grad
            torch.testing.assert_close(found, value.grad)


def test_counts_by_hand():
    torch.manual_seed(0)
    factors, _ = clustered()
    assert factors.n_parameters == N * 2 + 3 * 2 * D
    assert factors.index_bits == 2 * N
    factors, _ = blocks()
    assert factors.n_parameters == 8 * D + 8 * 3 + 3 * D
    assert factors.index_bits == 2 * N
    factors, _ = sparse()
    coefficients = int(factors.terms[factors.terms != KEPT].long().sum())
    assert factors.n_parameters == 4 * D + coefficients
    assert factors.index_bits == 8 * N + 16 * coefficients


def test_loading_other_labels_moves_the_rows(example):
    factors, _ = example
    layer = compressed_embedding(nn.Embedding(N, D, dtype=torch.float64), factors)
    layer(IDS)
    order = torch.arange(N - 1, -1, -1)
    other = {
        name: value[order] if name in ("labels", "terms") else value
        for name, value in factors.tensors().items()
    }
    if isinstance(factors, BlockFactors):  # its parts must keep their sizes
        sizes = torch.bincount(factors.labels)
        other["labels"] = torch.repeat_interleave(torch.arange(3), sizes)
    turned = restore(other)
    layer.load_state_dict(
        compressed_embedding(nn.Embedding(N, D, dtype=torch.float64), turned).state_dict()
    )
    torch.testing.assert_close(layer(IDS), turned.dense()[IDS])


def test_a_negative_index_is_refused_as_in_a_dense_embedding(example):
    factors, _ = example
    layer = compressed_embedding(nn.Embedding(N, D, dtype=torch.float64), factors)
    with pytest.raises(IndexError):
        layer(torch.tensor([-1]))
