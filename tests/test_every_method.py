"""The contract of every matrix method, checked for each file in conf/method.

A new method is discovered by its file and gets these tests for free.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from configured_methods import CONFIGS, configured
from torch import nn

from lowrank_bench import compress, load, low_rank, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.certificate import relative_errors
from lowrank_bench.methods import Method, method_names
from lowrank_bench.problem import FACTS, Problem

ROWS, COLUMNS = 90, 16


@pytest.fixture(params=configured("embedding"))
def method(request) -> Method:
    return request.param


def table(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """Rows of unequal length with a decaying spectrum, and a few outlier rows."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    a *= 0.75 ** torch.arange(columns)
    a[:: rows // 5] *= 6
    return a + 0.2


def facts(rows: int = ROWS, seed: int = 1) -> dict[str, torch.Tensor]:
    """Facts about rows as in real text: a few rows are used often, many never."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(rows, generator=generator).double()
    frequency = 1 / (place + 5)
    counts = (200 * frequency - 4).clamp(min=0).round()
    return {"frequency": frequency / frequency.sum(), "counts": counts, "fisher": counts * 0.01}


def known(method: Method, rows: int = ROWS) -> dict[str, torch.Tensor]:
    return {name: value for name, value in facts(rows).items() if name in method.needs}


def approximate(method: Method, a: torch.Tensor, rank: int, given: dict[str, torch.Tensor]) -> Any:
    return method.decompose(Problem(a, None if method.nested else rank, **given)).factors(rank)


def largest(method: Method, rows: int = ROWS, columns: int = COLUMNS) -> int:
    """The largest rank that still saves parameters."""
    return method.rank_for(rows, columns, 1e-9)


class Net(nn.Module):
    """An embedding and a layer that reads it."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(weight, freeze=False)
        self.head = nn.Linear(weight.shape[1], 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids).mean(dim=1))


