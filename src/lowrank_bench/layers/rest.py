"""The rest of a network in half precision on disk: biases, normalisations, position tables.

Values are rounded once, when the network is compressed, and stay in the network's precision in
memory. A tensor that was trained afterwards is no longer exact in half precision, and is then
saved as it is: a saved network always computes what it did before.
"""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from lowrank_bench.layers.sharing import state_of

MARK = "_lowrank_half"  # attribute of a module: local names of its tensors in half precision
HALF = torch.float16
LEAST, MOST = 2.0**-14, 65504.0  # normal numbers of half precision


def halvable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return which of the named tensors half precision can hold.

    These are float32 tensors without entries beyond its range. Of parameters the largest entry
    must be a normal number in it, of buffers, such as variances, every entry but zeros.
    """
    state, parameters = state_of(model), dict(model.named_parameters(remove_duplicate=False))
    return [name for name in names if _fits(state[name], name in parameters)]


def halve(model: nn.Module, names: Collection[str]) -> None:
    """Round the named tensors to half precision, in place; `save` writes them in 16 bits."""
    state = state_of(model)
    with torch.no_grad():
        for name in names:
            state[name].copy_(state[name].to(HALF))
    mark(model, names)


def mark(model: nn.Module, names: Collection[str]) -> None:
    """Note which tensors of a network are to be saved in half precision."""
    for name in names:
        path, _, local = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, MARK, sorted({*getattr(module, MARK, ()), local}))


def halved_types(model: nn.Module) -> dict[str, torch.dtype]:
    """Return the type on disk of the tensors that `halve` rounded, by full name.

    Those that were changed since are left out.
    """
    types = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for local in vars(module).get(MARK, ()):
            value = module._parameters.get(local)
            value = module._buffers.get(local) if value is None else value
            if value is not None and value.dtype == torch.float32 and _is_half(value):
                types[f"{path}.{local}" if path else local] = HALF
    return types


def _fits(value: Tensor, is_parameter: bool) -> bool:
    if value.dtype != torch.float32 or value.device.type == "meta" or not value.numel():
        return False
    sizes = value.detach().abs()
    nonzero = sizes[sizes > 0]
    if not nonzero.numel():
        return True
    least = nonzero.max() if is_parameter else nonzero.min()
    return bool(nonzero.isfinite().all()) and float(least) >= LEAST and float(nonzero.max()) <= MOST


def _is_half(value: Tensor) -> bool:
    plain = value.detach()
    return bool((plain.to(HALF).to(plain.dtype) == plain).all()) if not plain.is_meta else True
