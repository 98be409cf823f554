"""FT, SoftNet and ThiNet: their definitions, the largest share that fits, and real budgets."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_bench.errors import LowRankError, LowRankWarning
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.methods import make_method
from lowrank_bench.network.count import count
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.prune.graph import trace
from lowrank_bench.prune.scores import filter_norms, removal_order, sampled_products

torch.set_num_threads(1)
METHODS = ("filter_threshold", "softnet", "thinet")


class Chain(nn.Module):
    """Three convolutions and a linear layer, one after the other."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 7, 3, padding=1)
        self.two = nn.Conv2d(7, 5, 3, 2)
        self.three = nn.Conv2d(5, 9, (1, 3))
        self.head = nn.Linear(9, 4)

    def forward(self, pixel_values):
        x = self.three(self.two(self.one(pixel_values).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


def problem(model=None, **more):
    torch.manual_seed(0)
    model = (model or Chain()).eval()
    pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    batches = [({"pixel_values": part}, None) for part in pixels.split(4)]
    return NetworkProblem(
        model, "conv", {"pixel_values": pixels[:1]}, lambda: iter(batches), **more
    )


def chain_size(counts):
    one, two, three = counts
    parts = (27 * one + one, 9 * one * two + two, 3 * two * three + three, 4 * three + 4)
    return sum(parts)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("compression", [0.1, 0.4, 0.7, 0.9])
def test_every_layer_keeps_the_largest_common_share_that_fits(name, compression):
    given = problem()
    result = make_method(name).compress(given, compression)
    found = [one["outputs"] for one in result.layers[:-1]]
    dense = chain_size((7, 5, 9))
    best = max(
        (
            counts
            for share in np.linspace(0.001, 1, 4000)
            if chain_size(counts := [max(1, int(share * n + 1e-9)) for n in (7, 5, 9)])
            <= (1 - compression) * dense
        ),
        key=sum,
    )
    assert found == best
    stored = sum(p.numel() for p in result.model.parameters())
    assert stored == chain_size(best) == sum(one["parameters"] for one in result.layers)


@pytest.mark.parametrize(("name", "power"), [("filter_threshold", 1), ("softnet", 2)])
def test_the_filters_with_the_largest_norms_are_kept(name, power):
    given = problem()
    result = make_method(name).compress(given, 0.5)
    for facts in result.layers[:-1]:
        weight = given.model.get_submodule(facts["name"]).weight.detach().flatten(1)
        norms = torch.linalg.vector_norm(weight, ord=power, dim=1)
        largest = norms.argsort(descending=True)[: facts["outputs"]]
        assert facts["kept"] == sorted(largest.tolist())


def test_filters_tied_by_a_sum_are_scored_together():
    model = build_network("resnet20", 4, 8, width=4)
    graph = trace(model, {"pixel_values": torch.randn(1, 3, 8, 8)})
    for power in (1, 2):
        norms = filter_norms(model, graph, power)
        stream = ["conv1", *(f"layer1.{block}.conv2" for block in range(3))]
        for channel, unit in enumerate(graph.writes["conv1"]):
            parts = [model.get_submodule(name).weight[channel].flatten() for name in stream]
            together = torch.linalg.vector_norm(torch.cat(parts), ord=power)
            assert norms[unit] == pytest.approx(together.item(), rel=1e-5)


def test_thinet_removes_the_channels_that_are_missed_least():
    rng = np.random.default_rng(0)
    products = rng.normal(size=(12, 6)) * rng.exponential(size=6)
    order = removal_order(products)
    for step in range(6):
        gone = list(order[:step])
        costs = {
            channel: (products[:, [*gone, channel]].sum(axis=1) ** 2).sum()
            for channel in range(6)
            if channel not in gone
        }
        assert order[step] == min(costs, key=costs.get)
    # After the smallest come two that cancel each other.
    paired = np.stack([np.ones(5), -np.ones(5), np.full(5, 0.5), np.full(5, 3.0)], axis=1)
    assert removal_order(paired)[0] == 2
    assert set(removal_order(paired)[:3]) == {0, 1, 2}


def test_the_products_at_a_position_sum_to_an_output_of_the_layer():
    given = problem()
    graph = trace(given.model, given.example)
    inputs = [batch for batch, _ in given.data()]
    products = sampled_products(given.model, graph, inputs, 20, seed=0)
    outputs = {}
    for name in products:
        layer = given.model.get_submodule(name)
        layer.register_forward_hook(
            lambda m, _, out, name=name: outputs.setdefault(name, []).append(
                (out - m.bias.view(-1, *[1] * (out.ndim - 2))).flatten()
            )
        )
    with torch.no_grad():
        for batch in inputs:
            given.model(**batch)
    for name, rows in products.items():
        every = torch.cat(outputs[name]).double().numpy()
        sums = rows.sum(axis=1)
        assert np.sqrt((sums**2).mean()) == pytest.approx(1)
        # All rows are divided by the same number: some output divided by the first sum.
        gaps = [
            max(np.abs(every - scale * total).min() for total in sums[1:])
            for scale in every / sums[0]
        ]
        assert min(gaps) < 1e-5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_the_budget_is_kept_on_a_residual_network(name, budget):
    given = problem(build_network("resnet20", 4, 8, width=4, shortcut="A"), budget=budget)
    used = []
    for compression in (0.3, 0.6, 0.9):
        result = make_method(name).compress(given, compression)
        facts = count(result.model, given.example)
        own = [result.model.get_submodule(layer.name) for layer in given.layers]
        stored = sum(p.numel() for layer in own for p in layer.parameters())
        used.append(facts.macs if budget == "macs" else stored)
        dense = sum(getattr(layer, budget) for layer in given.layers)
        assert used[-1] <= (1 - compression) * dense
    assert used == sorted(used, reverse=True)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_refused(name):
    with pytest.raises(LowRankError, match=r"out of reach: .* groups allows 0\.\d+$"):
        make_method(name).compress(problem(), 0.999)
    grouped = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 3))
    pixels = {"input": torch.randn(1, 3, 8, 8)}
    with pytest.raises(LowRankError, match="layer '1' has 4 groups of channels"):
        make_method(name).compress(NetworkProblem(grouped, "conv", pixels), 0.5)


def test_thinet_needs_data():
    given = problem()
    bare = NetworkProblem(given.model, "conv", given.example)
    with pytest.raises(LowRankError, match="give batches"):
        make_method("thinet").compress(bare, 0.5)
    assert make_method("thinet").needs == ("inputs",)
    same = [make_method("thinet", samples=30).compress(problem(), 0.5).layers for _ in range(2)]
    assert same[0] == same[1]


def test_thinet_says_where_few_images_rank_nothing():
    torch.manual_seed(0)
    model, pixels = Chain().eval(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        model.one.weight[:4], model.one.bias[:4] = 0, 0  # four silent filters of seven
    batches = [({"pixel_values": pixels}, None)]
    given = NetworkProblem(model, "conv", {"pixel_values": pixels[:1]}, lambda: batches)
    with pytest.warns(LowRankWarning, match=r"2 images are too few .* one \(4\).*; give 50"):
        result = make_method("thinet", samples=50).compress(given, 0.3)
    assert result.info["unseen_filters"]["one"] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", LowRankWarning)
        make_method("thinet", samples=50).compress(given, 0.9)  # all four go, and others
        make_method("thinet", samples=2).compress(given, 0.3)  # as many images as asked
