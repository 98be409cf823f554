"""Networks on disk, compressed or not: safetensors and JSON, written whole or not at all.

A folder holds `lowrank.safetensors` (parameters and buffers), `lowrank.json` (which layers were
replaced or resized, which tensors are one) and, for transformers models, `config.json`. Other
libraries look for weights under other names: they refuse the folder, where they would otherwise
give the replaced layers random values.
"""

import copy
import os
import sys
import tempfile
import warnings
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
from lowrank_bench.layers.fill import fill
from lowrank_bench.layers.resize import Resized, find_resized, resize
from lowrank_bench.layers.rest import halved_types, mark
from lowrank_bench.layers.sharing import Sharing, View, sharing_of, state_of
from lowrank_bench.layers.stored import stored_types

WEIGHTS, MANIFEST, CONFIG = "lowrank.safetensors", "lowrank.json", "config.json"
GENERATION = "generation_config.json"
OLD_WEIGHTS = "model.safetensors"  # of folders that were saved before 2026-12

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

    `shared` maps the name of each tensor that is stored under another name to that name; `views`
    lists those that overlap in memory without being one (`layers.sharing`); `resized` lists the
    plain layers that lost channels; `halved` names tensors that are float32 in memory and float16
    in the file.
    """

    format: Literal["lowrank-bench"] = "lowrank-bench"
    version: Literal[1] = 1
    network: str
    attention: Attention | None = None
    swaps: list[Swap]
    shared: dict[str, str]
    views: dict[str, View] = {}
    resized: list[Resized] = []
    halved: list[str] = []

    def text(self) -> str:
        """Return what is written: without what does not occur in most networks."""
        rare = {name for name in ("views", "halved") if not getattr(self, name)}
        return self.model_dump_json(indent=2, exclude=rare) + "\n"


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
        When the folder holds other files, or the network's state holds more than dense tensors
        with values.

    Warns
    -----
    UserWarning
        When `load` could not rebuild a transformers model from the folder alone.
    """
    place = Path(folder)
    if place.exists() and not (place.is_dir() and _is_ours(place)):
        raise LowRankError(f"{place} holds other files; choose a new or an empty folder")
    state = state_of(model)
    sharing = sharing_of(state)
    tensors = _stored(state, sharing, stored_types(model))
    manifest = Manifest(
        network=type(model).__name__,
        swaps=_swaps(model),
        shared=sharing.shared,
        views=sharing.views,
        resized=find_resized(model),
        halved=sorted(halved_types(model)),
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        config = _config_of(model)
        if config is not None:
            used = config._attn_implementation
            manifest.attention = used if used in get_args(Attention) else None
            _write_config(model, config, fresh)
            _warn_if_lost(model, manifest, tensors, fresh)
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / MANIFEST).write_text(manifest.text())
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
    file = place / WEIGHTS
    if not file.is_file() and (place / OLD_WEIGHTS).is_file():
        file = place / OLD_WEIGHTS
    tensors = _read_tensors(file, manifest.shared)
    skeleton = _skeleton(place, manifest, model)
    _complete(skeleton, manifest, tensors, file)
    return skeleton.eval()


def _is_ours(place: Path) -> bool:
    return (place / MANIFEST).is_file() or not any(place.iterdir())


def _config_of(model: nn.Module) -> Any:
    """Return the configuration of a transformers model; None for other modules."""
    # Importing transformers takes seconds, and its models exist only where it was imported.
    library = sys.modules.get("transformers")
    is_pretrained = library is not None and isinstance(model, library.PreTrainedModel)
    return model.config if is_pretrained else None


