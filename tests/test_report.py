"""Figures and captions against the frames that they are made from."""

import itertools
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_report import GLUE, NOTE, failed_cell, fake_scores, fake_summary
from matplotlib.collections import PolyCollection
from matplotlib.image import imread
from scipy.stats import spearmanr

from lowrank_bench.report import curves, error_vs_drop, figures, frames, page, style, versus_svd
from lowrank_bench.report.columns import NUMBERS, TEXT
from lowrank_bench.report.names import TABLE_NAMES, figure_names, table_names
from lowrank_bench.report.tables import write_tables
from lowrank_bench.score import scores as scoring
from lowrank_bench.score.schema import SCORES, SUMMARY
from lowrank_bench.score.scores import ScoredCell, build_scores


@pytest.fixture(scope="module")
def frames_pair():
    scores = fake_scores(lost=failed_cell)
    return scores, fake_summary(scores)


@pytest.fixture(scope="module")
def report(frames_pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures.write_figures(*frames_pair, folder, "toy")
        tables = write_tables(*frames_pair, folder)
    return SimpleNamespace(folder=folder, figures=drawn, tables=tables)


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures instead of writing them."""
    pages = []
    for module in (curves, versus_svd, error_vs_drop, page):
        monkeypatch.setattr(module, "save", lambda figure, stem: pages.append(figure) or [])
    return pages


def texts(figure):
    words = [text.get_text() for text in figure.texts]
    return words + [text.get_text() for axes in figure.axes for text in axes.texts]


def line_of(axes, color):
    lines = [line for line in axes.lines if line.get_color() == color and line.get_marker() != "x"]
    assert len(lines) == 1
    return lines[0]


def test_names_need_neither_pandas_nor_matplotlib():
    code = (
        "import sys, lowrank_bench.report.names; "
        "sys.exit(bool({'pandas', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_and_tables_need_no_torch():
    code = (
        "import sys, lowrank_bench.report.figures, lowrank_bench.report.tables; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_declared_file_is_written(report):
    assert report.figures == [report.folder / name for name in figure_names(["net_2", "bert"])]
    assert report.tables == [report.folder / name for name in table_names()]
    for path in report.figures:
        start = {".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix]
        assert path.read_bytes().startswith(start)
    pixels = imread(report.folder / "figures/drop_bert.png")
    assert pixels.shape[1] == round(7.2 * 150)
    assert pixels[..., :3].std() > 0.05


def test_equal_frames_give_identical_bytes(report, frames_pair, tmp_path):
    scores, summary = frames_pair
    place = tmp_path / "figures"
    again = curves.drop_curves(summary, "bert", place / "drop_bert", "toy", scores)
    again += versus_svd.versus_svd(summary, place / "versus_svd", "toy", scores)
    again += write_tables(scores, summary, tmp_path)
    same = [path for path in again if path.suffix != ".pdf"]  # fonts are embedded in any order
    assert len(same) == 2 + len(table_names())
    for path in same:
        assert path.read_bytes() == (report.folder / path.relative_to(tmp_path)).read_bytes()


def test_curves_show_the_drops_with_a_gap_where_a_cell_failed(drawn, frames_pair):
    scores, summary = frames_pair
    curves.drop_curves(summary, "bert", Path("x"), "toy", scores)
    axes = drawn[0].axes[1]
    assert axes.get_title(loc="left") == "MRPC (F1)"
    styles = style.line_styles(frames.tidy(scores))
    rows = summary.query("model == 'bert' and task == 'mrpc' and metric == 'f1'")
    whole = rows[rows["label"] == "lp (p=1.5)"].sort_values("compression")
    line = line_of(axes, styles["lp (p=1.5)"].color)
    np.testing.assert_allclose(line.get_ydata(), whole["drop"])
    np.testing.assert_allclose(line.get_xdata(), [28.4, 43.4, 60.4])
    broken = line_of(axes, styles["lp (p=1)"].color)
    assert list(np.isnan(broken.get_ydata())) == [False, True, False]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[43.0]]
    shades = [part for part in axes.collections if isinstance(part, PolyCollection)]
    shade = shades[list(styles).index("lp (p=1.5)")].get_paths()[0].vertices
    for x, end in itertools.product((28.4, 43.4, 60.4), ("low", "high")):
        row = whole[np.isclose(100 * whole["achieved_compression"], x)].iloc[0]
        assert np.isclose(shade, [x, row[f"drop_ci_{end}"]]).all(axis=1).any()
    assert any(text.startswith("6 cells failed or skipped") for text in texts(drawn[0]))


def test_averages_keep_their_notes_and_gaps(drawn, frames_pair):
    scores, summary = frames_pair
    curves.average_curves(summary, Path("x"), "toy", scores)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    without = "GLUE average without WNLI"
    assert titles == [f"{m}: {a}" for m in ("bert", "net_2") for a in ("GLUE average", without)]
    words = " ".join(texts(drawn[0]))
    assert f"{NOTE}; glue_no_wnli [bert: {without}, net_2: {without}]" in words
    assert f"{NOTE}; glue [bert: GLUE average, net_2: GLUE average]" in words
    color = style.line_styles(frames.tidy(scores))["lp (p=1)"].color
    assert np.isnan(line_of(drawn[0].axes[0], color).get_ydata()[1])
    assert not np.isnan(line_of(drawn[0].axes[2], color).get_ydata()).any()


def test_one_average_is_drawn_when_no_network_has_wnli(drawn):
    tasks = {name: GLUE[name] for name in ("cola", "mrpc")}
    scores = fake_scores(models=("m",), tasks=tasks, seeds=(0,))
    curves.average_curves(fake_summary(scores), Path("x"), "toy", scores)
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["m: GLUE average"]


@pytest.mark.parametrize("note", [NOTE, "", "subset of 100 examples"])
def test_each_figure_carries_the_note(drawn, note):
    tasks = {"sst2": ["accuracy"]}
    scores = fake_scores(models=("m",), tasks=tasks, note=note, seeds=(0,))
    summary = fake_summary(scores, averages=False)
    curves.drop_curves(summary, "m", Path("x"))
    versus_svd.versus_svd(summary, Path("x"))
    error_vs_drop.error_vs_drop(scores, Path("x"))
    assert len(drawn) == 3
    for figure in drawn:
        notes = [t for t in figure.texts if t.get_color() == style.WARNING]
        shown = {NOTE: [f"synthetic data: {NOTE}"], "": []}.get(note, [note])
        assert [text.get_text() for text in notes] == shown
        assert all((text.get_weight() == "bold") == (note == NOTE) for text in notes)


def test_a_dense_network_with_further_training_is_not_compared_with_svd(drawn):
    scores = fake_scores(models=("m",), epochs=(0, 1), seeds=(0,))
    versus_svd.versus_svd(fake_summary(scores, averages=False), Path("x"))
    panel = drawn[0].axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["28", "43", "60"]
    rows = [label.get_text() for label in panel.get_yticklabels()]
    assert sorted({name.split(" (")[0].split(",")[0] for name in rows}) == ["fwsvd_x", "lp"]


def test_svd_with_parameters_is_compared_with_plain_svd(drawn):
    methods = {"svd": [{}, {"a": 1.0}], "lp": [{"p": 1.0}]}
    scores = fake_scores(models=("m",), methods=methods, seeds=(0,))
    variant = scores["label"] == "svd (a=1)"
    scores.loc[variant, "vs_svd"] = 1.0
    versus_svd.versus_svd(fake_summary(scores, averages=False), Path("x"))
    rows = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert sorted(rows) == ["lp (p=1)", "svd (a=1)"]


@pytest.mark.parametrize("count", range(1, 13))
def test_one_panel_per_task_with_ticks_under_each_column(drawn, count):
    tasks = {f"t{n}": ["accuracy"] for n in range(count)}
    methods = {"svd": [{}]}
    scores = fake_scores(models=("m",), tasks=tasks, methods=methods, seeds=(0,), note="")
    curves.drop_curves(fake_summary(scores, averages=False), "m", Path("x"))
    axes = drawn[0].axes
    titles = [part.get_title(loc="left") for part in axes]
    assert titles == [f"t{n} (accuracy)" for n in range(count)]
    with style.page_style():
        drawn[0].draw_without_rendering()
    boxes = [part.get_position() for part in axes]
    assert all(box.width > 0.15 and box.height > 0.1 for box in boxes)
    for place, box in enumerate(boxes):
        lowest = not any(abs(b.x0 - box.x0) < 0.01 and b.y1 < box.y0 for b in boxes)
        assert axes[place].xaxis.get_tick_params()["labelbottom"] == lowest


def test_gains_are_means_over_tasks_and_wins_are_counted_at_five_percent(frames_pair):
    frame = frames.tidy(frames_pair[1])
    rows = frames.headline(frame)
    cells = versus_svd.compare(rows, frames.averages(frame).head(0))
    assert len(cells) == 2 * 4 * 3 - 1
    for cell in cells.itertuples():
        points = rows[(rows["model"] == cell.model) & (rows["label"] == cell.series)]
        points = points[points["compression"] == cell.compression]
        gains, p = list(points["vs_svd"]), list(points["vs_svd_p"])
        assert cell.gain == pytest.approx(sum(gains) / 3)
        sure = [gain for gain, value in zip(gains, p, strict=True) if value < 0.05]
        assert (cell.won, cell.lost) == (sum(g > 0 for g in sure), sum(g < 0 for g in sure))
        assert (cell.tasks, cell.of, cell.basis) == (3, 3, "mean of 3 tasks")
        assert np.isnan(cell.p)


def test_the_glue_average_is_preferred_to_the_mean_of_headline_metrics(frames_pair):
    frame = frames.tidy(frames_pair[1])
    cells = versus_svd.compare(frames.headline(frame), frames.averages(frame))
    glue = frame[frame["task"] == "glue"].set_index(["model", "label", "compression"])
    for cell in cells.itertuples():
        average = glue.loc[(cell.model, cell.series, cell.compression)]
        assert (cell.gain, cell.p) == (average["vs_svd"], average["vs_svd_p"])


def test_rank_correlation_is_within_task_and_seed(frames_pair):
    rows = frames.headline(frames.tidy(frames_pair[0]))
    rows = rows[rows["model"] == "net_2"]
    values = [
        spearmanr(part["rel_error_fro"], part["drop"]).statistic
        for _, part in rows.groupby(["task", "seed"])
    ]
    assert len(values) == 6
    assert error_vs_drop.rank_correlation(rows, "rel_error_fro") == pytest.approx(np.mean(values))


EDGES = {
    "without svd": {"methods": {"lp": [{"p": 1.0}], "messi": [{}]}},
    "one compression": {"budgets": (0.28,)},
    "one task": {"tasks": {"cifar10": ["accuracy"]}},
    "several epochs": {"epochs": (0, 1, 2)},
    "no averages": {},
    "nothing ran": {"lost": lambda row: True},
    "one task lost": {"lost": lambda row: row["task"] == "mrpc"},
    "svd lost": {"lost": lambda row: row["method"] == "svd"},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_draw_every_figure(drawn, tmp_path, edge):
    options = {"models": ("m",), "seeds": (0,)} | EDGES[edge]
    scores = fake_scores(**options)
    summary = fake_summary(scores, averages=edge not in ("one task", "no averages"))
    figures.write_figures(scores, summary, tmp_path, edge)
    assert len(drawn) == 4
    with style.page_style():
        for figure in drawn:
            figure.draw_without_rendering()
    assert len(write_tables(scores, summary, tmp_path)) == 18
    words = [" ".join(texts(figure)) for figure in drawn]
    assert ("no average over GLUE tasks" in words[1]) == summary.query("task == 'glue'").empty
    comparable = edge not in ("without svd", "nothing ran", "svd lost")
    assert ("nothing to compare" in words[2]) != comparable
    assert ("no cell was evaluated" in words[0]) == (edge == "nothing ran")
    assert ("every cell failed" in words[0]) == (edge == "one task lost")


@pytest.mark.filterwarnings("error")
def test_empty_frames_still_give_every_file(tmp_path):
    scores, summary = pd.DataFrame(columns=list(SCORES)), pd.DataFrame(columns=list(SUMMARY))
    paths = figures.write_figures(scores, summary, tmp_path, "empty", models=["bert"])
    assert paths == [tmp_path / name for name in figure_names(["bert"])]
    paths += write_tables(scores, summary, tmp_path)
    assert all(path.stat().st_size for path in paths)
    for name in TABLE_NAMES:
        assert "note" in pd.read_csv(tmp_path / f"tables/{name}.csv").columns


def test_notes_say_what_they_apply_to():
    rows = pd.DataFrame(
        [
            ("a", "CoLA", "svd", "28%", "all of it"),
            ("a", "RTE", "svd", "28%", "all of it"),
            ("b", "CoLA", "svd", "28%", "part"),
            ("b", "RTE", "lp", "43%", ""),
        ],
        columns=["model", "panel", "series", "percent", "note"],
    )
    assert frames.note_lines(rows) == ["all of it [a; svd; 28%]", "part [b: CoLA; svd; 28%]"]
    many = pd.concat([rows.assign(note=f"note {n}") for n in range(9)])
    assert len(frames.note_lines(many)) == 6
    assert frames.note_lines(many)[-1] == "and 4 more notes: see the tables"


def scored_frames():
    """Return the tables of the score step for two tasks, one with a split without labels."""
    rng = np.random.default_rng(0)
    two = ["no", "yes"]
    parts = [{"split": f"validation_{end}", "metrics": ["accuracy"]} for end in ("a", "b")]
    tasks = {
        "quick_mrpc": {"evaluation": [{"split": "validation", "metrics": ["f1", "accuracy"]}]},
        "quick_mnli": {"evaluation": parts},
    }
    tasks = {name: task | {"labels": two, "glue": name[6:]} for name, task in tasks.items()}
    truth = {("quick_mrpc", "validation"): rng.integers(2, size=50)}
    truth["quick_mnli", "validation_b"] = rng.integers(2, size=50)
    cells = []
    for name, method, budget, seed in itertools.product(
        tasks, ("svd", "lp"), (0, 0.3, 0.6), (0, 1)
    ):
        if budget == 0 and method == "lp":
            continue
        meta = {"experiment": "toy", "model": "m", "task": name, "params": "{}", "seed": seed}
        meta |= {"method": method if budget else "dense", "target": "embedding"}
        meta |= {"label": meta["method"], "compression": budget, "finetune_epochs": 0}
        meta |= {"note": "synthetic", "rel_error_fro": budget or None}
        splits = [part["split"] for part in tasks[name]["evaluation"]]
        failed = (method, budget, seed) == ("lp", 0.6, 1)
        outcome = {"status": "failed", "reason": "killed"} if failed else {}
        predictions = {} if failed else {split: rng.normal(size=(50, 2)) for split in splits}
        cells.append(ScoredCell(meta, predictions, **outcome))
    missing = {("quick_mnli", "validation_a"): "labels are hidden"}
    return build_scores(cells, tasks, truth, missing=missing, resamples=100, permutations=99)


@pytest.mark.filterwarnings("error")
def test_the_tables_of_the_score_step_can_be_reported(drawn, tmp_path):
    scores, summary = scored_frames()
    figures.write_figures(scores, summary, tmp_path, "toy")
    titles = [[axes.get_title(loc="left") for axes in figure.axes] for figure in drawn]
    assert titles[0] == ["quick MRPC (F1)", "quick MNLI (accuracy, b)"]
    assert titles[1] == ["m: GLUE average"]
    assert titles[2][0] == "m (GLUE average)"
    words = [" ".join(texts(figure)) for figure in drawn]
    assert all("synthetic data: " in text for text in words)
    assert "1 of 2 seeds: seed 1 failed; synthetic [lp; 60%]" in words[0]
    assert "average over 2 tasks: without cola, sst2" in words[1]
    styles = style.line_styles(frames.tidy(scores))
    for axes, (task, metric) in zip(
        drawn[0].axes, [("quick_mrpc", "f1"), ("quick_mnli", "accuracy")], strict=True
    ):
        rows = summary[(summary["task"] == task) & (summary["metric"] == metric)]
        rows = rows[(rows["method"] == "lp") & rows["drop"].notna()].sort_values("compression")
        line = line_of(axes, styles["lp"].color)
        np.testing.assert_allclose(line.get_ydata(), rows["drop"])
    paths = write_tables(scores, summary, tmp_path)
    status = pd.read_csv(tmp_path / "tables/status.csv")
    hidden = status[status["reason"] == "labels are hidden"]
    assert set(hidden["split"]) == {"validation_a"}
    assert (status["reason"] == "killed").sum() == 3  # MRPC, and both splits of MNLI
    text = next(path for path in paths if path.name == "status.md").read_text()
    assert "2 of 20 cells failed or were skipped, 9 more on some of their splits." in text
    assert all("2 cells failed or skipped:" in line for line in words)


def test_the_report_asks_for_columns_that_scoring_writes_with_their_types():
    assert set(TEXT) | set(NUMBERS) <= SCORES.keys() | SUMMARY.keys()
    assert set(TEXT) <= set(scoring.TEXT)
    assert not set(NUMBERS) & set(scoring.TEXT)


def test_the_report_shows_the_same_with_only_the_columns_that_it_asks_for(frames_pair, tmp_path):
    needed = [*TEXT, *NUMBERS]
    full = write_tables(*frames_pair, tmp_path / "full")
    few = write_tables(
        *(frame[[name for name in needed if name in frame]] for frame in frames_pair),
        tmp_path / "few",
    )
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in full]


def test_tasks_are_named_and_ordered_as_in_glue():
    tasks = ["glue_no_wnli", "task10", "quick_rte", "glue", "task9", "cola", "quick_cola"]
    order = ["cola", "quick_cola", "quick_rte", "task9", "task10", "glue", "glue_no_wnli"]
    assert frames.task_order(tasks) == order
    names = ["CoLA", "quick CoLA", "quick RTE", "task9", "task10", "GLUE average"]
    assert [frames.task_title(task) for task in order[:-1]] == names
