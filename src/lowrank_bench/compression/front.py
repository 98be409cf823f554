"""Compress a matrix, or a layer of a network: the functions that `import lowrank_bench` offers."""

import copy
import operator
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.compression.savings import compression_of
from lowrank_bench.errors import LowRankError
from lowrank_bench.latency import seconds_for
from lowrank_bench.layers.embedding import (
    compressed_embedding,
    find_embedding,
    swap_embedding,
)
from lowrank_bench.layers.plain import refuse_unusual
from lowrank_bench.linalg.certificates.certificate import (
    certificate_columns,
    certify,
    relative_errors,
)
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.methods import MatrixMethod, Method, make_method, network_method
from lowrank_bench.network.check import check_example, checked_batches, take_modes
from lowrank_bench.network.compress import COUNTED, compress_within
from lowrank_bench.network.forward import example_of
from lowrank_bench.network.problem import Batches, NetworkProblem
from lowrank_bench.problem import Problem, data_used

__all__ = [
    "CompressionReport",
    "compress",
    "find_embedding",
    "low_rank",
    "relative_errors",
    "swap_embedding",
]

Network = TypeVar("Network", bound=nn.Module)
TARGETS = ("embedding", "linear", "conv")


@dataclass(frozen=True)
class CompressionReport:
    """What `compress` did.

    Attributes
    ----------
    method, params, target
        As asked, the parameters with their defaults.
    layers
        For each layer its `name`, dense `shape`, and `rank` or what else was chosen.
    parameters_dense, parameters_kept
        Parameters of the targeted layers before and after.
    compression
        1 − kept/dense, as achieved; 32 bits of an index count as one parameter.
    index_bits
        Bits of the integers kept beside them: which part a row belongs to.
    data_used
        What the method looked at: the weights, the vocabulary's order, the training text.
    rel_error_fro, rel_error_l1, rel_error_l21
        Relative errors of the table in the network's precision: Frobenius, entrywise ℓ1, ℓ2,1.
    within_fro, within_l1, within_l21
        The error is at most so many times the least of any matrix of that rank; None where no
        bound is known (`linalg.certificates.certificate`).
    seconds
        Wall time of the factorization.
    network_parameters_dense, network_parameters_kept, macs_dense, macs_kept
        Parameters of the whole network and multiply-adds of one example, before and after; for
        whole networks only, as `info`: the method's own facts. The six errors above are for
        embeddings only.
    """

    method: str
    params: dict[str, Any]
    target: str
    layers: list[dict[str, Any]]
    parameters_dense: int
    parameters_kept: int
    compression: float
    index_bits: int
    data_used: str
    seconds: float
    rel_error_fro: float | None = None
    rel_error_l1: float | None = None
    rel_error_l21: float | None = None
    within_fro: float | None = None
    within_l1: float | None = None
    within_l21: float | None = None
    network_parameters_dense: int | None = None
    network_parameters_kept: int | None = None
    macs_dense: int | None = None
    macs_kept: int | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return asdict(self)


def low_rank(
    A: Tensor | np.ndarray,
    rank: int,
    method: str = "lp",
    *,
    frequency: Tensor | np.ndarray | None = None,
    counts: Tensor | np.ndarray | None = None,
    fisher: Tensor | np.ndarray | None = None,
    **params: Any,
) -> Approximation:
    """Approximate a matrix by two small ones.

    Parameters
    ----------
    A
        Floating-point tensor or array n×d, finite.
    rank
        k, in 1..min(n, d).
    method
        Name of a method, as `lowrank methods` lists them. What its rank means stands there too.
    frequency, counts, fisher
        n numbers: the facts about the rows that data-aware methods need (`problem.Problem`).
    **params
        Parameters of the method, as `p=1.5` for `lp`.

    Returns
    -------
    Factors, ClusteredFactors or BlockFactors
        `.left` n×k, `.right` k×d and `.dense()`, for partitions with `.labels` as well: tensors
        with the precision and device of `A`, computed in float64.

    Raises
    ------
    LowRankError
        When A is not such a matrix, the rank is out of range, or the method refuses.

    Examples
    --------
    >>> import torch
    >>> factors = low_rank(torch.eye(4), rank=2, method="svd")
    >>> factors.left.shape, factors.right.shape
    (torch.Size([4, 2]), torch.Size([2, 4]))
    """
    chosen = make_method(method, **params)
    if not isinstance(chosen, MatrixMethod):
        raise LowRankError(f"{method} compresses whole networks, not a matrix; use compress")
    matrix = _as_matrix(A)
    _check_rank(rank, matrix)
    facts = {"frequency": frequency, "counts": counts, "fisher": fisher}
    return _factorize(matrix, chosen, operator.index(rank), facts)


