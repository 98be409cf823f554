"""Wait for a hub only as long as it sends something.

A client has a time limit for each request, and repeats what ran out of it, several times, with
longer limits: minutes, or no end. What bounds the whole is how long nothing at all arrived.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
STEP = 0.05  # seconds between two looks
_LAST = {"heard": 0.0}  # when a byte arrived, on the clock of `time.monotonic`


class Silence(Exception):
    """Nothing arrived for too long."""


def heard(*_: object) -> None:
    """Say that something arrived."""
    _LAST["heard"] = time.monotonic()


def listener() -> type[Any]:
    """Return a progress bar, as `hf_hub_download` takes it, that calls `heard`."""
    from huggingface_hub.utils.tqdm import tqdm

    class _Listener(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            """Count bytes, and note that they came."""
            if n:
                heard()
            shown: bool | None = super().update(n)
            return shown

    return _Listener


def patiently(request: Callable[[], Result], patience: float) -> Result:
    """Return the result of a request, or stop waiting for it.

    Parameters
    ----------
    request
        Called in a thread of its own, which is left behind where the request does not end.
    patience
        Seconds without a call of `heard`.

    Raises
    ------
    Silence
        When that time has passed.
    """
    outcome: dict[str, Any] = {}

    def _run() -> None:
        try:
            outcome["result"] = request()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=_run, daemon=True)  # the process may end without it
    heard()
    thread.start()
    while thread.is_alive():
        if time.monotonic() - _LAST["heard"] > patience:
            raise Silence
        thread.join(STEP)
    if "error" in outcome:
        raise outcome["error"]
    result: Result = outcome["result"]
    return result