def _write_config(model: nn.Module, config: Any, folder: Path) -> None:
    config = copy.deepcopy(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generation: Any = getattr(model, "generation_config", None)
    if generation is not None:
        (folder / GENERATION).write_text(generation.to_json_string(use_diff=True))


def _warn_if_lost(
    model: nn.Module, manifest: Manifest, tensors: dict[str, Tensor], folder: Path
) -> None:
    """Warn where `load` could not rebuild a network from the folder alone."""
    changed = [name for name, module in model.named_modules() if "forward" in vars(module)]
    try:
        if changed:
            raise LowRankError(f"{changed[0] or 'the network'!r} has a forward of its own")
        with torch.device("meta"):  # only names, sizes and ties are compared
            skeleton = _skeleton(folder, manifest)
            everything = _with_shared(tensors, manifest.shared)
            values = {name: value.to("meta") for name, value in everything.items()}
            _complete(skeleton, manifest, values, folder / WEIGHTS)
    except LowRankError as error:
        warnings.warn(
            f"load(folder) will not give this network back ({error}); keep the code that builds "
            "it, and call load(folder, model=...) with a dense one",
            stacklevel=3,
        )
    except Exception:  # some classes cannot be built without values: nothing is learnt
        pass


def _stored(
    state: dict[str, Tensor], sharing: Sharing, types: dict[str, torch.dtype]
) -> dict[str, Tensor]:
    """Return a copy of each tensor that is stored, by name, in the type that it has on disk."""
    kept = {}
    for name, value in state.items():
        if value.device.type == "meta":
            raise LowRankError(f"{name!r} has no values (device meta); load the weights first")
        if name not in sharing.shared:
            value = value.detach().to("cpu", types.get(name, value.dtype))
            kept[name] = value.clone(memory_format=torch.contiguous_format)
    return kept


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
        return _with_shared(load_file(file), shared)
    except FileNotFoundError:
        raise LowRankError(f"{file} is missing; save the network again") from None
    except (SafetensorError, KeyError) as error:
        raise LowRankError(f"{file} is damaged ({error}); save the network again") from None


def _with_shared(tensors: dict[str, Tensor], shared: dict[str, str]) -> dict[str, Tensor]:
    """Return tensors also by the names of those that are stored under another name."""
    every = dict(tensors)
    if twice := sorted(tensors.keys() & shared.keys()):
        raise KeyError(f"{twice[0]} is stored and shared as well")
    for name in shared:
        first, passed = name, set[str]()
        while first in shared and first not in passed:  # damaged files may lead round in circles
            passed.add(first)
            first = shared[first]
        every[name] = tensors[first]
    return every


def _skeleton(place: Path, manifest: Manifest, dense: nn.Module | None = None) -> nn.Module:
    """Return the network without its values, which are arbitrary."""
    if dense is not None:
        model = _copy_skeleton(dense, manifest.swaps, place)
    else:
        model = _from_config(place, manifest)
        for swap in manifest.swaps:
            replace_module(model, swap.name, _build(swap, place))
    resize(model, manifest.resized)
    return model


def _build(swap: Swap, place: Path) -> nn.Module:
    try:
        return LAYERS[swap.kind](**swap.spec, dtype=getattr(torch, swap.dtype))
    except (
        AttributeError,  # a type that torch does not have
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
    if (place / GENERATION).is_file():
        _read_generation(model, place)
    return model


def _read_generation(model: Any, place: Path) -> None:
    import transformers

    try:
        model.generation_config = transformers.GenerationConfig.from_pretrained(place)
        model.generation_config._from_model_config = False  # or the model's settings replace it
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(
            f"{place / GENERATION} is damaged ({fault}); save the network again"
        ) from None


def _add_biases(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Add biases that were saved to layers that the network's class builds without one.

    A compression that keeps the mean response adds such a bias, and the layer keeps it when it is
    made dense again.
    """
    for name, layer in model.named_modules():
        value = tensors.get(f"{name}.bias")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None and value is not None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(value.shape))


def _complete(model: nn.Module, manifest: Manifest, tensors: dict[str, Tensor], file: Path) -> None:
    """Give a network without values those of a file, shared as they were when it was saved."""
    _add_biases(model, tensors)
    targets = state_of(model)
    differing = sorted(targets.keys() ^ tensors.keys())
    common = targets.keys() & tensors.keys()
    differing += [name for name in common if targets[name].shape != tensors[name].shape]
    if differing:
        raise LowRankError(
            f"{file} does not fit {type(model).__name__}: {len(differing)} tensors differ, the "
            f"first is {differing[0]!r}"
        )
    # What is stored in half precision has the network's in memory.
    types = {name: targets[name].dtype for name in stored_types(model)}
    types |= dict.fromkeys(manifest.halved, torch.float32)
    tensors = {name: value.to(types.get(name, value.dtype)) for name, value in tensors.items()}
    sharing = Sharing(manifest.shared, manifest.views)
    named = {*manifest.halved, *manifest.shared, *manifest.shared.values(), *manifest.views}
    lost = sorted(named.union(view.of for view in manifest.views.values()) - targets.keys())
    if lost:
        raise LowRankError(f"{file.parent / MANIFEST} is damaged: there is no tensor {lost[0]!r}")
    fill(model, tensors, sharing)
    mark(model, manifest.halved)
