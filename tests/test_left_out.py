"""What a target left out of a network, from the cell of the dense network to the table."""

import json

import pandas as pd
import pytest
from torch import nn

from lowrank_bench.report.frames import tidy
from lowrank_bench.report.left_out_table import left_out_table
from lowrank_bench.stages.left_out import left_out_text


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.position = nn.Embedding(50, 8), nn.Embedding(6, 8)
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 3), nn.LayerNorm(8)


def row(**changes):
    known = {"model": "net", "task": "cola", "method": "dense", "target": "embedding"}
    known |= {"finetune_epochs": 0, "compression": 0.0, "parameters_dense": 400}
    return known | {"network_parameters_dense": 563, "left_out": None, "status": "ok"} | changes


def test_modules_of_one_kind_and_reason_stand_together():
    text = left_out_text(Network(), "embedding", ["table"])
    assert json.loads(text) == [
        {"kind": "Linear", "reason": "Linear is not the embedding", "modules": 2, "parameters": 99},
        {"kind": "Embedding", "reason": "another embedding", "modules": 1, "parameters": 48},
    ]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_parts_of_a_network_add_up_to_it(recorded):
    text = left_out_text(Network(), "embedding", ["table"]) if recorded else None
    rows = [row(left_out=text), row(task="rte"), row(method="svd", compression=0.5)]
    table = left_out_table(tidy(pd.DataFrame(rows)), pd.DataFrame())
    assert table.long["parameters"].sum() == sum(p.numel() for p in Network().parameters()) == 563
    assert table.long["share"].sum() == pytest.approx(1)
    shown = table.sections["net"]
    whole = [
        "the embedding (compressed)",
        "Linear",
        "Embedding",
        "normalisations and single vectors",
    ]
    assert list(shown["part"]) == (whole if recorded else [whole[0], "all the rest"])
    assert shown["parameters"].tolist()[0] == "400"
    assert shown["modules"].tolist()[1] == ("2" if recorded else "")


def test_an_experiment_without_a_dense_network_says_so():
    scores = tidy(pd.DataFrame([row(method="svd", compression=0.5)]))
    assert not left_out_table(scores, pd.DataFrame()).sections
