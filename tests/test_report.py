"""Tables and figures against the frames they are made from."""

import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.image import imread
from scipy.stats import spearmanr

from lowrank_bench.report import curves, error_vs_drop, figures, frames, page, style, versus_svd
from lowrank_bench.report.names import TABLE_NAMES, figure_names, table_names
from lowrank_bench.report.tables import write_tables
from lowrank_bench.score.schema import SCORES, SUMMARY

CAPTIONS = Path(__file__).parents[1] / "workflow/report"
NOTE = "synthetic: made-up sentences, 50 % of a_b"
GLUE = {"cola": ["matthews_correlation"], "mrpc": ["accuracy", "f1"], "wnli": ["accuracy"]}
METHODS = {"svd": [{}], "lp": [{"p": 1.0}, {"p": 1.5}, {"p": 10.0}], "fwsvd_x": [{}]}
KEYS = ["model", "task", "label", "finetune_epochs", "compression", "metric"]
MEANS = ["value", "dense_value", "drop", "vs_svd"]
ENDS = ["drop_ci_low", "drop_ci_high", "vs_svd_ci_low", "vs_svd_ci_high"]


def fake_scores(models=("bert", "net_2"), tasks=GLUE, methods=METHODS, budgets=(0.28, 0.43, 0.6),
                epochs=(0,), seeds=(0, 1), note=NOTE, lost=lambda row: False):  # fmt: skip
    rng = np.random.default_rng(7)
    rows = []
    variants = [("dense", {})] + [(name, p) for name, params in methods.items() for p in params]
    for model, task, (method, params), seed, epoch in itertools.product(
        models, tasks, variants, seeds, epochs
    ):
        for budget in budgets if method != "dense" else [0.0]:
            for metric in tasks[task]:
                drop = 0.0 if method == "dense" else 10 * budget**2 + rng.normal()
                shown = ", ".join(f"{key}={value:g}" for key, value in params.items())
                row = {"experiment": "toy", "model": model, "task": task, "split": "validation"}
                row |= {"method": method, "params": json.dumps(params), "target": "embedding"}
                row |= {"label": f"{method} ({shown})" if shown else method, "metric": metric}
                row |= {"compression": budget, "achieved_compression": budget + 0.004}
                row |= {"seed": seed, "finetune_epochs": epoch, "note": note, "status": "ok"}
                row |= {"reason": "", "n_examples": 277, "dense_value": 80.0}
                row |= {"value": 80.0 - drop, "drop": drop, "vs_svd_p": rng.random() / 5}
                row |= {"rel_error_fro": budget + rng.normal() / 20, "rel_error_l1": rng.random()}
                rows.append(row | _spread(drop))
                if lost(row):
                    gone = [*MEANS, *ENDS, "vs_svd_p", "rel_error_fro", "rel_error_l1"]
                    rows[-1] |= dict.fromkeys(gone, np.nan)
                    rows[-1] |= {"status": "failed", "reason": "no rank fits"}
    scores = pd.DataFrame(rows, columns=list(SCORES))
    svd = scores[scores["method"] == "svd"].drop(columns="label")
    key = ["model", "task", "finetune_epochs", "compression", "metric", "seed"]
    base = scores[key].merge(svd[[*key, "value"]], "left", key)["value"]
    scores["vs_svd"] = (scores["value"] - base).where(scores["method"] != "dense")
    scores["vs_svd_ci_low"], scores["vs_svd_ci_high"] = scores["vs_svd"] - 1, scores["vs_svd"] + 1
    return scores


def _spread(drop):
    return {"drop_ci_low": drop - 1.3, "drop_ci_high": drop + 1.1}


def fake_summary(scores, averages=True):
    ok = scores[scores["status"] == "ok"]
    same = [name for name in SUMMARY if name in SCORES and ok[name].dtype == object]
    same = [*[n for n in same if n not in MEANS + ENDS], "finetune_epochs", "compression"]
    numbers = [*MEANS, *ENDS, "achieved_compression", "vs_svd_p", "n_examples"]
    groups = ok.groupby(same, sort=False)
    summary = groups[numbers].mean().assign(n_seeds=groups["seed"].nunique()).reset_index()
    if averages and not summary.empty:
        inner = [n for n in same if n not in ("task", "metric", "split", "note")]
        for name, skip in (("glue", ""), ("glue_no_wnli", "wnli")):
            part = summary[summary["task"] != skip]
            mean = part.groupby([*inner, "task"], sort=False)[[*numbers, "n_seeds"]].mean()
            mean = mean.groupby(inner, sort=False).mean().reset_index()
            mean = mean.assign(task=name, metric="average", split="", note=f"{NOTE}; {name}")
            summary = pd.concat([summary, mean], ignore_index=True)
    return summary.reindex(columns=list(SUMMARY))


