"""What a compression reaches of a network, and what it leaves out and why."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers import LAYERS
from lowrank_bench.network.packed import packed_numbers

WANTED = {"embedding": "the embedding", "linear": "a Linear", "conv": "a Conv2d or Linear"}
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
WEIGHTED = (nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)


@dataclass(frozen=True)
class Skipped:
    """A module with weights that a target leaves out.

    Attributes
    ----------
    name, kind
        Its dotted name, the first one if it has several, and its class.
    parameters
        Its own, without those of its children and of modules named before.
    reason
        Why it was left out.
    """

    name: str
    kind: str
    parameters: int
    reason: str


@dataclass
class Coverage:
    """Where the parameters of a network are; the three numbers add up to all of them.

    Attributes
    ----------
    targeted
        Parameters of the targeted layers.
    skipped
        The other modules with weights.
    others
        Parameters of all the rest together: normalisations, and vectors such as biases that stand
        alone.
    """

    targeted: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    others: int = 0

    @property
    def share(self) -> float:
        """Return the share of the network's parameters that the skipped modules hold."""
        left = sum(module.parameters for module in self.skipped)
        return left / max(1, self.targeted + left + self.others)

    def facts(self) -> dict[str, Any]:
        """Return `skipped`, `skipped_share` and `other_parameters` as a report has them."""
        return {
            "skipped": [asdict(module) for module in self.skipped],
            "skipped_share": self.share,
            "other_parameters": self.others,
        }


def coverage(
    model: nn.Module, target: str, layers: Collection[str], reasons: Mapping[str, str] | None = None
) -> Coverage:
    """Return what a compression of some layers reaches of a network.

    Parameters
    ----------
    model
        The dense network.
    target
        `embedding`, `linear` or `conv`.
    layers
        Dotted names of the layers that are compressed.
    reasons
        Why others of the target are not, by name (`network.layers.skipped_layers`).
    """
    seen: dict[int, str] = {}
    chosen = {id(part) for name in layers for part in model.get_submodule(name).modules()}
    for name in layers:
        for parameter in model.get_submodule(name).parameters():
            seen.setdefault(id(parameter), name)
    sizes = {id(p): 0 if is_lazy(p) else p.numel() for p in model.parameters()}
    result = Coverage(targeted=sum(sizes[key] for key in seen))
    for name, module in model.named_modules():
        if id(module) in chosen:
            continue
        own = {local: p for local, p in module._parameters.items() if p is not None}
        fresh = [p for p in own.values() if seen.setdefault(id(p), name) == name]
        size = sum(sizes[key] for key in {id(p) for p in fresh}) + packed_numbers(module)
        if not _holds_weights(module, own):
            result.others += size
            continue
        tied = [seen[id(p)] for p in own.values() if _is_matrix(p) and seen[id(p)] != name]
        reason = (reasons or {}).get(name) or _reason(module, name, target, own, tied)
        parent = model.get_submodule(name.rpartition(".")[0])
        inside = name and isinstance(parent, nn.MultiheadAttention)
        if inside and target != "embedding":
            reason = "attention out_proj"  # whose weight the attention reads without calling it
        result.skipped.append(Skipped(name, type(module).__name__, size, reason))
    return result


def check_saved(model: nn.Module, dense: int, kept: int, saved: int) -> None:
    """Check that a network became smaller by what its layers saved.

    Parameters
    ----------
    model
        The compressed network.
    dense, kept
        Parameters of the whole network before and after, counted on the networks.
    saved
        Parameters that the report claims for the layers.

    Raises
    ------
    LowRankError
        When the network saved less, since it holds the weights somewhere else as well.
    """
    if dense - kept < saved:
        raise LowRankError(
            f"{type(model).__name__} has {dense:,} parameters, {kept:,} after compression, though "
            f"the layers alone save {saved:,}: it holds their weights under another name as well; "
            "find it in named_parameters(), and delete it or name one layer for both"
        )


def _holds_weights(module: nn.Module, own: Mapping[str, nn.Parameter]) -> bool:
    if packed_numbers(module):
        return True
    if isinstance(module, NORMS) or "Norm" in type(module).__name__ or not own:
        return False
    return isinstance(module, WEIGHTED) or any(map(_is_matrix, own.values()))


def _is_matrix(parameter: Tensor) -> bool:
    """Return whether a parameter has several axes; a class token 1×1×d is a vector."""
    return not is_lazy(parameter) and sum(size > 1 for size in parameter.shape) > 1


def _reason(
    module: nn.Module,
    name: str,
    target: str,
    own: Mapping[str, nn.Parameter],
    tied: list[str],
) -> str:
    """Return in a few words why the target does not take a module."""
    kind = type(module).__name__
    if tied:
        return f"shares its weight with {tied[0] or 'the network'}"
    if isinstance(module, tuple(LAYERS.values())):
        return "compressed before"
    if packed_numbers(module) or any(not _is_plain(p) for p in own.values()):
        return "quantized"
    if isinstance(module, nn.Embedding):
        return "another embedding" if target == "embedding" else "embedding"
    if target != "embedding" and isinstance(module, nn.MultiheadAttention):
        return "attention in_proj"
    stacked = any(p.ndim == 3 for p in own.values() if not is_lazy(p))
    if target != "embedding" and stacked and "expert" in f"{kind} {name}".lower():
        return "fused experts"
    return f"{kind} is not {WANTED[target]}"


def _is_plain(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and not hasattr(parameter, "__tensor_flatten__")
