"""Networks on disk, compressed or not: safetensors and JSON, written whole or not at all.

A folder holds `model.safetensors` (parameters and buffers), `lowrank.json` (which layers were
replaced or resized) and, for transformers models, `config.json`.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import AfterValidator, BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers import LAYERS
from lowrank_bench.layers.embedding import replace_module
from lowrank_bench.layers.resize import Resized, find_resized, resize

WEIGHTS, MANIFEST, CONFIG = "model.safetensors", "lowrank.json", "config.json"

# What transformers and torch hold themselves; any other name is a repository of kernels to run.
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


def _known_kind(kind: str) -> str:
    if kind not in LAYERS:
        raise ValueError(f"{kind!r} is not a layer of this version; known: {', '.join(LAYERS)}")
    return kind


class Swap(BaseModel):
    """One layer that replaces the one that the network's class builds."""

    name: str
    kind: Annotated[str, AfterValidator(_known_kind)]
    spec: dict[str, Any]
    dtype: Literal["float16", "bfloat16", "float32", "float64"]


class Manifest(BaseModel):
    """The content of `lowrank.json`.

    `shared` maps the name of each tensor that is stored under another name to that name;
    `resized` lists the plain layers that lost channels.
    """

    format: Literal["lowrank-bench"] = "lowrank-bench"
    version: Literal[1] = 1
    network: str
    attention: Attention | None = None
    swaps: list[Swap]
    shared: dict[str, str]
    resized: list[Resized] = []


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a network to a folder, and return the folder.

    Parameters
    ----------
    model
        A transformers model or another torch module, with factorized layers or without.
    folder
        Created if it does not exist; a network saved there before is replaced. The folder appears
        complete or not at all.

    Raises
    ------
    LowRankError
        When the folder holds other files, or the network's state holds more than tensors.
    """
    place = Path(folder)
    if place.exists() and not (place.is_dir() and _is_ours(place)):
        raise LowRankError(f"{place} holds other files; choose a new or an empty folder")
    tensors, shared = _distinct(_tensors(model))
    manifest = Manifest(
        network=type(model).__name__,
        swaps=_swaps(model),
        shared=shared,
        resized=find_resized(model),
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        config = _config_of(model)
        if config is not None:
            used = config._attn_implementation
            manifest.attention = used if used in get_args(Attention) else None
            _write_config(config, type(model).__name__, fresh)
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if place.exists():
            place.rename(Path(temporary) / "old")
        fresh.rename(place)
    return place


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Return the network that `save` wrote, in evaluation mode, on the CPU.

    Parameters
    ----------
    folder
        Where it was saved.
    model
        For networks other than transformers models: a dense network of the same architecture,
        which is not changed.

    Raises
    ------
    LowRankError
        When a file is missing, damaged or does not fit the network.
    """
    place = Path(folder)
    manifest = _read_manifest(place)
    tensors = _read_tensors(place / WEIGHTS, manifest.shared)
    if model is None:
        model = _from_config(place, manifest)
        for swap in manifest.swaps:
            replace_module(model, swap.name, _build(swap, place))
    else:
        model = _copy_skeleton(model, manifest.swaps, place)
    resize(model, manifest.resized)
    _add_biases(model, tensors)
    _fill(model, tensors, place / WEIGHTS)
    return model.eval()


def _is_ours(place: Path) -> bool:
    return (place / MANIFEST).is_file() or not any(place.iterdir())


def _config_of(model: nn.Module) -> Any:
    """Return the configuration of a transformers model; None for other modules."""
    # Importing transformers takes seconds, and its models exist only where it was imported.
    library = sys.modules.get("transformers")
    is_pretrained = library is not None and isinstance(model, library.PreTrainedModel)
    return model.config if is_pretrained else None


