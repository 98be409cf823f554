"""`make bench` replaces one part of the page and keeps the others and the hand-written text."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import run_all

PAGE = """# Benchmarks

## One

By hand.

<!-- bench:one -->
old \\1 text
<!-- /bench:one -->

After one.

## Two

<!-- bench:two -->
two's text
<!-- /bench:two -->
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with two benchmarks, whose scripts are in the same folder."""
    place = tmp_path / "page.md"
    place.write_text(PAGE)
    (tmp_path / "one.py").write_text("print('a table \\\\1')\nprint('ratio: 3x')\n")
    (tmp_path / "two.py").write_text("print('half')\nraise SystemExit('no')\n")
    (tmp_path / "new.py").write_text("import sys\nprint(sys.argv[1:])\n")
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    monkeypatch.setattr(run_all, "TITLES", {"one": "One", "two": "Two", "new": "A new one"})
    return place


def call(monkeypatch, page, *words):
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--page", str(page), *words])
    run_all.main()


def test_one_part_is_replaced_and_everything_else_stays(monkeypatch, page):
    call(monkeypatch, page, "--only", "one")
    before, after = PAGE.split("old \\1 text")
    text = page.read_text()
    assert text.startswith(before)
    assert text.endswith(after)
    part = text[len(before) : -len(after)]
    ratio, machine, table = (part.index(word) for word in ("- 3x", "cores, load", "a table \\1"))
    assert ratio < machine < table


def test_a_failing_script_is_named_and_its_part_is_left_unchanged(monkeypatch, page):
    with pytest.raises(SystemExit, match=r"two \(exit code 1\)"):
        call(monkeypatch, page)
    text = page.read_text()
    assert "two's text" in text
    assert "half" not in text
    assert "- 3x" in text
    assert "A new one" in text


def test_a_new_benchmark_gets_a_section_at_the_end(monkeypatch, page):
    call(monkeypatch, page, "--only", "new", "--quick")
    text = page.read_text()
    assert text.startswith(PAGE)
    assert "## A new one\n" in text
    assert "['--quick']" in text


def test_every_listed_benchmark_is_a_script():
    missing = [name for name in run_all.TITLES if not (run_all.FOLDER / f"{name}.py").is_file()]
    assert not missing
