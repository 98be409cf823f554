"""Coded tables: rounding, product and transform codes, against closed forms and brute force."""

import itertools
import math

import pytest
import torch

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bands import cut
from lowrank_bench.linalg.coding.bits import allocate
from lowrank_bench.linalg.coding.coded import relative_error
from lowrank_bench.linalg.coding.coder import transform_code, waterfill
from lowrank_bench.linalg.coding.gaussian import distortions, lloyd_max
from lowrank_bench.linalg.coding.product import parts_for, product_code
from lowrank_bench.linalg.coding.rounding import round_to_nearest
from lowrank_bench.linalg.coding.trellis import BEFORE, error_curve, level_table, search
from lowrank_bench.linalg.decomposition import Projection
from lowrank_bench.linalg.factors import restore
from lowrank_bench.linalg.gram import right_singular

GENERATOR = torch.Generator().manual_seed(1)


def table(n=600, d=24, decay=0.8):
    """Return a Gaussian table with a decaying spectrum and a mean, and Zipfian weights."""
    scale = decay ** torch.arange(d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=GENERATOR).double()).Q
    rows = (torch.randn(n, d, generator=GENERATOR).double() * scale) @ turn + 0.3
    return rows, 1 / (torch.arange(n) + 5.0).double()


def coded_tables():
    """Yield the name of a kind, a table, and its code."""
    rows, weights = table(200, 13)
    yield "rows", rows, round_to_nearest(rows, 3)
    yield "groups", rows, round_to_nearest(rows, 5, group=4, scale="absmax")
    yield "product", rows, product_code(rows, weights, 4, 5)[0]
    yield "transform", rows, transform_code(rows, weights, 1900)[0]
    yield "scalar", rows, transform_code(rows, weights, 1900, trellis=False, gains=False)[0]
    yield "no basis", rows, transform_code(rows, weights, 1900, basis="none")[0]
    yield "waterfill", rows, waterfill(rows, weights, 1700)[0]


@pytest.mark.parametrize(
    ("kind", "rows", "coded"), list(coded_tables()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_every_coded_table_keeps(kind, rows, coded):
    tensors = coded.tensors()
    assert coded.n_bytes == sum(value.numpy().nbytes for value in tensors.values())
    assert {value.dtype for value in tensors.values()} <= {torch.uint8, torch.int32, torch.float16}
    dense = coded.dense()
    assert dense.shape == rows.shape == coded.shape
    assert relative_error(rows, coded) < 0.5
    ids = torch.tensor([7, 3, 7, 199, 0, 3])
    assert torch.allclose(coded.rows(ids), dense[ids], atol=1e-6)
    assert torch.allclose(coded.dense(5, 9), dense[5:9], atol=1e-6)
    assert coded.rows(ids.view(2, 3)).shape == (2, 3, 13)
    assert coded.rows(ids[:0]).shape == (0, 13)
    again = restore({name: value.clone() for name, value in tensors.items()})
    assert type(again) is type(coded)
    assert torch.equal(again.dense(), dense)
    assert torch.equal(coded.scaled(0.25).dense(), dense / 4)
    assert coded.to(dtype=torch.float64).n_bytes == coded.n_bytes
    for outside in (-1, 200):
        with pytest.raises(LowRankError, match="numbered 0 to 199"):
            coded.rows(torch.tensor([outside]))


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_codes_follow_the_unit_of_the_table(unit):
    rows, weights = table(100, 9)
    for code in (
        lambda a: round_to_nearest(a, 3),
        lambda a: product_code(a, weights, 3, 4)[0],
        lambda a: transform_code(a, weights, 700)[0],
        lambda a: waterfill(a, weights, 700)[0],
    ):
        assert torch.equal(code(rows * unit).dense(), code(rows).dense() * unit)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("scale", ["absmax", "least_squares"])
def test_rounding_is_to_the_nearest_level_of_the_symmetric_grid(bits, scale):
    rows = torch.randn(30, 10, generator=GENERATOR)
    coded = round_to_nearest(rows, bits, group=5, scale=scale)
    grid = torch.arange(2**bits) - (2**bits - 1) / 2
    scales = coded.scales.float() * 2.0**coded.exponent
    levels = scales.repeat_interleave(5, dim=1).unsqueeze(2) * grid
    best = (levels - rows.unsqueeze(2)).abs().min(dim=2).values
    assert torch.allclose((coded.dense() - rows).abs(), best, atol=1e-6)
    if scale == "absmax":
        top = rows.view(30, 2, 5).abs().amax(2) / grid[-1]
        assert torch.allclose(scales, top, rtol=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_least_squares_scales_are_near_the_best_of_a_fine_search(bits):
    rows = torch.randn(20, 16, generator=GENERATOR).double()
    half = (2**bits - 1) / 2
    trial = torch.linspace(0.02, 4, 4000).view(-1, 1, 1).double()
    levels = ((rows / trial) + half).round().clamp(0, 2 * half) - half
    best = (levels * trial - rows).square().sum(2).min(dim=0).values
    reached = (round_to_nearest(rows, bits).dense() - rows).square().sum(1)
    assert float((reached / best).mean()) < 1.06
    absmax = (round_to_nearest(rows, bits, scale="absmax").dense() - rows).square().sum(1)
    assert bool((reached <= absmax + 1e-12).all())


def test_one_bit_is_the_sign_times_the_mean_of_the_lengths():
    rows = torch.randn(20, 16, generator=GENERATOR).double()
    wanted = rows.sign() * rows.abs().mean(1, keepdim=True)
    assert torch.allclose(round_to_nearest(rows, 1).dense().double(), wanted, rtol=2e-3)


@pytest.mark.parametrize(
    ("bits", "published"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497), (5, 0.002499)]
)
def test_lloyd_max_agrees_with_the_tables_of_max(bits, published):
    """Max 1960, table I: its last digits are off by up to 0.3 %."""
    assert float(distortions()[bits]) == pytest.approx(published, rel=3e-3)
    sample = torch.randn(200_000, generator=GENERATOR).double()
    levels = lloyd_max(bits)
    cuts = (levels[1:] + levels[:-1]) / 2
    error = (sample - levels[torch.bucketize(sample, cuts)]).square().mean()
    assert float(error) == pytest.approx(published, rel=0.03)


def test_error_curves_are_convex():
    for trellis in (False, True):
        curve = error_curve(trellis)
        drops = curve[:-1] - curve[1:]
        assert bool((drops > 0).all())
        assert bool((drops[:-1] > drops[1:]).all())


def decoded(codes, bits):
    """Return the levels of a trellis code, field by field."""
    window, rows = torch.full(codes.shape[1:], BEFORE), []
    for code, depth in zip(codes, bits.tolist(), strict=True):
        window = (window << depth | code.long()) & 255
        rows.append(level_table(True)[depth][window])
    return torch.stack(rows)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6])
