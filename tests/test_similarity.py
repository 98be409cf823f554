"""Networks as encoders of sentences, against a slow computation with transformers alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrank_bench.cli import main
from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.score.metrics import compute, predict_labels
from lowrank_bench.stages.evaluate import CellStep
from lowrank_bench.stages.record import read_record
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.score import run_score
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store
from lowrank_bench.synthetic.networks import build_network

CONF = Path(__file__).parents[1] / "conf"
TASK = ["model=[quick_bert]", "task=[quick_stsb_zero_shot]", "method=[svd]"]
SIMILARITY = modality_of("similarity")
SPEC = {"kind": "synthetic", "architecture": "bert", "seed": 0, "sizes": {}}
INPUTS = {"columns": ["sentence1", "sentence2"], "label": "label", "labels": [], "max_length": 64}


def pairs(count=20):
    words = np.random.default_rng(0).choice(
        ["the", "cat", "a", "dog", "runs", "and"], (count, 2, 9)
    )
    left = [" ".join(row[: 3 + i % 6]) for i, row in enumerate(words[:, 0])]
    right = [" ".join(row[: 2 + i % 7]) for i, row in enumerate(words[:, 1])]
    scores = np.random.default_rng(1).random(count)
    return pd.DataFrame({"sentence1": left, "sentence2": right, "label": scores})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_cosines_are_those_of_sentences_encoded_one_by_one(pooling):
    rows = pairs()
    model, tokenizer = SIMILARITY.initial_network(SPEC, None, INPUTS, 0)
    encoded = SIMILARITY.encode(rows, tokenizer, {**INPUTS, "pooling": pooling})
    encoded = SIMILARITY.with_dense(model, tokenizer, encoded, 256, "cpu")
    cosines = SIMILARITY.predict(model, tokenizer, encoded, 256)

    def vector(text):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return states.mean(0) if pooling == "mean" else states[0]

    truth = [
        torch.cosine_similarity(vector(a), vector(b), dim=0).item()
        for a, b in zip(rows["sentence1"], rows["sentence2"], strict=True)
    ]
    np.testing.assert_allclose(cosines[:, 0], truth, atol=1e-5)
    np.testing.assert_allclose(cosines[:, 1:], 1, atol=1e-6)


def test_a_prefix_stands_before_each_sentence():
    rows = pairs(6)
    _, tokenizer = SIMILARITY.initial_network(SPEC, None, INPUTS, 0)
    inputs = {**INPUTS, "pooling": "mean"}
    plain = SIMILARITY.encode(rows, tokenizer, inputs)
    said = SIMILARITY.encode(rows, tokenizer, {**inputs, "prefix": "the dog "})
    for column in ("sentence1", "sentence2"):
        rows[column] = ["the dog " + text for text in rows[column]]
    by_hand = SIMILARITY.encode(rows, tokenizer, inputs)
    for name, tokens in by_hand.tokens.items():
        np.testing.assert_array_equal(said.tokens[name], tokens)
    assert len(plain.tokens["input_ids"]) < len(said.tokens["input_ids"])
    config = load_config(CONF, [*TASK, "model.quick_bert.prefix='the dog '", "compressions=[0.5]"])
    (cell,) = make_plan(config).evaluate[0].cells()
    assert cell.checkpoint.inputs["prefix"] == "the dog "


def test_the_cosine_to_the_dense_network_is_that_of_two_networks():
    rows = pairs()
    model, tokenizer = SIMILARITY.initial_network(SPEC, None, INPUTS, 0)
    other, _ = build_network("bert", 0, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        table = other.get_input_embeddings().weight
        table += 0.05 * torch.randn(table.shape)
    other = other.base_model.eval()
    encoded = SIMILARITY.encode(rows, tokenizer, {**INPUTS, "pooling": "mean"})
    compared = SIMILARITY.with_dense(model, tokenizer, encoded, 256, "cpu")
    cosines = SIMILARITY.predict(other, tokenizer, compared, 256)

    def vector(network, text):
        with torch.no_grad():
            return network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    for place, column in enumerate(INPUTS["columns"], start=1):
        truth = [
            torch.cosine_similarity(vector(model, text), vector(other, text), dim=0).item()
            for text in rows[column]
        ]
        np.testing.assert_allclose(cosines[:, place], truth, atol=1e-5)
    agreement = predict_labels(cosines, "agreement")
    np.testing.assert_allclose(agreement, cosines[:, 1:].mean(axis=1))
    value = compute(["cosine_to_dense"], agreement, rows["label"].to_numpy())
    assert value["cosine_to_dense"] == pytest.approx(agreement.mean())


def test_one_checkpoint_whatever_the_seeds_and_nothing_is_trained(tmp_path):
    config = load_config(CONF, [*TASK, "seeds=[3,4]", "compressions=[0.5]"])
    plan = make_plan(config)
    (cell,) = plan.evaluate[0].cells()
    assert cell.checkpoint.seed == 0
    assert len(plan.cells()) == 2
    runner = Runner(Store(tmp_path), Settings(device="cpu"))
    for each in plan.cells():
        runner.ensure(CellStep(each))
    records = {each.spec.method: read_record(each, runner.store) for each in plan.cells()}
    dense = records["dense"].predictions["validation"]
    np.testing.assert_allclose(dense[:, 1:], 1, atol=1e-6)
    assert records["svd"].predictions["validation"][:, 1:].mean() < 1 - 1e-4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune_epochs=[1]", "trains after compression"),
        ("task.quick_stsb_zero_shot.labels=[a,b]", "are for classifiers"),
        ("task.quick_stsb_zero_shot.recipe={epochs: 1}", "trains nothing"),
        ("task.quick_stsb_zero_shot.evaluation.0.metrics=[accuracy]", "is for classification"),
        ("task.quick_stsb_zero_shot.label=null", "compares the cosine of two sentences"),
    ],
)
def test_what_does_not_fit_is_refused(override, said):
    with pytest.raises(LowRankError, match=said):
        load_config(CONF, [*TASK, override])


def test_sentence_vectors_are_no_metric_of_a_classifier():
    words = ["model=[quick_bert]", "task=[quick_cola]", "method=[svd]"]
    with pytest.raises(LowRankError, match="compares sentence vectors"):
        load_config(CONF, [*words, "task.quick_cola.evaluation.0.metrics=[cosine_to_dense]"])


def scores_of(folder, words):
    """Run every cell of an experiment and return its scores."""
    config = load_config(CONF, [*TASK, *words, f"store={folder}", "statistics.resamples=100"])
    runner = Runner(Store(folder), Settings(device="cpu"))
    for cell in make_plan(config).cells():
        runner.ensure(CellStep(cell))
    return run_score(config, [])["scores"]


def test_scores_have_paired_statistics_and_the_dense_network_agrees_with_itself(tmp_path):
    scores = scores_of(tmp_path, ["target=linear", "compressions=[0.5]"])
    assert set(scores["status"]) == {"ok"}
    values = scores.set_index(["method", "metric"])
    assert values.loc[("dense", "cosine_to_dense"), "value"] == pytest.approx(100, abs=1e-3)
    for metric in ("spearmanr", "pearson", "cosine_to_dense"):
        row = values.loc[("svd", metric)]
        assert row["drop"] == pytest.approx(row["dense_value"] - row["value"])
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert values.loc[("svd", "cosine_to_dense"), "value"] < 99.9


def test_texts_without_scores_are_compared_with_the_dense_network(tmp_path):
    task = "task.quick_stsb_zero_shot"
    words = [f"{task}.columns=[sentence1]", f"{task}.label=null", f"{task}.pooling=cls"]
    words += [f"{task}.evaluation.0.metrics=[cosine_to_dense]", "compressions=[0.5]"]
    scores = scores_of(tmp_path, words).set_index("method")
    assert set(scores["status"]) == {"ok"}
    assert set(scores["metric"]) == {"cosine_to_dense"}
    assert scores.loc["dense", "value"] == pytest.approx(100, abs=1e-3)
    assert 0 < scores.loc["svd", "value"] < 99.99


def test_a_folder_of_an_encoder_is_evaluated(tmp_path, capsys):
    model, tokenizer = build_network("bert", 0, 1)
    model.base_model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    encoder, out = str(tmp_path / "encoder"), str(tmp_path / "out")
    words = ["compress", encoder, out, "--method", "svd", "--compression", "0.5"]
    assert main(words) == 0
    capsys.readouterr()
    place = ["--task", "quick_stsb_zero_shot", "--conf", str(CONF), "--store", str(tmp_path / "s")]
    assert main(["evaluate", out, *place]) == 0
    assert "cosine_to_dense skipped: name the dense network with --dense" in capsys.readouterr().out
    assert main(["evaluate", encoder, *place, "--dense", encoder]) == 0
    assert "cosine_to_dense 100.00" in capsys.readouterr().out
    assert main(["evaluate", out, *place, "--dense", encoder]) == 0
    said = capsys.readouterr().out
    assert "spearmanr" in said
    assert "cosine_to_dense" in said
    assert "100.00" not in said
    assert main(["evaluate", encoder, *place, "--prefix", "the dog runs and "]) == 0
    assert capsys.readouterr().out.splitlines()[0] != said.splitlines()[0]
    place[1] = "quick_cola"
    assert main(["evaluate", encoder, *place, "--prefix", "query: "]) == 2
    assert "--prefix is for tasks of similarity" in capsys.readouterr().err


def test_an_encoder_without_all_its_weights_is_refused(tmp_path):
    model, tokenizer = build_network("bert", 0, 1)
    model.base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if name.startswith("pooler.")]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    SIMILARITY.load_network(tmp_path)  # no vector reads a pooler
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LowRankError, match=r"layer.1.output.dense.weight .and 0 more"):
        SIMILARITY.load_network(tmp_path)


def test_dense_vectors_of_another_size_are_refused():
    model, tokenizer = SIMILARITY.initial_network(SPEC, None, INPUTS, 0)
    encoded = SIMILARITY.encode(pairs(4), tokenizer, {**INPUTS, "pooling": "mean"})
    encoded = replace(encoded, dense=np.ones((8, 3), dtype=np.float32))
    with pytest.raises(LowRankError, match="those of the dense network 3; compare it with"):
        SIMILARITY.predict(model, tokenizer, encoded, 256)


def test_padding_changes_no_vector():
    rows = pairs(6)
    model, tokenizer = SIMILARITY.initial_network(SPEC, None, INPUTS, 0)
    encoded = SIMILARITY.encode(rows, tokenizer, {**INPUTS, "pooling": "mean"})
    alone = SIMILARITY.predict(model, tokenizer, encoded, 1)  # a batch for each sentence
    together = SIMILARITY.predict(model, tokenizer, encoded, 10_000)
    np.testing.assert_allclose(alone, together, atol=1e-5)
