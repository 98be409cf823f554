"""Look-ups of coded tables: fields read in groups, and what a layer keeps between calls."""

import pytest
import torch

from lowrank_bench.layers.coded import CodedEmbedding
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.linalg.coding.coded import relative_error
from lowrank_bench.linalg.coding.coder import transform_code, waterfill
from lowrank_bench.linalg.coding.groups import even, grouped
from lowrank_bench.linalg.coding.packing import pack
from lowrank_bench.linalg.coding.product import product_code
from lowrank_bench.linalg.coding.rounding import round_to_nearest
from lowrank_bench.linalg.coding.transform import TransformCodes

GENERATOR = torch.Generator().manual_seed(7)


def draw(high, *size):
    return torch.randint(0, high, size, generator=GENERATOR)


def read_one_by_one(codes, widths, levels, before):
    """The value of each field by the last eight bits of a string of 0 and 1."""
    values = torch.zeros(codes.shape)
    for i, (row, bits) in enumerate(zip(codes.tolist(), widths.tolist(), strict=True)):
        text = format(before, "08b")
        for j, (code, width) in enumerate(zip(row, bits, strict=True)):
            text += format(code, "b").zfill(width) if width else ""
            values[i, j] = levels[width, int(text[-8:], 2)] if width else 0.0
    return values


@pytest.mark.parametrize("history", [0, 7])
def test_groups_read_what_fields_say_one_by_one(history):
    """For any widths, with levels that look at a field's own bits or at seven in all."""
    for _ in range(60):
        layouts, fields, rows = 1 + int(draw(4)), 1 + int(draw(13)), 1 + int(draw(9))
        widths = draw(1 + (7 if history else 8), layouts, fields) // (1 + int(draw(3)))
        levels = torch.randn(9, 256, generator=GENERATOR)
        for bits in range(9):  # only these bits matter
            levels[bits] = levels[bits, torch.arange(256) % (1 << max(bits, history))]
        levels[0] = 0.0
        before = int(draw(256))
        which = draw(layouts, rows).int()
        codes = (torch.rand(rows, fields, generator=GENERATOR) * 2 ** widths[which]).long()
        packed = [
            pack(code.unsqueeze(0), widths[g])[0] for code, g in zip(codes, which, strict=True)
        ]
        # What follows a row must not matter.
        text = torch.stack([torch.cat([row, draw(256, 60 - len(row)).byte()]) for row in packed])
        values = grouped(widths, levels, history, before).read(text, which)
        assert torch.equal(values, read_one_by_one(codes, widths[which], levels, before))


@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_of_equal_fields_are_read_likewise(bits):
    levels = torch.randn(9, 256, generator=GENERATOR)
    levels[bits] = levels[bits, torch.arange(256) % (1 << bits)]
    for width in (1, 5, 8, 19):
        codes = draw(1 << bits, 6, width)
        widths = torch.full((width,), bits)
        values = even(width, bits, levels).read(pack(codes, widths))
        assert torch.equal(values, levels[bits][codes])


def layers():
    rows = torch.randn(300, 20, generator=GENERATOR)
    weights = 1 / (torch.arange(300) + 5.0)
    dense = torch.nn.Embedding(300, 20)
    for code in (
        transform_code(rows, weights, 3000)[0],
        round_to_nearest(rows, 3, group=6),
        product_code(rows, weights, 5, 4)[0],
    ):
        yield compressed_embedding(dense, code)


@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: next(iter(layer.layout)))
def test_a_layer_keeps_what_its_integers_say_while_it_is_trained(layer):
    assert isinstance(layer, CodedEmbedding)
    ids = draw(300, 4, 9)
    before = layer(ids).detach()
    with torch.no_grad():
        assert torch.equal(layer(ids), before)
    first = layer.approximation()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-2)
    for _ in range(2):
        layer(ids).square().sum().backward()
        optimizer.step()
        later = layer.approximation()
        assert later is not first
        for name in later.derived:  # the same objects, and no parameter's history in them
            assert getattr(later, name) is getattr(first, name)
    with torch.no_grad():
        after = layer(ids)
        assert not torch.equal(after, before)
        assert layer.approximation() is layer.approximation()
    assert torch.equal(layer(ids).detach(), after)


def test_integers_that_are_written_to_are_read_anew():
    layer = next(layers())
    ids = torch.arange(300)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            before = layer(ids).detach()
            with torch.no_grad():
                layer.code_codes.bitwise_xor_(255)
                layer.code_gains.bitwise_xor_(255)
            after = layer(ids).detach()
            assert not torch.equal(before, after)
            fresh = layer.approximation()
            wanted = TransformCodes.rebuild({k: v.clone() for k, v in fresh.tensors().items()})
            assert torch.equal(after, wanted.rows(ids))


def test_a_layer_made_in_inference_mode_can_be_looked_up():
    with torch.inference_mode():
        layer = next(layers())
        one = layer(torch.arange(9))
        layer.code_codes.bitwise_xor_(255)  # such tensors count no writes
        assert not torch.equal(layer(torch.arange(9)), one)
    with torch.no_grad():
        assert layer(torch.arange(9)).shape == (9, 20)


@pytest.mark.parametrize("columns", [24, 384])
@pytest.mark.parametrize("share", [0.9, 0.97])
def test_waterfill_decodes_no_row_farther_off_than_zero(columns, share):
    """Rows of a few entries among zeros, as the levels of a Gaussian row serve them worst."""
    for entries in (1, 2, 5):
        rows = torch.zeros(200, columns).double()
        for row in rows:
            row[torch.randperm(columns, generator=GENERATOR)[:entries]] = torch.randn(
                entries, generator=GENERATOR
            ).double()
        weights = torch.rand(200, generator=GENERATOR).double() + 0.01
        coded, info = waterfill(rows, weights, int((1 - share) * 4 * rows.numel()) + 400)
        error = (coded.dense().double() - rows).norm(dim=1)
        assert bool((error <= rows.norm(dim=1) * (1 + 1e-6)).all())
        assert info["weighted_error"] == pytest.approx(relative_error(rows, coded, weights))
