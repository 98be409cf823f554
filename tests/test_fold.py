"""Folding schemes and channel groups, against the definition written out."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank_bench.alds.slices import Slices
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.fold import (
    SCHEMES,
    divisors,
    fold,
    kernel_shape,
    matrix_shape,
    nearest_divisor,
    unfold,
    weights_per_rank,
)

SHAPE = (4, 6, 2, 3)


def weight(shape=SHAPE, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The place of entry (i, c, a, b) of a weight f×c×k1×k2: row and column as tuples of indices.
PLACES = {
    0: lambda i, c, a, b: ((i,), (c, a, b)),
    1: lambda i, c, a, b: ((i, a), (c, b)),
    2: lambda i, c, a, b: ((i, b), (c, a)),
    3: lambda i, c, a, b: ((i, a, b), (c,)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_folding_places_each_entry_as_the_scheme_says(scheme):
    values = weight()
    entries = list(itertools.product(*map(range, SHAPE)))
    rows = sorted({PLACES[scheme](*entry)[0] for entry in entries})
    columns = sorted({PLACES[scheme](*entry)[1] for entry in entries})
    matrix = fold(values, scheme)[0]
    assert matrix.shape == (len(rows), len(columns)) == matrix_shape(SHAPE, scheme, 1)
    for entry in entries:
        row, column = PLACES[scheme](*entry)
        assert matrix[rows.index(row), columns.index(column)] == values[entry]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_slices_of_the_input_channels(scheme, groups):
    values, size = weight(), SHAPE[1] // groups
    for place, matrix in enumerate(fold(values, scheme, groups)):
        part = values[:, place * size : (place + 1) * size]
        torch.testing.assert_close(matrix, fold(part, scheme)[0], rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_unfolding_restores_the_weight(scheme, groups):
    values = weight()
    assert torch.equal(unfold(fold(values, scheme, groups), SHAPE, scheme), values)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_full_rank_factors_convolve_like_the_weight_at_the_stated_cost(scheme, groups):
    dense = torch.nn.Conv2d(6, 4, (2, 3), stride=(2, 1), padding=(1, 2), bias=False).double()
    slices = Slices(dense.weight, scheme)
    rank = slices.ranks(groups)
    layer = FactorizedConv2d.from_dense(dense, *slices.factors(groups, rank), scheme)
    images = weight((2, 6, 7, 8))
    torch.testing.assert_close(layer(images), dense(images), rtol=1e-7, atol=1e-7)
    kept = sum(parameter.numel() for parameter in layer.parameters())
    assert kept == rank * weights_per_rank(SHAPE, scheme, groups)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(8, 12, 3, 3), (40, 6, 1, 3), (3, 8, 2, 2), (5, 10, 1, 1)])
def test_singular_values_and_factors_are_those_of_each_slice(scheme, shape):
    values = weight(shape)
    slices = Slices(values, scheme)
    for groups in slices.groups:
        parts = fold(values, scheme, groups)
        u, s, vh = torch.linalg.svd(parts, full_matrices=False)
        torch.testing.assert_close(slices.values(groups), s, rtol=1e-6, atol=1e-6)
        rank = max(1, slices.ranks(groups) // 2)
        left, right = slices.factors(groups, rank)
        expected = u[..., :rank] * s[:, None, :rank] @ vh[:, :rank]
        torch.testing.assert_close(left @ right, expected, rtol=1e-6, atol=1e-6)
        # Singular values are split evenly between the two.
        lengths = left.norm(dim=1), right.norm(dim=2)
        torch.testing.assert_close(*lengths, rtol=1e-6, atol=1e-6)


def test_slices_of_low_rank_are_factorized_without_noise():
    values = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    values[:, :2] = weight((6, 1, 1, 1))  # rank 1, and 0 in the last slices
    for groups in (1, 2, 4):
        left, right = Slices(values).factors(groups, 2)
        torch.testing.assert_close(left @ right, fold(values, 0, groups), rtol=1e-7, atol=1e-7)


@given(number=st.integers(1, 600), wanted=st.integers(1, 700))
def test_divisors_and_the_nearest_divisor(number, wanted):
    every = [d for d in range(1, number + 1) if number % d == 0]
    assert divisors(number) == every
    gap = min(abs(d - wanted) for d in every)
    assert nearest_divisor(number, wanted) == max(d for d in every if abs(d - wanted) == gap)


def test_a_linear_layer_is_a_convolution_of_one_pixel():
    assert kernel_shape((5, 7)) == (5, 7, 1, 1)
    with pytest.raises(LowRankError, match="3 axes"):
        kernel_shape((5, 7, 3))
