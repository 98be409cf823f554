"""Factors in few bits: what is stored, what is decoded, which rank and bits are chosen."""

import numpy as np
import pytest
import torch

from lowrank_bench import LowRankError, compress, low_rank
from lowrank_bench.cli.main import main
from lowrank_bench.config import load_config
from lowrank_bench.linalg.coding.choice import Ladder, best_code, largest_fit
from lowrank_bench.linalg.coding.coded import relative_error
from lowrank_bench.linalg.coding.integers import (
    all_integers,
    integer_bytes,
    pack_integers,
    take_integers,
)
from lowrank_bench.linalg.coding.precision import SHIFT, Precision, stored_matrix, whole
from lowrank_bench.linalg.coding.quantized import balanced, most_bytes, quantize
from lowrank_bench.linalg.factors import (
    KEPT,
    OFFSET,
    BlockFactors,
    ClusteredFactors,
    DenseRows,
    Factors,
    SparseFactors,
)
from lowrank_bench.methods import make_method
from lowrank_bench.methods.svd import Svd
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.problem import Problem
from lowrank_bench.testing.matrix_checks import Net, facts, table

ROWS, COLUMNS = 70, 20
BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def approximations():
    """Return one of each kind, with parts and terms of many sizes."""
    labels = torch.arange(ROWS) * 7 % 5
    inside = (labels == 0).sum(), (labels == 1).sum(), (labels >= 2).sum()
    few = torch.where(labels >= 2, 2, labels)
    parts = (
        Factors(random(inside[0], 3, seed=1), random(3, COLUMNS, seed=2)),
        DenseRows(random(inside[1], COLUMNS, seed=3)),
        Factors(random(inside[2], 7, seed=4), random(7, COLUMNS, seed=5)),
    )
    terms = torch.arange(ROWS) * 3 % 6
    terms[5::9] = KEPT
    kept, total = int((terms == KEPT).sum()), int(terms[terms != KEPT].sum())
    numbers = torch.arange(total) * 5 % kept
    sparse = SparseFactors(
        random(kept, COLUMNS, seed=6),
        terms.to(torch.uint8),
        (numbers - OFFSET).to(torch.int16),
        random(total, seed=7),
    )
    return {
        "factors": Factors(random(ROWS, 6), random(6, COLUMNS, seed=1)),
        "bias": Factors(random(ROWS, 6), random(6, COLUMNS, seed=1), random(COLUMNS, seed=2)),
        "clusters": ClusteredFactors(random(ROWS, 4), random(5, 4, COLUMNS, seed=1), labels),
        "one cluster": ClusteredFactors(random(ROWS, 4), random(1, 4, COLUMNS), labels * 0),
        "blocks": BlockFactors(few, parts),
        "sparse": sparse,
        "no terms": SparseFactors(
            random(ROWS, COLUMNS),
            torch.full((ROWS,), KEPT, dtype=torch.uint8),
            torch.zeros(0, dtype=torch.int16),
            random(0),
        ),
    }


KINDS = approximations()


