"""The factorized embedding against the dense embedding with the same table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import (
    FactorizedEmbedding,
    find_embedding,
    swap_embedding,
)
from lowrank_bench.linalg.factors import Factors


def factors(rows: int = 11, columns: int = 6, rank: int = 3) -> Factors:
    generator = torch.Generator().manual_seed(rows)
    left = torch.randn(rows, rank, generator=generator)
    return Factors(left, torch.randn(rank, columns, generator=generator))


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 9),
    rank=st.integers(1, 5),
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_forward_looks_up_rows_of_the_product(rows, columns, rank, shape, dtype):
    small = factors(rows, columns, rank)
    layer = FactorizedEmbedding.from_dense(nn.Embedding(rows, columns, dtype=dtype), small)
    indices = torch.randint(rows, shape)
    expected = nn.functional.embedding(indices, layer.weight)
    found = layer(indices)
    assert found.shape == (*shape, columns)
    assert found.dtype == dtype
    tolerance = 0.1 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_forward_never_forms_the_table():
    layer = FactorizedEmbedding(1_000_000, 64, 1)
    with torch.no_grad():
        layer.left.zero_()
        layer.right.zero_()
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel())
            return out

    with Watch(), torch.no_grad():
        layer(torch.tensor([[1, 2, 3]]))
    assert sizes
    assert max(sizes) <= 3 * 64


@pytest.mark.parametrize("padding", [2, -1])
def test_padding_gets_no_gradient(padding):
    small = factors()
    dense = nn.Embedding(11, 6, padding_idx=padding)
    dense.load_state_dict({"weight": small.dense()})
    layer = FactorizedEmbedding.from_dense(dense, small)
    assert layer.padding_idx == dense.padding_idx == padding % 11
    indices = torch.tensor([[0, padding % 11, 5], [padding % 11, padding % 11, 7]])
    slope = torch.arange(36.0).reshape(2, 3, 6)
    (dense(indices) * slope).sum().backward()
    (layer(indices) * slope).sum().backward()
    # By the chain rule from the gradient of the dense table, which skips the padding.
    torch.testing.assert_close(layer.left.grad, dense.weight.grad @ small.right.T)
    torch.testing.assert_close(layer.right.grad, small.left.T @ dense.weight.grad)
    assert (layer.left.grad[padding] == 0).all()
    only = layer(torch.tensor([padding % 11]))
    torch.testing.assert_close(only[0], small.dense()[padding])


def test_sparse_gradients():
    layer = FactorizedEmbedding.from_dense(nn.Embedding(11, 6, sparse=True), factors())
    layer(torch.tensor([1, 4])).sum().backward()
    assert layer.left.grad.is_sparse
    expected = torch.zeros(11, 3)
    expected[[1, 4]] = layer.right.detach().sum(dim=1)
    torch.testing.assert_close(layer.left.grad.to_dense(), expected)


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_options_that_factors_cannot_honour(option):
    with pytest.raises(LowRankError, match=f"cannot honour {next(iter(option))}"):
        FactorizedEmbedding.from_dense(nn.Embedding(11, 6, **option), factors())


def test_from_dense_keeps_precision_mode_and_freezing():
    dense = nn.Embedding(11, 6, padding_idx=3, dtype=torch.float64).eval()
    dense.weight.requires_grad_(False)
    small = factors()
    layer = FactorizedEmbedding.from_dense(dense, small)
    assert (layer.num_embeddings, layer.embedding_dim, layer.rank) == (11, 6, 3)
    assert layer.left.dtype == layer.weight.dtype == torch.float64
    assert not layer.training
    assert not any(p.requires_grad for p in layer.parameters())
    assert repr(layer) == "FactorizedEmbedding(11, 6, rank=3, padding_idx=3)"
    same = FactorizedEmbedding.from_dense(nn.Embedding(11, 6), small)
    assert same.left.data_ptr() != small.left.data_ptr()  # training must not change the factors
    with pytest.raises(LowRankError, match="11x6 matrix cannot replace an embedding of 12x6"):
        FactorizedEmbedding.from_dense(nn.Embedding(12, 6), small)


def test_empty_layer_from_its_spec():
    layer = FactorizedEmbedding.from_dense(nn.Embedding(11, 6, padding_idx=0), factors())
    empty = FactorizedEmbedding(**layer.spec())
    empty.load_state_dict(layer.state_dict())
    indices = torch.arange(11)
    assert torch.equal(empty(indices), layer(indices))
    assert empty.spec() == layer.spec()


class Shared(nn.Module):
    """A module with one embedding layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.decoder = nn.ModuleDict({"words": self.words})


def test_swap_replaces_a_layer_under_all_its_names_repeatedly():
    model = Shared()
    name, found = find_embedding(model)
    assert found is model.words
    swap_embedding(model, name, factors())
    assert isinstance(model.words, FactorizedEmbedding)
    assert model.decoder["words"] is model.words
    swap_embedding(model, name, factors(rank=5))
    assert model.words.rank == model.decoder["words"].rank == 5
    with pytest.raises(LowRankError, match="'words' is already compressed"):
        find_embedding(model)


def test_finding_layers():
    pair = nn.ModuleDict({"a": nn.Embedding(5, 4), "b": nn.Embedding(5, 4), "c": nn.Linear(4, 4)})
    with pytest.raises(LowRankError, match="several embeddings: 'a', 'b'; choose one with layer="):
        find_embedding(pair)
    assert find_embedding(pair, "b") == ("b", pair["b"])
    with pytest.raises(LowRankError, match=r"'c' is Linear, not nn\.Embedding"):
        find_embedding(pair, "c")
    with pytest.raises(LowRankError, match=r"'c' is Linear, not nn\.Embedding"):
        swap_embedding(pair, "c", factors())
    with pytest.raises(LowRankError, match="no layer 'd'"):
        find_embedding(pair, "d")
    with pytest.raises(LowRankError, match=r"Linear has no nn\.Embedding"):
        find_embedding(nn.Linear(2, 2))
    with pytest.raises(LowRankError, match="the network is an embedding itself; wrap it"):
        find_embedding(nn.Embedding(5, 4))
    tied = nn.ModuleDict({"words": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    tied["head"].weight = tied["words"].weight
    with pytest.raises(LowRankError, match="'words' shares its table with 'head'"):
        find_embedding(tied)
