"""Lines on stderr that say which step a long command is at, and for how long."""

import sys
import threading
import time
from types import TracebackType

CLEAR = "\r\x1b[K"  # to the start of the line of a terminal, which is emptied
QUIET = 10.0  # seconds between two lines where nobody looks on, as in a log
REFRESH = 0.5  # on a terminal


class Steps:
    """The steps of a command: `with Steps(3) as steps: steps.begin("load")`.

    A step has no known end, so that its seconds are shown, and no share that would be made up. On
    a terminal one line is kept up to date; elsewhere each step has a line when it begins, and
    another one every few seconds.

    Parameters
    ----------
    total
        Number of steps.
    every
        Seconds between two lines; None: half a second on a terminal, ten elsewhere.
    """

    def __init__(self, total: int, every: float | None = None) -> None:
        self.total, self._number, self._text = total, 0, ""
        self._shown = sys.stderr.isatty()
        self._every = every or (REFRESH if self._shown else QUIET)
        self._since, self._over = time.monotonic(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Steps":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._shown:
            print(CLEAR, end="", file=sys.stderr, flush=True)

    def begin(self, text: str) -> None:
        """Say that the next step begins."""
        with self._lock:
            self._number, self._text, self._since = self._number + 1, text, time.monotonic()
            self._print("")

    def _tick(self) -> None:
        while not self._over.wait(self._every):
            with self._lock:
                seconds = time.monotonic() - self._since
                if self._number and seconds >= self._every / 2:  # not right after its first line
                    self._print(f" · {_duration(seconds)}")

    def _print(self, seconds: str) -> None:
        line = f"[{self._number}/{self.total}] {self._text}{seconds}"
        if self._shown:
            print(f"{CLEAR}{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
