"""Networks on disk, compressed or not: safetensors and JSON, written whole or not at all.

A folder holds `model.safetensors` (parameters and buffers), `lowrank.json` (which layers are
factorized) and, for transformers models, `config.json`.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers import LAYERS
from lowrank_bench.layers.embedding import replace_module
from lowrank_bench.layers.resize import Resized, find_resized, resize

WEIGHTS, MANIFEST, CONFIG = "model.safetensors", "lowrank.json", "config.json"


class Swap(BaseModel):
    """One layer that is not as the network's class builds it."""

    name: str
    kind: Literal[tuple(LAYERS)]
    spec: dict[str, Any]
    dtype: Literal["float16", "bfloat16", "float32", "float64"]


class Manifest(BaseModel):
    """The content of `lowrank.json`.

    `shared` maps the names of tensors that are stored under another name to that name; `resized`
    names plain layers that lost channels.
    """

    format: Literal["lowrank-bench"] = "lowrank-bench"
    version: Literal[1] = 1
    network: str
    attention: str | None = None
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
        Made if need be; a network that was saved there before is replaced. It appears complete
        or not at all.

    Raises
    ------
    LowRankError
        When the folder holds something else, or the network holds more than tensors.
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
        if _is_transformers(model):
            manifest.attention = model.config._attn_implementation
            _write_config(model, fresh)
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if place.exists():
            place.rename(Path(temporary) / "old")
        fresh.rename(place)
    return place


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Return the network that `save` wrote, in evaluation mode and on the CPU.

    Parameters
    ----------
    folder
        Where it was saved.
    model
        For networks that are no transformers models: a dense network of the same architecture.
        It is left as it was.

    Raises
    ------
    LowRankError
        When a file is missing or damaged, or does not fit the network.
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


def _is_transformers(model: nn.Module) -> bool:
    # Its models cannot exist before it is imported, and importing it takes seconds.
    library = sys.modules.get("transformers")
    return library is not None and isinstance(model, library.PreTrainedModel)


def _write_config(model: Any, folder: Path) -> None:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those outside of the state dict included."""
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise LowRankError(f"{name!r} is no tensor and cannot be saved without pickle")
    return {**dict(model.named_buffers(remove_duplicate=False)), **state}


def _distinct(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Separate tensors from further names of the same tensor."""
    first: dict[tuple[Any, ...], str] = {}
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, value in tensors.items():
        where = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and where in first:
            shared[name] = first[where]
        else:
            first[where] = name
            kept[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return kept, shared


def _swaps(model: nn.Module) -> list[Swap]:
    kinds = tuple(LAYERS.values())
    return [
        Swap(
            name=name,
            kind=type(layer).__name__,
            spec=layer.spec(),
            dtype=str(next(layer.parameters()).dtype).removeprefix("torch."),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    ]


def _read_manifest(place: Path) -> Manifest:
    file = place / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise LowRankError(f"{file} is missing; this is no folder of a saved network") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise LowRankError(f"{file} is damaged: {where} {fault['msg']}; save it again") from None


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
    """Copy a network, with the compressed layers in place of those that it has."""
    try:
        new = {id(model.get_submodule(swap.name)): _build(swap, place) for swap in swaps}
        return copy.deepcopy(model, new)
    except AttributeError as error:
        raise LowRankError(f"the given network does not fit the saved one: {error}") from None


def _from_config(place: Path, manifest: Manifest) -> nn.Module:
    file = place / CONFIG
    if not file.is_file():
        raise LowRankError(
            f"{file} is missing; for a {manifest.network}, which is no transformers model, call "
            "load(folder, model=...) with a network of the same architecture"
        )
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(f"{file} is damaged ({fault}); save the network again") from None
    name = (config.architectures or ["AutoModelForSequenceClassification"])[0]
    found = getattr(transformers, name, None)
    build = getattr(found, "_from_config", None) or getattr(found, "from_config", None)
    if build is None:
        raise LowRankError(
            f"transformers has no network {name}, which {file} names; pass model=..."
        )
    options = {"attn_implementation": manifest.attention} if manifest.attention else {}
    with torch.random.fork_rng(devices=[]):  # the random weights are about to be replaced
        return build(config, **options)


def _add_biases(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give layers the biases that they lack and were saved with.

    A compression that keeps the mean response puts it there; the layer may be dense again by now.
    """
    for name, layer in model.named_modules():
        value = tensors.get(f"{name}.bias")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None and value is not None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(value.shape))


def _fill(model: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Copy the tensors into the network, which takes over their precision."""
    own = _tensors(model)
    odd = sorted(own.keys() ^ tensors.keys())
    odd += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if odd:
        raise LowRankError(
            f"{file} does not fit {type(model).__name__}: {len(odd)} tensors differ, the first is "
            f"{odd[0]!r}"
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].data = own[name].data.to(value.dtype)
            own[name].copy_(value)
