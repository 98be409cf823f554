"""Give a network the tensors of another, shared between its layers as they were there."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.sharing import Sharing, check_gaps, sharing_of, state_of


def fill(model: nn.Module, values: Mapping[str, Tensor], sharing: Sharing) -> None:
    """Copy values into a network, whose precision and whose ties between tensors become theirs.

    Tensors that are tied in the network as they should be stay the objects that they are; others
    are replaced: by one for all names that are to be tied, by several where the network ties what
    is to be separate.

    Parameters
    ----------
    values
        For each tensor of the network, in its shape.
    sharing
        Which of them are to be one.

    Raises
    ------
    LowRankError
        When tensors that are to be separate belong to a module that the network has under several
        names, or it does not keep what it is given.
    """
    targets = state_of(model)
    known = sharing_of(targets)
    blocks = {tuple(names) for names in known.names(targets).values()}
    wanted = sharing.names(targets)
    done: set[str] = set()
    for first, names in wanted.items():
        if tuple(names) in blocks and not {first, *names} & {*known.views, *sharing.views}:
            _copy(targets[first], values[first])
        elif first not in done:
            group = [first]
            if first in sharing.views:
                base = sharing.views[first].of
                group = [name for name, view in sharing.views.items() if view.of == base]
            like = {name: _like(targets, wanted[name]) for name in group}
            for name, value in _fresh(like, values, sharing).items():
                _put(model, wanted[name], value)
            done.update(group)
    state = state_of(model)
    if sharing_of(state).partition(state) != sharing.partition(targets):
        raise LowRankError(
            f"{type(model).__name__} does not keep apart, or not together, the tensors that the "
            "saved network had so: it has one module under several names; give the network as it "
            "was when it was compressed, by model=..."
        )


def _like(targets: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """Return the first parameter of some names, or the first tensor where all are buffers."""
    parameters = (targets[name] for name in names if isinstance(targets[name], nn.Parameter))
    return next(parameters, targets[names[0]])


def _copy(target: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        target.data = target.data.to(value.dtype)
        target.copy_(value)


def _fresh(
    targets: Mapping[str, Tensor], values: Mapping[str, Tensor], sharing: Sharing
) -> dict[str, Tensor]:
    """Return new tensors of some values: a single one, or all views of one memory."""
    made: dict[str, Tensor] = {}
    shapes = {name: tuple(value.shape) for name, value in targets.items()}
    memory = torch.empty(0)
    for name, target in targets.items():
        value = values[name]
        if name in sharing.views:
            if not len(made):
                size = check_gaps(shapes, sharing.views)
                memory = torch.zeros(size, dtype=value.dtype, device=target.device)
            view = sharing.views[name]
            fresh = memory.as_strided(shapes[name], view.stride, view.offset)
        else:
            fresh = torch.empty_like(target.data, dtype=value.dtype)
        fresh.copy_(value)
        if isinstance(target, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=target.requires_grad)
        made[name] = fresh
    return made


def _put(model: nn.Module, names: list[str], value: Tensor) -> None:
    """Put one tensor in the places of all its names."""
    for name in names:
        path, _, local = name.rpartition(".")
        try:
            module = model.get_submodule(path)
            known = local in module._parameters or local in module._buffers
        except AttributeError:
            known = False
        if not known:
            raise LowRankError(
                f"{name!r} is the name of a tensor and not its place in the network, so that it "
                "cannot be tied or untied as it was"
            )
        if local in module._parameters:
            setattr(module, local, value)  # some modules note their parameters in lists as well
        else:
            module._buffers[local] = value
