"""The training loop: it resumes exactly where it was killed, and stops early."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.text.encode import encode
from lowrank_bench.inputs.text.finetune import finetune
from lowrank_bench.inputs.training_loop import Training, Watch
from lowrank_bench.inputs.vision.build import build_network as build_cnn
from lowrank_bench.inputs.vision.images import Encoded
from lowrank_bench.inputs.vision.settings import ImageSettings
from lowrank_bench.inputs.vision.training import train as train_images
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.synthetic.networks import build_network
from lowrank_bench.synthetic.tasks import make_task

TEXT = {"columns": ["sentence"], "label": "label", "labels": ["-", "+"], "max_length": 64}
RECIPE = {
    "epochs": 2,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
}
CONF = Path(__file__).parents[1] / "conf"
IMAGES = ImageSettings(8, (0.5,), (0.25,), 1)


class Killed(Exception):
    pass


def on_texts(watch, **changes):
    model, tokenizer = build_network("distilbert", 0, 2)
    rows = encode(pd.DataFrame(make_task("sst2", 0)["train"][:150]), tokenizer, TEXT)
    found = finetune(model, tokenizer, rows, RECIPE | changes, 0, watch=watch)
    return model, found


def on_images(watch):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    rows = Encoded(pixels, np.arange(90) % 3)
    model = build_cnn("resnet20", 3, 8, 1, 0, None, width=4)
    recipe = RECIPE | {"augment": "crop_flip", "optimizer": "sgd", "batch_size": 20}
    found = train_images(model, IMAGES, rows, recipe, 0, watch=watch)
    return model, found


@pytest.mark.parametrize("work", [on_texts, on_images])
@pytest.mark.parametrize("last", [2, 5, 7])  # of ten steps: in the first epoch, at its end, after
def test_a_killed_training_run_ends_as_if_it_had_not_been_killed(work, last, tmp_path, capfd):
    file = tmp_path / "unfinished.pt"
    model, found = work(None)

    def kill(step, steps, loss):
        if step > last:
            raise Killed

    with pytest.raises(Killed):
        work(Watch(on_step=kill, file=file, every=0))
    heard = []
    again, repeated = work(Watch(on_step=lambda *s: heard.append(s[0]), file=file, every=0))
    assert heard[0] == last + 1
    assert f"resumes after step {last}" in capfd.readouterr().err
    assert repeated == found
    pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not file.exists()


def test_a_damaged_file_is_named_and_the_training_starts_over(tmp_path, capfd):
    file = tmp_path / "unfinished.pt"
    file.write_bytes(b"half a fi")
    _, found = on_texts(Watch(file=file))
    assert str(file) in capfd.readouterr().err
    assert found == on_texts(None)[1]


class Counter(nn.Module):
    """A model whose only parameter counts the steps."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()), requires_grad=False)


def counted(held_out, patience, epochs=8):
    model, seen = Counter(), iter(held_out)

    def step(rows):
        model.steps += 1
        return 1.0

    watch = Watch(held_out=lambda _: next(seen), patience=patience)
    training = Training({"model": model}, lambda: [torch.arange(2), torch.arange(2)], step, watch)
    return model, training.run(epochs, 2)


@pytest.mark.parametrize(
    ("held_out", "patience", "epochs", "kept"),
    [
        ([3.0, 2.0, 2.5, 2.6], 2, 4, 2),  # two epochs without a lower loss
        ([3.0, 2.0, 2.0, 2.0], 2, 4, 2),  # an equal loss is not lower, and the first is kept
        ([3.0, 2.0, 2.5, 1.0, 1.5, 0.5, 0.4, 0.3], 2, 8, 8),
        ([1.0, 2.0], 1, 2, 1),
    ],
)
def test_training_stops_early_with_the_best_network(held_out, patience, epochs, kept):
    model, found = counted(held_out, patience)
    assert len(found["losses"]) == epochs
    assert found["held_out_losses"] == held_out
    assert found["kept_epoch"] == kept
    assert int(model.steps) == 2 * kept


def test_a_held_out_loss_that_is_not_finite_is_refused():
    with pytest.raises(LowRankError, match=r"held-out.*learning_rate"):
        counted([1.0, float("nan")], 2)


def test_a_frozen_embedding_is_not_trained_but_can_be_afterwards():
    start, _ = build_network("distilbert", 0, 2)
    model, _ = on_texts(None, freeze="embedding", epochs=1)
    table = model.get_input_embeddings().weight
    assert torch.equal(table, start.get_input_embeddings().weight)
    assert table.requires_grad
    moved = [
        name
        for (name, a), b in zip(model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert len(moved) == len(list(start.parameters())) - 1


def test_stopping_early_needs_rows_that_are_held_out():
    with pytest.raises(LowRankError, match=r"recipe\.patience.*train\.holdout"):
        make_plan(load_config(CONF, ["recipe.patience=2"]))
    chosen = ["model=quick_bert", "task=quick_sst2", "method=svd"]
    held = ["recipe.patience=2", "task.quick_sst2.train.holdout=300"]
    (job,) = make_plan(load_config(CONF, [*chosen, *held])).checkpoint
    recipe = job.checkpoints[0].recipe
    assert recipe["train_split"] == "train[:-300]"
    assert recipe["held_out_split"] == "train[-300:]"
