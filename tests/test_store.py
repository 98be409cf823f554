"""The store: artifacts are whole or absent, safe under racing writers, and checked for damage."""

import threading

import pytest

from lowrank_bench.store.store import Store


def fill(store, key="abcdef", content="x" * 1000):
    with store.new_folder("kind", key, {"made": "here"}) as fresh:
        (fresh / "a.txt").write_text(content)
    return store.place("kind", key)


def test_a_folder_is_found_with_its_writers_metadata(tmp_path):
    store = Store(tmp_path)
    assert store.folder("kind", "abcdef") is None
    place = fill(store)
    assert store.folder("kind", "abcdef") == place
    assert store.manifest(place) == {"made": "here"}


def test_a_failed_writer_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def write_half():
        with store.new_folder("kind", "abcdef", {}) as fresh:
            (fresh / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert store.folder("kind", "abcdef") is None
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_folder_is_reported_and_counts_as_absent(tmp_path, capsys, damage):
    store = Store(tmp_path)
    place = fill(store)
    if damage == "truncate":
        (place / "a.txt").write_text("x" * 10)
    elif damage == "remove":
        (place / "a.txt").unlink()
    else:
        (place / "manifest.json").write_text("{")
    assert store.folder("kind", "abcdef") is None
    assert "warning" in capsys.readouterr().err
    assert not place.exists()


def test_a_deep_check_detects_a_changed_byte(tmp_path):
    store = Store(tmp_path)
    place = fill(store)
    (place / "a.txt").write_text("y" + "x" * 999)
    assert store.folder("kind", "abcdef") == place
    assert store.folder("kind", "abcdef", deep=True) is None


def test_racing_writers_leave_one_whole_folder(tmp_path):
    store, barrier = Store(tmp_path), threading.Barrier(8)

    def write(number):
        barrier.wait()
        fill(store, content=str(number) * 1000)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = store.folder("kind", "abcdef", deep=True)
    assert place is not None
    assert len(set((place / "a.txt").read_text())) == 1
    assert [p.name for p in place.parent.iterdir()] == ["abcdef"]
