"""The contract of every method for whole networks, checked for each file in conf/method.

A new method is discovered by its file and gets these tests for free.
"""

import copy
from pathlib import Path

import pytest
import torch
from configured_methods import configured
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from lowrank_bench import compress, load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import Method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.forward import logits_of
from lowrank_bench.network.problem import NetworkProblem

CASES = [
    pytest.param((target, case.values[0]), id=f"{target}-{case.id}")
    for target in ("conv", "linear")
    for case in configured(target)
]


class Block(nn.Module):
    """A residual block like those of a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(inner))).relu()


class Cnn(nn.Module):
    """A small network with a residual block and two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = Block(8)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(self.block(self.stem(pixel_values))).mean(dim=(2, 3)))


def network(target: str) -> nn.Module:
    torch.manual_seed(0)
    if target == "conv":
        model = Cnn()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        return model.eval()
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    config = BertConfig(vocab_size=60, num_hidden_layers=2, num_labels=3, **sizes)
    return BertForSequenceClassification(config).eval()


def inputs(target: str, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if target == "conv":
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(1, 60, (rows, 7), generator=generator)}


def given(target: str) -> dict:
    """The arguments of `compress` besides the method."""

    def batches():
        for seed in (1, 2):
            yield inputs(target, 16, seed), torch.arange(16) % 3

    return {"target": target, "example": inputs(target, 1), "batches": batches}


def run(case: tuple[str, Method], compression: float, **changes):
    target, method = case
    words = given(target) | changes
    return compress(network(target), method.name, compression, **words, **method.model_dump())


def outputs(model: nn.Module, target: str) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model(**inputs(target, 4, seed=9)))


@pytest.fixture(params=CASES)
def case(request) -> tuple[str, Method]:
    return request.param


@pytest.mark.parametrize("compression", [0.2, 0.5, 0.7])
def test_no_budget_is_exceeded_and_the_report_matches_what_is_stored(case, compression: float):
    model, report = run(case, compression)
    assert report.compression >= compression - 1e-9
    layers = {layer["name"]: model.get_submodule(layer["name"]) for layer in report.layers}
    stored = sum(p.numel() for layer in layers.values() for p in layer.parameters())
    assert report.parameters_kept == stored
    assert report.network_parameters_kept == sum(p.numel() for p in model.parameters())
    assert report.compression == pytest.approx(1 - stored / report.parameters_dense)


def test_the_multiply_adds_equal_torchs_count(case):
    target, _ = case
    model, report = run(case, 0.4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs(target, 1))
    counts = counter.get_flop_counts()["Global"]
    stored = {name: n for name, n in counts.items() if "attention" not in str(name)}
    assert 2 * report.macs_kept == sum(stored.values())


def test_a_budget_of_multiply_adds_is_kept(case):
    _, report = run(case, 0.4, budget="macs")
    assert report.compression >= 0.4 - 1e-9
    assert report.macs_kept < report.macs_dense


def test_the_input_network_is_left_unchanged(case):
    target, method = case
    model = network(target)
    before = copy.deepcopy(model.state_dict())
    compress(model, method.name, 0.5, **given(target), **method.model_dump())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model) is type(network(target))


def test_the_same_call_gives_the_same_bits(case):
    target, _ = case
    (one, _), (two, _) = run(case, 0.5), run(case, 0.5)
    assert torch.equal(outputs(one, target), outputs(two, target))


def test_a_saved_and_loaded_network_predicts_the_same_bits(case, tmp_path: Path):
    target, _ = case
    model, _ = run(case, 0.5)
    save(model, tmp_path / "out")
    again = load(tmp_path / "out", model=network(target))
    assert torch.equal(outputs(model, target), outputs(again, target))


def test_it_can_be_trained_further(case):
    target, _ = case
    model, _ = run(case, 0.5)
    logits_of(model.train()(**inputs(target, 4))).square().sum().backward()
    lost = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == []


def test_an_impossible_budget_is_refused_in_one_line(case):
    with pytest.raises(LowRankError) as refusal:
        run(case, 0.9999)
    assert "\n" not in str(refusal.value)


def test_methods_that_need_data_ask_for_them(case):
    _, method = case
    if "inputs" in method.needs:
        with pytest.raises(LowRankError, match="calibration"):
            run(case, 0.5, batches=None)
    else:
        run(case, 0.5, batches=None)


def test_a_network_does_not_depend_on_what_was_compressed_before(case):
    target, method = case

    def problem() -> NetworkProblem:
        words = given(target)
        return NetworkProblem(network(target), target, words["example"], words["batches"])

    used = problem()
    for rate in (0.2, 0.6, 0.4):
        after = compress_within(used, method, rate)
        alone = compress_within(problem(), method, rate)
        for layer, same in zip(after.layers, alone.layers, strict=True):
            assert chosen(layer) == chosen(same)
        torch.testing.assert_close(outputs(after.model, target), outputs(alone.model, target))


def chosen(layer: dict) -> dict:
    """The choices for a layer without its errors, which may differ by rounding."""
    return {name: value for name, value in layer.items() if not isinstance(value, float)}
