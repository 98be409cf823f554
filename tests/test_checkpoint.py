"""Checkpoints: training is deterministic and learns; published ones are checked."""

import numpy as np
import pandas as pd
import pytest
import torch

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.text.encode import encode
from lowrank_bench.inputs.text.finetune import finetune
from lowrank_bench.plan.cells import DENSE, Cell, Checkpoint, Source, Spec
from lowrank_bench.stages.checkpoint import CheckpointStep
from lowrank_bench.stages.evaluate import CellStep, CheckpointEvaluator
from lowrank_bench.stages.record import read_record
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store
from lowrank_bench.synthetic.networks import build_network
from lowrank_bench.synthetic.tasks import make_task

TEXT = {
    "columns": ["sentence"],
    "label": "label",
    "labels": ["negative", "positive"],
    "max_length": 64,
}
RECIPE = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
}
HUB = {"kind": "hub", "repo": "a/b", "revision": "main", "config": None}


def train(seed=0, watch=None, **changes):
    model, tokenizer = build_network("distilbert", 0, 2)
    rows = pd.DataFrame(make_task("sst2", 0)["train"][:800])
    rows = encode(rows, tokenizer, TEXT)
    found = finetune(model, tokenizer, rows, RECIPE | changes, seed, watch=watch)
    return model, found["losses"]


def test_training_learns_and_is_bit_identical_when_repeated():
    (first, losses), (second, again), (other, _) = train(epochs=2), train(epochs=2), train(1)
    assert losses == again
    assert losses[-1] < 0.7 * np.log(2)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_bf16_training_ends_close_to_fp32_with_weights_in_fp32():
    (_, exact), (model, rough) = train(), train(precision="bf16")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert abs(exact[0] - rough[0]) < 0.05


def test_a_diverging_training_run_names_the_setting_to_lower():
    with pytest.raises(LowRankError, match=r"diverged.*learning_rate"):
        train(learning_rate=1e30, max_grad_norm=1e30, epochs=3)


def published(tmp_path, names, declared=(), spoil=False):
    """Put a network with the outputs `names` into a store, as the download stage would."""
    store = Store(tmp_path)
    network, data = (
        Source("network", "n", HUB, {"sha256": {}}),
        Source(
            "data",
            "d",
            {"kind": "synthetic", "task": "sst2", "seed": 0},
            {
                "splits": {"train": {}, "validation": {}},
                "columns": [],
                "train": "train",
                "unofficial": False,
            },
        ),
    )
    model, tokenizer = build_network("bert", 0, len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    if spoil:
        model.get_input_embeddings().weight.data[3, 3] = float("nan")
    with store.new_folder("network", network.key, {"sha256": {}}) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
    recipe = {"published_labels": list(declared)}
    return store, Checkpoint("n", "sst2", 0, network, data, TEXT, recipe, ("validation",), "c")


def dense_logits(store, point, precision="fp32"):
    cell = Cell(point, Spec(DENSE, {}, "embedding", DENSE, ""), 0.0, 0, "e")
    runner = Runner(store, Settings(device="cpu", precision=precision))
    runner.ensure(CellStep(cell))
    return read_record(cell, store).predictions["validation"]


def test_labels_of_a_published_checkpoint_are_matched_by_name(tmp_path):
    straight = published(tmp_path / "a", ["NEGATIVE", "positive"])
    turned = published(tmp_path / "b", ["positive", "negative"])
    a, b = dense_logits(*straight), dense_logits(*turned)
    np.testing.assert_allclose(a, b[:, ::-1], atol=1e-6)
    assert abs(a[:, 0] - a[:, 1]).max() > 1e-3


def test_bf16_predictions_are_close_to_fp32_but_not_the_same(tmp_path):
    exact = dense_logits(*published(tmp_path / "a", TEXT["labels"]))
    rough = dense_logits(*published(tmp_path / "b", TEXT["labels"]), precision="bf16")
    spread = np.ptp(exact)
    assert 0 < abs(exact - rough).max() < 0.05 * spread
    assert rough.dtype == np.float32


@pytest.mark.parametrize(
    ("names", "declared", "said"),
    [
        (["yes", "no"], [], "are not the task's"),
        (["LABEL_0", "LABEL_1"], [], "say what they mean"),
        (["negative", "neutral", "positive"], [], "3 outputs"),
    ],
)
def test_a_label_map_that_disagrees_is_refused(tmp_path, names, declared, said):
    store, point = published(tmp_path, names, declared)
    with pytest.raises(LowRankError, match=said):
        Runner(store).ensure(CheckpointStep(point))
    assert store.folder("checkpoint", point.key) is None


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    store, point = published(tmp_path, TEXT["labels"], spoil=True)
    with pytest.raises(LowRankError, match="NaN or Inf"):
        Runner(store).ensure(CheckpointStep(point))


def test_a_cell_that_cannot_run_is_reported_and_the_others_go_on(tmp_path):
    store, point = published(tmp_path, TEXT["labels"])
    spec = Spec("svd", {}, "embedding", "svd", "")
    cells = [Cell(point, spec, c, 0, "e") for c in (0.9999, 0.5)]
    runner, evaluators = Runner(store, Settings(device="cpu")), {}
    with pytest.raises(LowRankError, match="leaves no rank"):
        runner.ensure(CellStep(cells[0], evaluators))
    runner.ensure(CellStep(cells[1], evaluators))
    facts = read_record(cells[1], store).facts
    assert 0 < facts["parameters_kept"] <= 0.5 * facts["parameters_dense"]
    assert facts["index_bits"] == 0
    assert 0 < facts["rel_error_fro"] < 1


def test_a_compressed_cell_predicts_like_the_network_whose_table_is_the_product(tmp_path):
    store, point = published(tmp_path, TEXT["labels"])
    cell = Cell(point, Spec("svd", {}, "embedding", "svd", ""), 0.6, 0, "e")
    evaluator = CheckpointEvaluator(point, Runner(store, Settings(device="cpu")))
    evaluator.evaluate(cell)
    found = read_record(cell, store)
    plain = CheckpointEvaluator(point, Runner(store, Settings(device="cpu")))
    table = plain.model.get_input_embeddings().weight
    u, s, vh = torch.linalg.svd(table.detach().double(), full_matrices=False)
    k = found.facts["rank"]
    with torch.no_grad():
        table.copy_((u[:, :k] * s[:k]) @ vh[:k])
    dense = Cell(point, Spec(DENSE, {}, "embedding", DENSE, ""), 0.0, 0, "e")
    plain.evaluate(dense)
    wanted = read_record(dense, store).predictions["validation"]
    np.testing.assert_allclose(found.predictions["validation"], wanted, atol=1e-4)
