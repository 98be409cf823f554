"""Training after compression: rewinding, and alternating compression and training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lowrank_bench import compress, load, save
from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.retrain import retrain
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.methods import make_method
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.restore import densified
from lowrank_bench.plan.cells import Cell, Job
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.checkpoint import load_checkpoint
from lowrank_bench.stages.evaluate import CheckpointEvaluator
from lowrank_bench.stages.factorize import read_problem
from lowrank_bench.stages.record import read_record
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

CONF = Path(__file__).parents[1] / "conf"
ITERATIVE = ["finetune_epochs=[1]", "protocol=iterative", "statistics.halves=false"]
SMALL = [
    *ITERATIVE,
    "model=[quick_resnet]",
    "task=[digits]",
    "task.digits.recipe.epochs=2",
    "task.digits.recipe.milestones=[1]",
    "task.digits.train.limit=200",
    "compressions=[0.3,0.6]",
    "calibration.rows=32",
]


def plan(method: str, *more: str):
    return make_plan(load_config(CONF, [*SMALL, f"method=[{method}]", *more]))


def step(problem: NetworkProblem, cell: Cell, processor, rows) -> torch.nn.Module:
    """One compression and the training after it, using only the library's functions."""
    method = make_method(cell.spec.method, **cell.spec.params)
    small = method.compress(problem, cell.compression).model
    torch.manual_seed(0)
    checkpoint, modality = cell.checkpoint, modality_of(cell.checkpoint.modality)
    settings = (checkpoint.training_recipe, 1, checkpoint.seed, "cpu")
    return retrain(modality, small, processor, rows, *settings)[0]


@pytest.mark.parametrize("method", ["alds", "pfp"])
def test_each_compression_starts_from_the_previous_trained_network(method, tmp_path):
    job: Job = plan(method).finetune[-1]
    first, second = job.cells()[:2]
    assert (first.path, second.path) == ((), (0.3,))
    store = Store(tmp_path / "store")
    runner = Runner(store, Settings(device="cpu"))
    evaluator = CheckpointEvaluator(first.checkpoint, runner)
    evaluator.evaluate(second)  # computes the first as well
    found = read_record(second, store)

    problem = read_problem(second.checkpoint, second.spec, runner)
    loaded = load_checkpoint(first.checkpoint, runner)
    processor, rows = loaded.processor, loaded.training_rows(runner)
    once = step(problem, first, processor, rows)
    again = replace(problem, model=densified(once).eval(), origin=problem, _memo={})
    twice = step(again, second, processor, rows).eval()
    test = evaluator.splits["test"]
    wanted = evaluator.modality.predict(twice, processor, test, 4096)
    np.testing.assert_allclose(found.predictions["test"], wanted, atol=1e-4)
    kept = found.facts["parameters_kept"] / found.facts["parameters_dense"]
    assert kept <= 0.4  # of the original network
    assert kept == pytest.approx(1 - found.facts["achieved_compression"])


def test_iterated_cells_differ_from_one_shot_cells():
    once = plan("alds", "protocol=one_shot").finetune[-1].cells()
    turns = plan("alds").finetune[-1].cells()
    assert not {cell.key for cell in once} & {cell.key for cell in turns}


def test_iteration_without_training_is_refused():
    with pytest.raises(LowRankError, match="take 0 out of finetune_epochs"):
        plan("alds", "finetune_epochs=[0,1]")


def test_iteration_of_embeddings_is_refused():
    more = ["model=[quick_bert]", "task=[quick_rte]", "method=[svd]"]
    with pytest.raises(LowRankError, match="for the targets conv and linear"):
        load_config(CONF, [*ITERATIVE, *more])


@pytest.mark.parametrize("layer", ["conv1", "fc"])
def test_a_layer_that_is_dense_again_keeps_its_new_bias(layer, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("conv1", torch.nn.Conv2d(16, 16, 3, bias=False))
    model.add_module("pool", torch.nn.Flatten())
    model.add_module("fc", torch.nn.Linear(16 * 16, 16, bias=False))
    images = {"input": 1 + torch.rand(64, 16, 6, 6)}
    words = {"target": "conv", "example": {"input": images["input"][:1]}, "error": "data"}
    small, _ = compress(model, "alds", 0.6, batches=lambda: [(images, None)], **words)
    again = densified(small)
    assert type(again.get_submodule(layer)) is type(model.get_submodule(layer))
    assert again.get_submodule(layer).bias is not None
    same = load(save(again, tmp_path / "out"), model=model)
    assert torch.equal(same(**images), again.eval()(**images))
    assert model.get_submodule(layer).bias is None