def compress(
    model: Network,
    method: str,
    compression: float,
    target: str = "embedding",
    layer: str | None = None,
    *,
    tokenizer: Any = None,
    texts: Iterable[str] | None = None,
    frequency: Tensor | np.ndarray | None = None,
    counts: Tensor | np.ndarray | None = None,
    fisher: Tensor | np.ndarray | None = None,
    example: Mapping[str, Tensor] | None = None,
    batches: Batches | None = None,
    budget: str = "parameters",
    **params: Any,
) -> tuple[Network, CompressionReport]:
    """Return a copy of a network with the targeted layers compressed, and a report.

    Parameters
    ----------
    model
        A transformers model, or any torch module with an `nn.Embedding`. It is left as it was.
    method, params
        Name of a method, and its parameters.
    compression
        Share of the targeted layers' parameters (or of `budget`) to save, between 0 and 1; at
        least this much is saved, and little more. The labels of `messi` and `partition_svd` come
        on top, as in the paper; the report counts them.
    target, layer
        `embedding`, `linear` (linear layers and embedding of a transformer) or `conv` (a CNN's
        convolutions and linear layers); and the embedding's dotted name, where there are several.
    tokenizer, texts
        The network's tokenizer, for methods that read the vocabulary's order, and training texts,
        for methods that count how often each token is used.
    frequency, counts, fisher
        The same as n numbers, one for each row of the table (`problem.Problem`).
    example, batches, budget
        For whole networks (`network.problem.NetworkProblem`): keyword arguments of one forward,
        calibration data, and what is limited: `parameters`, `macs` or `latency`.

    Returns
    -------
    (network, CompressionReport)
        The copy, in which other layers are equal, and the report.

    Raises
    ------
    LowRankError
        When the layer is not found or its table is shared with another layer, the compression
        leaves no rank, the table is not finite, or the method refuses.
    """
    _check_request(model, compression, target)
    chosen = make_method(method, **params)
    facts = {"frequency": frequency, "counts": counts, "fisher": fisher}
    if target != "embedding":
        _refuse_given(target, layer=layer, **facts)
        given = {"example": example, "batches": batches, "budget": budget}
        return _compress_network(model, chosen, float(compression), target, given)
    other = None if budget == "parameters" else budget
    _refuse_given(target, example=example, batches=batches, budget=other)
    known = {"layer": layer, "facts": facts, "tokenizer": tokenizer, "texts": texts}
    return _compress_embedding(model, chosen, float(compression), known)


def _compress_embedding(
    model: Network, method: Method, compression: float, given: dict[str, Any]
) -> tuple[Network, CompressionReport]:
    if not isinstance(method, MatrixMethod):
        raise LowRankError(
            f"{method.name} compresses whole networks; say target=conv or target=linear"
        )
    name, embedding = find_embedding(model, given["layer"])
    refuse_unusual(model, name, embedding)
    matrix = _as_matrix(embedding.weight)
    rank = method.rank_for(*matrix.shape, compression)
    facts = _complete(given["facts"], method.needs, len(matrix), given["tokenizer"], given["texts"])
    start = time.perf_counter()
    factors = _factorize(matrix, method, rank, facts)
    about = {"seconds": time.perf_counter() - start, "data_used": data_used(method.needs)}
    # The copy meets the new layer where the old one stood, so the dense table is never copied.
    compressed = copy.deepcopy(model, {id(embedding): compressed_embedding(embedding, factors)})
    about |= {"params": method.model_dump(mode="json"), "target": "embedding"}
    return compressed, _report(name, matrix, factors, {"method": method.name, **about})


def _compress_network(
    model: Network, method: Method, compression: float, target: str, given: dict[str, Any]
) -> tuple[Network, CompressionReport]:
    own = _copied(model).eval()
    given["example"] = example_of(model) if given["example"] is None else given["example"]
    check_example(own, given["example"])
    if given["batches"] is not None:
        given["batches"] = checked_batches(own, given["batches"], "labels" in method.needs)
    problem = NetworkProblem(own, target, **given, seconds=seconds_for(given["budget"]))
    start = time.perf_counter()
    found = compress_within(problem, network_method(method, target), compression)
    facts = dict(found.info)
    report = CompressionReport(
        method=method.name,
        params=method.model_dump(mode="json"),
        target=target,
        layers=found.layers,
        compression=facts.pop("achieved_compression"),
        data_used=data_used(method.needs),
        seconds=time.perf_counter() - start,
        info=facts,
        **{name: facts.pop(name) for name in COUNTED},
    )
    take_modes(found.model, model)
    return found.model, report


def _copied(model: Network) -> Network:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(
            f"{type(model).__name__} cannot be copied ({fault}); an old weight_norm is undone by "
            "torch.nn.utils.remove_weight_norm"
        ) from None


