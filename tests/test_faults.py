"""Transient faults are never a result: one line, and the next run does what is open."""

import errno
import io
import os
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import numpy as np
import pytest
import small_store
import torch
from safetensors import SafetensorError

from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError, TransientError
from lowrank_bench.stages import run
from lowrank_bench.stages.faults import is_transient
from lowrank_bench.stages.holdings import reopen
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.score import run_score
from lowrank_bench.stages.script import logged
from lowrank_bench.store import store as store_module
from lowrank_bench.store.store import Store

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class HubError(OSError):
    """An answer of a hub, as the client's own exceptions carry it."""

    def __init__(self, status):
        super().__init__(f"{status} from the hub")
        self.response = SimpleNamespace(status_code=status)


def wrapped(cause):
    """Return a user's error that hides its cause."""
    try:
        try:
            raise cause
        except type(cause) as error:
            raise LowRankError(f"cannot read it: {error}") from None
    except LowRankError as error:
        return error


OF_THE_MACHINE = [
    FULL,
    OSError(errno.EIO, "x"),
    OSError(errno.EDQUOT, "x"),
    PermissionError(errno.EACCES, "x"),
    OSError(errno.EROFS, "x"),
    OSError(errno.EMFILE, "x"),
    OSError(errno.ESTALE, "x"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((1 << 60,), np.dtype(float)),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    Exception("Disk quota exceeded (os error 122)"),
    OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
    OSError("4000 requested and 1024 written"),  # numpy's, of a full disk
    BrokenProcessPool("a child died"),
    ConnectionResetError(errno.ECONNRESET, "x"),
    TimeoutError("the read operation timed out"),
    HubError(500),
    HubError(503),
    HubError(429),
    TransientError("cannot download"),
    wrapped(OSError(errno.EIO, "x")),
    wrapped(MemoryError()),
]
OF_THE_WORK = [
    LowRankError("no rank is left"),
    ValueError("a bug"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
    KeyError("logits"),
    np.linalg.LinAlgError("SVD did not converge"),
    FileNotFoundError(errno.ENOENT, "x", "/pictures/a.jpg"),
    OSError("Can't load tokenizer for 'x'"),
    HubError(404),
    HubError(403),
    wrapped(ValueError("x")),
    wrapped(FileNotFoundError(errno.ENOENT, "x")),
]


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=repr)
def test_what_the_machine_did_is_transient(error):
    assert is_transient(error)


@pytest.mark.parametrize("error", OF_THE_WORK, ids=repr)
def test_what_the_work_met_is_not(error):
    assert not is_transient(error)


def test_a_file_that_another_process_removed_from_the_store_is_transient(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "cell/x").read_bytes()
    assert is_transient(caught.value, tmp_path)
    assert not is_transient(caught.value, tmp_path / "elsewhere")


class Failing:
    """A piece of work that ends in an exception."""

    def __init__(self, error):
        self.error = error

    def lookup(self, store):
        return None

    def make(self, runner):
        raise self.error

    def title(self):
        return "a cell"


def test_a_fault_of_the_work_is_an_outcome_and_one_of_the_machine_is_none(tmp_path):
    runner = Runner(Store(tmp_path))
    assert run._tried(runner, Failing(LowRankError("no rank is left"))) == "no rank is left"
    assert run._tried(runner, Failing(KeyError("logits"))) == "KeyError: 'logits'"
    with pytest.raises(TransientError, match=r"a cell: .*No space left.*the same command resumes"):
        run._tried(runner, Failing(FULL))
    with pytest.raises(TransientError) as caught:
        run._tried(runner, Failing(SafetensorError("No space left on device (os error 28)\nx")))
    assert "\n" not in str(caught.value)


class Reading(Failing):
    """Work that reads a folder of the store, and says of half of it what libraries say."""

    def __init__(self, fault):
        super().__init__(LowRankError("it is no network"))
        self.fault = fault

    def make(self, runner):
        folder = runner.ensure(Folder()).folder
        self.fault(folder)
        super().make(runner)


class Folder:
    """An artifact."""

    def lookup(self, store):
        return store.artifact("kind", "aa11")

    def make(self, runner):
        with runner.store.new_folder("kind", "aa11", {}) as fresh:
            (fresh / "deep").mkdir()
            (fresh / "deep/weights").write_text("weights")

    def title(self):
        return "a folder"


def replaced(folder):
    shutil.rmtree(folder)
    Folder().make(Runner(Store(folder.parents[2])))


@pytest.mark.parametrize(
    "fault", [shutil.rmtree, replaced, lambda folder: (folder / "deep/weights").unlink()]
)
def test_what_happens_to_work_whose_input_vanishes_is_transient(tmp_path, fault):
    with pytest.raises(TransientError, match=r"a cell: another process removed .*aa11") as caught:
        run._tried(Runner(Store(tmp_path)), Reading(fault))
    assert len(str(caught.value).splitlines()) == 1
    assert run._tried(Runner(Store(tmp_path)), Reading(lambda _: None)) == "it is no network"


def test_a_store_that_cannot_be_written_ends_the_job_before_the_work(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "store")

    monkeypatch.setattr(Store, "check_writable", refuse)
    monkeypatch.setattr(Runner, "ensure", lambda *_: pytest.fail("this is hours of work"))
    for stage in ("checkpoint", "factorize", "evaluate"):
        with pytest.raises(TransientError, match="Read-only"):
            small_store.run(stage, tmp_path, tmp_path / "results")


def test_a_hub_that_does_not_answer_is_transient_and_a_wrong_name_is_not(monkeypatch):
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)

    def busy():
        raise HubError(503)

    with pytest.raises(TransientError):
        hub._with_retries(busy, "a/b", "main")


