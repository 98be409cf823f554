"""Packed integers and the allocation of bits, against bit strings and brute force."""

import itertools

import pytest
import torch

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bits import allocate, rate_distortion_bound
from lowrank_bench.linalg.coding.flat import pack_flat, unpack_flat
from lowrank_bench.linalg.coding.gaussian import distortions
from lowrank_bench.linalg.coding.packing import pack, stride_of, unpack

GENERATOR = torch.Generator().manual_seed(0)


def draw(high, *size):
    return torch.randint(0, high, size, generator=GENERATOR)


def bit_string(row, widths):
    return "".join(
        format(int(v), "b").zfill(int(b)) if b else "" for v, b in zip(row, widths, strict=True)
    )


def check(codes, widths):
    packed = pack(codes, widths)
    size = stride_of(widths)
    assert packed.shape == (len(codes), size)
    for row, stored in zip(codes, packed, strict=True):
        written = "".join(format(int(byte), "08b") for byte in stored)
        assert written == bit_string(row, widths).ljust(8 * size, "0")
    assert torch.equal(unpack(packed, widths), codes.to(torch.uint8))


@pytest.mark.parametrize("bits", range(9))
def test_rows_of_one_width_are_the_bit_string(bits):
    for columns in (0, 1, 7, 8, 33):
        check(draw(2**bits, 5, columns), torch.full((columns,), bits))


def test_rows_of_any_widths_are_the_bit_string():
    for _ in range(150):
        widths = draw(9, int(draw(30)))
        check(
            (torch.rand(int(draw(6)), len(widths), generator=GENERATOR) * 2**widths).long(), widths
        )


@pytest.mark.parametrize("bits", range(1, 9))
def test_integers_in_sequence_come_back(bits):
    for count in (0, 1, 5, 8, 100):
        codes = draw(2**bits, count)
        packed = pack_flat(codes, bits)
        assert packed.numel() == -(-count * bits // 8)
        assert torch.equal(unpack_flat(packed, count, bits).long(), codes)


def test_bad_widths_and_codes_are_refused():
    for call, message in [
        (lambda: pack(torch.ones(2, 1).long(), torch.tensor([9])), "0 to 8 bits"),
        (lambda: pack(torch.full((2, 1), 4), torch.tensor([2])), "does not fit"),
        (lambda: pack(torch.full((2, 1), -1), torch.tensor([2])), "does not fit"),
        (lambda: unpack(torch.zeros(2, 3).to(torch.uint8), torch.tensor([2])), "rows of 3 bytes"),
    ]:
        with pytest.raises(LowRankError, match=message):
            call()


def test_allocations_agree_with_brute_force():
    """On the grid where a step is `unit` bits for a band; the bound is within one step."""
    curve = distortions(2)
    for _ in range(250):
        energy = torch.rand(2, 2, generator=GENERATOR).double() * torch.tensor([[4.0], [1.0]])
        rows, unit, budget = 1 + draw(3, 2), 1 + int(draw(3)), int(draw(16))
        chosen = allocate(energy, rows, curve, budget, unit)
        every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
        cost = ((-(-every.sum(2) // unit)) * rows).sum(1)
        errors = (energy * curve[every]).sum((1, 2))
        best = float(errors[cost <= budget].min())
        assert chosen.lp_bound <= best + 1e-12
        assert best <= chosen.error + 1e-12
        assert chosen.error <= chosen.lp_bound + chosen.step + 1e-12
        assert int((-(-chosen.bits.sum(1) // unit) * rows).sum()) <= chosen.spent <= budget
        assert rate_distortion_bound(energy, rows, budget * unit) <= chosen.lp_bound + 1e-12


def test_with_one_row_a_band_and_bits_as_steps_the_allocation_is_the_best_of_all():
    curve = distortions(3)
    for _ in range(100):
        energy = torch.rand(1, 4, generator=GENERATOR).double() ** 3
        budget = int(draw(13))
        every = torch.tensor(list(itertools.product(range(4), repeat=4)))
        best = (energy * curve[every]).sum(1)[every.sum(1) <= budget].min()
        chosen = allocate(energy, torch.tensor([1]), curve, budget, unit=1)
        assert chosen.error == pytest.approx(float(best))


def test_water_filling_meets_its_closed_forms():
    rows = torch.tensor([3, 5])
    energy = torch.tensor([[6.0, 3.0], [10.0, 5.0]]).double()  # variances 2, 1, 2, 1
    # With all active, θ = (2·1·…)^(1/…)·2^(−2R): the geometric mean of variances, 2^½, falls.
    for rate in (1.0, 2.5):
        wanted = 16 * 2**0.5 * 4.0**-rate
        assert rate_distortion_bound(energy, rows, 16 * rate) == pytest.approx(wanted)
    # Few bits go to the larger variances alone: 8 numbers of variance 2.
    assert rate_distortion_bound(energy, rows, 2) == pytest.approx(8 + 16 * 4.0 ** (-2 / 8))
    assert rate_distortion_bound(energy, rows, 0) == pytest.approx(24)
    assert rate_distortion_bound(energy * 0, rows, 5) == 0.0
