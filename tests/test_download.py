"""Downloads: what is checked, what is refused, and what the one-line errors say."""

import os
import socket
import subprocess
import sys

import pandas as pd
import pytest

from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError
from lowrank_bench.plan.cells import Source
from lowrank_bench.stages.download import source_step
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.store import Store

SPEC = {"kind": "hub", "repo": "owner/glue", "revision": "main", "config": "mnli"}
TRAIN, SHORT = {"rows": 3, "sha256": None}, {"rows": 5, "sha256": None}


def download(source, store):
    return Runner(store).ensure(source_step(source)).folder


def source(unofficial=False, **splits):
    checks = {"splits": splits, "columns": ["premise", "label"], "unofficial": unofficial}
    checks["train"] = "train"
    return Source("data", "mnli", SPEC, checks)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """A hub with one data set with the splits train and matched, and one network."""
    folder = tmp_path / "hub"
    (folder / "mnli").mkdir(parents=True)
    rows = pd.DataFrame({"premise": list("abc"), "label": [0, 1, 2]})
    for split in ("train", "matched"):
        rows.to_parquet(folder / "mnli" / f"{split}-00000-of-00001.parquet")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    monkeypatch.setattr(hub, "list_files", lambda *_: (files, "c0ffee"))
    monkeypatch.setattr(hub, "fetch", lambda repo, name, *_: folder / name)
    return folder


def test_splits_are_written_and_a_missing_one_has_a_reason(fake_hub, tmp_path):
    store = Store(tmp_path / "store")
    folder = download(source(train=TRAIN, matched=TRAIN, mismatched=TRAIN), store)
    about = store.manifest(folder)
    assert pd.read_parquet(folder / "train.parquet")["premise"].tolist() == ["a", "b", "c"]
    assert about["commit"] == "c0ffee"
    assert set(about["splits"]) == {"train", "matched"}
    assert "mismatched is absent from owner/glue" in about["missing"]["mismatched"]


def test_another_experiment_s_splits_are_added(fake_hub, tmp_path):
    store = Store(tmp_path / "store")
    download(source(train=TRAIN), store)
    folder = download(source(train=TRAIN, matched=TRAIN), store)
    assert set(store.manifest(folder)["splits"]) == {"train", "matched"}
    again = download(source(train=TRAIN), store)
    assert set(store.manifest(again)["splits"]) == {"train", "matched"}


def test_a_missing_training_split_is_an_error(fake_hub, tmp_path):
    gone = source(aaa=TRAIN, train=TRAIN)
    gone.checks["train"] = "aaa"
    with pytest.raises(LowRankError, match="training needs it"):
        download(gone, Store(tmp_path / "store"))


def test_an_unofficial_file_is_refused_unless_accepted(fake_hub, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(LowRankError, match=r"3 rows, official 5.*hub\.unofficial=true"):
        download(source(train=SHORT), store)
    assert store.folder("data", source().key) is None
    download(source(unofficial=True, train=SHORT), store)
    with pytest.raises(LowRankError, match="official"):
        download(source(train=SHORT), store)


def test_a_wrong_checksum_is_refused(fake_hub, tmp_path):
    with pytest.raises(LowRankError, match="SHA-256"):
        download(source(train={"rows": 3, "sha256": "0" * 64}), Store(tmp_path / "store"))


def test_a_missing_column_is_named(fake_hub, tmp_path):
    wanted = Source("data", "x", SPEC, source(train=TRAIN).checks | {"columns": ["text"]})
    with pytest.raises(LowRankError, match="no column 'text'"):
        download(wanted, Store(tmp_path / "store"))


def network(sha256):
    return Source("network", "net", SPEC, {"sha256": sha256})


def test_only_the_files_that_loading_needs_are_kept(fake_hub, tmp_path):
    folder = download(network({}), Store(tmp_path / "store"))
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "manifest.json"}


def test_a_network_with_a_wrong_checksum_is_refused(fake_hub, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(LowRankError, match=r"model\.safetensors has SHA-256 .* not 0000"):
        download(network({"model.safetensors": "0" * 64}), store)
    assert store.folder("network", network({}).key) is None


def test_an_unreachable_hub_names_the_variable_to_set(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "from lowrank_bench.download import hub; from lowrank_bench.errors import LowRankError\n"
        "try: hub.list_files('a/b', 'main', 'model')\n"
        "except LowRankError as error: print(error)"
    )
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    env |= {"HF_HUB_OFFLINE": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert f"127.0.0.1:{port}" in done.stdout, done.stderr
    assert "set HF_ENDPOINT" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


def test_a_filled_cache_works_without_a_hub(tmp_path):
    snapshot = tmp_path / "hub/datasets--a--b/snapshots" / ("0" * 40)
    (snapshot / "x").mkdir(parents=True)
    (snapshot / "x/train-00000-of-00001.parquet").write_text("data")
    refs = tmp_path / "hub/datasets--a--b/refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    code = (
        "from lowrank_bench.download import hub\n"
        "files, commit = hub.list_files('a/b', 'main', 'dataset')\n"
        "print(files, commit, hub.fetch('a/b', files[0], 'main', 'dataset').read_text())"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "x/train-00000-of-00001.parquet" in done.stdout, done.stderr
    assert done.stdout.split()[-1] == "data"


def test_transient_faults_are_retried(monkeypatch):
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    answers = iter([OSError("cut"), OSError("cut"), "content"])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert hub._with_retries(call, "a/b", "main") == "content"