FAILING = {  # the kind of artifact that finds no room, and the stage that writes it
    "data": "download",
    "encoded": "checkpoint",
    "checkpoint": "checkpoint",
    "facts": "factorize",
    "decomposition": "factorize",
    "cell": "evaluate",
}


def refuse(monkeypatch, kind):
    """Let the disk be full for one kind of artifact."""
    real = store_module.write_manifest, store_module.write_atomic

    def manifest(folder, facts):
        if folder.parents[1].name == kind:
            raise FULL
        real[0](folder, facts)

    def atomic(place, content):
        if place.parents[1].name == kind:
            raise FULL
        real[1](place, content)

    monkeypatch.setattr(store_module, "write_manifest", manifest)
    monkeypatch.setattr(store_module, "write_atomic", atomic)


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """Return a store in whose making the disk was full once for every kind of artifact."""
    folder = tmp_path_factory.mktemp("survived")
    root, results = folder / "store", folder / "results/small"
    for kind, stage in FAILING.items():
        with pytest.MonkeyPatch.context() as patch:
            refuse(patch, kind)
            with pytest.raises(TransientError, match="No space left on device") as caught:
                small_store.run(stage, root, results)
        assert len(str(caught.value).splitlines()) == 1
        assert not [path for path in root.rglob("*") if path.name.startswith(".")]
        if kind not in ("encoded", "facts"):  # the same stage fails once more, later
            outcome = small_store.run(stage, root, results)
            assert {piece["status"] for piece in outcome} == {"ok"}
    return root


def statuses(root):
    table = run_score(small_store.config(str(root)), [])["scores"]
    return {
        (status, reason)
        for status, reason, task in zip(
            table["status"], table["reason"], table["task"], strict=True
        )
        if task == "quick_wnli"
    }


def test_after_a_full_disk_in_every_stage_all_results_are_there(survived, monkeypatch):
    assert statuses(survived) == {("ok", "")}
    next((survived / "cell").glob("*/*")).unlink()
    with monkeypatch.context() as patch:
        refuse(patch, "cell")
        with pytest.raises(TransientError, match="No space left on device"):
            statuses(survived)
    assert statuses(survived) == {("ok", "")}


def test_a_cell_that_cannot_be_made_again_is_a_row_with_its_reason(survived, tmp_path, monkeypatch):
    from lowrank_bench.stages.evaluate import CheckpointEvaluator

    def refuse(self, cell):
        raise LowRankError("the method refuses")

    root = small_store.copy(survived, tmp_path / "store")
    for cell in (root / "cell").glob("*/*"):
        cell.unlink()
    monkeypatch.setattr(CheckpointEvaluator, "evaluate", refuse)
    assert statuses(root) == {("failed", "the method refuses")}


@pytest.mark.parametrize("error", [FULL, MemoryError("no memory")])
def test_a_script_ends_in_one_line_on_a_fault_of_the_machine(tmp_path, capsys, error, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with pytest.raises(SystemExit) as ended, logged(str(tmp_path / "score.log")):
        raise error
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: score: ")
    assert len(said.splitlines()) == 1


def test_a_log_on_a_full_disk_does_not_hide_the_error(tmp_path, capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise FULL

        def flush(self):
            raise FULL

    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr("pathlib.Path.open", lambda *_: Full())
    with pytest.raises(SystemExit), logged(str(tmp_path / "x.log")):
        raise LowRankError("the real reason")
    assert capsys.readouterr().err == "error: the real reason\n"


def test_jobs_whose_cells_are_gone_are_open_again(tmp_path):
    store, jobs = Store(tmp_path / "store"), tmp_path / "jobs"
    store.place("cell", "aa11", ".safetensors").parent.mkdir(parents=True)
    store.place("cell", "aa11", ".safetensors").touch()
    done = [{"key": "aa11", "status": "ok", "reason": ""}]
    pieces = {
        "whole": done,
        "lost": [*done, {"key": "bb22", "status": "ok", "reason": ""}],
        "refused": [*done, {"key": "cc33", "status": "failed", "reason": "no rank"}],
    }
    job = SimpleNamespace(stage="evaluate", name="x")
    for name, outcome in pieces.items():
        run.write_outcome(jobs / f"{name}.json", job, outcome)
    (jobs / "damaged.json").write_text("{")
    listed = [jobs / f"{name}.json" for name in (*pieces, "damaged", "not yet")]
    assert reopen(listed, store) == (2, 1)
    assert {place.stem for place in jobs.iterdir()} == {"whole", "refused"}


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of its own of 8 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.campaign
@pytest.mark.parametrize("room", [0, 8, 24, 64, 160, 400])  # kB that are left at first
def test_a_disk_that_fills_up_costs_no_result(tmp_path, small_disk, room):
    root, results = small_disk / "store", tmp_path / "results/small"
    ballast = small_disk / "ballast"
    met = []
    for stage in small_store.RUNS:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
        ballast.write_bytes(bytes(max(0, free - 1024 * room)))
        try:
            outcome = small_store.run(stage, root, results)
        except TransientError:
            met.append(stage)
            ballast.unlink()
            outcome = small_store.run(stage, root, results)
        assert {piece["status"] for piece in outcome} == {"ok"}
        ballast.unlink(missing_ok=True)
        assert not [path for path in root.rglob("*") if path.name.startswith(".")]
    table = run_score(small_store.config(str(root)), [])["scores"]
    assert "failed" not in set(table["status"])
    print(f"{room} kB left: full in {', '.join(met) or 'no stage'}, all results there after")
