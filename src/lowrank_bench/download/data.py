"""The splits of a task as parquet files: from a hub, or generated."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank_bench.cells import Source, split_and_limit
from lowrank_bench.digest import file_digest
from lowrank_bench.errors import LowRankError
from lowrank_bench.store import Store


def read_split(folder: Path, name: str) -> pd.DataFrame:
    """Return a split of a data folder, or the part of it that `cells.rows_of` named.

    A part is a prefix of the shuffle that also limits training sets.
    """
    split, limit = split_and_limit(name)
    rows = pd.read_parquet(folder / f"{split}.parquet")
    return rows if limit is None or limit >= len(rows) else rows.sample(n=limit, random_state=0)


def download_data(source: Source, store: Store) -> Path:
    """Return the store's folder with one `<split>.parquet` a split.

    The manifest notes which splits are missing and which are not the official files.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, the training split or a column is missing, or a file is
        not the official one and `hub.unofficial` is false.
    """
    wanted = set(source.checks["splits"])
    found = store.folder("data", source.key, deep=True)
    if found:
        known = store.manifest(found)
        held = {*known["splits"], *known["missing"]}
        if wanted <= held:
            check_data(source, known)
            return found
        wanted |= held  # another experiment asked for other splits of the same source
        store.discard(found, f"holds {', '.join(sorted(held))} only")
    about: dict[str, Any] = {"source": dict(source.spec), "splits": {}, "missing": {}}
    make = _generate if source.spec["kind"] == "synthetic" else _fetch
    with store.new_folder("data", source.key, about) as fresh:
        make(source, sorted(wanted), fresh, about)
        check_data(source, about)
    return store.place("data", source.key)


def check_data(source: Source, about: Mapping[str, Any]) -> None:
    """Refuse splits that are not the official ones, unless the configuration accepts them."""
    for split, facts in about["splits"].items():
        fault = unofficial(facts, source.checks["splits"].get(split, {}))
        if fault and not source.checks["unofficial"]:
            raise LowRankError(
                f"task {source.name}: split {split} is not the official file ({fault}); empty "
                "the hub's cache (HF_HOME), or accept and label it: override hub.unofficial=true"
            )


def unofficial(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return in what a split differs from the official one; empty when in nothing known."""
    if expected.get("rows") not in (None, facts["rows"]):
        return f"{facts['rows']:,} rows, official {expected['rows']:,}"
    if expected.get("sha256") not in (None, facts["sha256"]):
        return f"SHA-256 {facts['sha256'][:12]}…, official {expected['sha256'][:12]}…"
    return ""


def _generate(source: Source, wanted: list[str], folder: Path, about: dict[str, Any]) -> None:
    from lowrank_bench.synthetic.tasks import make_task

    splits = make_task(source.spec["task"], source.spec["seed"])
    for split in wanted:
        if split in splits:
            _write(pd.DataFrame(splits[split]), folder, split, about, sha256=None)
        else:
            about["missing"][split] = f"the generated suite has no split {split}"
    _need_training_split(source, about)


def _fetch(source: Source, wanted: list[str], folder: Path, about: dict[str, Any]) -> None:
    from lowrank_bench.download import hub

    spec = source.spec
    files, about["commit"] = hub.list_files(spec["repo"], spec["revision"], "dataset")
    for split in wanted:
        names = _parquet_files(files, spec["config"], split)
        if not names:
            about["missing"][split] = f"split {split} is absent from {spec['repo']}"
            continue
        paths = [hub.fetch(spec["repo"], name, spec["revision"], "dataset") for name in names]
        sha256 = file_digest(paths[0]) if len(paths) == 1 else None
        rows = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
        absent = set(source.checks["columns"]) - set(rows.columns)
        if absent:
            raise LowRankError(
                f"task {source.name}: {spec['repo']} has no column {sorted(absent)[0]!r} in split "
                f"{split}; its columns: {', '.join(rows.columns)}"
            )
        _write(rows, folder, split, about, sha256)
    _need_training_split(source, about)


def _need_training_split(source: Source, about: Mapping[str, Any]) -> None:
    train = source.checks["train"]
    if train in about["missing"]:
        raise LowRankError(f"task {source.name}: {about['missing'][train]}, and training needs it")


def _parquet_files(files: list[str], config: str | None, split: str) -> list[str]:
    folder = rf"(?:{re.escape(config)}|data)/" if config else r"(?:.*/)?"
    pattern = re.compile(rf"{folder}{re.escape(split)}(?:-\d+-of-\d+)?\.parquet")
    return [name for name in files if pattern.fullmatch(name)]


def _write(
    rows: pd.DataFrame, folder: Path, split: str, about: dict[str, Any], sha256: str | None
) -> None:
    rows.to_parquet(folder / f"{split}.parquet", index=False)
    about["splits"][split] = {"rows": len(rows), "sha256": sha256}
