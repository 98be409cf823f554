"""What an experiment holds in the store, and which of its jobs are open again."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lowrank_bench.plan.cells import Job
from lowrank_bench.stages.record import KIND, SUFFIX
from lowrank_bench.store.files import write_atomic
from lowrank_bench.store.holdings import HOLDINGS
from lowrank_bench.store.store import Store


def write_holdings(folder: Path, stages: Mapping[str, tuple[Job, ...]]) -> None:
    """Write which artifacts an experiment rests on, for `lowrank store gc` and `export`.

    Parameters
    ----------
    folder
        The experiment's results.
    stages
        Its jobs by stage.
    """
    jobs = [job for listed in stages.values() for job in listed]
    points = {point.key: point for job in jobs for point in job.checkpoints}.values()
    cells = {cell.key for job in jobs if job.stage != "factorize" for cell in job.cells()}
    sources = [source for point in points for source in (point.network, point.data)]
    keys: dict[str, Iterable[str]] = {
        "network": {source.key for source in sources if source.kind == "network"},
        "data": {source.key for source in sources if source.kind == "data"},
        "checkpoint": {point.key for point in points},
        "decomposition": {key for job in stages["factorize"] for key in job.decompositions()},
        KIND: cells,
        "trained": cells,
        "unfinished": {*cells, *(point.key for point in points)},
    }
    content = {
        "keys": {kind: sorted(listed) for kind, listed in keys.items()},
        # The keys of these depend on more than a plan knows, such as the tokenizer.
        "tasks": sorted({point.task for point in points}),
        "checkpoints": sorted({point.title() for point in points}),
    }
    write_atomic(folder / HOLDINGS, json.dumps(content))


def bring_back(folder: Path) -> None:
    """Give the files of an experiment's results that come from the future the time of now.

    After the clock was set back, Snakemake would take every new file for older than what it was
    made from: it would end with an error, or take old scores for younger than new cells.
    """
    now = time.time()
    for place in folder.rglob("*"):
        with suppress(FileNotFoundError, PermissionError):
            if place.stat().st_mtime > now:
                os.utime(place, (now, now))


def reopen(manifests: Iterable[Path], store: Store) -> tuple[int, int]:
    """Remove the manifests of jobs whose cells the store no longer holds.

    Snakemake takes a job for done when its manifest is there. A cell that was damaged, and removed
    when that was seen, or removed by hand, makes its job run again.

    Returns
    -------
    tuple
        How many jobs are open again, and how many pieces of the others failed for good.
    """
    opened = failed = 0
    for place in manifests:
        try:
            pieces = json.loads(place.read_text())["outcome"]
            done = [piece["key"] for piece in pieces if piece["status"] == "ok"]
            whole = all(store.holds(KIND, key, SUFFIX) for key in done)
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):  # a damaged manifest
            whole = False
        if whole:
            failed += len(pieces) - len(done)
        else:
            place.unlink(missing_ok=True)
            opened += 1
    return opened, failed
