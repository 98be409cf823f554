"""`compress`: one front door to the functions for embeddings and for whole networks."""

from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar, overload

from torch import nn

from lowrank_bench.compression.embedding import Certificate, compress_embedding
from lowrank_bench.compression.networks import Budget, NetworkTarget, Rest, compress_network
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.compression.request import Numbers, OnStep
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import MatrixMethod, NetworkMethod
from lowrank_bench.network.problem import Batches, Inputs

Network = TypeVar("Network", bound=nn.Module)
TARGETS = ("embedding", "linear", "conv")


@overload
def compress(
    model: Network,
    method: str | MatrixMethod,
    compression: float | None = None,
    target: Literal["embedding"] = "embedding",
    layer: str | None = None,
    *,
    saved_bytes: float | None = None,
    quantize: Any = None,
    tokenizer: Any = None,
    texts: Iterable[str] | None = None,
    frequency: Numbers | None = None,
    counts: Numbers | None = None,
    fisher: Numbers | None = None,
    certificate: Certificate = True,
    on_step: OnStep | None = None,
    **params: Any,
) -> tuple[Network, CompressionReport]:
    """Compress the embedding: `compress_embedding`."""


@overload
def compress(
    model: Network,
    method: str | NetworkMethod,
    compression: float,
    target: NetworkTarget,
    *,
    rest: Rest = "as_is",
    example: Inputs | None = None,
    batches: Batches | None = None,
    budget: Budget = "parameters",
    exclude: Sequence[str] = (),
    on_step: OnStep | None = None,
    tokenizer: Any = None,
    texts: Iterable[str] | None = None,
    frequency: Numbers | None = None,
    counts: Numbers | None = None,
    **params: Any,
) -> tuple[Network, CompressionReport]:
    """Compress a whole network: `compress_network`."""


@overload
def compress(
    model: Network,
    method: str | NetworkMethod,
    *,
    target: NetworkTarget,
    saved_bytes: float,
    **options: Any,
) -> tuple[Network, CompressionReport]:
    """Compress a whole network to a share of its bytes: `compress_network`."""


def compress(
    model: Network,
    method: Any,
    compression: float | None = None,
    target: Any = "embedding",
    layer: str | None = None,
    **options: Any,
) -> tuple[Network, CompressionReport]:
    """Return a copy of a network with the targeted layers compressed, and a report.

    Parameters
    ----------
    model
        A transformers model or any torch module. It is left as it was.
    method
        Name of a method, its parameters among the options, or an object such as `Lp(p=1.5)`.
    compression
        Share of the targeted layers' parameters to save, between 0 and 1. The option `saved_bytes`
        in its place is a share of bytes: of the embedding, or of the whole network.
    target
        `embedding`, `linear` (linear layers and embedding of a transformer) or `conv`
        (convolutions and linear layers of a CNN).
    layer
        Dotted name of the embedding, where there are several; for `embedding` only.
    **options
        Those of `compress_embedding` for `embedding`, of `compress_network` for the others.

    Returns
    -------
    (network, CompressionReport)
        The copy and the report.

    Raises
    ------
    LowRankError
        When an option belongs to another target, or for the reasons of these two functions.
    """
    if target not in TARGETS:
        raise LowRankError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    if target == "embedding":
        options = _without(compress_network, compress_embedding, options, target)
        return compress_embedding(model, method, compression, layer=layer, **options)
    options = {"layer": layer, **options}
    options = _without(compress_embedding, compress_network, options, target)
    return compress_network(model, method, compression, target=target, **options)


def _without(
    other: Callable[..., Any], function: Callable[..., Any], options: dict[str, Any], target: str
) -> dict[str, Any]:
    """Return the options without those of another target's function that are at their defaults.

    Parameters
    ----------
    other, function
        The other target's function, and the one that is called, whose options stay.
    """
    shared = signature(function).parameters
    for name, parameter in signature(other).parameters.items():
        if parameter.kind is not Parameter.KEYWORD_ONLY or name not in options or name in shared:
            continue
        value = options[name]
        plain = isinstance(value, str | bool | tuple | list) and value in (parameter.default, [])
        if value is not None and not plain:
            raise LowRankError(f"{name} means nothing for target {target!r}; leave it out")
        options = {key: option for key, option in options.items() if key != name}
    return options