def test_the_trellis_loses_what_its_curve_says(bits):
    sample = torch.randn(72, 3000, generator=GENERATOR).clamp(-4, 4)  # no single outlier decides
    depths = torch.full((72,), bits)
    error = (decoded(search(sample, depths), depths) - sample)[12:].square().mean()
    assert float(error) == pytest.approx(float(error_curve(True)[bits]), rel=0.05)


def test_the_search_finds_the_best_codes_of_all():
    for _ in range(20):
        depths = torch.randint(1, 4, (4,), generator=GENERATOR)
        sample = torch.randn(4, 5, generator=GENERATOR)
        every = torch.tensor(list(itertools.product(*(range(2**b) for b in depths.tolist()))))
        errors = (decoded(every.T, depths).unsqueeze(2) - sample.unsqueeze(1)).square().sum(0)
        reached = (decoded(search(sample, depths), depths) - sample).square().sum(0)
        assert torch.allclose(reached, errors.min(0).values, atol=1e-5)


@pytest.mark.parametrize("gains", [True, False])
@pytest.mark.parametrize("trellis", [True, False])
@pytest.mark.parametrize("basis", ["weighted", "plain", "none"])
def test_a_budget_is_kept_and_used(basis, trellis, gains):
    rows, weights = table(500, 20)
    options = {"basis": basis, "trellis": trellis, "gains": gains}
    errors = []
    for size in (2500, 3500, 5001, 7003):
        coded, info = transform_code(rows, weights, size, **options)
        assert size - max(info["band_rows"]) < coded.n_bytes <= size
        assert info["n_bytes"] == coded.n_bytes
        error = relative_error(rows, coded, weights)
        assert info["weighted_error"] == pytest.approx(error, rel=1e-5)
        assert info["lp_bound"] <= info["predicted_error"] + 1e-12
        assert error == pytest.approx(info["predicted_error"], rel=0.35)
        assert info["rate_distortion_bound"] < error
        errors.append(error)
    assert errors == sorted(errors, reverse=True)


def test_the_error_of_each_row_is_within_the_bound_of_its_band():
    rows, weights = table(300, 16)
    coded, info = transform_code(rows, weights, 2200)
    labels, counts = cut(weights, 16)
    assert info["band_rows"] == counts.tolist()
    error = (coded.dense().double() - rows).norm(dim=1)
    bound = torch.tensor(info["row_bounds"])[labels]
    assert bool((error <= bound * (1 + 1e-5)).all())


def test_the_trellis_and_the_basis_each_lower_the_error():
    rows, weights = table(3000, 32, decay=0.9)
    error = {
        (basis, trellis): transform_code(rows, weights, 30_000, basis=basis, trellis=trellis)[1]
        for basis in ("weighted", "none")
        for trellis in (True, False)
    }
    error = {key: info["weighted_error"] for key, info in error.items()}
    assert error["weighted", True] < 0.93 * error["weighted", False]
    assert error["weighted", True] < 0.9 * error["none", True]