def _write_config(config: Any, architecture: str, folder: Path) -> None:
    config = copy.deepcopy(config)
    config.architectures = [architecture]
    config.save_pretrained(folder)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, including buffers outside of the state dict."""
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise LowRankError(f"{name!r} is not a tensor and cannot be saved without pickle")
    return {**dict(model.named_buffers(remove_duplicate=False)), **state}


def _distinct(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor under its first name, and the first name for every other one."""
    first: dict[tuple[Any, ...], str] = {}
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, value in tensors.items():
        memory = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and memory in first:
            shared[name] = first[memory]
        else:
            first[memory] = name
            kept[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return kept, shared


def _swaps(model: nn.Module) -> list[Swap]:
    kinds = tuple(LAYERS.values())
    return [
        Swap(
            name=name,
            kind=type(layer).__name__,
            spec=layer.spec(),
            dtype=_dtype_name(layer),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    ]


def _dtype_name(layer: nn.Module) -> Any:
    """Return the name of the type of a layer's numbers; `Swap` checks that it is a known one."""
    return str(next(layer.parameters()).dtype).removeprefix("torch.")


def _read_manifest(place: Path) -> Manifest:
    file = place / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise LowRankError(f"{file} is missing; {place} is not a saved network") from None
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise LowRankError(f"{file} is damaged: {field} {fault['msg']}; save it again") from None


def _read_tensors(file: Path, shared: dict[str, str]) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
        return {**tensors, **{name: tensors[first] for name, first in shared.items()}}
    except FileNotFoundError:
        raise LowRankError(f"{file} is missing; save the network again") from None
    except (SafetensorError, KeyError) as error:
        raise LowRankError(f"{file} is damaged ({error}); save the network again") from None


def _build(swap: Swap, place: Path) -> nn.Module:
    try:
        return LAYERS[swap.kind](**swap.spec, dtype=getattr(torch, swap.dtype))
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(
            f"{place / MANIFEST} is damaged: layer {swap.name!r} cannot be built ({fault}); save "
            "the network again"
        ) from None


def _copy_skeleton(model: nn.Module, swaps: list[Swap], place: Path) -> nn.Module:
    """Return a copy of a network with the compressed layers in place of the dense ones."""
    try:
        new = {id(model.get_submodule(swap.name)): _build(swap, place) for swap in swaps}
        return copy.deepcopy(model, new)
    except AttributeError as error:
        raise LowRankError(f"the given network does not fit the saved one: {error}") from None


def _from_config(place: Path, manifest: Manifest) -> nn.Module:
    file = place / CONFIG
    if not file.is_file():
        raise LowRankError(
            f"{file} is missing; {manifest.network} is not a transformers model, so call "
            "load(folder, model=...) with a network of the same architecture"
        )
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(f"{file} is damaged ({fault}); save the network again") from None
    name = (config.architectures or ["AutoModelForSequenceClassification"])[0]
    architecture = getattr(transformers, name, None) if isinstance(name, str) else None
    # Classes of models have the first, the Auto classes the second.
    build = getattr(architecture, "_from_config", None) or getattr(
        architecture, "from_config", None
    )
    if build is None or config._attn_implementation not in (None, *get_args(Attention)):
        raise LowRankError(
            f"transformers has no network {name}, which {file} names; pass model=..."
        )
    options: dict[str, Any] = {}
    if manifest.attention:
        options["attn_implementation"] = manifest.attention
    if not hasattr(
        architecture, "_from_config"
    ):  # an Auto class, which would run the folder's code
        options["trust_remote_code"] = False
    with torch.random.fork_rng(devices=[]):  # the random weights are about to be replaced
        model: nn.Module = build(config, **options)
    return model


def _add_biases(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Add biases that were saved to layers that the network's class builds without one.

    A compression that keeps the mean response adds such a bias, and the layer keeps it when it is
    made dense again.
    """
    for name, layer in model.named_modules():
        value = tensors.get(f"{name}.bias")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None and value is not None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(value.shape))


def _fill(model: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Copy the tensors into the network, whose precision becomes theirs."""
    targets = _tensors(model)
    differing = sorted(targets.keys() ^ tensors.keys())
    common = targets.keys() & tensors.keys()
    differing += [name for name in common if targets[name].shape != tensors[name].shape]
    if differing:
        raise LowRankError(
            f"{file} does not fit {type(model).__name__}: {len(differing)} tensors differ, the "
            f"first is {differing[0]!r}"
        )
    with torch.no_grad():
        for name, value in tensors.items():
            targets[name].data = targets[name].data.to(value.dtype)
            targets[name].copy_(value)
