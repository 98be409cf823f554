"""Strategies for matrices that break numerical code, and what a method may answer to them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lowrank_bench import compress, low_rank
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import CodingMethod, MatrixMethod, make_method, method_names

TABLES = [name for name in method_names() if isinstance(make_method(name), MatrixMethod)]
CODES = [name for name in TABLES if isinstance(make_method(name), CodingMethod)]
METHODS = [name for name in TABLES if name not in CODES]
CHOICES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
CHOICES += [("messi", {"k": k, "q": q}) for k in (1, 2) for q in (1.0, 2.0)]
CHOICES += [(name, {"p": p}) for name in ("lp", "lowner") for p in (2.0, 3.0, float("inf"))]
CHOICES += [(name, {"weights": "counts"}) for name in METHODS if name.startswith("frequency")]
CHOICES += [("lp", {"center": True}), ("l21", {"center": True}), ("partition_svd", {"parts": 2})]
CHOICES += [("frequency_blocks", {"cuts": "equal"})]
PRECISIONS: list[Any] = ["auto", {"bits": 4, "group": 32}, {"bits": 8, "scale": "absmax"}]
SHAPES = [(1, 1), (1, 5), (5, 1), (1, 40), (40, 1), (2, 2), (1, 2), (2, 1), (3, 2), (7, 7)]
SHAPES += [(2, 30), (30, 2), (25, 6), (6, 25), (90, 3), (300, 2), (2, 70), (12, 12)]
KINDS = ["gauss", "zero", "equal", "signs", "one row", "one entry", "low rank", "duplicates"]
KINDS += ["integers", "wide rows", "wide columns", "near singular", "identity", "extremes"]
SCALES = [1.0, 1e-309, 1e-320, 5e-324, 1e-150, 1e-30, 1e30, 1e154, 1e200, 1e300, 1.7e308]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = ["plain", "transposed", "reversed", "strided", "gradient", "view", "read-only"]


def numbers(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A matrix with entries of at most one."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    a = random.normal(size=shape)
    if kind == "zero":
        a[:] = 0
    if kind == "equal":
        a[:] = a[0]
    if kind == "signs":
        a = random.choice([-1.0, 1.0], size=shape)
    if kind == "one row":
        a[1:] = 0
    if kind == "one entry":
        a[:] = 0
        a[random.integers(rows), random.integers(columns)] = -1
    if kind == "low rank":
        a = np.outer(a[:, 0], a[0])
    if kind == "duplicates":
        a = a[random.integers(0, min(rows, 2), size=rows)]
    if kind == "integers":
        a = random.integers(-2, 3, size=shape).astype(float)
    if kind == "wide rows":
        a *= 10.0 ** random.integers(-300, 1, size=(rows, 1))
    if kind == "wide columns":
        a *= 10.0 ** random.integers(-200, 1, size=(1, columns))
    if kind == "near singular":
        a = np.outer(a[:, 0], a[0]) + 10.0 ** random.integers(-18, -3) * a
    if kind == "identity":
        a = np.eye(rows, columns)
    if kind == "extremes":
        a = random.choice([0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310], size=shape)
    return a / (np.abs(a).max() or 1.0)


def laid_out(a: np.ndarray, dtype: torch.dtype, layout: str) -> Any:
    """The same numbers as a tensor or array of another layout."""
    value = torch.from_numpy(a).to(dtype)
    if dtype == torch.bfloat16 or layout in ("plain", "transposed", "strided", "gradient", "view"):
        if layout == "transposed":
            return value.T.contiguous().T
        if layout == "strided":
            wide = torch.full((2 * len(value), 3 * value.shape[1]), torch.nan, dtype=dtype)
            wide[::2, ::3] = value
            return wide[::2, ::3]
        if layout == "view":
            return torch.cat([value, value])[: len(value)]
        return value.requires_grad_() if layout == "gradient" else value
    array = value.numpy().copy()
    if layout == "reversed":
        return array[::-1, ::-1][::-1][::1]
    array.flags.writeable = False
    return array


def facts(method: MatrixMethod, rows: int, seed: int) -> dict[str, Any]:
    """Facts about the rows that are as hostile as the matrix."""
    random = np.random.default_rng(seed)
    kinds = [
        random.random(rows),
        np.zeros(rows),
        np.full(rows, 1e308),
        np.full(rows, 5e-324),
        10.0 ** random.integers(-308, 308, size=rows),
        np.arange(rows)[::-1],
    ]
    return {name: kinds[int(random.integers(len(kinds)))] for name in method.needs}


@st.composite
def calls(draw: Any) -> tuple[str, Any, int, dict[str, Any]]:
    """A method's name, a matrix, a rank and facts."""
    seed, chosen = draw(st.integers(0, 2**31)), draw(st.sampled_from(CHOICES))
    dtype = draw(st.sampled_from(TYPES))
    shape, scale = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(SCALES))
    a = numbers(draw(st.sampled_from(KINDS)), shape, seed) * scale
    with np.errstate(over="ignore"):
        matrix = laid_out(a, dtype, draw(st.sampled_from(LAYOUTS)))
    rank = draw(st.integers(1, min(shape)))
    name, params = chosen
    return name, matrix, rank, params | facts(make_method(name, **params), shape[0], seed)


