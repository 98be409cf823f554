"""Downloads: what is checked, what is refused, and what the one-line errors say."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from lowrank_bench.download import hub
from lowrank_bench.download.patience import Silence, heard, patiently
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


class Hub(threading.Thread):
    """A hub on a socket that answers each request by `answer(path)`; None: never."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer, self.held, self.asked = answer, [], 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        self.held.append(connection)
        request = b""
        while b"\r\n\r\n" not in request:
            part = connection.recv(65536)
            if not part:
                return
            request += part
        self.asked += 1
        method, path, _ = request.decode().split(" ", 2)
        said = self.answer(method, path)
        if said is not None:
            connection.sendall(said)


COMMIT = "0" * 40


def _info(name):
    body = json.dumps({"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": name}]}).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def half_a_body(method, path):
    """Answer all, but of a file only the first half, and then nothing more."""
    if "/api/" in path:
        return _info("file.bin")
    head = f'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Repo-Commit: {COMMIT}\r\nETag: "e"\r\n'
    head += "Connection: close\r\n\r\n" if method == "HEAD" else "\r\n"
    return head.encode() + (b"" if method == "HEAD" else b"x" * 500)


def ask(port, folder, code):
    """Run code in a process with limits of fractions of a second; return its lines and seconds."""
    words = (
        "from lowrank_bench.download import hub; from lowrank_bench.errors import LowRankError\n"
        "hub.TIMEOUT, hub.PATIENCE = 0.5, 1.5\n"
        "import time; start = time.monotonic()\n"
        f"try: {code}\n"
        "except LowRankError as error: print(error)\n"
        "print(time.monotonic() - start)"
    )
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(folder)}
    env |= {"HF_HUB_OFFLINE": "0", "PATH": os.environ["PATH"]}
    env["PYTHONPATH"] = str(Path(hub.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", words], env=env, capture_output=True, text=True, timeout=50
    )
    assert not done.stderr
    *lines, seconds = done.stdout.strip().splitlines()
    return lines, float(seconds)


@pytest.mark.parametrize("code", ["hub.list_files('a/b', 'main', 'model')",
                                  "hub.fetch('a/b', 'file.bin', 'main', 'model')"])  # fmt: skip
def test_a_hub_that_accepts_and_never_answers_ends_in_one_line(tmp_path, code):
    silent = Hub(lambda *_: None)
    lines, seconds = ask(silent.port, tmp_path, code)
    assert len(lines) == 1
    assert f"127.0.0.1:{silent.port} sends nothing" in lines[0]
    assert "set HF_ENDPOINT" in lines[0]
    assert silent.asked >= 1
    assert seconds < 3
    assert (hub.TIMEOUT, hub.PATIENCE) == (10, 30)  # so that a real one ends within a minute


def test_a_hub_that_sends_half_a_file_and_falls_silent_ends_in_one_line(tmp_path):
    half = Hub(half_a_body)
    lines, seconds = ask(half.port, tmp_path, "hub.fetch('a/b', 'file.bin', 'main', 'model')")
    assert len(lines) == 1
    assert "sends nothing" in lines[0] or "cannot download a/b" in lines[0]
    assert seconds < 20
    assert not list(tmp_path.rglob("snapshots/*/file.bin"))


def test_what_is_heard_again_and_again_may_take_longer_than_the_patience():
    def _slow():
        for _ in range(10):
            time.sleep(0.06)
            heard()
        return "all"

    assert patiently(_slow, 0.3) == "all"
    with pytest.raises(Silence):
        patiently(lambda: time.sleep(1), 0.2)
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 / 0, 0.2)


def test_a_name_that_no_hub_can_have_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(hub.time, "sleep", pytest.fail)
    with pytest.raises(LowRankError, match="written as owner/name"):
        hub.fetch("../../x/y", "config.json", "main", "model")
