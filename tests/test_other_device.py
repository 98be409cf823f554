"""Methods compute on the device of their matrix or network, with the same results as on the CPU."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from configured_methods import configured
from other_device import OTHER, There, other_device
from test_every_network_method import CASES

from lowrank_bench import compress, low_rank
from lowrank_bench.config import load_config
from lowrank_bench.methods import Method
from lowrank_bench.network.forward import logits_of
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.prune import provable
from lowrank_bench.prune.sensitivity import sensitivities
from lowrank_bench.stages.evaluate import CheckpointEvaluator
from lowrank_bench.stages.record import read_record
from lowrank_bench.stages.run import run_factorize
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store
from lowrank_bench.testing import matrix_checks as matrices
from lowrank_bench.testing import small_networks as networks

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def there_too():
    with other_device():
        yield


@pytest.fixture
def without_inference_mode(monkeypatch):
    """Inference tensors cannot be on the other device; `no_grad` gives the same numbers."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    monkeypatch.setattr(provable, "sensitivities", torch.no_grad()(sensitivities.__wrapped__))


@pytest.mark.usefixtures("there_too")
def test_the_other_device_refuses_what_a_gpu_refuses():
    here, there = torch.ones(3), There(torch.ones(3))
    assert (there + there).device == there.device == torch.zeros(2, device=OTHER).device == OTHER
    assert (there * 2 + torch.tensor(1.0)).cpu().tolist() == [3, 3, 3]
    assert there[torch.tensor([0, 2])].shape == (2,)
    for mixed in (
        lambda: there + here,
        lambda: here[There(torch.tensor([0, 2]))],
        lambda: torch.cat([here, there]),
        lambda: here.index_add_(0, torch.tensor([1]), there[:1]),
    ):
        with pytest.raises(RuntimeError, match="two devices"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=OTHER, generator=torch.Generator())
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


@pytest.mark.parametrize("method", list(configured("embedding")))
def test_embeddings(method: Method):
    model, ids = matrices.Net(matrices.table().float()), torch.arange(12).view(3, 4)
    known = matrices.known(method)
    here, report = compress(model, method.name, 0.5, **known, **method.model_dump())
    with other_device():  # only now: the truth is that of torch alone
        known = {name: There(value) for name, value in known.items()}
        there, again = compress(
            copy.deepcopy(model).to(OTHER), method.name, 0.5, **known, **method.model_dump()
        )
        assert all(part.device == OTHER for part in there.state_dict().values())
        outputs = there(There(ids)).cpu()
    assert again.layers == report.layers
    assert again.within_fro == pytest.approx(report.within_fro)
    assert torch.equal(outputs, here(ids))


@pytest.mark.usefixtures("there_too")
def test_matrices():
    matrix = matrices.table()
    here = low_rank(matrix, 5, "lp", p=1.5)
    there = low_rank(There(matrix), 5, "lp", p=1.5)
    assert all(part.device == OTHER for part in there.tensors().values())
    assert torch.equal(there.dense().cpu(), here.dense())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("without_inference_mode")
def test_networks(case: tuple[Method, str]):
    method, target = case
    words = networks.options(target)
    here, report = compress(
        networks.network(target), method.name, 0.4, **words, **method.model_dump()
    )

    def batches():
        for inputs, labels in words["batches"]():
            yield _sent(inputs), There(labels)

    with other_device():
        sent = words | {"example": _sent(words["example"]), "batches": batches}
        there, again = compress(
            networks.network(target).to(OTHER), method.name, 0.4, **sent, **method.model_dump()
        )
        with torch.no_grad():
            logits = logits_of(there(**_sent(networks.inputs(target, 4)))).cpu()
    for layer, same in zip(again.layers, report.layers, strict=True):
        assert layer == {name: _nearly(value) for name, value in same.items()}
    with torch.no_grad():
        torch.testing.assert_close(logits, logits_of(here(**networks.inputs(target, 4))))


PIPELINE = {
    "text": ["model=[quick_distilbert]", "task=[quick_mrpc]", "method=[messi]"],
    "images": [
        "model=[quick_resnet]",
        "task=[digits]",
        "method=[alds]",
        "method.alds.grid.error=[data]",
        "task.digits.recipe.milestones=[1]",
    ],
}


@pytest.mark.parametrize("kind", PIPELINE)
@pytest.mark.usefixtures("there_too", "without_inference_mode")
def test_the_pipeline(kind: str, tmp_path, monkeypatch):
    optimizer = sys.modules["torch.optim.optimizer"]
    fused = [*optimizer._get_fused_kernels_supported_devices(), OTHER.type]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: fused)
    task = PIPELINE[kind][1].removeprefix("task=[").removesuffix("]")
    small = [f"task.{task}.recipe.epochs=2", f"task.{task}.train.limit=96"]
    # The stand-in's parameters cannot change their precision in place, as a card's can.
    small += [f"task.{task}.recipe.precision=fp32"]
    iterated = ["protocol=iterative"] if kind == "images" else []
    wanted = ["compressions=[0.3,0.6]", "finetune_epochs=[1]", "statistics.halves=false"]
    plan = make_plan(load_config(CONF, [*PIPELINE[kind], *small, *iterated, *wanted]))
    job, found = plan.finetune[-1], []
    for device in ("cpu", str(OTHER)):
        store = Store(tmp_path / device)
        settings = Settings(folder=tmp_path, max_tokens=512, device=device, factorize_device=device)
        for decompose in plan.factorize:
            outcome = run_factorize(decompose, store, settings)
            assert {piece["reason"] for piece in outcome} == {""}
        evaluator = CheckpointEvaluator(job.checkpoints[0], Runner(store, settings))
        cell = job.cells()[1]
        evaluator.evaluate(cell)
        found.append(read_record(cell, store).predictions)
    # Training uses other kernels there, and rounding differences grow from step to step.
    for split, logits in found[0].items():
        assert np.corrcoef(found[1][split].ravel(), logits.ravel())[0, 1] > 0.98


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_missing_gpu_is_named(tmp_path):
    wanted = ["model=[quick_resnet]", "task=[digits]", "method=[alds]"]
    (job,) = make_plan(load_config(CONF, wanted)).factorize
    settings = Settings(folder=tmp_path, factorize_device="cuda")
    found = {piece["reason"] for piece in run_factorize(job, Store(tmp_path / "store"), settings)}
    assert found == {"factorize.device = 'cuda', but this machine has none; use cpu"}


def _nearly(value):
    """Attention uses another kernel there, which rounds differently."""
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def _sent(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: There(value) for name, value in inputs.items()}
