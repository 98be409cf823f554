"""Empirical sensitivity: the largest share that a channel ever has in what a layer computes.

The weights of each filter are split by sign. The share of weight w_it times input a_tp in output
(i, p) of image x is |w_it| a_tp / z_ip, where z is the part of the output that the weights of that
sign make: one number for each multiplication of the forward. Most of these shares are never formed.
The p-norm over the filters i bounds their largest share from above and costs one small product of
matrices; only what this bound cannot exclude is computed.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lowrank_bench.device import fixed_threads
from lowrank_bench.network.layers import replaced
from lowrank_bench.network.moments import check_seen
from lowrank_bench.prune.examples import check_outputs
from lowrank_bench.prune.probe import Probe
from lowrank_bench.prune.signed_weights import SATURATED

# Images at a time, few enough for a layer's numbers to stay in the cache; fewer at first, when no
# share is known yet that excludes others.
IMAGES, FIRST = 24, 6
HALF = (torch.float16, torch.bfloat16)


@torch.inference_mode()
def sensitivities(
    model: nn.Module, names: Sequence[str], inputs: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return for each input channel of some layers its largest share over all images.

    Parameters
    ----------
    model
        The network, which is left as it was.
    names
        Names of convolutions without groups and of linear layers.
    inputs
        Keyword arguments of forwards, in which the images of a batch do not affect each other.

    Returns
    -------
    dict
        Tensors c float32 in [0, 1]: for each channel or feature the maximum over images x, filters
        i, positions t of the kernel and patches p of
        max(W⁺_it a_tp / (W⁺a)_ip, W⁻_it a_tp / (W⁻a)_ip); the share in a sum up to `TINY` is 0.
        Inputs of both signs are split into a⁺ − a⁻, as if each were an image. Networks in half
        precision are computed in float32. All runs on one thread, so that results do not depend
        on the number of threads.

    Raises
    ------
    LowRankError
        When the network's outputs are NaN or infinite, or a layer does not run.

    References
    ----------
    Liebenwein, Baykal, Lang, Feldman, Rus, "Provable Filter Pruning for Efficient Neural Networks",
    ICLR 2020, section 3 (empirical sensitivity).
    """
    half = any(p.dtype in HALF for p in model.parameters())
    model = copy.deepcopy(model).float() if half else model
    probes = {name: _probe_of(model, name) for name in names}
    probed = replaced(model, dict(probes))
    _keep_freed_memory()
    parts = _pieces(inputs)
    if half:
        parts = ({k: v.float() if v.dtype in HALF else v for k, v in p.items()} for p in parts)
    # Threads divide long sums between them, and the last bit can decide which channels are drawn.
    with fixed_threads(1):
        _run(probed, list(probes.values()), parts)
    check_seen({name: probe.runs for name, probe in probes.items()})
    best = {name: probe.weights.best.cpu() for name, probe in probes.items()}
    return {name: torch.where(values >= SATURATED, 1, values) for name, values in best.items()}


def _keep_freed_memory() -> None:
    """Free a large block that was never touched, so that later blocks are kept for reuse.

    glibc keeps freed memory up to twice the largest block that it has seen freed, and returns the
    rest to the system; getting a page back costs more than a pass over it.
    """
    torch.empty(24 * 2**20, dtype=torch.uint8)


def _run(probed: nn.Module, probes: Sequence[Probe], parts: Iterable[dict[str, Tensor]]) -> None:
    """Run a network with its probes on some images, in the faster memory layout if possible."""
    channels_last = True
    for part in parts:
        if channels_last:
            try:
                check_outputs(probed(**_channels_last(part)))
                continue
            except RuntimeError:  # the network's code takes views that need the usual layout
                channels_last = False
                for probe in probes:
                    probe.usual_layout = True
        check_outputs(probed(**part))


def _probe_of(model: nn.Module, name: str) -> Probe:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return Probe(layer)


def _pieces(batches: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Cut batches into pieces of `FIRST` images, then of more and more, up to `IMAGES`."""
    size = FIRST
    for batch in batches:
        start, count = 0, len(next(iter(batch.values())))
        while start < count:
            yield {name: value[start : start + size] for name, value in batch.items()}
            start, size = start + size, min(4 * size, IMAGES)


def _channels_last(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return images with the channels of a pixel side by side in memory, faster to convolve."""
    layout = torch.channels_last
    return {k: v.contiguous(memory_format=layout) if v.ndim == 4 else v for k, v in part.items()}