def answer(name: str, matrix: Any, rank: int, given: dict[str, Any]) -> str:
    """Call a method, and check that it gives a right result or refuses in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*read-only|.*not writable")
        try:
            factors = low_rank(matrix, rank, name, **given)
        except LowRankError as refusal:
            return "refused" if "\n" not in str(refusal) else pytest.fail(str(refusal))
    value = matrix.detach() if isinstance(matrix, torch.Tensor) else torch.tensor(matrix.copy())
    a = value.double()
    found = factors.dense()
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert not found.requires_grad
    assert found.isfinite().all(), (name, rank)
    if "center" in given:  # the mean row is rounded to the matrix's precision by itself
        return "right"
    check_error(name, a, found.double(), rank, value.dtype)
    return "right"


@st.composite
def code_calls(draw: Any) -> tuple[str, Any, float, dict[str, Any]]:
    """The name of a code, a table, a share of bytes to save and facts."""
    seed, name = draw(st.integers(0, 2**31)), draw(st.sampled_from(CODES))
    dtype = draw(st.sampled_from(TYPES))
    shape, scale = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(SCALES))
    with np.errstate(over="ignore"):
        a = numbers(draw(st.sampled_from(KINDS)), shape, seed) * scale
    table = torch.tensor(np.ascontiguousarray(a)).to(dtype)
    share = draw(st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.9]))
    return name, table, share, facts(make_method(name), shape[0], seed)


@st.composite
def quantized_calls(draw: Any) -> tuple[str, Any, float, dict[str, Any]]:
    """A method with factors in some precision, a table, a share of bytes to save and facts.

    `absmax` at few bits is worse than zero on a row with one large entry, and is left out there.
    """
    seed, (name, params) = draw(st.integers(0, 2**31)), draw(st.sampled_from(CHOICES))
    wide = st.tuples(st.integers(20, 300), st.integers(1, 24))
    shape = draw(wide if draw(st.booleans()) else st.sampled_from(SHAPES))
    scale = draw(st.sampled_from([1.0, 1.0, 1.0, *SCALES]))
    with np.errstate(over="ignore"):
        a = numbers(draw(st.sampled_from(KINDS)), shape, seed) * scale
    table = torch.tensor(np.ascontiguousarray(a)).to(draw(st.sampled_from(TYPES)))
    share = draw(st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.9]))
    precision = draw(st.sampled_from([*PRECISIONS, *range(1, 9), 16]))
    given = facts(make_method(name, **params), shape[0], seed)
    return name, table, share, {**params, **given, "quantize": precision}


def code_answer(name: str, table: torch.Tensor, share: float, given: dict[str, Any]) -> str:
    """Compress an embedding in bytes; it gives a right result or refuses in one line."""
    net = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(table))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            small, report = compress(net, name, saved_bytes=share, certificate=False, **given)
        except LowRankError as refusal:
            return "refused" if "\n" not in str(refusal) else pytest.fail(str(refusal))
    with torch.no_grad():
        rows = small(torch.arange(len(table)))
    assert rows.dtype == table.dtype
    assert rows.shape == table.shape
    assert rows.isfinite().all(), name
    assert report.bytes_kept <= (1 - share) * 4 * table.numel() * (1 + 1e-9)
    kept = f"{name} in few bits" if name == "svd" and "quantize" in given else name
    check_error(kept, table.double(), rows.double(), 1, table.dtype)
    return "right"


def check_error(name: str, a: torch.Tensor, b: torch.Tensor, rank: int, dtype: torch.dtype) -> None:
    """No method may do much worse than the zero matrix; SVD's error is the least."""
    unit = float(a.abs().max())
    if unit == 0:
        assert not b.any()
        return
    # Division by the largest entry is rounding of one unit; subnormal numbers carry their own.
    info = torch.finfo(dtype)
    coarse = max(info.eps, info.smallest_normal * info.eps / unit) * a.numel()
    a, b = a / unit, b / unit
    error, whole = float((a - b).norm()), float(a.norm())
    if name == "irls":  # its error is at most that of a projection, in the sum of absolute values
        error, whole = float((a - b).abs().sum()), float(a.abs().sum()) * a.shape[1] ** 0.5
    if name in ("pq", "transform_code"):  # rows without use become like those that are used
        whole += float(a.norm(dim=1).max()) * len(a) ** 0.5
    assert error <= 1.01 * whole * (1 + 8 * coarse) + 8 * coarse, (name, error, whole)
    if name == "svd":
        tail = float(torch.linalg.svdvals(a)[rank:].norm())
        assert error <= tail + 32 * coarse * max(whole, 1) + 1e-12 * whole, (error, tail)