def failed_cell(row):
    return row["model"] == "bert" and row["label"] == "lp (p=1)" and row["compression"] == 0.43


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
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


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


def test_same_frames_give_same_bytes(report, frames_pair, tmp_path):
    scores, summary = frames_pair
    place = tmp_path / "figures"
    again = curves.drop_curves(summary, "bert", place / "drop_bert", "toy", scores)
    again += versus_svd.versus_svd(summary, place / "versus_svd", "toy", scores)
    again += write_tables(scores, summary, tmp_path)
    for path in again:
        assert path.read_bytes() == (report.folder / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize("name", ["drop", "versus_svd", "average"])
def test_csv_numbers_are_those_of_the_summary(report, frames_pair, name):
    table = pd.read_csv(report.folder / f"tables/{name}.csv", float_precision="round_trip")
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
    found = {}
    for part in path.read_text().split("\n## ")[1:]:
        name, *lines = part.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
        found[name] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return found


def test_markdown_cells_show_the_headline_metric(report, frames_pair):
    summary = frames_pair[1].set_index(["model", "task", "label", "compression", "metric"])
    tables = markdown_tables(report.folder / "tables/drop.md")
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


def test_stars_follow_the_p_values(report, frames_pair):
    keys = ["model", "task", "label", "compression"]
    known = frames_pair[1].set_index(keys)["vs_svd_p"].to_dict()
    rows = markdown_tables(report.folder / "tables/versus_svd.md")["net_2"]
    stars = [row["CoLA (Matthews)"].endswith("*") for row in rows]
    budgets = [float(row["compression"].rstrip("%")) / 100 for row in rows]
    p = [
        known["net_2", "cola", row["method"], budget]
        for row, budget in zip(rows, budgets, strict=True)
    ]
    assert stars == [value < 0.05 for value in p]
    assert 0 < sum(stars) < len(stars)


def test_notes_are_in_every_table(report):
    for name in TABLE_NAMES:
        assert NOTE in (report.folder / f"tables/{name}.md").read_text()
        tex = (report.folder / f"tables/{name}.tex").read_text()
        captions = [line for line in tex.splitlines() if line.startswith(r"\caption")]
        assert captions
        assert all(r"made-up sentences, 50 \% of a\_b" in caption for caption in captions)
        assert NOTE in (report.folder / f"tables/{name}.csv").read_text()


def test_latex_rows_are_complete_and_escaped(report):
    for name in TABLE_NAMES:
        tex = (report.folder / f"tables/{name}.tex").read_text()
        assert tex.count(r"\begin{table}") == (1 if name == "status" else 2)
        for part in tex.split(r"\toprule")[1:]:
            body = part.split(r"\bottomrule")[0].replace("\\midrule\n", "")
            counts = {row.replace(r"\&", "").count("&") for row in body.strip().splitlines()}
            assert len(counts) == 1
            assert "_" not in body.replace(r"\_", "")
            assert "%" not in body.replace(r"\%", "")
    drop = (report.folder / "tables/drop.tex").read_text()
    assert r"fwsvd\_x" in drop
    assert "[-" not in drop  # a minus sign, not a hyphen
    assert "[$-$" in drop


def test_status_lists_each_lost_cell(report):
    table = pd.read_csv(report.folder / "tables/status.csv")
    assert set(zip(table["task"], table["seed"], strict=True)) == {
        (task, seed) for task in GLUE for seed in (0, 1)
    }
    assert len(table) == 6
    assert set(table["reason"]) == {"no rank fits"}
    text = (report.folder / "tables/status.md").read_text()
    assert f"6 of {2 * 3 * 2 * (1 + 5 * 3)} cells" in text
    assert markdown_tables(report.folder / "tables/status.md")["bert"][0]["cells"] == "6"


def test_dense_table_shows_the_majority_class_where_known(frames_pair, tmp_path):
    scores, summary = frames_pair
    known = scores.assign(majority_value=np.where(scores["metric"] == "f1", 81.25, 68.5))
    write_tables(known, summary, tmp_path)
    rows = markdown_tables(tmp_path / "tables/dense.md")["bert"]
    assert [row["majority class"] for row in rows if row["metric"] == "F1"] == ["81.25"]
    assert {row["score"] for row in rows} == {"80.00"}
    write_tables(scores, summary, tmp_path)
    assert "majority" not in (tmp_path / "tables/dense.md").read_text()


def test_curves_draw_the_drops_with_a_gap_where_a_cell_failed(drawn, frames_pair):
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


def test_gains_are_means_over_tasks_counted_at_five_percent(frames_pair):
    frame = frames.tidy(frames_pair[1])
    rows = frames.headline(frame)
    cells = versus_svd.compare(rows, frames.averages(frame).head(0))
    assert len(cells) == 2 * 4 * 3 - 1
    for cell in cells.itertuples():
        own = rows[(rows["model"] == cell.model) & (rows["label"] == cell.series)]
        own = own[own["compression"] == cell.compression]
        gains, p = list(own["vs_svd"]), list(own["vs_svd_p"])
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
        own = glue.loc[(cell.model, cell.series, cell.compression)]
        assert (cell.gain, cell.p) == (own["vs_svd"], own["vs_svd_p"])


def test_rank_correlation_is_within_task_and_seed(frames_pair):
    rows = frames.headline(frames.tidy(frames_pair[0]))
    rows = rows[rows["model"] == "net_2"]
    values = [
        spearmanr(part["rel_error_fro"], part["drop"]).statistic
        for _, part in rows.groupby(["task", "seed"])
    ]
    assert len(values) == 6
    assert error_vs_drop.rank_correlation(rows, "rel_error_fro") == pytest.approx(np.mean(values))


def test_svd_is_black_and_dashed_and_families_run_from_dark_to_light():
    scores = frames.tidy(fake_scores(seeds=(0,), epochs=(0, 2)))
    styles = style.line_styles(scores)
    assert list(styles)[:2] == ["svd, 0 epochs", "svd, 2 epochs"]
    for name, line in styles.items():
        assert (line.color == (0, 0, 0)) == name.startswith("svd")
        assert line.filled == name.endswith("0 epochs")
    assert styles["svd, 0 epochs"].dashes != styles["lp (p=1), 0 epochs"].dashes == "-"
    light = [sum(styles[f"lp (p={p}), 0 epochs"].color) for p in ("1", "1.5", "10")]
    assert light == sorted(light)
    assert len(set(light)) == 3
    order = [name for name in styles if name.startswith("lp")]
    assert [name.split(",")[0] for name in order[::2]] == ["lp (p=1)", "lp (p=1.5)", "lp (p=10)"]
    assert len({(line.color, line.dashes) for line in styles.values()}) == len(styles)


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
    assert len(write_tables(scores, summary, tmp_path)) == 15
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


def test_notes_say_what_they_hold_for():
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


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("caption", sorted(CAPTIONS.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_render_as_snakemake_does(caption, filled):
    from docutils.core import publish_parts
    from jinja2 import Environment

    wildcards = SimpleNamespace(model="bert_x") if filled else SimpleNamespace()
    config = {"experiment": "glue-x"} if filled else {}
    job = SimpleNamespace(config=config, wildcards=wildcards, params=SimpleNamespace())
    env = Environment(trim_blocks=True, lstrip_blocks=True)
    text = env.from_string(caption.read_text()).render(snakemake=job)
    strict = {"halt_level": 2, "report_level": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the writer's argument is renamed in docutils 2
        body = publish_parts(text, writer_name="html", settings_overrides=strict)["html_body"]
    assert "{{" not in body
    if caption.stem in ("workflow", "drop"):
        name = {"workflow": "glue-x", "drop": "(bert_x)"}[caption.stem]
        assert (name in body) == filled


def test_every_figure_and_table_has_a_caption():
    found = {path.stem for path in CAPTIONS.glob("*.rst")}
    stems = {"drop", "average", "versus_svd", "error_vs_drop", "workflow"}
    assert found >= stems | {f"table_{name}" for name in TABLE_NAMES}
