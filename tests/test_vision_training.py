"""Training on images: the schedule, rewinding, one step against plain torch, and real digits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.training_loop import Watch
from lowrank_bench.inputs.vision import training
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.digits import make_digits
from lowrank_bench.inputs.vision.images import Encoded, encode, normalise
from lowrank_bench.inputs.vision.predict import predict
from lowrank_bench.inputs.vision.schedule import first_epoch, learning_rate
from lowrank_bench.inputs.vision.settings import ImageSettings, settings_of
from lowrank_bench.inputs.vision.training import make_optimizer, train

CONF = Path(__file__).parents[1] / "conf"
SETTINGS = ImageSettings(8, (0.5,), (0.25,), 1)
RECIPE = {
    "optimizer": "sgd",
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.01,
    "precision": "fp32",
    "augment": "none",
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoded():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (33, 1, 8, 8), dtype=np.uint8))
    return Encoded(images, rng.integers(0, 3, 33))


def small(seed=0):
    return build_network("resnet20", 3, 8, channels=1, seed=seed, width=4, blocks=1)


def test_learning_rate_follows_the_papers_tables():
    resnet = {"learning_rate": 0.1, "milestones": [91, 136], "gamma": 0.1, "warmup_epochs": 5}
    table = {
        0.5: 0.01,
        2.5: 0.05,
        5: 0.1,
        90.99: 0.1,
        91: 0.01,
        135.5: 0.01,
        136: 1e-3,
        181.9: 1e-3,
    }
    assert {t: learning_rate(resnet, t) for t in table} == pytest.approx(table)
    vgg = {"learning_rate": 0.05, "step": 30, "gamma": 0.5, "warmup_epochs": 10}
    table = {5: 0.025, 29.9: 0.05, 30: 0.025, 60: 0.0125, 299: 0.05 / 2**9}
    assert {t: learning_rate(vgg, t) for t in table} == pytest.approx(table)
    plain = {"learning_rate": 0.3}
    assert learning_rate(plain, 0) == learning_rate(plain, 50) == 0.3


def rates_of(recipe, encoded, monkeypatch):
    """Return the learning rate of each step as the optimizer sees it."""
    rates = []

    def watched(model, recipe):
        optimizer = make_optimizer(model, recipe)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    train(small(), SETTINGS, encoded, recipe, 0)
    return rates


def test_retraining_uses_the_learning_rates_of_the_last_epochs(encoded, monkeypatch):
    schedule = {"milestones": [2, 4], "gamma": 0.5, "warmup_epochs": 1, "learning_rate": 0.01}
    whole = rates_of({**RECIPE, **schedule, "epochs": 6}, encoded, monkeypatch)
    steps = 2  # per epoch: 33 rows in batches of 16, the last row left out
    assert len(whole) == 6 * steps
    assert whole == pytest.approx([0.005] + [0.01] * 3 + [0.005] * 4 + [0.0025] * 4)
    for epochs in (1, 3, 6):
        again = {**RECIPE, **schedule, "epochs": epochs, "rewind_of": 6}
        assert rates_of(again, encoded, monkeypatch) == pytest.approx(whole[-epochs * steps :])


def test_more_epochs_than_the_schedule_has_are_refused():
    with pytest.raises(LowRankError, match="cannot rewind a schedule of 3"):
        first_epoch({"epochs": 4, "rewind_of": 3})


@pytest.mark.parametrize("nesterov", [False, True])
def test_full_batches_train_like_plain_torch(nesterov, encoded):
    """With one batch per epoch the order of the rows does not matter."""
    recipe = {**RECIPE, "batch_size": 33, "epochs": 4, "nesterov": nesterov, "learning_rate": 0.02}
    recipe |= {"milestones": [2], "gamma": 0.1}
    model, plain = small(), small().train()
    losses = train(model, SETTINGS, encoded, recipe, 0)["losses"]
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.02, momentum=0.9, nesterov=nesterov, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], 0.1)
    inputs, target = normalise(encoded.images, SETTINGS), torch.from_numpy(encoded.labels)
    wanted = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(inputs), target)
        loss.backward()
        optimizer.step()
        schedule.step()
        wanted.append(loss.item())
    assert losses == pytest.approx(wanted, rel=1e-3)
    for name, value in plain.eval().state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-2, atol=1e-4), name
    assert not model.training


def test_the_seed_determines_everything(encoded):
    recipe = {**RECIPE, "augment": "crop_flip"}
    results = []
    for seed in (0, 0, 1):
        model = small()
        train(model, SETTINGS, encoded, recipe, seed)
        results.append(model.state_dict()["fc.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_optimizers_match_the_recipes():
    model = small()
    sgd = make_optimizer(model, RECIPE)
    assert isinstance(sgd, torch.optim.SGD)
    rms = make_optimizer(model, {**RECIPE, "optimizer": "rmsprop"}).param_groups[0]
    assert (rms["alpha"], rms["momentum"], rms["weight_decay"]) == (0.9, 0.9, 0.01)
    decayed = [p for group in sgd.param_groups for p in group["params"]]
    assert len(decayed) == len(list(model.parameters()))
    with pytest.raises(LowRankError, match="'lion'"):
        make_optimizer(model, {**RECIPE, "optimizer": "lion"})


def test_divergence_ends_in_one_line(encoded):
    with pytest.raises(LowRankError, match="diverged at step"):
        train(small(), SETTINGS, encoded, {**RECIPE, "learning_rate": 1e30, "epochs": 9}, 0)


def test_on_step_is_called_for_every_step(encoded):
    heard = []
    watch = Watch(on_step=lambda *step: heard.append(step))
    losses = train(small(), SETTINGS, encoded, RECIPE, 0, watch=watch)["losses"]
    assert [(step, steps) for step, steps, _ in heard] == [(n, 4) for n in (1, 2, 3, 4)]
    assert losses == pytest.approx([np.mean([h[2] for h in heard[i : i + 2]]) for i in (0, 2)])


@pytest.fixture(scope="module")
def digits():
    """Return the task, its settings and its encoded splits."""
    task = yaml.safe_load((CONF / "task" / "digits.yaml").read_text())
    inputs = {name: task[name] for name in ("columns", "labels", "image")} | {"label": "label"}
    settings, rows = settings_of(inputs), make_digits(0)
    return (
        task,
        settings,
        {name: encode(pd.DataFrame(part), settings, inputs) for name, part in rows.items()},
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resnet_learns_the_digits(precision, digits):
    task, settings, splits = digits
    source = yaml.safe_load((CONF / "model" / "quick_resnet.yaml").read_text())["source"]
    pixels = splits["train"].images / 255
    assert settings.mean[0] == pytest.approx(pixels.mean().item(), abs=0.01)
    words = {"shortcut": source["shortcut"], **source["sizes"]}
    model = build_network(source["architecture"], 10, settings.size, channels=1, **words)
    recipe = {**task["recipe"], "precision": precision}
    train(model, settings, splits["train"], recipe, 0)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    right = predict(model, settings, splits["test"], 4096).argmax(1) == splits["test"].labels
    assert right.mean() > 0.95, right.mean()