def test_the_configurations_name_every_method():
    named = {yaml.safe_load(file.read_text())["name"] for file in CONFIGS.glob("*.yaml")}
    assert named == set(method_names())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_precision(method: Method, dtype: torch.dtype):
    rank = largest(method) // 2
    factors = low_rank(table().to(dtype), rank, method.name, **known(method), **method.model_dump())
    assert factors.shape == (ROWS, COLUMNS)
    assert factors.dense().shape == (ROWS, COLUMNS)
    floats = [t for t in factors.tensors().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {dtype}
    assert all(t.isfinite().all() for t in floats)
    assert sum(t.numel() for t in floats) == factors.n_parameters
    part = factors.dense(7, 30)
    torch.testing.assert_close(part, factors.dense()[7:30])


def test_the_same_input_gives_the_same_bits(method: Method):
    rank = largest(method) // 2
    one, two = (approximate(method, table(), rank, known(method)) for _ in range(2))
    assert all(torch.equal(one.tensors()[name], t) for name, t in two.tensors().items())


def test_more_rank_is_less_error(method: Method):
    ranks = sorted({max(1, largest(method) * share // 8) for share in (1, 4, 8)})
    errors = [
        relative_errors(table(), approximate(method, table(), rank, known(method)))
        for rank in ranks
    ]
    for name in ("rel_error_fro", "rel_error_l1", "rel_error_l21"):
        values = [error[name] for error in errors]
        assert values == sorted(values, reverse=True), name
        assert values[0] < 1


@pytest.mark.parametrize("compression", [0.15, 0.3, 0.5, 0.7])
def test_no_budget_is_exceeded(method: Method, compression: float):
    rows, columns = 400, 12
    rank = method.rank_for(rows, columns, compression)
    a = table(3, rows, columns)
    factors = approximate(method, a, rank, known(method, rows))
    assert factors.n_parameters <= method.n_parameters(rank, rows, columns)
    assert method.n_parameters(rank, rows, columns) <= (1 - compression) * rows * columns
    if rank < columns:  # and no whole rank is left unused
        assert method.n_parameters(rank + 1, rows, columns) > (1 - compression) * rows * columns


def test_an_impossible_budget_is_refused(method: Method):
    with pytest.raises(LowRankError, match=r"leaves no rank for a 400x12 matrix; the most"):
        method.rank_for(400, 12, 0.99)


def test_network_saved_and_loaded_predicts_the_same_bits(method: Method, tmp_path: Path):
    net = Net(table().float())
    small, report = compress(net, method.name, 0.45, **known(method), **method.model_dump())
    stored = report.parameters_kept + report.index_bits / 32
    assert report.compression == pytest.approx(1 - stored / net.words.weight.numel())
    assert 1 - report.parameters_kept / net.words.weight.numel() >= 0.45
    kept = sum(p.numel() for p in small.words.parameters())
    assert kept == report.parameters_kept < net.words.weight.numel()
    ids = torch.randint(ROWS, (8, 11), generator=torch.Generator().manual_seed(0))
    again = load(save(small, tmp_path / "net"), Net(torch.zeros(ROWS, COLUMNS)))
    with torch.no_grad():
        assert torch.equal(again(ids), small.eval()(ids))
        table_now = small.words.weight
        torch.testing.assert_close(small.words(ids), table_now[ids], rtol=1e-5, atol=1e-6)
        assert relative_errors(net.words.weight, small.words.approximation())[
            "rel_error_fro"
        ] == pytest.approx(report.rel_error_fro)


def test_the_stored_decomposition_gives_the_same_factors(method: Method):
    rank, a = largest(method) // 2, table()
    made = method.decompose(Problem(a, None if method.nested else rank, **known(method)))
    tensors = {name: tensor.clone() for name, tensor in made.tensors().items()}
    restored = method.decomposition_class().from_tensors(a, tensors)
    torch.testing.assert_close(
        restored.factors(rank).dense(), made.factors(rank).dense(), rtol=1e-5, atol=1e-5
    )
    assert restored.factors(rank).n_parameters == made.factors(rank).n_parameters


def test_permuting_the_rows_changes_nothing(method: Method):
    if method.row_order:
        pytest.skip("its parts or starts follow the order of the rows")
    rank, a, given = largest(method) // 2, table(), known(method)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    mixed = approximate(method, a[order], rank, {k: v[order] for k, v in given.items()})
    plain = approximate(method, a, rank, given)
    torch.testing.assert_close(mixed.dense(), plain.dense()[order], rtol=0, atol=1e-4)


def test_gradients_reach_every_parameter(method: Method):
    small, _ = compress(
        Net(table().float()), method.name, 0.45, **known(method), **method.model_dump()
    )
    small.words(torch.arange(ROWS)).square().sum().backward()
    for name, parameter in small.words.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(method: Method, scale: float):
    rank = largest(method) // 2
    plain = relative_errors(table(), approximate(method, table(), rank, known(method)))
    scaled = table() * scale
    found = relative_errors(scaled, approximate(method, scaled, rank, known(method)))
    assert found == pytest.approx(plain, rel=1e-4)


def test_a_zero_matrix_stays_zero(method: Method):
    zero = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    factors = approximate(method, zero, largest(method) // 2, known(method))
    assert factors.dense().abs().max() == 0


def test_missing_or_wrong_facts_are_named(method: Method):
    assert set(method.needs) <= set(FACTS)
    for fact in method.needs:
        others = {k: v for k, v in known(method).items() if k != fact}
        with pytest.raises(LowRankError, match=FACTS[fact]):
            low_rank(table(), 2, method.name, **others, **method.model_dump())
        wrong = {**known(method), fact: torch.ones(ROWS - 1)}
        with pytest.raises(LowRankError, match=f"{fact} has 89 values for 90 rows"):
            low_rank(table(), 2, method.name, **wrong, **method.model_dump())
