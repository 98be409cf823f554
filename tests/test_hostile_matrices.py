"""Whatever matrix a user gives: a right result or one LowRankError, from every method."""

import numpy as np
import pytest
import torch
from hostile import METHODS, answer, calls, code_answer, code_calls, facts, quantized_calls
from hypothesis import HealthCheck, given, seed, settings

from lowrank_bench import low_rank
from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.certificate import certify
from lowrank_bench.methods import make_method
from lowrank_bench.testing.compare import refused

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(deadline=None, max_examples=400, suppress_health_check=SLOW)
@given(call=calls())
def test_a_right_result_or_one_error(call):
    answer(*call)


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(10))
def test_campaign_of_hostile_matrices(part):
    """All together 21,000 calls."""
    tally = {"right": 0, "refused": 0}

    @seed(part)
    @settings(deadline=None, max_examples=2100, suppress_health_check=SLOW, database=None)
    @given(call=calls())
    def run(call):
        tally[answer(*call)] += 1

    run()
    print(f"part {part}: {tally}")
    assert sum(tally.values()) >= 2000


@settings(deadline=None, max_examples=60, suppress_health_check=SLOW, database=None)
@given(call=code_calls())
def test_a_code_is_right_or_one_error(call):
    code_answer(*call)


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(4))
def test_campaign_of_codes_on_hostile_tables(part):
    """All together 4,000 calls."""
    tally = {"right": 0, "refused": 0}

    @seed(part)
    @settings(deadline=None, max_examples=1050, suppress_health_check=SLOW, database=None)
    @given(call=code_calls())
    def run(call):
        tally[code_answer(*call)] += 1

    run()
    print(f"part {part}: {tally}")
    assert sum(tally.values()) >= 1000


@settings(deadline=None, max_examples=60, suppress_health_check=SLOW, database=None)
@given(call=quantized_calls())
def test_quantized_factors_are_right_or_one_error(call):
    code_answer(*call)


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(4))
def test_campaign_of_quantized_factors_on_hostile_tables(part):
    """All together 4,000 calls."""
    tally = {"right": 0, "refused": 0}

    @seed(part)
    @settings(deadline=None, max_examples=1050, suppress_health_check=SLOW, database=None)
    @given(call=quantized_calls())
    def run(call):
        tally[code_answer(*call)] += 1

    run()
    print(f"part {part}: {tally}")
    assert sum(tally.values()) >= 1000


def gauss(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.ones((1, 5))[::-1], 1),
        (gauss(1, 2), 1),
        (gauss(2, 2), 1),
        (gauss(2, 2), 2),
        (np.zeros((4, 3)), 2),
        (gauss(20, 4) * 1e-309, 2),
        (gauss(20, 4) * 1e154, 2),
        (gauss(20, 4) * 1e200, 2),
    ],
    ids=["reversed", "1x2", "2x2", "2x2-full", "zero", "1e-309", "1e154", "1e200"],
)
def test_the_inputs_of_the_faults(name, matrix, rank):
    answer(name, matrix, rank, facts(make_method(name), len(matrix), 0))


def test_messi_of_two_clusters_at_a_large_scale():
    a = gauss(30, 5)
    small, large = (low_rank(a * scale, 2, "messi", k=2) for scale in (1.0, 2.0**512))
    assert torch.equal(small.labels, large.labels)
    torch.testing.assert_close(large.dense() / 2.0**512, small.dense())


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, np.inf])
@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**-500, 2.0**660, 2.0**1000])
def test_certificates_at_any_scale(power, scale):
    a = torch.from_numpy(np.float32(gauss(40, 6)).astype(float))
    plain = certify(a, low_rank(a, 2, "svd"), p=power, thorough=True)
    scaled = certify(a * scale, low_rank(a * scale, 2, "svd"), p=power, thorough=True)
    for norm, expected in plain.items():
        assert scaled[norm]["within"] == pytest.approx(expected["within"], rel=1e-3)
        assert scaled[norm]["by"] == expected["by"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (gauss(4, 3) + 1j, "entries of type complex128"),
        (np.ones((4, 3), dtype=int), "entries of type int64"),
        (np.array([["a"] * 3] * 4), "entries of type str"),
        (np.ones((4, 3), dtype=object), "entries of type object"),
        (np.longdouble(gauss(4, 3)), "entries of type .*convert it"),
        (np.full((4, 3), np.nan), "12 matrix entries are NaN or infinite, the first in row 0"),
        (np.where(np.eye(4, 3) > 0, np.inf, 1), "3 matrix entries are NaN or infinite"),
        (np.ma.masked_greater(gauss(4, 3), 0), "masked entries"),
        (np.ones(3), "not an array of 3"),
        (np.float64(3), "expected a tensor or an array"),
        (np.ones((0, 3)), "no entries"),
        (np.ones((4, 0)), "no entries"),
        ([[1.0, 2.0]], "expected a tensor or an array, not list"),
        (torch.ones(4, 3, device="meta"), "without data"),
        (torch.ones(4, 3).to_sparse(), "sparse"),
        (torch.ones(4, 3).to_sparse_csr(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8), "entries of type qint8"),
        (torch.ones(4, 3).to(torch.float8_e5m2), "entries of type float8"),
        (torch.ones(4, 3, dtype=torch.bool), "entries of type bool"),
    ],
)
def test_what_is_no_such_matrix_is_refused(matrix, message):
    with refused(message):
        low_rank(matrix, 1, "svd")


def test_a_nested_tensor_is_refused():
    with refused("nested"):
        low_rank(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 1, "svd")


@pytest.mark.parametrize("rank", [0, -1, 4, 10**30, 1.5, True, "2", None, torch.tensor(1.5), [1]])
def test_what_is_no_rank_is_refused(rank):
    with refused("does not fit a 4x3 matrix"):
        low_rank(gauss(4, 3), rank, "svd")


@pytest.mark.parametrize(
    "counts",
    [
        "text",
        [1, 2],
        None,
        object(),
        1j * np.ones(4),
        -np.ones(4),
        np.full(4, np.nan),
        np.full(4, np.inf),
        np.ones((4, 1)),
        np.array([object()] * 4),
        torch.ones(4, device="meta"),
    ],
)
def test_what_is_no_fact_is_refused(counts):
    with pytest.raises(LowRankError):
        low_rank(
            gauss(4, 3), 1, "frequency_svd", weights="counts", counts=counts, frequency=[1] * 4
        )


def test_subclasses_of_tensors_and_arrays_are_read():
    a = gauss(6, 3)
    plain = low_rank(a, 2, "svd").dense()
    for other in (a.view(np.matrix), a.astype(">f8"), np.asfortranarray(a), a[::-1][::-1]):
        assert torch.equal(low_rank(other, 2, "svd").dense(), plain)
    weight = torch.nn.Parameter(torch.from_numpy(a))
    factors = low_rank(weight, 2, "svd")
    assert type(factors.left) is torch.Tensor
    assert not factors.left.requires_grad
