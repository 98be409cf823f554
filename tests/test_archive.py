"""`lowrank store gc | export | import`: what is kept, what is deleted, and what is refused."""

import hashlib
import io
import json
import os
import tarfile
import time

import pytest

from lowrank_bench.cli import main
from lowrank_bench.store.checksum import BLANK, sealed
from lowrank_bench.store.holdings import HOLDINGS
from lowrank_bench.store.store import Store

CELL = b'{"seal": "%s"}' % BLANK.encode()
KEYS = {"data": "aa" * 8, "encoded": "bb" * 8, "facts": "cc" * 8, "cell": "dd" * 8}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a store and the results of one experiment that needs all of it."""
    monkeypatch.chdir(tmp_path)
    store = Store("results/store")
    facts = {"encoded": {"task": "cola"}, "facts": {"checkpoint": "bert · cola · seed 0"}}
    for kind in ("data", "encoded", "facts"):
        with store.new_folder(kind, KEYS[kind], facts.get(kind, {})) as fresh:
            (fresh / "deep").mkdir()
            (fresh / "deep/a.txt").write_text(kind)
    store.write_file("cell", KEYS["cell"], ".safetensors", CELL)
    write_results("one", {"data": [KEYS["data"]], "cell": [KEYS["cell"], "ee" * 8]})
    return tmp_path


def write_results(name, keys, tasks=("cola",), checkpoints=("bert · cola · seed 0",)):
    folder = Store("results").root / name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    content = {"keys": keys, "tasks": list(tasks), "checkpoints": list(checkpoints)}
    (folder / HOLDINGS).write_text(json.dumps(content))


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_an_experiment_needs_is_no_garbage(here, capsys):
    assert main(["store", "gc"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_garbage_is_listed_and_deleted_only_when_asked(here, capsys):
    store = Store("results/store")
    with store.new_folder("data", "99" * 8, {}) as fresh:
        (fresh / "old.txt").write_text("old")
    with store.new_folder("encoded", "98" * 8, {"task": "another"}) as fresh:
        (fresh / "old.txt").write_text("old")
    store.write_file("cell", "97" * 8, ".safetensors", CELL)
    kept = store.place("cell", KEYS["cell"]).parent / ".fresh-1"
    left = store.place("cell", KEYS["cell"]).parent / ".killed-1"
    for place in (kept, left):
        place.write_text("half")
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    before = files(here)
    assert main(["store", "gc"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("99" * 8, "98" * 8, "97" * 8, ".killed-1"))
    assert "4 artifacts" in out
    assert files(here) == before
    assert main(["store", "gc", "--delete"]) == 0
    gone = set(before) - set(files(here))
    assert {name.split("/")[4].partition(".")[0] for name in gone} == {
        *("99" * 8, "98" * 8, "97" * 8, ""),
    }
    assert kept.exists()
    capsys.readouterr()
    assert main(["store", "gc"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_nothing_is_garbage_where_the_needs_are_not_known(here, capsys):
    (here / "results/one" / HOLDINGS).unlink()
    assert main(["store", "gc", "--delete"]) == 2
    assert "run the experiment one again" in capsys.readouterr().err
    assert main(["store", "gc", "--delete", "--results", "empty"]) == 2
    assert len(files(here / "results/store")) == 7


def test_a_second_experiment_keeps_what_it_shares(here, capsys):
    write_results("two", {"data": [], "cell": []}, (), ())
    assert main(["store", "gc"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_an_export_imports_to_the_same_bytes(here, capsys):
    assert main(["store", "export", "one", "one.tar"]) == 0
    assert "4 artifacts of one" in (said := capsys.readouterr().out)
    assert "1 cells of one are not computed yet" in said
    assert main(["store", "import", "one.tar", "--store", "there"]) == 0
    assert "4 artifacts imported, 0 known, 0 refused" in capsys.readouterr().out
    assert files(here / "there") == files(here / "results/store")
    assert main(["store", "import", "one.tar", "--store", "there"]) == 0
    assert "0 artifacts imported, 4 known" in capsys.readouterr().out
    assert main(["store", "verify", "--store", "there"]) == 0


def test_an_export_holds_only_the_experiment(here):
    Store("results/store").write_file("cell", "97" * 8, ".safetensors", CELL)
    assert main(["store", "export", "one", "one.tar"]) == 0
    with tarfile.open("one.tar") as tar:
        names = tar.getnames()
    assert len(names) == 7
    assert not [name for name in names if "97" * 8 in name]


def test_damage_is_not_exported(here, capsys):
    place = Store("results/store").place("data", KEYS["data"]) / "deep/a.txt"
    place.write_text("dat_")
    assert main(["store", "export", "one", "one.tar"]) == 1
    assert not (here / "one.tar").exists()
    assert "run the experiment again" in capsys.readouterr().out


def test_an_unknown_experiment_is_named(here, capsys):
    assert main(["store", "export", "none", "one.tar"]) == 2
    assert "results/none" in capsys.readouterr().err


def pack(members):
    """Write a tar of `(name, content)` or tar headers."""
    with tarfile.open("bad.tar", "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def header(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


INSIDE = f"data/aa/{'aa' * 8}"
GOOD = (f"cell/dd/{'dd' * 8}.safetensors", sealed(CELL))
LEADING_OUT = [
    ("../evil", b"x"),
    ("/evil", b"x"),
    ("evil", b"x"),
    ("data/../../evil", b"x"),
    (f"{INSIDE}/../../../../evil", b"x"),
    (f"{INSIDE}/./evil", b"x"),
    (f"{INSIDE}//evil", b"x"),
    (f"{INSIDE}/a\\..\\evil", b"x"),
    (f"{INSIDE}/a\nb", b"x"),
    (f"{INSIDE}/{'n' * 300}", b"x"),
    (f"data/ab/{'aa' * 8}/a", b"x"),
    (f"cell/dd/{'dd' * 8}.pkl", b"x"),
    (f".hidden/aa/{'aa' * 8}/a", b"x"),
    header(f"{INSIDE}/link", tarfile.SYMTYPE, "/etc/passwd"),
    header(f"{INSIDE}/link", tarfile.LNKTYPE, "../../../evil"),
    header(INSIDE, tarfile.SYMTYPE, "/tmp"),
    header(f"{INSIDE}/pipe", tarfile.FIFOTYPE),
    header(f"{INSIDE}/disk", tarfile.BLKTYPE),
    header(f"{INSIDE}/folder", tarfile.DIRTYPE),
    header(f"{INSIDE}/holes", tarfile.GNUTYPE_SPARSE),
    GOOD,  # twice
]


@pytest.mark.parametrize("member", LEADING_OUT, ids=range(len(LEADING_OUT)))
def test_names_that_lead_elsewhere_are_refused_before_anything_is_written(here, capsys, member):
    pack([GOOD, member])
    assert main(["store", "import", "bad.tar", "--store", "there"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (here / "there").exists()
    assert not list(here.glob("**/evil"))


def folder(packed, **changes):
    """Return the members of an artifact with a manifest of its own making."""
    listed = {name: [len(c), hashlib.sha256(c).hexdigest()] for name, c in packed.items()}
    manifest = {"about": {}, "files": listed, "seal": BLANK} | changes
    text = sealed(json.dumps(manifest).encode())
    return [
        (f"{INSIDE}/{name}", content) for name, content in {**packed, "manifest.json": text}.items()
    ]


NESTED = sealed(b'{"seal":"%s","a":%s' % (BLANK.encode(), b"[" * 100_000))
ZERO = {"/dev/zero": [0, "0" * 64]}
REFUSED = {
    "no manifest": [(f"{INSIDE}/a", b"x")],
    "unlisted file": [*folder({"a": b"x"}), (f"{INSIDE}/b", b"x")],
    "listed outside": folder({"a": b"x"}, files=ZERO),
    "lacking file": folder({"a": b"x"})[1:],
    "changed file": [(f"{INSIDE}/a", b"y"), folder({"a": b"x"})[1]],
    "no files": folder({}, files=None),
    "a list": folder({"a": b"x"}, files=["a"]),
    "no facts": folder({"a": b"x"}, about=None),
    "no numbers": folder({"a": b"x"}, files={"a": "xy"}),
    "file and folder": [(f"{INSIDE}/a", b"x"), (f"{INSIDE}/a/b", b"x")],
    "nested": [(f"{INSIDE}/manifest.json", NESTED)],
    "flipped cell": [(GOOD[0], GOOD[1].replace(b"seal", b"sea1"))],
    "no seal": [(GOOD[0], b"x")],
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
def test_what_does_not_match_its_checksums_is_refused_and_the_rest_imported(here, capsys, members):
    good = ("cell/ff/" + "ff" * 8 + ".safetensors", GOOD[1])
    pack([*members, good])
    assert main(["store", "import", "bad.tar", "--store", "there"]) == 1
    out, err = capsys.readouterr()
    assert "1 artifacts imported, 0 known, 1 refused" in out
    assert "warning: " in err
    assert set(files(here / "there")) == {good[0]}


def test_a_good_artifact_made_by_hand_is_accepted(here):
    pack(folder({"a": b"x"}))
    assert main(["store", "import", "bad.tar", "--store", "there"]) == 0


@pytest.mark.parametrize("content", [b"", b"half a file", b"\x1f\x8b\x08\x00" + bytes(600)])
def test_a_file_that_is_no_tar_is_refused(here, capsys, content):
    (here / "bad.tar").write_bytes(content)
    assert main(["store", "import", "bad.tar", "--store", "there"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_tar_that_was_cut_short_is_refused(here, capsys):
    assert main(["store", "export", "one", "one.tar"]) == 0
    whole = (here / "one.tar").read_bytes()
    for length in range(100, len(whole) - 10240, 777):
        (here / "cut.tar").write_bytes(whole[:length])
        assert main(["store", "import", "cut.tar", "--store", f"there{length}"]) in (0, 1, 2)
        there = Store(f"there{length}").root
        assert not there.exists() or main(["store", "verify", "--store", str(there)]) == 0


@pytest.mark.parametrize("size", [-1, -512, -1024, 1 << 60])
def test_sizes_that_lead_back_or_beyond_the_end_do_not_trap_the_reader(here, capsys, size):
    info = tarfile.TarInfo(f"{INSIDE}/a")
    info.size = size
    (here / "bad.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 3 + bytes(1024))
    assert main(["store", "import", "bad.tar", "--store", "there"]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not files(here / "there")
