"""Refuse an embedding that never runs, because another one of its size runs in its place."""

from collections.abc import Collection

import torch
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.forward import example_of
from lowrank_bench.network.hooks import watching


def refuse_idle(model: nn.Module, name: str, embedding: nn.Embedding) -> None:
    """Check that an embedding is not a copy that the network holds and never calls.

    Only networks with several embeddings of the same size are looked at. One forward tells which
    of them run, where the network says what it takes; otherwise equal tables are refused.

    Raises
    ------
    LowRankError
        When the embedding does not run and another one does, or when that cannot be seen.
    """
    twins = {
        other: module
        for other, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not embedding
        and module.weight.shape == embedding.weight.shape
    }
    if not twins:
        return
    ran = _running(model, [name, *twins])
    if name in ran:
        return
    if ran:
        raise LowRankError(
            f"layer {name!r} does not run in a forward of {type(model).__name__}, {ran[0]!r} does; "
            f"choose it with layer={ran[0]!r}, or let both names be one module"
        )
    weight = embedding.weight
    equal = [
        other
        for other, twin in twins.items()
        if weight.device == twin.weight.device and torch.equal(weight, twin.weight)
    ]
    if equal:
        raise LowRankError(
            f"layers {name!r} and {equal[0]!r} are two embeddings with equal tables, of which only "
            "one may run; let both names be one module, or delete the one that does not run"
        )


def _running(model: nn.Module, names: Collection[str]) -> list[str]:
    """Return which modules run in one forward; none where the network cannot be run."""
    ran: dict[str, None] = {}
    watchers = {name: (lambda *_, name=name: ran.setdefault(name)) for name in names}
    try:
        example = example_of(model)
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            example["decoder_input_ids"] = example["input_ids"]
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watching(model, watchers):
            model(**example)
    except Exception:  # what the forward of a stranger's network may raise; nothing is learnt then
        return []
    return list(ran)
