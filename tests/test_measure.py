"""What networks cost: clocks, calls in turn, memory, and two networks compared."""

import json
import time
from functools import partial

import pytest
import torch
from torch import nn
from wide_cnn import cnn, images

from lowrank_bench import load, save
from lowrank_bench.device import fixed_threads
from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.compare import measure
from lowrank_bench.evaluate.memory import activation_peak, file_bytes, stored_bytes
from lowrank_bench.latency.clock import Clock, taken_in_turn
from lowrank_bench.layers.linear import FactorizedLinear

pytestmark = pytest.mark.usefixtures("one_thread")


def test_groups_of_inputs_are_multiplied_at_once():
    """Broadcasting copied the factors for each row: a hundred times the cost of the dense layer."""
    dense, inputs = nn.Linear(384, 384), torch.randn(8, 64, 384)
    layer = FactorizedLinear(384, 384, rank=16, groups=4)
    for part in layer.parameters():
        nn.init.normal_(part, std=0.1)
    expected = inputs @ layer.dense_weight().T + layer.bias
    torch.testing.assert_close(layer(inputs), expected, atol=1e-3, rtol=1e-4)
    assert layer(inputs[0, 0]).shape == (384,)
    calls = [partial(dense, inputs), partial(layer, inputs)]
    with torch.inference_mode():
        one, other = taken_in_turn(calls, Clock(torch.device("cpu")), 15, 3)
    assert min(other) < min(one)


def test_calls_take_turns_and_waiting_costs_nothing():
    said: list[str] = []
    calls = [partial(said.append, "a"), partial(said.append, "b")]
    found = taken_in_turn(calls, Clock(torch.device("cpu")), rounds=3, warm_up=2)
    assert said == ["a", "b"] * 5
    assert [len(own) for own in found] == [3, 3]
    assert Clock(torch.device("cpu")).seconds(partial(time.sleep, 0.2)) < 0.1
    assert Clock(torch.device("cpu"), threads=2).seconds(partial(time.sleep, 0.2)) >= 0.2
    before = torch.get_num_threads()
    with fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_measure_distinguishes_a_network_from_one_with_six_times_the_work(tmp_path):
    class Deep(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            convs = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(depth)]
            self.body = nn.Sequential(nn.Conv2d(3, 32, 1), *convs)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self.body(input)

    dense, small = Deep(6).train(), Deep(1)
    found = measure(dense, small, images(1), batch=8, repeats=10, warm_up=3)
    assert 1.5 < found.ratio < 12
    assert found.dense.best <= found.dense.median <= found.dense.p95
    assert (found.batch, found.repeats, found.clock) == (8, 10, "CPU seconds of one thread")
    assert dense.training
    parameters = sum(part.numel() for part in small.parameters())
    assert found.compressed.stored_bytes == 4 * parameters
    save(small, tmp_path / "small")
    size = sum(file.stat().st_size for file in (tmp_path / "small").iterdir())
    assert found.compressed.file_bytes == size == file_bytes(small)
    assert load(tmp_path / "small", model=Deep(1)) is not None
    assert json.loads(json.dumps(found.to_dict()))["ratio"] == found.ratio


def test_memory_of_a_chain_is_that_of_two_adjacent_layers():
    chain = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 70), nn.Linear(70, 5))
    with torch.no_grad():
        peak = activation_peak(chain, {"input": torch.randn(4, 10)})
    assert peak == 4 * 4 * max(30 + 30, 30 + 70, 70 + 5)
    assert stored_bytes(chain) == 4 * sum(part.numel() for part in chain.parameters())
    shared = nn.Sequential(chain[0], chain[0])
    assert stored_bytes(shared) == 4 * (10 * 30 + 30)


@pytest.mark.parametrize(
    ("words", "match"),
    [({"repeats": 0}, "repeats >= 1"), ({"warm_up": 2}, "warm_up >= 3"), ({"batch": 0}, "one row")],
)
def test_what_cannot_be_measured_is_refused(words, match):
    with pytest.raises(LowRankError, match=match):
        measure(cnn(), cnn(), images(1), **words)
