"""Which faults are results, and which are not: the one place where that is decided.

Permanent
    A `LowRankError`: the method refuses, a weight is not finite, training diverged, a layer is not
    supported. The same call fails again, so that the cell is a row with this reason.
Transient
    What the machine, the network or another process did: the operating system's errors in
    `OF_THE_MACHINE` (disk full or read-only, I/O error, too many open files, a connection lost),
    no memory left on the processor or the accelerator, a killed worker, a hub that is busy or
    silent. Nothing is recorded; the job ends, and the next run tries again by itself.
Unknown
    Anything else, most likely a bug: a row with its reason, so that other cells go on.

Libraries hide the first cause of a fault behind exceptions of their own, or say it in words only:
the whole chain of exceptions is looked at, and the system's words count as its error number does.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lowrank_bench.errors import TransientError

OF_THE_MACHINE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES),
        *(errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY),
        *(errno.EINTR, errno.ENOLCK, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EPIPE),
        *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNREFUSED),
        *(errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
# By name, of a class or of one that it derives from: their libraries need not be there.
CLASSES = {
    "TransientError",
    "MemoryError",
    "OutOfMemoryError",  # torch's, of an accelerator
    "AcceleratorError",  # torch's: after one, every call of the process fails
    "ConnectionError",
    "TimeoutError",
    "BrokenExecutor",  # a worker of a pool was killed
    "TransportError",  # httpx
    "RequestException",  # requests
    "IncompleteRead",
    "ProtocolError",
}
# What libraries in other languages say of the same faults.
WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|ALLOC_FAILED|CUDA error"
    r"|DataLoader worker|PytorchStreamWriter failed|requested and \d+ written",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?:os error |\[errno )(\d+)", re.IGNORECASE)
SAID = {os.strerror(number) for number in OF_THE_MACHINE - {errno.EAGAIN, errno.EPERM}}
BUSY = {408, 425, 429}  # of HTTP: come back later


def is_transient(error: BaseException, store: Path | None = None) -> bool:
    """Return whether a fault has nothing to do with the work that met it.

    Parameters
    ----------
    store
        Root of the store, from which another process may remove what this one is reading.
    """
    return any(_is_of_the_machine(fault, store) for fault in _chain(error))


def transient(error: BaseException, title: str, store: Path | None = None) -> TransientError:
    """Return the one line on a transient fault: what was done, what happened, what to do."""
    text = brief(error)
    if store is not None and str(store) not in text:
        text += f" (store: {store})"
    return TransientError(f"{title}: {text}; no result is recorded, the same command resumes")


def brief(error: BaseException) -> str:
    """Return an exception in one line of at most 300 characters."""
    name = "" if isinstance(error, OSError) and error.errno else f"{type(error).__name__}: "
    return f"{name}{' '.join(str(error).split())}"[:300]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from, or raised in the handling of."""
    seen: set[int] = set()
    fault: BaseException | None = error
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        yield fault
        fault = fault.__cause__ or fault.__context__


def _is_of_the_machine(fault: BaseException, store: Path | None) -> bool:
    text = str(fault)
    if isinstance(fault, FileNotFoundError):
        return store is not None and str(store) in text
    status = getattr(getattr(fault, "response", None), "status_code", None)
    if isinstance(status, int):  # an answer over HTTP; some derive from the classes below
        return status >= 500 or status in BUSY
    if CLASSES & {cls.__name__ for cls in type(fault).__mro__}:
        return True
    numbers = {int(number) for number in NUMBER.findall(text)}
    if isinstance(fault, OSError) and fault.errno is not None:
        numbers.add(fault.errno)
    if numbers & OF_THE_MACHINE or WORDS.search(text):
        return True
    return any(words in text for words in SAID)
