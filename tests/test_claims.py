"""Claims answered from cells, against paired tests by hand; papers' numbers beside ours."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lowrank_bench.config import load_config
from lowrank_bench.config.claims import Claim, Reference
from lowrank_bench.config.statements import statements
from lowrank_bench.errors import LowRankError
from lowrank_bench.report.claims_table import claims_table, papers_table
from lowrank_bench.report.table_files import markdown
from lowrank_bench.score.claims import answer_claims, holm
from lowrank_bench.score.metrics import compute
from lowrank_bench.score.paired_test import paired_test
from lowrank_bench.score.papers import paper_rows
from lowrank_bench.score.scored_cell import ScoredCell
from lowrank_bench.score.split_scores import Split, Statistics
from lowrank_bench.stages.experiment import Experiment

CONF = Path(__file__).parents[1] / "conf"
DRAWS = Statistics(resamples=1000, permutations=999, seed=0)
RNG = np.random.default_rng(5)
LABELS = {task: RNG.integers(0, 2, 300) for task in ("one", "two")}
SPLITS = [Split(task, "validation", ["accuracy"], 2, LABELS[task]) for task in LABELS]


def cell(method, task, right, seed=0, rate=0.5, params=None, **meta):
    """Return a cell whose predictions are right with some probability."""
    rng = np.random.default_rng([len(method), seed, int(100 * right)])
    hit = rng.random(300) < right
    guess = np.where(hit, LABELS[task], 1 - LABELS[task])
    known = {"experiment": "e", "model": "m", "task": task, "method": method, "label": method}
    known |= {"params": json.dumps(params or {}), "target": "embedding", "compression": rate}
    known |= {"seed": seed, "finetune_epochs": 0, "note": "", **meta}
    return ScoredCell(known, {"validation": np.eye(2)[guess]})


def claim(first, second, **changes):
    sides = {"first": {"method": first, "params": {}}, "second": {"method": second, "params": {}}}
    known = {"text": "t", "paper": "p", "where": "w", "margin": 0.0, "rates": [0.5], "models": []}
    return {**known, "tasks": [], "trained": None, "target": "embedding", **sides} | changes


def answers(cells, **claims):
    return answer_claims(cells, claims, SPLITS, DRAWS).set_index("claim")


def accuracy(one):
    labels = LABELS[one.meta["task"]]
    return compute(["accuracy"], one.predictions["validation"].argmax(1), labels)["accuracy"]


def test_the_estimate_is_the_mean_difference_over_tasks_and_seeds():
    cells = [
        cell(method, task, right + 0.01 * seed, seed)
        for method, right in (("good", 0.9), ("poor", 0.6))
        for task in LABELS
        for seed in (0, 1)
    ]
    row = answers(cells, c=claim("good", "poor")).loc["c"]
    by_method = {"good": [], "poor": []}
    for each in cells:
        by_method[each.meta["method"]].append(accuracy(each))
    gain = np.mean(by_method["good"]) - np.mean(by_method["poor"])
    assert row["estimate"] == pytest.approx(100 * gain)
    assert (row["n_pairs"], row["n_seeds"], row["n_examples"]) == (4, 2, 600)
    assert row["ci_low"] < row["estimate"] < row["ci_high"]
    assert row["answer"] == "yes"


def test_one_pair_agrees_with_the_paired_test():
    first, second = cell("good", "one", 0.72), cell("poor", "one", 0.66)
    row = answers([first, second], c=claim("good", "poor")).loc["c"]
    guesses = [each.predictions["validation"].argmax(1) for each in (first, second)]
    truth = paired_test("accuracy", [tuple(guesses)], LABELS["one"], 2)
    assert row["estimate"] == pytest.approx(100 * truth.difference)
    assert row["p"] == pytest.approx(truth.p_value, abs=0.04)  # other random swaps


def test_answers_turn_with_the_sides_and_equal_series_are_told_apart_from_nothing():
    cells = [cell("good", "one", 0.95), cell("poor", "one", 0.5), cell("same", "one", 0.95)]
    cells[2].predictions["validation"] = cells[0].predictions["validation"]
    table = answers(
        cells, a=claim("good", "poor"), b=claim("poor", "good"), c=claim("good", "same")
    )
    assert table["answer"].to_dict() == {"a": "yes", "b": "no", "c": "indistinguishable"}
    assert table.loc["a", "estimate"] == -table.loc["b", "estimate"]
    assert (table.loc["c", "estimate"], table.loc["c", "p"]) == (0, 1)


@pytest.mark.parametrize(
    ("margin", "answer"), [(-5.0, "yes"), (-0.4, "indistinguishable"), (0.5, "no")]
)
def test_a_margin_says_how_much_may_be_lost(margin, answer):
    dense = cell("dense", "one", 0.9, rate=0.0)
    small = cell("small", "one", 0.9)
    guess = dense.predictions["validation"].argmax(1)
    wrong = np.flatnonzero(guess == LABELS["one"])[:2]  # loses two of 300: 0.67 points
    guess[wrong] = 1 - guess[wrong]
    small.predictions["validation"] = np.eye(2)[guess]
    row = answers([dense, small], c=claim("small", "dense", margin=margin)).loc["c"]
    assert row["estimate"] == pytest.approx(-200 / 300)
    assert row["answer"] == answer


def test_what_cannot_be_compared_is_a_row_with_its_reason():
    cells = [
        cell("svd", "one", 0.8),
        cell("lp", "one", 0.8, params={"p": 1.0}),
        cell("lp", "one", 0.8, params={"p": 1.5}),
        cell("messi", "one", 0.8, rate=0.6),
        cell("rtn", "one", 0.8, params={"quantize": 8}),
    ]
    failed = cell("bad", "one", 0.8)
    cells.append(ScoredCell(failed.meta, {}, "failed", "it diverged"))
    table = answers(
        cells,
        several=claim("lp", "svd"),
        absent=claim("pca", "svd"),
        rates=claim("messi", "svd"),
        failed=claim("bad", "svd"),
        rounded=claim("rtn", "svd"),
        named=claim("lp", "svd") | {"first": {"method": "lp", "params": {"p": 1.5}}},
    )
    assert table["answer"].to_dict() == dict.fromkeys(
        ["several", "absent", "rates", "failed", "rounded"], "not run"
    ) | {"named": "indistinguishable"}
    assert "lp stands for 2 series" in table.loc["several", "reason"]
    assert "no cell of pca" in table.loc["absent", "reason"]
    assert "it diverged" in table.loc["failed", "reason"]
    text = markdown(claims_table(table.reset_index()))
    assert "1 indistinguishable, 5 not run" in text


def test_pairs_without_a_score_are_counted_in_the_reason():
    cells = [cell(method, task, 0.8) for method in ("good", "poor") for task in LABELS]
    cells[3] = ScoredCell(cells[3].meta, {}, "failed", "it diverged")
    row = answers(cells, c=claim("good", "poor")).loc["c"]
    assert (row["n_pairs"], row["tasks"]) == (1, "one")
    assert row["reason"] == "1 of 2 pairs could not be scored"


def test_holm_multiplies_the_smallest_by_most_and_stays_in_order():
    # By hand: 4·0.005, 3·0.01, 2·0.03, then 0.04 raised to the one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_claims_of_one_paper_are_corrected_together():
    cells = [cell("good", "one", 0.99), cell("poor", "one", 0.5)]
    claims = {f"c{number}": claim("good", "poor") for number in range(3)}
    other = answers(cells, **claims, alone=claim("good", "poor", paper="q"))
    assert (other.loc[list(claims), "p_holm"] == 3 * other.loc[list(claims), "p"]).all()
    assert other.loc["alone", "p_holm"] == other.loc["alone", "p"]


def number(**changes):
    known = {"where": "table 1", "network": "Net", "task": "glue", "method": "theirs"}
    known |= {"series": {"method": "lp", "params": {"p": 1.0}}, "kind": "drop", "rate": 0.28}
    known |= {"rate_of": "parameters", "epochs_after": 0, "value": 0.63, "unit": "points"}
    return known | {"at_most": False, "status": "stated", "note": "", **changes}


def summary_row(**changes):
    known = {"model": "twin", "task": "glue", "method": "lp", "params": '{"p":1.0}', "label": "lp"}
    known |= {"budget": "parameters", "compression": 0.2, "finetune_epochs": 0, "drop": 1.0}
    known |= {"drop_ci_low": 0.5, "drop_ci_high": 1.5, "dense_value": 50.0, "n_seeds": 3}
    return known | {"note": "synthetic", **changes}


def papers_of(numbers, rows):
    paper = {"title": "T", "networks": {"Net": ["same"]}, "numbers": numbers}
    paper["stand_ins"] = {"Net": {"twin": "a twin of Net"}}
    return paper_rows({"p": paper}, pd.DataFrame(rows), None)


def test_the_nearest_rate_of_each_network_stands_beside_a_number():
    rows = [
        summary_row(),
        summary_row(compression=0.3, drop=2.0),
        summary_row(compression=0.9, drop=9.0),
        summary_row(model="same", compression=0.28, drop=0.7, note=""),
        summary_row(model="else"),
        summary_row(task="one", drop=5.0),
        *(summary_row(model=m, task="one") for m in ("same", "else")),
    ]
    table = papers_of([number()], rows).set_index("model")
    assert list(table.index) == ["twin", "same"]
    assert table["ours"].to_dict() == {"twin": 2.0, "same": 0.7}
    assert table.loc["twin", "differs"] == "a twin of Net; 30 % for 28 %; synthetic"
    assert table.loc["same", "differs"] == ""
    assert "0.70 [0.50, 1.50]" in markdown(papers_table(table.reset_index()))


def test_the_best_of_several_series_is_called_so():
    rows = [summary_row(drop=3.0), summary_row(label="lp, other", params='{"c":1,"p":1.0}')]
    (row,) = papers_of([number()], rows).to_dict("records")
    assert row["ours"] == 1.0
    assert row["differs"].startswith("a twin of Net; best of 2 series here; ")


def test_drops_in_percent_are_shares_of_the_score_and_what_was_not_run_is_said():
    known = [number(unit="percent"), number(series={"method": "svd", "params": {}})]
    rows = [summary_row(), summary_row(task="one")]
    table = papers_of(known, rows)
    assert table["ours"].tolist()[0] == pytest.approx(2.0)  # 1 of 50 points
    assert table.loc[0, "ci_low"] == pytest.approx(1.0)
    assert np.isnan(table.loc[1, "ours"])
    assert table.loc[1, "differs"] == "not run here"


def test_every_paper_has_claims_and_numbers_and_all_are_valid():
    claims = yaml.safe_load((CONF / "claims.yaml").read_text())["claims"]
    papers = {file.stem: yaml.safe_load(file.read_text()) for file in CONF.glob("reference/*")}
    counts = pd.Series([entry["paper"] for entry in claims.values()]).value_counts()
    assert all(counts[paper] >= 5 for paper in ("robust_svd", "messi", "alds", "pfp"))
    assert all(Reference.model_validate(paper).numbers for paper in papers.values())
    assert len([Claim.model_validate(entry) for entry in claims.values()]) == len(claims) > 25
    named = {
        name for entry in (*claims.values(), *papers.values()) for name in entry["experiments"]
    }
    assert named <= {file.stem for file in (CONF / "experiment").glob("*.yaml")}


def test_an_experiment_has_the_claims_and_papers_that_name_it():
    config = load_config(CONF, ["experiment=bytes"])
    assert all("bytes" in claim.experiments for claim in config.claims.values())
    assert len(config.claims) == 3
    assert config.reference == {}
    tables = Experiment(load_config(CONF, ["experiment=quickstart"]), []).score_tables()
    assert {"claims", "paper_vs_ours"} <= set(tables)
    assert (
        "claims"
        not in Experiment(load_config(CONF, ["experiment=minilm_linear"]), []).score_tables()
    )


@pytest.mark.parametrize(
    ("text", "said"), [("[1, 2]", "holds no keys"), ("claims: [a]", "section"), ("{", "be read")]
)
def test_a_file_of_claims_that_is_none_is_refused_by_name(tmp_path, text, said):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(LowRankError, match=f"claims.yaml.*{said}"):
        statements(tmp_path, "quickstart")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"margin": 1000}, "margin"), ({"rates": []}, "rates"), ({"first": {}}, "method")],
)
def test_bad_claims_are_refused_by_name(change, said):
    claims = yaml.safe_load((CONF / "claims.yaml").read_text())["claims"]
    with pytest.raises(ValueError, match=said):
        Claim.model_validate(claims["lp_loses_less_at_28"] | change)
    with pytest.raises(LowRankError, match=r"claims\.mine"):
        load_config(CONF, ["experiment=quickstart", "claims.mine={text: t}"])
