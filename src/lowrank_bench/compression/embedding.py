"""Compress the embedding of a network."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from lowrank_bench.compression.byte_counts import byte_facts
from lowrank_bench.compression.matrix import Factorized, factorize
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.compression.request import Numbers, OnStep, as_matrix, checked_budget
from lowrank_bench.compression.savings import compression_of
from lowrank_bench.compression.table_facts import read_facts
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import compressed_embedding, find_embedding
from lowrank_bench.layers.plain import refuse_held, refuse_uncopied, refuse_unusual
from lowrank_bench.linalg.certificates.certificate import certificate_columns, certify
from lowrank_bench.linalg.certificates.lower_bounds import LARGE
from lowrank_bench.linalg.certificates.quick import quick_certificate
from lowrank_bench.linalg.factors import Approximation, Factors
from lowrank_bench.methods import CodingMethod, MatrixMethod, as_method
from lowrank_bench.methods.registry import QUANTIZE
from lowrank_bench.network.count import count_parameters
from lowrank_bench.network.coverage import check_saved, coverage
from lowrank_bench.network.idle import refuse_idle
from lowrank_bench.problem import FLOAT_BYTES, data_used

Network = TypeVar("Network", bound=nn.Module)
Certificate = bool | Literal["full"]


def compress_embedding(
    model: Network,
    method: str | MatrixMethod,
    compression: float | None = None,
    *,
    saved_bytes: float | None = None,
    quantize: Any = None,
    layer: str | None = None,
    tokenizer: Any = None,
    texts: Iterable[str] | None = None,
    frequency: Numbers | None = None,
    counts: Numbers | None = None,
    fisher: Numbers | None = None,
    certificate: Certificate = True,
    on_step: OnStep | None = None,
    **params: Any,
) -> tuple[Network, CompressionReport]:
    """Return a copy of a network with its embedding compressed, and a report.

    Parameters
    ----------
    model, method
        A transformers model or any torch module, left as it was; a method's name or an object.
    compression
        Share of the table's parameters to save, between 0 and 1; labels come on top, as in MESSI.
    saved_bytes
        Instead of `compression`: share of the table's bytes in float32 to save; all that the saved
        folder holds for it is counted. Codes, such as `rtn`, have no other budget.
    quantize
        With `saved_bytes`: bits in which factors are stored, 1 to 8 or 16; `auto`: rank and bits
        together; or a mapping of `bits`, `group` and `scale`.
    layer
        Its dotted name, where there are several embeddings.
    tokenizer, texts, frequency, counts, fisher
        What methods read about rows: the vocabulary's order, token counts; or n numbers for them.
    certificate
        Whether to bound how far the errors are from optimal; "full": tightest on large tables too.
    on_step, **params
        Called with a few words at each step; parameters of a method given by name.

    Raises
    ------
    LowRankError
        When the layer is absent, tied or does not run, no rank is left, or the method refuses.
    """
    _check_certificate(certificate)
    share, budget = checked_budget(model, compression, saved_bytes)
    chosen = _matrix_method(method, {**params, QUANTIZE: quantize})
    name, embedding = _usable_embedding(model, layer)
    rows, columns = (matrix := as_matrix(embedding.weight)).shape
    size = chosen.size_for(rows, columns, share, budget)
    if on_step:
        on_step(f"factorize {name}, {rows:,} x {columns:,}, by {chosen.label()}")
    said = {"frequency": frequency, "counts": counts, "fisher": fisher}
    said |= read_facts(said, chosen.needs, rows, tokenizer, texts)
    factorized = factorize(matrix, chosen, size, said)
    compressed = _replaced(model, name, embedding, factorized.factors)
    report = _report(chosen, name, matrix, factorized)
    facts = _bounded(matrix, factorized, certificate, on_step)
    return compressed, replace(report, **facts, **_network_facts(model, compressed, report))


def _bounded(
    matrix: Tensor, factorized: Factorized, certificate: Certificate, on_step: OnStep | None
) -> dict[str, Any]:
    """Return the errors with their bounds, if they are asked for."""
    if not certificate:
        return {}
    if on_step:
        on_step("bound how far the errors are from the least possible")
    return _errors(matrix, factorized, certificate == "full")


def _usable_embedding(model: nn.Module, layer: str | None) -> tuple[str, nn.Embedding]:
    """Return the embedding to compress and its name; refuse one that cannot be replaced."""
    name, embedding = find_embedding(model, layer)
    refuse_unusual(model, name, embedding)
    refuse_idle(model, name, embedding)
    return name, embedding


def _check_certificate(certificate: Certificate) -> None:
    if certificate not in (True, False, "full"):
        raise LowRankError(f"certificate is True, False or 'full', not {certificate!r}")


def _replaced(
    model: Network, name: str, embedding: nn.Embedding, factors: Approximation
) -> Network:
    """Return a copy of a network with its embedding replaced by factors."""
    # The copy meets the new layer where the old one stood, so the dense table is never copied.
    memo: dict[Any, Any] = {id(embedding): compressed_embedding(embedding, factors)}
    compressed = copy.deepcopy(model, memo)
    refuse_held(name, embedding, memo)
    refuse_uncopied(model, compressed)
    return compressed


def _errors(matrix: Tensor, factorized: Factorized, full: bool) -> dict[str, Any]:
    """Return the errors of factors, and what they are at most times the least."""
    factors = factorized.factors
    known = None
    if not full and matrix.numel() > LARGE and isinstance(factors, Factors):
        known = quick_certificate(matrix, factors, factorized.spectrum, factorized.projected)
    return certificate_columns(known or certify(matrix, factors, thorough=True))


def _matrix_method(method: str | MatrixMethod, params: dict[str, Any]) -> MatrixMethod:
    chosen = as_method(method, params)
    if not isinstance(chosen, MatrixMethod):
        raise LowRankError(
            f"{chosen.name} compresses whole networks, not an embedding alone; choose the target "
            f"{' or '.join(chosen.targets)}"
        )
    return chosen


def _report(
    method: MatrixMethod, name: str, matrix: Tensor, factorized: Factorized
) -> CompressionReport:
    factors = factorized.factors
    kept, dense = factors.n_parameters, matrix.numel()
    coded = isinstance(method, CodingMethod)
    saved = 1 - factors.n_bytes / (FLOAT_BYTES * dense)
    return CompressionReport(
        method=method.name,
        params=method.model_dump(mode="json"),
        target="embedding",
        layers=[{"name": name, "shape": list(matrix.shape), "rank": factors.rank}],
        parameters_dense=dense,
        parameters_kept=kept,
        compression=saved if coded else compression_of(kept, factors.index_bits, dense),
        index_bits=factors.index_bits,
        data_used=data_used(method.needs),
        seconds=factorized.seconds,
        info=factorized.info if coded else {},
    )


def _network_facts(
    model: nn.Module, compressed: nn.Module, report: CompressionReport
) -> dict[str, Any]:
    """Return the sizes of the whole network, and what was left out of it."""
    dense, kept = count_parameters(model), count_parameters(compressed)
    check_saved(compressed, dense, kept, report.parameters_dense - report.parameters_kept)
    names = [layer["name"] for layer in report.layers]
    sizes: dict[str, Any] = {"network_parameters_dense": dense, "network_parameters_kept": kept}
    sizes |= byte_facts(model, compressed, names)
    return {**sizes, **coverage(model, report.target, names).facts()}