@pytest.mark.parametrize("bits", range(17))
def test_packed_integers_are_read_alone(bits):
    rng = np.random.default_rng(bits)
    for count in (0, 1, 7, 8, 9, 130):
        values = torch.from_numpy(rng.integers(1 << bits, size=count))
        packed = pack_integers(values, bits)
        assert len(packed) == integer_bytes(count, bits)
        assert torch.equal(all_integers(packed, count, bits), values)
        some = torch.from_numpy(rng.permutation(count)[: count // 2])
        assert torch.equal(take_integers(packed, count, bits, some), values[some])


def decoded(code, factors):
    """Return the same kind of approximation with the numbers that a code stores.

    Of sparse rows it stores what each term adds, along a row of length one.
    """
    stored = code.tensors()
    tensors = {}
    for name, value in balanced(factors).tensors().items():
        part = stored_matrix(stored, name)
        numbers = (
            value if part is None else whole(part).flatten()[: value.numel()].view(value.shape)
        )
        tensors[name] = numbers if part is None else numbers.double()
    if isinstance(factors, SparseFactors):
        lengths = tensors["rows"].norm(dim=1)
        tensors["values"] = tensors["values"] / lengths[tensors["indices"].long() + OFFSET]
    return type(factors)(**tensors)


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_decoded_factors(kind, bits, group):
    factors, precision = KINDS[kind], Precision(bits, group if bits < 16 else None)
    code = quantize(factors, precision, unit=4.0)
    ids = torch.tensor([3, ROWS - 1, 0, 3, 41])
    rows = code.dense()
    torch.testing.assert_close(code.rows(ids), rows[ids], rtol=1e-5, atol=1e-5)
    if not isinstance(factors, BlockFactors):  # the suite's own products are another way
        expected = 4 * decoded(code, factors).dense().float()
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
    assert code.shape == (ROWS, COLUMNS)
    spare = 0 if bits < 16 else SHIFT * len(code.tensors())
    assert code.n_bytes <= most_bytes(factors, precision) <= code.n_bytes + max(spare, 4)


def test_blocks_are_decoded_block_by_block():
    factors = KINDS["blocks"]
    code = quantize(factors, Precision(6))
    whole_rows = code.dense()
    for block, part in enumerate(factors.parts):
        members = (factors.labels == block).nonzero().flatten()
        piece = {k.removeprefix(f"{block}."): v for k, v in code.tensors().items()}
        rows = whole(stored_matrix(piece, "rows" if isinstance(part, DenseRows) else "left"))
        if isinstance(part, Factors):
            rows = rows @ whole(stored_matrix(piece, "right"))
        torch.testing.assert_close(whole_rows[members], rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_falls_with_the_bits_down_to_that_of_half_precision(kind):
    factors = KINDS[kind]
    dense = factors.dense()
    errors = [relative_error(dense, quantize(factors, Precision(bits))) for bits in BITS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-3


def test_balancing_changes_no_product_and_lowers_the_error():
    steep = Factors(random(400, 10) * 0.5 ** torch.arange(10), random(10, COLUMNS, seed=1))
    torch.testing.assert_close(balanced(steep).dense(), steep.dense())
    plain = whole(Precision(3).store(steep.left)).double() @ steep.right
    error = relative_error(steep.dense(), quantize(steep, Precision(3)))
    assert error < 0.8 * float((plain - steep.dense()).norm() / steep.dense().norm())


def ladder(a):
    decomposition = Svd().decompose(Problem(a))
    return Ladder(decomposition.factors, min(a.shape), True, sum(a.shape))


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_rank_that_fits_is_taken(bits):
    a, precision = table(0, 300, COLUMNS), Precision(bits)
    steps = ladder(a)
    sizes = [most_bytes(steps.at(rank), precision) for rank in range(1, COLUMNS + 1)]
    for budget in (sizes[0], sizes[0] + 1, sizes[6] - 1, sizes[6], sizes[-1], 10 * sizes[-1]):
        expected = sum(size <= budget for size in sizes)
        assert largest_fit(steps, precision, budget).rank == expected
    with pytest.raises(LowRankError, match="takes at least"):
        largest_fit(steps, precision, sizes[0] - 1)


def test_sixteen_bits_are_the_svd_up_to_half_precision():
    net = Net(table(0, 300, COLUMNS).float())
    half, report = compress(net, "svd", saved_bytes=0.75, quantize=16)
    factors = low_rank(net.words.weight, report.info["rank"], "svd")
    torch.testing.assert_close(half.words.weight, factors.dense(), rtol=2e-3, atol=2e-3)
    assert report.within_fro is None


def test_weights_decide_which_bits_are_best():
    a = table(0, 300, COLUMNS)
    weights = torch.ones(300).double()
    weights[:10] = 1e6
    precisions = [Precision(bits) for bits in (2, 4, 8)]
    _, plain = best_code(a, ladder(a), precisions, 4000)
    code, info = best_code(a, ladder(a), precisions, 4000, weights)
    assert info["weighted_error"] == relative_error(a, code, weights)
    assert [c["weighted_error"] for c in info["candidates"]] != [
        c["weighted_error"] for c in plain["candidates"]
    ]


@pytest.mark.parametrize("method", ["svd", "messi"])
def test_an_object_takes_the_setting_as_a_name_does(method):
    net = Net(table(0, 200, COLUMNS).float())
    by_name, one = compress(net, method, saved_bytes=0.7, quantize={"bits": 4, "group": 32})
    by_object, two = compress(
        net, make_method(method), saved_bytes=0.7, quantize={"bits": 4, "group": 32}
    )
    ids = torch.arange(200).view(20, 10)
    assert torch.equal(by_name(ids), by_object(ids))
    assert one.params == two.params
    assert one.params["quantize"] == {"bits": 4, "group": 32, "scale": "least_squares"}
    assert one.info["bits"] == 4
    assert one.info["n_bytes"] == one.bytes_kept


WRONG = {
    "rounds already": ("rtn", {"quantize": 8}, "stores few bits already"),
    "networks": ("alds", {"quantize": 8}, "quantize is for methods of embeddings"),
    "bits": ("svd", {"quantize": 9}, "1 to 8 bits, 16 for float16, or auto"),
    "kind": ("svd", {"quantize": True}, "a number of bits, auto, or a mapping"),
    "key": ("svd", {"quantize": {"bit": 4}}, "quantize has no key 'bit'; known: bits, group"),
    "group": ("svd", {"quantize": {"bits": 4, "group": 5}}, "quantize.group = 5 is not valid"),
    "scales": ("svd", {"quantize": {"bits": 16, "group": 32}}, "float16, which has no scales"),
    "unit": ("svd", {"quantize": 8, "saved_bytes": None, "compression": 0.5}, "saves bytes, not"),
    "room": ("svd", {"quantize": 8, "saved_bytes": 0.9999}, "int8 takes at least"),
    "target": (
        "svd",
        {"quantize": 8, "target": "linear", "saved_bytes": None, "compression": 0.5},
        "quantize means nothing for target",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_with_it_is_refused_in_one_line(name):
    method, options, message = WRONG[name]
    net = Net(table(0, 200, COLUMNS).float())
    with pytest.raises(LowRankError, match=message) as error:
        compress(net, method, **({"saved_bytes": 0.7} | options), **facts(200))
    assert "\n" not in str(error.value)


PLAIN = ["model=[quick_bert]", "task=[quick_rte]", "method=[svd,messi]", "saved_bytes=[0.5,0.9]"]
PLAIN += ["method.messi.grid.k=[3]"]


def specs(conf, *overrides):
    plan = make_plan(load_config(conf, [*PLAIN, *overrides]))
    return {cell.spec.label: cell for cell in plan.cells() if cell.compression in (0.0, 0.9)}


def test_precisions_are_series_of_their_own_and_leave_other_keys_alone(conf):
    before = specs(conf)
    after = specs(conf, "method.svd.quantize=[null,8,auto,{bits:4,group:32,scale:absmax}]")
    added = {"svd, int8", "svd, auto", "svd, int4 in groups of 32, absmax"}
    assert after.keys() - before.keys() == added
    assert all(after[label].key == cell.key for label, cell in before.items())
    assert all(after[label].spec_key == cell.spec_key for label, cell in before.items())
    assert len({cell.spec_key for cell in after.values()}) == len(after)
    assert after["svd"].spec.params == {}
    assert after["svd, int8"].spec.params["quantize"]["bits"] == 8


REFUSED = {
    "method.svd.quantize=8": "method.svd.quantize = 8 .* valid list",
    "method.svd.quantize=[8,8]": "lists 8 twice",
    "method.svd.quantize=[]": "at least 1 item",
    "method.svd.quantize=[9]": "1 to 8 bits, 16 for float16, or auto",
    "method.svd.quantize=[8,{bits:8}]": "method.svd runs svd, int8",
    "method.svd.params.quantize=8": "list its values in method.svd.quantize",
    "method.svd.grid.quantize=[8]": "list its values in method.svd.quantize",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_wrong_precision_of_a_configuration_is_one_line(conf, override):
    with pytest.raises(LowRankError, match=REFUSED[override]) as error:
        specs(conf, override)
    assert "\n" not in str(error.value)


def test_precisions_need_a_budget_of_bytes(conf):
    plain = [item for item in PLAIN if not item.startswith("saved")]
    with pytest.raises(LowRankError, match="which budget = 'parameters' does not count"):
        load_config(conf, [*plain, "method.svd.quantize=[8]"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compression", "0.5", "--quantize", "8"], "give --saved-bytes instead"),
        (["--saved-bytes", "0.5", "--quantize", "9"], "1 to 8 bits, 16 for float16"),
        (["--saved-bytes", "0.5", "--quantize", ""], "is not a precision"),
        (["--saved-bytes", "0.5", "--set", "quantize=8"], "write --quantize BITS"),
        (["--compression", "0.5", "--target", "linear", "--quantize", "8"], "for embeddings"),
    ],
)
def test_the_command_line_refuses_before_it_reads_the_network(tmp_path, capsys, arguments, message):
    code = main(
        ["compress", str(tmp_path / "no"), str(tmp_path / "out"), "--method", "svd", *arguments]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
