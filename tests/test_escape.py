"""Texts that come from data are plain text in every format of the report."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pandas as pd
import pytest
from docutils.core import publish_parts
from fake_report import fake_scores, fake_summary
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.config import load_config
from lowrank_bench.report.escape import csv_cells, markdown_text, rst_text
from lowrank_bench.report.figures import write_figures
from lowrank_bench.report.names import label_text
from lowrank_bench.report.tables import write_tables
from lowrank_bench.stages.experiment import Experiment

PROJECT = Path(__file__).parents[1]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- x",
    "`click <javascript:alert(1)>`_",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1) data:text/html,x vbscript:x",
    "[click](javascript:alert(1))",
    "![x](http://tracker/x.png) [a][b] [b]: javascript:x",
    ".. raw:: html\n\n   <script>alert(1)</script>",
    ".. include:: /etc/passwd",
    ".. image:: http://tracker/x.png",
    "a::\n\n   <b>literal</b>",
    "====\nTitle\n====",
    "- a\n- b",
    "1. first",
    ":role:`x` |sub| *emph* **b** ref_ _`target` [1]_",
    '=HYPERLINK("http://x")',
    "@SUM(1)",
    "+1+1",
    "-2+3",
    "\t=1",
    "$\\frac{$ & % # _ ~ ^ {x} \\input{/etc/passwd}",
    "[x]",
    "*x",
    "a\n\nb",
    "{{ 1 }} {% raw %} {wildcard}",
]


class Page(HTMLParser):
    """Tags, targets and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.targets, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.words += data


def page_of(rst):
    return Page(publish_parts(rst, writer_name="html5_polyglot")["body"])


def check_plain(text):
    page = page_of(f"Start.\n\n{rst_text(text)}")
    assert set(page.tags) <= {"p", "a"}, page.tags
    allowed = ("http://", "https://", "mailto:")
    assert all(target.startswith(allowed) for target in page.targets), page.targets
    assert page.words.split() == ["Start.", *text.split()]


@pytest.mark.parametrize("text", HOSTILE)
def test_descriptions_are_plain_text_in_the_report(text):
    check_plain(text)


SIGNS = st.sampled_from([*"`<>_*|:.-=+#$\\[](){}^~!@&%'\" \n", "a", "1", "::", ".. ", "\n\n", "x:"])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(SIGNS, min_size=1, max_size=12).map("".join).filter(str.strip))
def test_any_signs_are_plain_text_in_the_report(text):
    check_plain(text)


@pytest.mark.campaign
@settings(max_examples=10_000, deadline=None, derandomize=True, database=None)
@given(st.lists(SIGNS, min_size=1, max_size=12).map("".join).filter(str.strip))
def test_many_signs_are_plain_text_in_the_report(text):
    check_plain(text)


def test_the_first_page_of_the_report_is_that_of_an_ordinary_experiment():
    """Titles, descriptions and methods that the repository brings pass as they are."""
    for name in ("quickstart", "robust_svd", "pfp_cifar"):
        config = load_config(PROJECT / "conf", [f"experiment={name}"])
        words = Experiment.report_words(SimpleNamespace(config=config))
        shown = page_of("\n\n".join([words["title"], words["description"], *words["methods"]]))
        assert set(shown.tags) <= {"p", "a", "span"}
        assert " ".join(config.title.split()) in " ".join(shown.words.split())
        assert " ".join(config.description.split()) in " ".join(shown.words.split())


@pytest.mark.parametrize("text", ["</script>", "`a <javascript:x>`_", "Größe · 漢字 & co", "{a}"])
def test_a_title_is_a_heading_of_plain_text(text):
    template = (PROJECT / "workflow/report/workflow.rst").read_text()
    report = {"title": rst_text(text), "description": "x", "methods": ["a"]}
    rst = jinja2.Template(template).render(snakemake={"config": {"report": report}})
    parts = publish_parts(rst, writer_name="html5_polyglot")
    assert Page(parts["title"]).words == text
    assert "script" not in Page(parts["whole"]).tags
    assert "system-message" not in parts["html_body"]
    assert "</script" not in json.dumps(label_text(text))
    assert label_text(text).replace("\u2060", "") == text


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """Return the tables of scores whose every text is hostile."""
    place = tmp_path_factory.mktemp("spoiled")
    scores = fake_scores(models=("net", "</script>"), lost=lambda row: row["compression"] == 0.6)
    texts = iter(HOSTILE * 1000)
    for column in ("reason", "note"):
        scores[column] = [next(texts) if value else "" for value in scores[column]]
    names = {name: next(texts) for name in sorted(set(scores["label"]) - {"svd", "dense"})}
    tasks = {"cola": "[x](javascript:y)", "mrpc": "=1+1|<b>", "wnli": "$a_{1$"}
    scores = scores.assign(label=scores["label"].replace(names), task=scores["task"].replace(tasks))
    summary = fake_summary(scores, averages=False)
    return place, scores, summary, write_tables(scores, summary, place)


def test_csv_has_no_formula(spoiled):
    *_, paths = spoiled
    cells = [
        cell
        for path in paths
        if path.suffix == ".csv"
        for row in csv.reader(path.open(newline=""))
        for cell in row
    ]
    for cell in cells:
        assert cell[:1] not in ("=", "@", "\t", "\r")
        assert cell[:1] not in ("+", "-") or float(cell) is not None
    assert "'=1+1|<b>" in cells


def test_numbers_of_csv_files_stay_numbers():
    frame = pd.DataFrame(
        {"a": [-1.5, 2.0], "b": ["-1.5", "-x"], "c": ["+5e-3", "=a"], "=d": [1, 2]}
    )
    shown = csv_cells(frame)
    assert list(shown["a"]) == [-1.5, 2.0]
    assert list(shown["b"]) == ["-1.5", "'-x"]
    assert list(shown["c"]) == ["+5e-3", "'=a"]
    assert "'=d" in shown


def test_markdown_has_no_tag_and_no_link(spoiled):
    *_, paths = spoiled
    for path in paths:
        if path.suffix == ".md":
            text = path.read_text()
            assert not re.search(r"<[/!?A-Za-z]", text), path
            assert not re.search(r"(?<!\\)\][(\[:]", text), path
            assert not re.search(r"^\s*(\[|<|==|--\s)", text, re.MULTILINE), path


def test_markdown_of_ordinary_words_is_unchanged():
    for text in ("20.1 [19.0, 21.2]", "p < 0.05", "50 % of a_b", "lp (p=1)", "a & b", "3 <4"):
        assert markdown_text(text) == text


def test_latex_has_no_command_from_data_and_no_row_that_begins_with_an_argument(spoiled):
    *_, paths = spoiled
    for path in paths:
        if path.suffix == ".tex":
            text = path.read_text()
            assert "\\input" not in text
            assert "\\frac" not in text
            assert not re.search(r"^[\[*]", text, re.MULTILINE), path
            assert "\n\n" not in text.replace("\\end{table}\n\n", ""), path
            for line in text.splitlines():
                free = re.sub(r"\\[{}]", "", line)
                if line.startswith(r"\caption"):
                    assert free.count("{") == free.count("}"), line


def test_figures_show_names_with_dollar_signs(tmp_path):
    methods = {"svd": [{}], "$y^$": [{}]}
    scores = fake_scores(("$x_{$",), {"cola$": ["f1"]}, methods, (0.5,), seeds=(0,), note="$z")
    paths = write_figures(scores, fake_summary(scores, False), tmp_path, "a $\\frac{$ b")
    assert all(path.stat().st_size > 1000 for path in paths)
