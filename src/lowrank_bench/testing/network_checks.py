"""Checks of methods for whole networks: budgets, determinism, saving and loading."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_bench.artifact import load, save
from lowrank_bench.compression.networks import compress_network
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.methods import NetworkMethod
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.forward import logits_of
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.testing.compare import is_near, refused
from lowrank_bench.testing.small_networks import inputs, network, options

COMPRESSIONS = (0.2, 0.5, 0.7)


def run(
    method: NetworkMethod, target: str, compression: float, **changes: Any
) -> tuple[nn.Module, CompressionReport]:
    """Return the target's small network compressed by a method, and the report."""
    return compress_network(network(target), method, compression, **options(target) | changes)


def outputs(model: nn.Module, target: str) -> Tensor:
    """Return what a network predicts for four examples."""
    with torch.no_grad():
        return logits_of(model(**inputs(target, 4, seed=9)))


def check_budget(method: NetworkMethod, target: str, compression: float) -> None:
    """Check that a budget is not exceeded, and that the report counts what is stored and left."""
    model, report = run(method, target, compression)
    assert report.compression >= compression - 1e-9
    layers = {layer["name"]: model.get_submodule(layer["name"]) for layer in report.layers}
    stored = sum(p.numel() for layer in layers.values() for p in layer.parameters())
    assert report.parameters_kept == stored
    assert report.network_parameters_kept == sum(p.numel() for p in model.parameters())
    assert is_near(report.compression, 1 - stored / report.parameters_dense)
    left = sum(module["parameters"] for module in report.skipped)
    reached = report.parameters_dense + left + report.other_parameters
    assert reached == report.network_parameters_dense


def check_multiply_adds(method: NetworkMethod, target: str) -> None:
    """Check that the multiply-adds are those that torch counts."""
    model, report = run(method, target, 0.4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs(target, 1))
    counts = counter.get_flop_counts()["Global"]
    stored = {name: n for name, n in counts.items() if "attention" not in str(name)}
    assert report.macs_kept is not None
    assert 2 * report.macs_kept == sum(stored.values())


def check_budget_of_multiply_adds(method: NetworkMethod, target: str) -> None:
    """Check that a budget of multiply-adds is kept."""
    _, report = run(method, target, 0.4, budget="macs")
    assert report.compression >= 0.4 - 1e-9
    assert report.macs_kept is not None
    assert report.macs_dense is not None
    assert report.macs_kept < report.macs_dense


def check_input_is_left_alone(method: NetworkMethod, target: str) -> None:
    """Check that the network that is compressed stays as it was."""
    model = network(target)
    before = copy.deepcopy(model.state_dict())
    compress_network(model, method, 0.5, **options(target))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model) is type(network(target))


def check_determinism(method: NetworkMethod, target: str) -> None:
    """Check that the same call gives the same bits."""
    (one, _), (two, _) = run(method, target, 0.5), run(method, target, 0.5)
    assert torch.equal(outputs(one, target), outputs(two, target))


def check_save_and_load(method: NetworkMethod, target: str) -> None:
    """Check that a network saved and loaded predicts the same bits."""
    model, _ = run(method, target, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        again = load(save(model, Path(folder, "out")), model=network(target))
    assert torch.equal(outputs(model, target), outputs(again, target))


def check_training(method: NetworkMethod, target: str) -> None:
    """Check that gradients reach every parameter of a compressed network."""
    model, _ = run(method, target, 0.5)
    loss = logits_of(model.train()(**inputs(target, 4))).square().sum()
    torch.autograd.backward(loss)
    lost = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == []


def check_impossible_budget(method: NetworkMethod, target: str) -> None:
    """Check that a budget out of reach is refused in one line."""
    with refused(""):
        run(method, target, 0.9999)


def check_data_are_asked_for(method: NetworkMethod, target: str) -> None:
    """Check that calibration data are asked for where `needs` names them, and only there."""
    if "inputs" in method.needs:
        with refused("calibration"):
            run(method, target, 0.5, batches=None)
    else:
        run(method, target, 0.5, batches=None)


def check_independence(method: NetworkMethod, target: str) -> None:
    """Check that a network does not depend on what was compressed before."""

    def problem() -> NetworkProblem:
        """Return the small network with nothing computed for it yet."""
        known = options(target)
        return NetworkProblem(network(target), target, known["example"], known["batches"])

    used = problem()
    for rate in (0.2, 0.6, 0.4):
        after = compress_within(used, method, rate)
        alone = compress_within(problem(), method, rate)
        for layer, same in zip(after.layers, alone.layers, strict=True):
            assert _chosen(layer) == _chosen(same)
        torch.testing.assert_close(outputs(after.model, target), outputs(alone.model, target))


def _chosen(layer: dict[str, Any]) -> dict[str, Any]:
    """Return what was chosen for a layer; its errors may differ by rounding."""
    return {name: value for name, value in layer.items() if not isinstance(value, float)}


CHECKS = (
    check_multiply_adds,
    check_budget_of_multiply_adds,
    check_input_is_left_alone,
    check_determinism,
    check_save_and_load,
    check_training,
    check_impossible_budget,
    check_data_are_asked_for,
    check_independence,
)
