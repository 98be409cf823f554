"""The splits of a task as parquet files: fetched from a hub, generated, or listed from a folder."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.splits import unofficial
from lowrank_bench.store.digest import file_digest


@dataclass(frozen=True)
class DataRequest:
    """Which splits of a data set to download, and what they must contain.

    Attributes
    ----------
    name
        The task's name in the configuration, for messages.
    spec
        Where the data come from: `kind` (`hub`, `folder` or a generator) and its settings.
    columns
        Columns that every split must have, the one with the inputs first.
    train
        The split that training needs.
    splits
        Names of the splits to download.
    """

    name: str
    spec: Mapping[str, Any]
    columns: Sequence[str]
    train: str
    splits: Sequence[str]


@dataclass
class _Written:
    """A folder to which the splits of a data set are written, and the facts about them."""

    request: DataRequest
    folder: Path
    facts: dict[str, Any] = field(default_factory=lambda: {"splits": {}, "missing": {}})

    def add(self, split: str, rows: pd.DataFrame, sha256: str | None = None) -> None:
        """Write a split, and record the facts about it."""
        rows.to_parquet(self.folder / f"{split}.parquet", index=False)
        self.facts["splits"][split] = {"rows": len(rows), "sha256": sha256}
        column = rows.get(next(iter(self.request.columns), None))
        first = None if column is None or column.empty else column.iloc[0]
        if isinstance(first, Mapping):  # an image: its encoding shows whether the copy is lossy
            from lowrank_bench.inputs.vision.decode import encoding_of

            self.facts["splits"][split]["encoding"] = encoding_of(first)

    def miss(self, split: str, reason: str) -> None:
        """Record why a split is missing."""
        self.facts["missing"][split] = reason


def fetch_data(request: DataRequest, folder: Path) -> dict[str, Any]:
    """Write one `<split>.parquet` per split to a folder, and return the facts about them.

    Returns
    -------
    dict
        `splits`: `rows`, `sha256` and, for images, `encoding` of each split; `missing`: the
        reason for each missing split; `commit`: that of the hub's repository.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, or the training split or a column is missing.
    """
    makers: dict[str, Callable[[_Written], None]] = {"hub": _fetch, "folder": _list}
    written = _Written(request, folder)
    makers.get(request.spec["kind"], _generate)(written)
    missing = written.facts["missing"]
    if request.train in missing:
        raise LowRankError(f"task {request.name}: {missing[request.train]}, and training needs it")
    return written.facts


def check_data(
    name: str,
    splits: Mapping[str, Mapping[str, Any]],
    official: Mapping[str, Mapping[str, Any]],
    accept: bool,
) -> None:
    """Refuse splits that are not the official ones, unless the configuration accepts them.

    Parameters
    ----------
    name
        The task's name, for the message.
    splits, official
        For each split, the facts that `splits.unofficial` compares.
    accept
        Whether unofficial splits are accepted.
    """
    for split, facts in splits.items():
        fault = unofficial(facts, official.get(split, {}))
        if fault and not accept:
            raise LowRankError(
                f"task {name}: split {split} is not the official file ({fault}); empty "
                "the hub's cache (HF_HOME), or accept and label it with hub.unofficial=true"
            )


def _generate(written: _Written) -> None:
    spec = written.request.spec
    if spec["kind"] == "digits":
        from lowrank_bench.inputs.vision.digits import make_digits

        splits = make_digits(spec["seed"])
    else:
        from lowrank_bench.synthetic.tasks import make_task

        splits = make_task(spec["task"], spec["seed"])
    for split in written.request.splits:
        if split in splits:
            written.add(split, pd.DataFrame(splits[split]))
        else:
            written.miss(split, f"the generated task has no split {split}")


def _list(written: _Written) -> None:
    from lowrank_bench.inputs.vision.folder import list_folder

    path = written.request.spec["path"]
    for split in written.request.splits:
        rows = list_folder(path, split, written.request.columns)
        if rows is None:
            written.miss(split, f"{path} has no folder {split}")
        else:
            written.add(split, pd.DataFrame(rows))


def _fetch(written: _Written) -> None:
    from lowrank_bench.download import hub

    spec, name = written.request.spec, written.request.name
    repo, revision = spec["repo"], spec["revision"]
    files, written.facts["commit"] = hub.list_files(repo, revision, "dataset")
    for split in written.request.splits:
        parts = _parquet_files(files, spec["config"], split)
        if not parts:
            written.miss(split, f"split {split} is absent from {repo}")
            continue
        paths = [hub.fetch(repo, part, revision, "dataset") for part in parts]
        rows = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
        _check_columns(written.request.columns, rows.columns, f"task {name}: {repo}", split)
        # Official checksums are known for splits in a single file only.
        written.add(split, rows, file_digest(paths[0]) if len(paths) == 1 else None)


def _check_columns(
    required: Iterable[str], present: Collection[str], title: str, split: str
) -> None:
    missing = sorted(set(required) - set(present))
    if missing:
        raise LowRankError(
            f"{title} has no column {missing[0]!r} in split {split}; its columns: "
            f"{', '.join(present)}"
        )


def _parquet_files(files: list[str], subset: str | None, split: str) -> list[str]:
    """Return the files of a split in one subset of a data set, which the hub calls its config."""
    folder = rf"(?:{re.escape(subset)}|data)/" if subset else r"(?:.*/)?"
    # A large split is cut into files `train-00000-of-00004.parquet` and so on.
    pattern = re.compile(rf"{folder}{re.escape(split)}(?:-\d+-of-\d+)?\.parquet")
    return [name for name in files if pattern.fullmatch(name)]
