"""Checks of methods that code: bytes, determinism, saving and loading."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.artifact import load, save
from lowrank_bench.compression.embedding import compress_embedding
from lowrank_bench.compression.matrix import low_rank
from lowrank_bench.layers.stored import stored_bytes
from lowrank_bench.linalg.certificates.certificate import relative_errors
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.methods import CodingMethod, MatrixMethod
from lowrank_bench.problem import FACTS, FLOAT_BYTES, Problem
from lowrank_bench.testing.compare import are_near, is_near, refused
from lowrank_bench.testing.matrix_checks import Net, facts, table

ROWS, COLUMNS = 600, 32
SHARES = (0.3, 0.5, 0.7, 0.8)  # of the bytes that are saved
MOST = 0.999999
SCALES = (2.0**-100, 2.0**100)
HEADER = 4096  # bytes of the file's own


def known(method: MatrixMethod, rows: int = ROWS) -> dict[str, Any]:
    """Return the facts that a method needs."""
    return {name: value for name, value in facts(rows).items() if name in method.needs}


def reached(method: CodingMethod) -> list[float]:
    """Return those of `SHARES` that the method can save."""
    shares = []
    for share in SHARES:
        try:
            coded(method, share)
        except Exception:
            break
        shares.append(share)
    assert shares, "the method saves not even 30 % of the bytes"
    return shares


def coded(method: CodingMethod, share: float, scale: float = 1.0) -> Coded:
    """Return the code of the test's table that saves a share of the bytes."""
    size = method.size_for(ROWS, COLUMNS, share, "bytes")
    a = scale * table(0, ROWS, COLUMNS)
    code = method.decompose(Problem(a, size, **known(method))).factors(size)
    assert isinstance(code, Coded)
    return code


def check_bytes(method: CodingMethod) -> None:
    """Check that a budget is kept, and that every byte is counted."""
    for share in reached(method):
        code = coded(method, share)
        assert code.n_bytes <= (1 - share) * FLOAT_BYTES * ROWS * COLUMNS
        assert code.n_bytes == sum(t.numel() * t.element_size() for t in code.tensors().values())
        assert code.shape == (ROWS, COLUMNS) == tuple(code.dense().shape)


def check_determinism(method: CodingMethod) -> None:
    """Check that the same input gives the same bits."""
    one, two = (coded(method, 0.5).tensors() for _ in range(2))
    assert all(torch.equal(one[name], value) for name, value in two.items())


def check_more_bytes_are_less_error(method: CodingMethod) -> None:
    """Check that no error rises with the bytes."""
    a = table(0, ROWS, COLUMNS)
    errors = [relative_errors(a, coded(method, share)) for share in reached(method)]
    values = [error["rel_error_fro"] for error in errors]
    assert values == sorted(values)
    assert values[-1] < 1


def check_impossible_budget(method: CodingMethod) -> None:
    """Check that a budget without room and one of parameters are refused."""
    with refused("bytes"):
        coded(method, MOST)
    with refused("saves bytes, not parameters"):
        method.size_for(ROWS, COLUMNS, 0.5)
    with refused("has no rank"):
        low_rank(table(0, ROWS, COLUMNS), 4, method)


