"""Checks of methods for matrices: shapes, budgets, determinism, saving and loading."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.artifact import load, save
from lowrank_bench.compression.embedding import compress_embedding
from lowrank_bench.compression.matrix import low_rank
from lowrank_bench.linalg.certificates.certificate import relative_errors
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.methods import MatrixMethod
from lowrank_bench.problem import FACTS, Problem
from lowrank_bench.testing.compare import are_near, is_near, refused

ROWS, COLUMNS = 90, 16
COMPRESSIONS = (0.15, 0.3, 0.5, 0.7)
SCALES = (1e-30, 1e30)


def table(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """Return rows of unequal length with a decaying spectrum, and a few far-away rows."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    a *= 0.75 ** torch.arange(columns)
    a[:: rows // 5] *= 6
    return a + 0.2


def facts(rows: int = ROWS, seed: int = 1) -> dict[str, Tensor]:
    """Return facts about rows as a text has them: a few rows are used often, many never."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(rows, generator=generator).double()
    frequency = 1 / (place + 5)
    counts = (200 * frequency - 4).clamp(min=0).round()
    return {"frequency": frequency / frequency.sum(), "counts": counts, "fisher": counts * 0.01}


def known(method: MatrixMethod, rows: int = ROWS) -> dict[str, Any]:
    """Return the facts that a method needs."""
    return {name: value for name, value in facts(rows).items() if name in method.needs}


def decompose(
    method: MatrixMethod, a: Tensor, rank: int, row_facts: dict[str, Tensor]
) -> Decomposition:
    """Return the decomposition for a rank, or for all ranks where the method is nested."""
    return method.decompose(Problem(a, None if method.nested else rank, **row_facts))


def approximate(
    method: MatrixMethod, a: Tensor, rank: int, row_facts: dict[str, Tensor]
) -> Approximation:
    """Return the factors of a rank."""
    return decompose(method, a, rank, row_facts).factors(rank)


def largest(method: MatrixMethod, rows: int = ROWS, columns: int = COLUMNS) -> int:
    """Return the largest rank that saves anything."""
    return method.rank_for(rows, columns, 1e-9)


class Net(nn.Module):
    """An embedding and what reads it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.shape
        # Any: what takes the place of the embedding has more methods than a module.
        self.words: Any = nn.Embedding(rows, columns, _weight=weight)
        self.head = nn.Linear(columns, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Return three outputs for each row of ids."""
        outputs: Tensor = self.head(self.words(ids).mean(dim=1))
        return outputs


def check_shapes_and_precision(method: MatrixMethod, dtype: torch.dtype) -> None:
    """Check that factors have the matrix's shape and precision, and count their own numbers."""
    rank = largest(method) // 2
    factors = low_rank(table().to(dtype), rank, method, **known(method))
    assert factors.shape == (ROWS, COLUMNS)
    assert factors.dense().shape == (ROWS, COLUMNS)
    floats = [t for t in factors.tensors().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {dtype}
    assert all(t.isfinite().all() for t in floats)
    assert sum(t.numel() for t in floats) == factors.n_parameters
    part = factors.dense(7, 30)
    torch.testing.assert_close(part, factors.dense()[7:30])


def check_determinism(method: MatrixMethod) -> None:
    """Check that the same input gives the same bits."""
    rank = largest(method) // 2
    one, two = (approximate(method, table(), rank, known(method)) for _ in range(2))
    assert all(torch.equal(one.tensors()[name], t) for name, t in two.tensors().items())


def check_more_rank_is_less_error(method: MatrixMethod) -> None:
    """Check that no error rises with the rank."""
    ranks = sorted({max(1, largest(method) * share // 8) for share in (1, 4, 8)})
    errors = [
        relative_errors(table(), approximate(method, table(), rank, known(method)))
        for rank in ranks
    ]
    for name in ("rel_error_fro", "rel_error_l1", "rel_error_l21"):
        values = [error[name] for error in errors]
        assert values == sorted(values, reverse=True), name
        assert values[0] < 1


def check_budget(method: MatrixMethod, compression: float) -> None:
    """Check that a budget is not exceeded, and that no rank is left unused."""
    rows, columns = 400, 12
    rank = method.rank_for(rows, columns, compression)
    a = table(3, rows, columns)
    factors = approximate(method, a, rank, known(method, rows))
    assert factors.n_parameters <= method.n_parameters(rank, rows, columns)
    assert method.n_parameters(rank, rows, columns) <= (1 - compression) * rows * columns
    if rank < columns:
        assert method.n_parameters(rank + 1, rows, columns) > (1 - compression) * rows * columns


def check_impossible_budget(method: MatrixMethod) -> None:
    """Check that a budget below rank 1 is refused."""
    with refused(r"leaves no rank for a 400x12 matrix; the most"):
        method.rank_for(400, 12, 0.99)


def check_save_and_load(method: MatrixMethod) -> None:
    """Check that a network saved and loaded predicts the same bits, and the report's counts."""
    net = Net(table().float())
    dense = table().numel()
    small, report = compress_embedding(net, method, 0.45, **known(method))
    stored = report.parameters_kept + report.index_bits / 32
    assert is_near(report.compression, 1 - stored / dense)
    assert 1 - report.parameters_kept / dense >= 0.45
    kept = sum(p.numel() for p in small.words.parameters())
    assert kept == report.parameters_kept < dense
    ids = torch.randint(ROWS, (8, 11), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        again = load(save(small, Path(folder, "net")), Net(torch.zeros(ROWS, COLUMNS)))
    with torch.no_grad():
        assert torch.equal(again(ids), small.eval()(ids))
        words = small.words
        torch.testing.assert_close(words(ids), words.weight[ids], rtol=1e-5, atol=1e-6)
        error = relative_errors(net.words.weight, words.approximation())["rel_error_fro"]
    assert report.rel_error_fro is not None
    assert is_near(error, report.rel_error_fro)


def check_stored_decomposition(method: MatrixMethod) -> None:
    """Check that a decomposition restored from its tensors gives the same factors."""
    rank, a = largest(method) // 2, table()
    made = decompose(method, a, rank, known(method))
    tensors = {name: tensor.clone() for name, tensor in made.tensors().items()}
    restored = method.decomposition_class().from_tensors(a, tensors)
    torch.testing.assert_close(
        restored.factors(rank).dense(), made.factors(rank).dense(), rtol=1e-5, atol=1e-5
    )
    assert restored.factors(rank).n_parameters == made.factors(rank).n_parameters


def check_order_of_rows(method: MatrixMethod) -> None:
    """Check that the order of the rows changes nothing, unless `row_order` says that it can."""
    if method.row_order:
        return
    rank, a, row_facts = largest(method) // 2, table(), known(method)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    mixed = approximate(method, a[order], rank, {k: v[order] for k, v in row_facts.items()})
    plain = approximate(method, a, rank, row_facts)
    torch.testing.assert_close(mixed.dense(), plain.dense()[order], rtol=0, atol=1e-4)


def check_gradients(method: MatrixMethod) -> None:
    """Check that gradients reach every number of a compressed embedding."""
    small, _ = compress_embedding(Net(table().float()), method, 0.45, **known(method))
    small.words(torch.arange(ROWS)).square().sum().backward()
    for name, parameter in small.words.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def check_scale(method: MatrixMethod, scale: float) -> None:
    """Check that scaling the matrix changes no relative error."""
    rank = largest(method) // 2
    plain = relative_errors(table(), approximate(method, table(), rank, known(method)))
    scaled = table() * scale
    errors = relative_errors(scaled, approximate(method, scaled, rank, known(method)))
    assert are_near(errors, plain, relative=1e-4), (errors, plain)


def check_zero_matrix(method: MatrixMethod) -> None:
    """Check that a matrix of zeros is approximated by zeros."""
    zero = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    factors = approximate(method, zero, largest(method) // 2, known(method))
    assert factors.dense().abs().max() == 0


def check_facts(method: MatrixMethod) -> None:
    """Check that a fact that is absent or of the wrong length is named in the error."""
    assert set(method.needs) <= set(FACTS)
    for fact in method.needs:
        others = {k: v for k, v in known(method).items() if k != fact}
        with refused(FACTS[fact]):
            low_rank(table(), 2, method, **others)
        wrong = {**known(method), fact: torch.ones(ROWS - 1)}
        with refused(f"{fact} has 89 values for 90 rows"):
            low_rank(table(), 2, method, **wrong)


CHECKS = (
    check_determinism,
    check_more_rank_is_less_error,
    check_impossible_budget,
    check_save_and_load,
    check_stored_decomposition,
    check_order_of_rows,
    check_gradients,
    check_zero_matrix,
    check_facts,
)
