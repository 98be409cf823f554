"""What must be the same on every machine, computed by itself: run by `test_travel.py`.

Prints a digest of the digits' network as the quickstart trains it, with fewer rows and epochs, and
numbers of the ellipsoid method on a planted table.
"""

import hashlib
import json
import sys
from pathlib import Path

import pandas as pd
import torch
import yaml

from lowrank_bench.device import fixed_threads
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.digits import make_digits
from lowrank_bench.inputs.vision.images import Encoded, encode
from lowrank_bench.inputs.vision.predict import predict
from lowrank_bench.inputs.vision.settings import settings_of
from lowrank_bench.inputs.vision.training import train
from lowrank_bench.linalg.ellipsoid.lowner import lowner_ellipsoid
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem
from lowrank_bench.synthetic.vocabulary import make_vocabulary, planted_table

CONF = Path(__file__).parents[1] / "conf"
ROWS = 256  # that are trained on


def network(precision):
    """Return the weights' digest, the losses and the logits of a short training."""
    task = yaml.safe_load((CONF / "task" / "digits.yaml").read_text())
    inputs = {name: task[name] for name in ("columns", "labels", "image")} | {"label": "label"}
    settings = settings_of(inputs)
    splits = {
        name: encode(pd.DataFrame(rows), settings, inputs) for name, rows in make_digits(0).items()
    }
    model = build_network("resnet20", 10, settings.size, channels=1, blocks=1)
    rows = Encoded(splits["train"].images[:ROWS], splits["train"].labels[:ROWS])
    recipe = {**task["recipe"], "epochs": 3, "milestones": [2], "precision": precision}
    losses = train(model, settings, rows, recipe, 0)["losses"]
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {
        "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        "losses": losses,
        "logits": predict(model, settings, splits["validation"], 2048).tolist(),
    }


def ellipsoid():
    """Return the facts of the ellipsoid of a planted table, and a diagonal of its projection."""
    table = torch.from_numpy(planted_table(make_vocabulary(0), 64, 5, 0)).double()
    outer = lowner_ellipsoid(table, 1.0)
    basis = make_method("lowner").decompose(Problem(table)).factors(16).right
    projection = torch.linalg.pinv(basis) @ basis
    return {
        "counts": [outer.cuts, outer.tests],
        "factor": outer.factor,
        "projection": projection.diagonal().tolist(),
    }


if __name__ == "__main__":
    with fixed_threads(int(sys.argv[1])):
        answer = {"network": network(sys.argv[2]), "ellipsoid": ellipsoid()}
        print(json.dumps(answer | {"processor": torch.backends.cpu.get_cpu_capability()}))