def check_rows(method: CodingMethod) -> None:
    """Check that rows are decoded alone, together and repeated as in the whole table."""
    code = coded(method, 0.5)
    ids = torch.tensor([5, 0, ROWS - 1, 5, 17])
    torch.testing.assert_close(code.rows(ids), code.dense()[ids], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(code.rows(ids[:1]), code.dense()[ids[:1]], rtol=1e-5, atol=1e-6)


def check_save_and_load(method: CodingMethod) -> None:
    """Check that a network saved and loaded predicts the same bits, and its file's size."""
    net = Net(table(0, ROWS, COLUMNS).float())
    small, report = compress_embedding(net, method, saved_bytes=0.5, **known(method))
    assert report.bytes_kept is not None
    assert report.bytes_dense == FLOAT_BYTES * ROWS * COLUMNS
    assert is_near(report.compression, 1 - report.bytes_kept / report.bytes_dense)
    ids = torch.randint(ROWS, (8, 11), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        place = save(small, Path(folder, "net"))
        again = load(place, Net(torch.zeros(ROWS, COLUMNS)))
        size = (place / "lowrank.safetensors").stat().st_size
    counted = stored_bytes(small)
    assert report.network_bytes_kept == counted
    assert counted <= size <= 1.01 * counted + HEADER
    with torch.no_grad():
        assert torch.equal(again(ids), small.eval()(ids))
        words: Any = small.words
        torch.testing.assert_close(words(ids), words.weight[ids], rtol=1e-5, atol=1e-6)


def check_training(method: CodingMethod) -> None:
    """Check that the numbers of a code can be trained, and are saved as they are used."""
    net = Net(table(0, ROWS, COLUMNS).float())
    small, _ = compress_embedding(net, method, saved_bytes=0.5, **known(method))
    ids = torch.arange(ROWS).view(-1, 10)
    before = small(ids).detach()
    small(ids).square().sum().backward()
    grads = [value.grad for value in small.words.parameters()]
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)
    torch.optim.AdamW(small.parameters(), lr=1e-2).step()
    with torch.no_grad():
        after = small.eval()(ids)
    assert not torch.equal(before, after)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        again = load(save(small, Path(folder, "net")), Net(torch.zeros(ROWS, COLUMNS)))
        assert torch.equal(again(ids), after)


def check_stored_decomposition(method: CodingMethod) -> None:
    """Check that a code restored from its tensors is the same."""
    size, a = method.size_for(ROWS, COLUMNS, 0.5, "bytes"), table(0, ROWS, COLUMNS)
    made = method.decompose(Problem(a, size, **known(method)))
    tensors = {name: tensor.clone() for name, tensor in made.tensors().items()}
    restored = method.decomposition_class().from_tensors(a, tensors)
    assert torch.equal(restored.factors(size).dense(), made.factors(size).dense())


def check_order_of_rows(method: CodingMethod) -> None:
    """Check that the order of the rows changes nothing, unless `row_order` says that it can."""
    if method.row_order:
        return
    size, a = method.size_for(ROWS, COLUMNS, 0.5, "bytes"), table(0, ROWS, COLUMNS)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    mixed = {name: value[order] for name, value in known(method).items()}
    one = method.decompose(Problem(a, size, **known(method))).factors(size)
    two = method.decompose(Problem(a[order], size, **mixed)).factors(size)
    torch.testing.assert_close(two.dense(), one.dense()[order], rtol=1e-4, atol=1e-4)


def check_scale(method: CodingMethod) -> None:
    """Check that a power of two times the table has the same relative errors."""
    plain = relative_errors(table(0, ROWS, COLUMNS), coded(method, 0.45))
    for scale in SCALES:
        errors = relative_errors(scale * table(0, ROWS, COLUMNS), coded(method, 0.45, scale))
        assert are_near(errors, plain, relative=1e-3), (scale, errors, plain)


def check_zero_matrix(method: CodingMethod) -> None:
    """Check that a table of zeros stays one."""
    size = method.size_for(ROWS, COLUMNS, 0.5, "bytes")
    zero = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    code = method.decompose(Problem(zero, size, **known(method))).factors(size)
    assert float(code.dense().abs().max()) == 0


def check_facts(method: CodingMethod) -> None:
    """Check that a fact that is absent or of the wrong length is named in the error."""
    net: Tensor = table(0, ROWS, COLUMNS).float()
    for fact in method.needs:
        others = {k: v for k, v in known(method).items() if k != fact}
        with refused(FACTS[fact]):
            compress_embedding(Net(net), method, saved_bytes=0.5, **others)
        wrong = {**known(method), fact: torch.ones(ROWS - 1)}
        with refused(f"{fact} has {ROWS - 1} values for {ROWS} rows"):
            compress_embedding(Net(net), method, saved_bytes=0.5, **wrong)


CHECKS = (
    check_bytes,
    check_determinism,
    check_more_bytes_are_less_error,
    check_impossible_budget,
    check_rows,
    check_save_and_load,
    check_training,
    check_stored_decomposition,
    check_order_of_rows,
    check_scale,
    check_zero_matrix,
    check_facts,
)
