"""What all workflow scripts share: parse the job, keep a log, end an error in one line."""

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.registry import register_folders
from lowrank_bench.plan.cells import Job, job_from_json
from lowrank_bench.stages.cards import take_cards
from lowrank_bench.stages.faults import is_transient, transient
from lowrank_bench.stages.run import Outcome, failures_of, write_outcome
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store


def job_script(
    snakemake: Any, run: Callable[[Job, Store, Settings], list[Outcome]], offline: bool = False
) -> None:
    """Run the job of a rule and write its manifest.

    Parameters
    ----------
    snakemake
        The object that Snakemake gives to scripts: `params.job`, `params.settings`, `threads`;
        the resource `gpu` is the number of cards that the process reserves.
    run
        Called as `run(job, store, settings)`; returns the outcome of each piece of work.
    offline
        Forbid access to a hub: only the download stage may have it.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with logged(snakemake.log[0]):
        take_cards(int(snakemake.resources.get("gpu", 0)))
        job = job_from_json(json.loads(snakemake.params.job))
        known = {
            "threads": snakemake.threads,
            "failures": failures_of(Path(name) for name in snakemake.input),
        }
        settings = Settings.from_dict(json.loads(snakemake.params.settings) | known)
        register_folders(settings.plugins)
        outcome = run(job, Store(settings.store), settings)
        write_outcome(Path(snakemake.output[0]), job, outcome)


@contextmanager
def logged(log: str) -> Iterator[None]:
    """Copy stderr to the rule's log; end with one line on what users or the machine did wrong.

    Any other exception ends in its traceback.
    """
    sys.stderr = _Tee(sys.stderr, Path(log))
    try:
        yield
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Exception as error:
        if is_transient(error):
            print(f"error: {transient(error, Path(log).stem)}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        sys.exit(1)
    finally:
        # Otherwise the interpreter searches all of torch's objects for garbage when it exits.
        gc.freeze()


class _Tee:
    """A stream that writes to the terminal and, as long as its disk has room, to a file."""

    def __init__(self, stream: Any, file: Path) -> None:
        self._stream, self._begun = stream, ""
        self._file: IO[str] | None = None
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("w")

    def write(self, text: str) -> int:
        """Write to both; the terminal gets whole lines, so that two jobs do not mix theirs."""
        if self._file:
            with suppress(OSError):
                self._file.write(text)
        lines, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._stream.write(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        if self._file:
            with suppress(OSError):
                self._file.flush()
        if self._begun:
            self._stream.write(self._begun)
            self._begun = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
