"""The splits of a task as parquet files: from a hub, or generated."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank_bench.errors import LowRankError
from lowrank_bench.plan.cells import Source, split_and_range
from lowrank_bench.store.digest import file_digest
from lowrank_bench.store.store import Store

SHUFFLE_SEED = 0  # parts of a split are the same for every network and seed


def read_split(folder: Path, name: str) -> pd.DataFrame:
    """Return a split of a data folder, or the part of its fixed shuffle that `cells` named."""
    split, part = split_and_range(name)
    return part_of(pd.read_parquet(folder / f"{split}.parquet"), part)


def part_of(rows: pd.DataFrame, part: slice | None) -> pd.DataFrame:
    """Return a part of the fixed shuffle of rows; all rows, in their order, for None."""
    if part is None or (part.start is None and part.stop is not None and part.stop >= len(rows)):
        return rows
    return rows.sample(frac=1, random_state=SHUFFLE_SEED).iloc[part]


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
    make = {"hub": _fetch, "folder": _list}.get(source.spec["kind"], _generate)
    while True:
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
        with store.new_folder("data", source.key, about) as fresh:
            make(source, sorted(wanted), fresh, about)
            check_data(source, about)
        # Another run may have been first, with other splits: what lies there now decides.


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
    if expected.get("encoding") not in (None, facts.get("encoding")):
        found = facts.get("encoding") or "unknown"
        return f"{found.upper()} copy, official {expected['encoding'].upper()}"
    if expected.get("sha256") not in (None, facts["sha256"]):
        return f"SHA-256 {facts['sha256'][:12]}…, official {expected['sha256'][:12]}…"
    return ""


def _generate(source: Source, wanted: list[str], folder: Path, about: dict[str, Any]) -> None:
    if source.spec["kind"] == "digits":
        from lowrank_bench.inputs.vision.digits import make_digits

        splits = make_digits(source.spec["seed"])
    else:
        from lowrank_bench.synthetic.tasks import make_task

        splits = make_task(source.spec["task"], source.spec["seed"])
    for split in wanted:
        if split in splits:
            _write(source, pd.DataFrame(splits[split]), folder, split, about)
        else:
            about["missing"][split] = f"the generated suite has no split {split}"
    _need_training_split(source, about)


def _list(source: Source, wanted: list[str], folder: Path, about: dict[str, Any]) -> None:
    from lowrank_bench.inputs.vision.folder import list_folder

    for split in wanted:
        rows = list_folder(source.spec["path"], split, source.checks["columns"])
        if rows is None:
            about["missing"][split] = f"{source.spec['path']} has no folder {split}"
        else:
            _write(source, pd.DataFrame(rows), folder, split, about)
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
        _write(source, rows, folder, split, about, sha256)
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
    source: Source,
    rows: pd.DataFrame,
    folder: Path,
    split: str,
    about: dict[str, Any],
    sha256: str | None = None,
) -> None:
    rows.to_parquet(folder / f"{split}.parquet", index=False)
    about["splits"][split] = {"rows": len(rows), "sha256": sha256}
    column = rows.get(next(iter(source.checks["columns"]), None))
    first = None if column is None or column.empty else column.iloc[0]
    if isinstance(first, Mapping):  # an image: a lossy copy shows by its first bytes
        from lowrank_bench.inputs.vision.decode import encoding_of

        about["splits"][split]["encoding"] = encoding_of(first)
