"""Any bit that changes in the store is noticed: when it is read, and by `lowrank store verify`."""

import shutil
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import save
from small_store import add_other_kinds, artifacts, config, copy, fill, flip, job

from lowrank_bench.cli import main
from lowrank_bench.stages.evaluate import CellStep
from lowrank_bench.stages.record import read_record
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.checksum import BLANK, DamagedError, check_sealed, sealed
from lowrank_bench.store.files import read_signed, write_signed
from lowrank_bench.store.store import Store

FLIPS = [100, pytest.param(2500, marks=pytest.mark.campaign)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a store with every kind of artifact."""
    root = fill(tmp_path_factory.mktemp("whole"))
    add_other_kinds(root)
    kinds = {place.parts[-3] for place in artifacts(root)}
    assert kinds == {
        *("cell", "checkpoint", "data", "decomposition", "encoded", "facts"),
        *("network", "trained", "unfinished"),
    }
    return root


def draw(places, random):
    """Draw a file: every kind as often as another, manifests as often as all other files."""
    kinds = sorted({place.parts[-3] for place in places})
    kind = kinds[random.integers(len(kinds))]
    listed = [place for place in places if place.parts[-3] == kind]
    place = listed[random.integers(len(listed))]
    files = places[place]
    if len(files) > 1:
        wanted = bool(random.integers(2))
        files = [file for file in files if (file.name == "manifest.json") == wanted]
    return place, files[random.integers(len(files))]


def read(store, place):
    """Read an artifact as the stages do."""
    kind, key = place.parts[-3], place.name.partition(".")[0]
    if kind == "unfinished":
        try:
            return read_signed(place)
        except DamagedError:
            return None
    if kind == "cell":
        return store.read_file(kind, key, place.suffix)
    return store.artifact(kind, key)


@pytest.mark.parametrize("flips", FLIPS)
def test_every_flipped_bit_is_noticed_when_it_is_read(whole, tmp_path, flips, capsys):
    random, root = np.random.default_rng(flips), copy(whole, tmp_path / "store")
    places, counts = artifacts(root), Counter()
    while counts.total() < flips:
        place, file = draw(places, random)
        if not flip(file, random):
            continue
        counts[place.parts[-3]] += 1
        assert read(Store(root), place) is None, file
        if place.parts[-3] != "unfinished":  # of which the training itself reports it
            assert str(place) in capsys.readouterr().err
            assert not place.exists()
        original = whole / place.relative_to(root)
        (shutil.copytree if original.is_dir() else shutil.copy)(original, place)
        assert read(Store(root), place) is not None
    print(f"{counts.total()} flips, all noticed when read: {dict(counts)}")


@pytest.mark.parametrize("flips", FLIPS)
def test_verify_finds_all_of_them_in_one_pass(whole, tmp_path, flips, capsys):
    random, counts, rounds = np.random.default_rng(flips + 1), Counter(), 0
    while counts.total() < flips:
        root, rounds = copy(whole, tmp_path / "store"), rounds + 1
        places = artifacts(root)
        hit = {draw(places, random) for _ in places}
        hit = {place for place, file in hit if flip(file, random)}
        assert main(["store", "verify", "--store", str(root)]) == 1
        out, err = capsys.readouterr()
        assert f"{len(hit)} damaged and removed" in out
        assert len(out.splitlines()) == 1
        assert all(f"{place}:" in err for place in hit)
        assert set(artifacts(root)) == set(places) - hit
        counts.update(place.parts[-3] for place in hit)
        assert main(["store", "verify", "--store", str(root)]) == 0
        assert "all intact" in capsys.readouterr().out
    print(f"{counts.total()} flips in {rounds} passes, all found by verify: {dict(counts)}")


def test_a_flipped_prediction_is_computed_again_with_the_same_numbers(whole, tmp_path, capsys):
    root = copy(whole, tmp_path / "store")
    (cell,) = job("evaluate").cells()
    before = read_record(cell, Store(root))
    file = Store(root).place("cell", cell.key, ".safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 128  # the sign of the last logit
    file.write_bytes(content)
    after = Runner(Store(root), Settings(device="cpu")).ensure(CellStep(cell))
    assert "does not match its checksum" in capsys.readouterr().err
    assert before.predictions.keys() == after.predictions.keys()
    for split, logits in before.predictions.items():
        np.testing.assert_array_equal(after.predictions[split], logits)


def test_scores_are_not_changed_by_a_damaged_cell(whole, tmp_path):
    from lowrank_bench.stages.score import run_score

    root, random = copy(whole, tmp_path / "store"), np.random.default_rng(5)
    clean = run_score(config(str(root)), [])["scores"]
    for cell in (root / "cell").rglob("*.safetensors"):
        flip(cell, random)
    again = run_score(config(str(root)), [])["scores"]
    assert set(clean["status"]) == {"ok", "skipped"}  # of an average over two tasks there is none
    assert (clean["status"] == again["status"]).all()
    assert clean["value"].equals(again["value"])


@pytest.mark.parametrize("content", [b'{"seal": "%s"}', b'{"a": 1, "seal":"%s"}'])
def test_a_seal_covers_every_bit(content):
    text = sealed(content.replace(b"%s", BLANK.encode()))
    assert check_sealed(text) == text
    for bit in range(8 * len(text)):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            check_sealed(bytes(changed))


@pytest.mark.parametrize("content", [b"{}", b'["seal", "seal"]', 2 * f'"seal":"{BLANK}"'.encode()])
def test_a_content_with_no_place_for_a_seal_is_refused(content):
    with pytest.raises(ValueError, match="no checksum, or more than one"):
        sealed(content)


def test_a_sealed_record_is_still_safetensors(tmp_path):
    from safetensors import safe_open

    content = save({"a": np.arange(3.0)}, metadata={"seal": BLANK})
    Store(tmp_path).write_file("cell", "abcdef", ".safetensors", content)
    with safe_open(tmp_path / "cell/ab/abcdef.safetensors", framework="np") as file:
        assert file.get_tensor("a").tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 5000])
@pytest.mark.parametrize("cut", [1, 32, 40])
def test_a_signed_file_that_was_cut_short_is_refused(tmp_path, size, cut):
    content = np.random.default_rng(size).bytes(size)
    write_signed(tmp_path / "file", content)
    assert read_signed(tmp_path / "file") == content
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[: max(0, len(whole) - cut)])
    with pytest.raises(DamagedError):
        read_signed(tmp_path / "file")


def test_what_an_older_version_wrote_counts_as_damaged(tmp_path, capsys):
    folder = Store(tmp_path).place("data", "abcdef")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"about": {}, "files": {}}')
    assert Store(tmp_path).artifact("data", "abcdef") is None
    assert "no checksum" in capsys.readouterr().err
