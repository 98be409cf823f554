"""Tables of the report against the summary that they are made from."""

import itertools

import numpy as np
import pandas as pd
import pytest
from fake_report import GLUE, KEYS, NOTE, failed_cell, fake_scores, fake_summary

from lowrank_bench.report.names import TABLE_NAMES
from lowrank_bench.report.tables import write_tables


@pytest.fixture(scope="module")
def frames_pair():
    scores = fake_scores(lost=failed_cell)
    return scores, fake_summary(scores)


@pytest.fixture(scope="module")
def folder(frames_pair, tmp_path_factory):
    place = tmp_path_factory.mktemp("toy")
    write_tables(*frames_pair, place)
    return place


@pytest.mark.parametrize("name", ["drop", "versus_svd", "average"])
def test_csv_numbers_equal_those_of_the_summary(folder, frames_pair, name):
    table = pd.read_csv(folder / f"tables/{name}.csv", float_precision="round_trip")
    column = "vs_svd" if name == "versus_svd" else "drop"
    rows = frames_pair[1]
    rows = rows[rows["method"] != "dense"]
    if name == "versus_svd":
        rows = rows[rows["method"] != "svd"]
    if name == "average":
        rows = rows[rows["metric"] == "average"]
    expected = rows.set_index(KEYS).sort_index()
    table = table.set_index(KEYS).sort_index()
    assert list(table.index) == list(expected.index)
    for number in (column, f"{column}_ci_low", f"{column}_ci_high"):
        np.testing.assert_array_equal(table[number], expected[number])
    assert list(table["note"]) == list(expected["note"])


def markdown_tables(path):
    """Return {section: list of rows as dicts} of a markdown file."""
    sections = {}
    for part in path.read_text().split("\n## ")[1:]:
        name, *lines = part.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
        sections[name] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return sections


def test_markdown_cells_show_the_headline_metric(folder, frames_pair):
    summary = frames_pair[1].set_index(["model", "task", "label", "compression", "metric"])
    tables = markdown_tables(folder / "tables/drop.md")
    assert list(tables) == ["bert", "net_2"]
    panels = {"CoLA (Matthews)": ("cola", "matthews_correlation"), "MRPC (F1)": ("mrpc", "f1")}
    panels |= {"WNLI (accuracy)": ("wnli", "accuracy"), "GLUE average": ("glue", "average")}
    for model, rows in tables.items():
        assert len(rows) == 5 * 3
        for row, (panel, (task, metric)) in itertools.product(rows, panels.items()):
            budget = float(row["compression"].rstrip("%")) / 100
            if failed_cell({"model": model, "label": row["method"], "compression": budget}):
                assert row[panel] == ("failed" if task != "glue" else "")
                continue
            cell = summary.loc[(model, task, row["method"], budget, metric)]
            low, high = cell["drop_ci_low"], cell["drop_ci_high"]
            assert row[panel] == f"{cell['drop']:.1f} [{low:.1f}, {high:.1f}]".replace(
                "-0.0", "0.0"
            )


def test_stars_match_the_p_values(folder, frames_pair):
    keys = ["model", "task", "label", "compression"]
    known = frames_pair[1].set_index(keys)["vs_svd_p"].to_dict()
    rows = markdown_tables(folder / "tables/versus_svd.md")["net_2"]
    stars = [row["CoLA (Matthews)"].endswith("*") for row in rows]
    budgets = [float(row["compression"].rstrip("%")) / 100 for row in rows]
    p = [
        known["net_2", "cola", row["method"], budget]
        for row, budget in zip(rows, budgets, strict=True)
    ]
    assert stars == [value < 0.05 for value in p]
    assert 0 < sum(stars) < len(stars)


def test_every_table_has_its_notes(folder):
    for name in TABLE_NAMES:
        assert NOTE in (folder / f"tables/{name}.md").read_text()
        tex = (folder / f"tables/{name}.tex").read_text()
        captions = [line for line in tex.splitlines() if line.startswith(r"\caption")]
        assert captions
        assert all(r"made-up sentences, 50 \% of a\_b" in caption for caption in captions)
        assert NOTE in (folder / f"tables/{name}.csv").read_text()


def test_latex_rows_are_complete_and_escaped(folder):
    for name in TABLE_NAMES:
        tex = (folder / f"tables/{name}.tex").read_text()
        assert tex.count(r"\begin{table}") == (1 if name == "status" else 2)
        for part in tex.split(r"\toprule")[1:]:
            body = part.split(r"\bottomrule")[0].replace("\\midrule\n", "")
            counts = {row.replace(r"\&", "").count("&") for row in body.strip().splitlines()}
            assert len(counts) == 1
            assert "_" not in body.replace(r"\_", "")
            assert "%" not in body.replace(r"\%", "")
    drop = (folder / "tables/drop.tex").read_text()
    assert r"fwsvd\_x" in drop
    assert "[-" not in drop  # a minus sign, not a hyphen
    assert "[$-$" in drop


def test_status_lists_each_missing_cell(folder):
    table = pd.read_csv(folder / "tables/status.csv")
    assert set(zip(table["task"], table["seed"], strict=True)) == {
        (task, seed) for task in GLUE for seed in (0, 1)
    }
    assert len(table) == 6
    assert set(table["reason"]) == {"no rank fits"}
    text = (folder / "tables/status.md").read_text()
    assert f"6 of {2 * 3 * 2 * (1 + 5 * 3)} cells" in text
    assert markdown_tables(folder / "tables/status.md")["bert"][0]["cells"] == "6"


def test_dense_table_shows_the_majority_class_if_known(frames_pair, tmp_path):
    scores, summary = frames_pair
    known = scores.assign(majority_value=np.where(scores["metric"] == "f1", 81.25, 68.5))
    write_tables(known, summary, tmp_path)
    rows = markdown_tables(tmp_path / "tables/dense.md")["bert"]
    assert [row["majority class"] for row in rows if row["metric"] == "F1"] == ["81.25"]
    assert {row["score"] for row in rows} == {"80.00"}
    write_tables(scores, summary, tmp_path)
    assert "majority" not in (tmp_path / "tables/dense.md").read_text()