def test_waterfilling_gives_used_rows_more_bits_and_never_exceeds_the_budget():
    rows, weights = table(500, 19)
    for size in (1100, 1500, 3000, 20_000):
        coded, info = waterfill(rows, weights, size)
        assert coded.n_bytes <= size
        lengths = coded.reading.strides[coded.reading.labels].double()
        assert lengths[:100].mean() >= lengths[400:].mean()
        assert info["weighted_error"] == pytest.approx(relative_error(rows, coded, weights))


def test_levels_of_no_bits_or_floats_give_the_weighted_svd():
    """Low rank is the corner of the allocation with 32 bits or none."""
    rows, weights = table(80, 12)
    values, vectors = right_singular(rows * weights.sqrt().unsqueeze(1))
    energy = values.square().unsqueeze(0)
    for rank in (1, 4, 9):
        # One step of 32 bits removes the whole error of a direction.
        chosen = allocate(energy, torch.tensor([80]), torch.tensor([1.0, 0.0]), rank * 80, unit=1)
        kept = chosen.bits[0].bool()
        reached = rows @ vectors[:, kept] @ vectors[:, kept].T
        wanted = Projection(rows, vectors).factors(rank).dense()
        assert torch.allclose(reached, wanted.to(reached), atol=1e-6)
        assert chosen.error == pytest.approx(float(values[rank:].square().sum()))


def test_equal_bits_without_a_basis_are_rounding():
    """One bit: the levels of both grids are a sign times a scale of the row."""
    rows = torch.randn(400, 16, generator=GENERATOR).double()
    even = torch.ones(400).double()
    coded, _ = waterfill(rows, even, 10**9, bands=1)
    assert coded.reading.strides.tolist() == [16]  # eight bits for each entry
    head = coded.n_bytes - coded.codes.numel()
    one, _ = waterfill(rows, even, head + 400 * 2, bands=1)
    rounded = round_to_nearest(rows, 1)
    assert one.codes.numel() == rounded.codes.numel()
    assert torch.equal(one.codes.view(400, 2), rounded.codes)
    assert torch.equal(one.dense().sign(), rounded.dense().sign())
    # Its scale follows from the length of the row, that of rounding is the best for the row.
    gap = relative_error(rows, one) / relative_error(rows, rounded)
    assert 1 <= gap < 1.02


def test_product_codes_match_brute_force_and_the_best_of_many_starts():
    rows, weights = table(300, 12)
    coded, info = product_code(rows, weights, 3, 4)
    books = coded.codebooks.double() * 2.0**coded.exponent
    parts = rows.view(300, 3, 4)
    best = (parts.unsqueeze(2) - books.unsqueeze(0)).square().sum(3).min(2).values.sum()
    assert float((coded.dense() - rows).square().sum()) == pytest.approx(float(best), rel=1e-5)
    assert info["weighted_error"] == pytest.approx(relative_error(rows, coded, weights))
    every = product_code(rows[:10], weights[:10], 4, 8)[0]  # a vector for each row
    assert torch.allclose(every.dense().double(), rows[:10], rtol=2e-3, atol=2e-3)
    for size in (1000, 2000, 5000):
        fits = product_code(rows, weights, parts_for((300, 12), size, 4), 4)[0]
        assert fits.n_bytes <= size


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (3, 1), (40, 3), (17, 8)])
def test_small_and_degenerate_tables(n, d):
    for rows in (torch.randn(n, d, generator=GENERATOR), torch.zeros(n, d), torch.ones(n, d)):
        weights = torch.ones(n)
        for coded in (
            transform_code(rows, weights, 4000)[0],
            waterfill(rows, weights, 4000)[0],
            round_to_nearest(rows, 8),
            product_code(rows, weights, 1, 8)[0],
        ):
            assert torch.isfinite(coded.dense()).all()
            assert float((coded.dense() - rows).norm()) <= 0.02 * float(rows.norm()) + 1e-6


def test_bad_input_is_refused_by_name():
    rows, weights = table(50, 6)
    broken = rows.clone()
    broken[3, 2] = math.nan
    refused = [
        (lambda: transform_code(rows, weights, 40), "allow .* more"),
        (lambda: waterfill(rows, weights, 40), "allow .* more"),
        (lambda: transform_code(broken, weights, 4000), "not finite"),
        (lambda: round_to_nearest(broken, 4), "not finite"),
        (lambda: product_code(broken, weights, 2), "not finite"),
        (lambda: transform_code(rows, weights[:9], 4000), "for each row"),
        (lambda: transform_code(rows, -weights, 4000), "for each row"),
        (lambda: round_to_nearest(rows, 9), "1 to 8"),
        (lambda: round_to_nearest(rows, 2, group=0), "group"),
        (lambda: product_code(rows, weights, 7), "1 to 6"),
        (lambda: parts_for((50, 6), 20), "allow more bytes"),
        (lambda: round_to_nearest(rows, 2).scaled(3.0), "power of two"),
    ]
    for call, message in refused:
        with pytest.raises(LowRankError, match=message):
            call()