def _refuse_given(target: str, **given: Any) -> None:
    """Check that nothing is given that the target would not look at."""
    odd = [name for name, value in given.items() if value is not None]
    if odd:
        raise LowRankError(f"{odd[0]} means nothing for target {target!r}; leave it out")


def _check_request(model: nn.Module, compression: float, target: str) -> None:
    if target not in TARGETS:
        raise LowRankError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    if not isinstance(compression, Real) or not 0 < compression < 1:
        raise LowRankError(f"compression must lie between 0 and 1, not {compression!r}")
    if not isinstance(model, nn.Module):
        raise LowRankError(f"expected a torch module, not {type(model).__name__}")


def _complete(
    facts: dict[str, Any],
    needs: tuple[str, ...],
    rows: int,
    tokenizer: Any,
    texts: Iterable[str] | None,
) -> dict[str, Any]:
    """Return the facts with those added that tokenizer and texts give."""
    if "frequency" in needs and facts["frequency"] is None and tokenizer is not None:
        from lowrank_bench.inputs.text.vocabulary import vocabulary_frequency

        facts["frequency"] = vocabulary_frequency(tokenizer, rows)
    if "counts" in needs and facts["counts"] is None and texts is not None:
        if tokenizer is None:
            raise LowRankError("texts are counted in tokens; give the tokenizer with them")
        from lowrank_bench.inputs.text.counts import token_counts

        facts["counts"] = token_counts(tokenizer(_as_texts(texts))["input_ids"], rows)
    return facts


def _as_texts(texts: Iterable[str]) -> list[str]:
    found = [] if isinstance(texts, str | bytes) else list(texts)
    if not found or not all(isinstance(text, str) for text in found):
        raise LowRankError("texts must be a list of strings, and not an empty one")
    return found


def _report(
    name: str, matrix: Tensor, factors: Approximation, about: dict[str, Any]
) -> CompressionReport:
    kept, dense = factors.n_parameters, matrix.numel()
    return CompressionReport(
        layers=[{"name": name, "shape": list(matrix.shape), "rank": factors.rank}],
        parameters_dense=dense,
        parameters_kept=kept,
        compression=compression_of(kept, factors.index_bits, dense),
        index_bits=factors.index_bits,
        **certificate_columns(certify(matrix, factors, thorough=True)),
        **about,
    )


def _factorize(
    matrix: Tensor, method: MatrixMethod, rank: int, facts: dict[str, Any]
) -> Approximation:
    device = "cpu" if matrix.device.type == "mps" else matrix.device  # which has no float64
    exact = matrix.to(device=device, dtype=torch.float64)
    given = {name: _as_vector(name, value) for name, value in facts.items() if value is not None}
    problem = Problem(exact, None if method.nested else rank, **given)
    factors = method.decompose(problem).factors(rank)
    factors = factors.to(dtype=matrix.dtype, device=matrix.device)
    if not all(part.isfinite().all() for part in factors.tensors().values()):
        raise LowRankError(
            f"the factors of {method.name} do not fit into {matrix.dtype}; scale the matrix down"
        )
    return factors


def _as_vector(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).to_dense()
    except (TypeError, ValueError, RuntimeError):
        raise LowRankError(f"{name} must be numbers, not {type(value).__name__}") from None


def _as_matrix(value: Tensor | np.ndarray) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        raise LowRankError(f"expected a tensor or an array, not {type(value).__name__}")
    kind = (
        value.dtype.name
        if isinstance(value, np.ndarray)
        else f"{value.dtype}".removeprefix("torch.")
    )
    if kind not in ("float16", "bfloat16", "float32", "float64"):
        raise LowRankError(f"the matrix has entries of type {kind}; convert it to float32 first")
    if value.ndim != 2:
        shape = "x".join(str(size) for size in value.shape) or "scalar"
        raise LowRankError(f"expected a matrix with rows and columns, not an array of {shape}")
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    matrix = value.detach()
    if matrix.is_sparse or matrix.layout is not torch.strided:
        raise LowRankError("the matrix is sparse; convert it with .to_dense() first")
    bad = ~torch.isfinite(matrix)
    if bad.any():
        row = int(bad.any(dim=1).nonzero()[0])
        count = int(bad.sum())
        entries = "entry is" if count == 1 else "entries are"
        raise LowRankError(f"{count} matrix {entries} NaN or infinite, the first in row {row}")
    return matrix


def _check_rank(rank: int, matrix: Tensor) -> None:
    limit = min(matrix.shape)
    shape = "x".join(str(size) for size in matrix.shape)
    whole = hasattr(rank, "__index__") and not isinstance(rank, bool)
    if not whole or not 1 <= operator.index(rank) <= limit:
        allowed = f"use one in 1..{limit}" if limit else "it has no entries"
        raise LowRankError(f"rank {rank!r} does not fit a {shape} matrix; {allowed}")
