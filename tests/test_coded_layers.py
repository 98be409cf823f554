"""Linear layers and convolutions in few bits: they compute what their decoded weight does."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.coded_weight import coded_layer
from lowrank_bench.layers.stored import stored_bytes
from lowrank_bench.linalg.coding.coder import transform_code
from lowrank_bench.linalg.coding.half import to_half
from lowrank_bench.linalg.coding.rounding import round_to_nearest
from lowrank_bench.network.count import count
from lowrank_bench.network.restore import densified

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (1, 3), "stride": 2, "padding": (0, 1), "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (3, 2), "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect", "stride": (1, 2)},
    {"kernel_size": 2, "padding": "valid", "padding_mode": "replicate"},
]


def rounded(matrix, bits, group):
    return [round_to_nearest(matrix, bits, group)]


def pair(matrix, bits, group):
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    k = 5
    parts = (right[:k] * values[:k].sqrt().unsqueeze(1), (left[:, :k] * values[:k].sqrt()).T)
    return [round_to_nearest(part.contiguous(), bits, group) for part in parts]


def transformed(matrix, bits, group):
    size = int(matrix.numel() * bits / 8) + 400
    return [transform_code(matrix, torch.ones(len(matrix)), size, bands=1, basis="none")[0]]


def halved(matrix, bits, group):
    return [to_half(matrix, "fp16")]


def dense_layer(kind, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(37, 29) if kind == "linear" else nn.Conv2d(6, 10, **kind)


def example(kind):
    return torch.randn(5, 3, 37) if kind == "linear" else torch.randn(2, 6, 9, 8)


@pytest.mark.parametrize("kind", ["linear", *CONVS], ids=str)
@pytest.mark.parametrize("code", [rounded, pair, transformed, halved])
def test_a_coded_layer_is_the_dense_layer_of_its_decoded_weight(kind, code):
    dense = dense_layer(kind)
    matrix = dense.weight.detach().flatten(1)
    for bits, group in ((3, None), (8, 32)):
        codes = code(matrix, bits, group)
        layer = coded_layer(dense, codes)
        with torch.no_grad():
            dense.weight.copy_(layer.dense_weight())
        x = example(kind)
        torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
        bias = 0 if dense.bias is None else 4 * dense.bias.numel()
        assert stored_bytes(layer) == sum(part.n_bytes for part in codes) + bias
        restored = densified(nn.Sequential(layer))[0]
        assert type(restored) is type(dense)
        torch.testing.assert_close(restored(x), dense(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("code", [rounded, pair, transformed, halved])
@pytest.mark.parametrize("kind", ["linear", CONVS[1]], ids=str)
def test_its_multiply_adds_are_those_of_its_factors(kind, code):
    dense = dense_layer(kind)
    layer = coded_layer(dense, code(dense.weight.detach().flatten(1), 4, None))
    x = example(kind)
    outputs, macs = dense(x), {}
    for one in (dense, layer):
        macs[one] = count(nn.Sequential(one), {"input": x}).macs
    rows, columns = layer.matrix_shape
    positions = outputs.numel() // rows
    wanted = rows * columns if layer.rank is None else layer.rank * (rows + columns)
    assert macs[layer] == positions * wanted
    assert macs[dense] == positions * rows * columns


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("code", [rounded, pair, transformed, halved])
def test_precision_state_and_copies(dtype, code):
    dense = dense_layer("linear")
    layer = coded_layer(dense, code(dense.weight.detach(), 6, 32))
    moved = copy.deepcopy(layer).to(dtype)
    assert moved(example("linear").to(dtype)).dtype == dtype
    assert all(
        value.dtype == layer.state_dict()[name].dtype or value.is_floating_point()
        for name, value in moved.state_dict().items()
    )
    back = coded_layer(
        dense_layer("linear", 1), code(dense_layer("linear", 1).weight.detach(), 6, 32)
    )
    if {name: v.shape for name, v in back.state_dict().items()} == {
        name: v.shape for name, v in layer.state_dict().items()
    }:
        back.load_state_dict(layer.state_dict())
        x = example("linear")
        assert torch.equal(back(x), layer(x))
    # float64 and float16 hold half-precision scales exactly; only the products round.
    if dtype == torch.float64:
        torch.testing.assert_close(moved.dense_weight().float(), layer.dense_weight())


def test_training_moves_the_scales_alone():
    dense = dense_layer("linear")
    layer = coded_layer(dense, rounded(dense.weight.detach(), 4, 32))
    codes = {name: value.clone() for name, value in layer.named_buffers()}
    layer(example("linear")).square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {
        name for name, _ in layer.named_parameters()
    }
    assert all(torch.equal(value, codes[name]) for name, value in layer.named_buffers())


@pytest.mark.parametrize("shapes", [[(4, 5)], [(3, 37), (2, 29)], [(29, 37)] * 2])
def test_codes_that_do_not_fit_are_refused(shapes):
    codes = [round_to_nearest(torch.randn(shape), 4) for shape in shapes]
    with pytest.raises(LowRankError, match="do not fit"):
        coded_layer(dense_layer("linear"), codes)


@pytest.mark.parametrize("pad", list(product((0, 1), repeat=2)))
def test_an_empty_batch_keeps_its_shape(pad):
    dense = nn.Conv2d(3, 8, 3, padding=pad)
    layer = coded_layer(dense, rounded(dense.weight.detach().flatten(1), 4, None))
    assert layer(torch.zeros(0, 3, 6, 6)).shape == dense(torch.zeros(0, 3, 6, 6)).shape
