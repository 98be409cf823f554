"""What figures and tables say about the budget, and about what an experiment lacks."""

from pathlib import Path

import pandas as pd
import pytest
from fake_report import fake_scores, fake_summary

from lowrank_bench.report import curves, error_vs_drop, figures, frames, page, versus_svd
from lowrank_bench.report.names import figure_names
from lowrank_bench.report.saving_table import saving_table
from lowrank_bench.report.tables import write_tables
from lowrank_bench.report.winners import winners_table

UNITS = {"macs": "multiply-adds", "latency": "measured time"}
CNN = {"models": ("resnet",), "tasks": {"cifar10": ["accuracy"]}, "seeds": (0,), "note": ""}


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures instead of writing them."""
    pages = []
    for module in (curves, versus_svd, error_vs_drop, page):
        monkeypatch.setattr(module, "save", lambda figure, stem: pages.append(figure) or [])
    return pages


def words(figure):
    shown = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    shown += [axes.xaxis.label for axes in figure.axes]
    return [text.get_text().replace("\n", " ") for text in shown]


def cnn_scores(budget=None, **options):
    """Scores of whole CNNs, which have no errors of an embedding table."""
    missing = {"rel_error_fro": float("nan"), "rel_error_l1": float("nan")}
    return fake_scores(**CNN, **options).assign(target="conv", budget=budget, **missing)


@pytest.mark.parametrize("budget", ["parameters", *UNITS])
def test_axes_and_captions_name_a_budget_other_than_parameters(drawn, tmp_path, budget):
    scores = cnn_scores(budget)
    summary = fake_summary(scores, averages=False)
    figures.write_figures(scores, summary, tmp_path, "toy")
    asked = ", as asked" if budget == "latency" else ""
    unit = f" of {UNITS[budget]}" if budget in UNITS else ""
    assert f"compression of the convolutions (%{unit}{asked})" in words(drawn[0])
    assert f"compression (%{unit})" in words(drawn[2])
    write_tables(scores, summary, tmp_path)
    for name in ("drop", "versus_svd"):
        for ending in ("md", "tex"):
            text = (tmp_path / f"tables/{name}.{ending}").read_text()
            for known, shown in UNITS.items():
                assert (shown in text) == (known == budget)
        assert set(pd.read_csv(tmp_path / f"tables/{name}.csv")["budget"]) == {budget}


def test_latency_budgets_are_drawn_at_the_requested_saving(drawn):
    for budget, shift in (("macs", 0.4), ("latency", 0)):  # achieved is 0.4 % more
        scores = cnn_scores(budget, methods={"svd": [{}]})
        curves.drop_curves(fake_summary(scores, averages=False), "resnet", Path("x"))
        (line,) = [line for line in drawn[-1].axes[0].lines if len(line.get_xdata()) == 3]
        assert list(line.get_xdata()) == pytest.approx([28 + shift, 43 + shift, 60 + shift])


def test_averages_keep_the_budget_of_their_tasks(drawn):
    scores = fake_scores(models=("bert",)).assign(target="linear", budget="macs")
    summary = fake_summary(scores)
    averages = summary["task"].isin(frames.AVERAGES)
    summary["budget"] = summary["budget"].where(~averages, None)
    curves.average_curves(summary, Path("x"), "toy", scores)
    assert "compression of the linear layers (% of multiply-adds)" in words(drawn[0])


def test_winners_and_largest_savings_name_the_budget():
    scores = cnn_scores("macs")
    summary = fake_summary(scores, averages=False).assign(data_used="weights")
    both = [summary.assign(half=half) for half in ("selection", "confirmation")]
    assert "multiply-adds that is saved" in winners_table(pd.concat(both)).caption
    assert saving_table(summary).caption.endswith("methods limited: multiply-adds")
    assert "limited" not in saving_table(summary.assign(budget="parameters")).caption


def test_figures_without_data_say_what_the_experiment_lacks(drawn, tmp_path):
    scores = cnn_scores("parameters")
    summary = fake_summary(scores, averages=False)
    figures.write_figures(scores, summary, tmp_path, "toy")
    average, errors = " ".join(words(drawn[1])), " ".join(words(drawn[3]))
    assert "the experiment has none of them; its drops on cifar10 stand in" in average
    assert "the embedding alone is compressed; here the convolutions are" in errors
    assert "status table" not in average + errors
    write_tables(scores, summary, tmp_path)
    assert "has none of them" in (tmp_path / "tables/average.md").read_text()


def test_failed_cells_are_not_treated_as_absent(drawn, tmp_path):
    for options in ({}, {"models": ("bert",)}):
        scores = fake_scores(lost=lambda row: True, seeds=(0,), **options)
        figures.write_figures(scores, fake_summary(scores), tmp_path, "toy")
        assert "their cells are missing, see the status table" in " ".join(words(drawn[-3]))
        assert "no cell was evaluated: see the status table" in " ".join(words(drawn[-1]))


def test_every_figure_of_a_cnn_alone_is_written(tmp_path):
    scores = cnn_scores("macs")
    summary = fake_summary(scores, averages=False)
    paths = figures.write_figures(scores, summary, tmp_path, "toy")
    assert paths == [tmp_path / name for name in figure_names(["resnet"])]
    assert all(path.stat().st_size for path in paths)
