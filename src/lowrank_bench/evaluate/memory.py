"""The bytes of a network: stored tensors, the peak of a forward, and files on disk."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowrank_bench.artifact import save
from lowrank_bench.device import device_of


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; shared memory counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def activation_peak(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Return the peak memory of a forward, in bytes, without the network's own tensors.

    On CUDA this is the peak of PyTorch's allocator. Elsewhere it is the largest total size of the
    tensors that exist at one time, without the inputs; memory that a kernel allocates internally,
    such as for rearranged weights, is not visible.
    """
    device = device_of(model)
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            model(**inputs)
            peak: int = torch.cuda.max_memory_allocated(device) - before
            return peak
        alive = _Alive([*model.parameters(), *model.buffers(), *inputs.values()])
        with alive:
            model(**inputs)
        return alive.peak


def file_bytes(model: nn.Module) -> int:
    """Return the size in bytes of the folder that `save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        place = save(model, Path(folder) / "network")
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


class _Alive(TorchDispatchMode):
    """Adds up the tensors that exist after each operation, except those that existed before."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and importing the compiler takes a second."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        gone = [key for key, (reference, _) in self.alive.items() if reference.expired()]
        for key in gone:
            del self.alive[key]
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return output
