"""`lowrank store verify | gc | export | import`: upkeep of the artifacts of all experiments."""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError

DAMAGED = 1  # exit code


def add_store(group: Any) -> None:
    """Add the command with its four actions to a parser's commands."""
    command = group.add_parser(
        "store",
        help="verify, tidy up, export or import the artifacts of experiments",
        description="Upkeep of the store in which experiments keep what they have computed.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "verify", "read everything; remove what is damaged, so that it is made again")
    tidy = _action(actions, "gc", "list what no experiment needs, and what killed jobs have left")
    _add_results(tidy)
    tidy.add_argument("--delete", action="store_true", help="delete it; without, it is only listed")
    pack = _action(actions, "export", "write an experiment's artifacts to one tar")
    pack.add_argument("experiment", metavar="EXPERIMENT", help="its name below the results folder")
    pack.add_argument("out", metavar="FILE", type=Path, help="the tar to write")
    _add_results(pack)
    bring = _action(actions, "import", "bring the artifacts of a tar into the store, verified")
    bring.add_argument("archive", metavar="FILE", type=Path, help="what `store export` has written")


def _action(actions: Any, name: str, text: str) -> ArgumentParser:
    parser: ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text}.".capitalize()
    )
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="artifact store")
    parser.set_defaults(run=ACTIONS[name])
    return parser


def _add_results(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="results of the experiments that use the store (default: results); may be repeated",
    )


def verify_store(options: Namespace) -> int:
    """Read every artifact; report and remove the damaged ones; return 1 if there were any."""
    from lowrank_bench.store.upkeep import artifacts, verify

    store = _store(options, must_exist=True)
    counts: Counter[str] = Counter()
    damaged = 0
    for entry in _shown(list(artifacts(store)), "verify"):
        counts[entry.kind] += 1
        damaged += bool(verify(store, entry))
    listed = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items()))
    result = f"{damaged:,} damaged and removed; the next run makes them again"
    print(f"{options.store}: {listed or 'empty'}: {result if damaged else 'all intact'}")
    return DAMAGED if damaged else 0


def collect_garbage(options: Namespace) -> None:
    """List, or delete, what no experiment needs."""
    from lowrank_bench.store.holdings import holdings_of
    from lowrank_bench.store.upkeep import remove, unneeded

    store = _store(options, must_exist=True)
    known = holdings_of(options.results or [Path("results")])
    total = number = 0
    for entry in unneeded(store, known):
        size = entry.size()
        if options.delete:
            remove(entry)
        print(f"{entry.place} ({_bytes(size)})")
        total, number = total + size, number + 1
    if not number:
        print(f"{options.store}: nothing to delete")
        return
    said = "deleted" if options.delete else "not needed; delete them with --delete"
    print(f"{options.store}: {number:,} artifacts, {_bytes(total)}: {said}")


def export_experiment(options: Namespace) -> int:
    """Write an experiment's artifacts to one tar; return 1 if some of them were damaged."""
    from lowrank_bench.store.archive import export
    from lowrank_bench.store.holdings import HOLDINGS, Holdings
    from lowrank_bench.store.upkeep import artifacts, verify

    store, name = _store(options, must_exist=True), options.experiment
    folders = [folder / name for folder in options.results or [Path("results")]]
    known = Holdings(folder / HOLDINGS for folder in folders)
    listed = [e for e in artifacts(store) if e.kind != "unfinished" and known.need(e.kind, e.place)]
    if damaged := sum(bool(verify(store, entry)) for entry in _shown(listed, "verify")):
        print(f"{damaged:,} artifacts were damaged and removed; run the experiment again first")
        return DAMAGED
    size = export(store, listed, options.out)
    lacking = known.missing("cell", (entry.key for entry in listed if entry.kind == "cell"))
    more = f"; {lacking:,} cells of {name} are not computed yet" if lacking else ""
    print(f"{options.out}: {len(listed):,} artifacts of {name}, {_bytes(size)}{more}")
    return 0


def import_artifacts(options: Namespace) -> int:
    """Bring artifacts into the store; return 1 if some of them were refused."""
    from lowrank_bench.store.archive import unpack

    if not options.archive.is_file():
        raise LowRankError(f"{options.archive} is no file; `lowrank store export` writes one")
    counts: Counter[str] = Counter()
    for name, outcome in unpack(_store(options), options.archive):
        counts[outcome if outcome in ("new", "known") else "refused"] += 1
        if outcome not in ("new", "known"):
            print(f"warning: {name}: {outcome}; it was not imported", file=sys.stderr)
    new, known, refused = (counts[word] for word in ("new", "known", "refused"))
    print(f"{options.store}: {new:,} artifacts imported, {known:,} known, {refused:,} refused")
    return DAMAGED if refused else 0


ACTIONS = {
    "verify": verify_store,
    "gc": collect_garbage,
    "export": export_experiment,
    "import": import_artifacts,
}


def _store(options: Namespace, must_exist: bool = False) -> Any:
    from lowrank_bench.store.store import Store

    if must_exist and not options.store.is_dir():
        raise LowRankError(f"there is no store at {options.store}; name it with --store")
    return Store(options.store)


def _shown(entries: list[Any], title: str) -> Iterable[Any]:
    """Return the entries with a progress bar on a terminal."""
    from tqdm import tqdm

    shown: Iterable[Any] = tqdm(entries, desc=title, unit="artifact", leave=False, disable=None)
    return shown


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"
