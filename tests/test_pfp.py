"""PFP: sensitivities and kept channels against loops over its formulas, budgets and errors."""

import copy
from itertools import product
from math import ceil, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_sensitivity import inputs_of, kept_units, layer_sensitivity
from pfp_networks import NETWORKS, images, network, problem
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.methods import make_method
from lowrank_bench.network.count import count
from lowrank_bench.network.layers import find_layers
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.prune.examples import first_examples
from lowrank_bench.prune.graph import slice_network, trace
from lowrank_bench.prune.provable import unit_sensitivities
from lowrank_bench.prune.sample_size import Pool, expected_distinct, images_needed
from lowrank_bench.prune.sensitivity import sensitivities

torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_sensitivities_and_kept_channels_equal_the_formula_in_loops(name):
    given_problem = problem(name)
    model, layers = given_problem.model, given_problem.layers
    pixels = images(name)
    names = [layer.name for layer in layers]
    found = sensitivities(model, names, [{"pixel_values": pixels}])
    inputs = inputs_of(model, names, pixels)
    truth = {one: layer_sensitivity(model.get_submodule(one), inputs[one]) for one in names}
    for one in names:
        np.testing.assert_allclose(found[one].numpy(), truth[one], rtol=2e-5, atol=1e-7)
    graph = trace(model, given_problem.example)
    scores = np.zeros(graph.n_units)
    for one in names:
        for unit, value in zip(graph.reads[one], truth[one], strict=True):
            scores[unit] = max(scores[unit], value)
    dense = sum(layer.parameters for layer in layers)

    def size(kept):
        small = slice_network(model, graph, graph.mask([np.array(kept)]))
        own = find_layers(small, "conv", given_problem.example)
        return sum(layer.parameters for layer in own)

    for compression in (0.3, 0.7):
        method = make_method("pfp", samples=3)
        result = method.compress(given_problem, compression)
        if name != "vgg16_bn" or compression == 0.3:  # the loop slices at every step it tries
            budget = (1 - compression) * dense
            expected = kept_units(graph, layers, scores, _cached(size), budget, 1e-16)
            used = {unit for unit in range(1, graph.n_units) if scores[unit] > 0}
            if used <= expected:  # there is room for filters that the images do not show in use
                ours = np.concatenate(
                    [graph.writes[one["name"]][one["kept"]] for one in result.layers]
                )
                assert expected <= {int(unit) for unit in ours if unit}
                expected = {int(unit) for unit in ours if unit}
                assert size(sorted(expected)) <= budget
                others = set(range(1, graph.n_units)) - expected
                assert all(size(sorted(expected | {unit})) > budget for unit in others)
            for layer, facts in zip(layers, result.layers, strict=True):
                units = graph.writes[layer.name]
                kept = [place for place, u in enumerate(units) if u == 0 or u in expected]
                assert facts["kept"] == kept


def _cached(size):
    known = {}

    def look_up(kept):
        key = frozenset(kept)
        if key not in known:
            known[key] = size(kept)
        return known[key]

    return look_up


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 6),
    filters=st.integers(1, 9),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    stride=st.sampled_from([1, 2, (2, 1)]),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (0, 2)]),
    mode=st.sampled_from(["zeros", "reflect"]),
    dense=st.sampled_from([0.05, 0.5, 1.0]),
    signed=st.booleans(),
    spread=st.sampled_from([0.3, 3.0]),
    uneven=st.booleans(),
    count=st.sampled_from([2, 9]),
)
def test_one_layer_equals_the_formula_in_loops(
    seed,
    channels,
    filters,
    kernel,
    stride,
    dilation,
    padding,
    mode,
    dense,
    signed,
    spread,
    uneven,
    count,
):
    torch.manual_seed(seed)
    layer = nn.Conv2d(channels, filters, kernel, stride, padding, dilation, padding_mode=mode)
    layer.weight.data *= (spread * torch.randn(layer.weight.shape)).exp()
    layer.weight.data[torch.rand(layer.weight.shape) < 0.2] = 0
    if uneven:  # some filters so small that their sums are treated as zero
        layer.weight.data *= 10 ** torch.empty(filters, 1, 1, 1).uniform_(-9, 3)
    x = torch.randn(count, channels, 6, 7) * (torch.rand(count, channels, 6, 7) < dense)
    x = x if signed else x.relu()
    model = nn.Sequential(layer)
    found = sensitivities(model, ["0"], [{"input": x[:1]}, {"input": x[1:]}])["0"]
    np.testing.assert_allclose(found.numpy(), layer_sensitivity(layer, x), rtol=2e-5, atol=1e-7)


def test_a_linear_layer_and_the_output_of_the_probes():
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    x = torch.randn(4, 3, 7)
    found = sensitivities(nn.Sequential(layer), ["0"], [{"input": x}])["0"]
    np.testing.assert_allclose(found.numpy(), layer_sensitivity(layer, x), rtol=2e-5)
    # Two layers: the second one sees the outputs of the first, including the bias.
    second = nn.Linear(5, 2)
    found = sensitivities(nn.Sequential(layer, second), ["0", "1"], [{"input": x}])["1"]
    truth = layer_sensitivity(second, layer(x).detach())
    np.testing.assert_allclose(found.numpy(), truth, rtol=2e-4)


def test_the_number_of_images_is_the_papers():
    for name, count_ in (("resnet20", 183), ("vgg16_bn", 188)):
        model = build_network(name, 10)
        layers = find_layers(model, "conv", {"pixel_values": torch.randn(1, 3, 32, 32)})
        assert images_needed(layers, 1e-16) == count_
    batches = [({"x": torch.arange(4)}, None), ({"x": torch.arange(4, 8)}, None)]
    parts = [part["x"].tolist() for part in first_examples(batches, 6)]
    assert parts == [[0, 1, 2, 3], [4, 5]]
    assert len(list(first_examples(batches, 100))) == 2


def test_sample_sizes_by_hand():
    pool = Pool(np.array([0.5, 0.3, 0.2, 0.0]), alpha=2.0)
    assert pool.samples(2.0) == ceil(3 * (6 + 4) * 1.0 * 2.0 / 4)
    chances = pool.probabilities
    # All outcomes of three samples, each with its probability.
    exact = sum(
        np.prod([chances[i] for i in draws]) * len(set(draws))
        for draws in product(range(4), repeat=3)
    )
    assert expected_distinct(chances, 3) == pytest.approx(exact)
    assert (pool.keep(1e-100), pool.keep(1e100)) == (3, 1)
    assert Pool(np.zeros(4), alpha=2.0).keep(1.0) == 1
    counts = [pool.keep(error) for error in np.geomspace(1e-3, 1e4, 200)]
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {1, 2, 3}


@pytest.mark.parametrize("variant", ["deterministic", "random", "mixed"])
@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_the_budget_is_never_exceeded_and_the_report_is_correct(variant, budget):
    given_problem = problem("densenet22", budget=budget)
    before = copy.deepcopy(given_problem.model.state_dict())
    method = make_method("pfp", variant=variant, samples=3)
    sizes = []
    for compression in (0.1, 0.35, 0.6, 0.85):
        result = method.compress(given_problem, compression)
        own = [result.model.get_submodule(one["name"]) for one in result.layers]
        stored = [sum(p.numel() for p in layer.parameters()) for layer in own]
        assert stored == [one["parameters"] for one in result.layers]
        if budget == "macs":
            used = sum(count(result.model, given_problem.example).by_module.values())
        else:
            used = sum(stored)
        dense = sum(getattr(layer, budget) for layer in given_problem.layers)
        assert used <= (1 - compression) * dense
        if variant == "deterministic" and compression > 0.5:  # below it only dead ones go
            assert used >= (1 - compression) * dense * 0.8
        sizes.append(used)
        again = method.compress(given_problem, compression)
        assert again.layers == result.layers
        for one, two in zip(again.model.parameters(), result.model.parameters(), strict=True):
            assert torch.equal(one, two)
    assert sizes == sorted(sizes, reverse=True)
    after = given_problem.model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_random_variants_scale_the_weights_that_read_a_channel():
    given_problem = problem("densenet22", seed=3)
    result = make_method("pfp", variant="random", samples=3).compress(given_problem, 0.8)
    graph = trace(given_problem.model, given_problem.example)
    kept = {one["name"]: one["kept"] for one in result.layers}
    name, before = "dense1.0.conv2", "dense1.0.conv1"
    small = result.model.get_submodule(name).weight
    dense = given_problem.model.get_submodule(name).weight[kept[name]][:, kept[before]]
    factors = (small / dense).flatten(2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    found = sensitivities(given_problem.model, [name], [{"pixel_values": images("densenet22")}])
    scores = unit_sensitivities(graph, {name: found[name].numpy()})[graph.writes[before]]
    chances = scores / scores.sum()
    assert (factors[:, 0].detach().numpy() @ chances[kept[before]]) == pytest.approx(1, rel=1e-4)
    other = make_method("pfp", variant="random", samples=3).compress(
        problem("densenet22", seed=4), 0.8
    )
    assert other.layers != result.layers


def test_too_few_images_are_reported_and_unused_channels_go_first():
    given_problem = problem("resnet20", count=2)
    model = given_problem.model
    with torch.no_grad():
        model.layer1[0].bn1.weight[1] = 0
        model.layer1[0].bn1.bias[1] = -1  # dead after the ReLU
    result = make_method("pfp").compress(given_problem, 0.05)
    wanted = images_needed(given_problem.layers, 1e-16)
    assert (result.info["images"], result.info["images_wanted"]) == (2, wanted)
    outputs = [layer.positions * layer.shape[0] for layer in given_problem.layers]
    assert wanted == ceil(3 * log(8 * sum(outputs) * max(outputs) / 1e-16))
    facts = next(one for one in result.layers if one["name"] == "layer1.0.conv1")
    assert 1 not in facts["kept"]


@pytest.mark.parametrize(
    ("params", "more", "compression", "words"),
    [
        ({}, {"batches": None}, 0.5, "calibration inputs; give batches"),
        ({}, {}, 0.999, r"compression 0.999 of parameters is out of reach: .* allows 0\.9"),
        ({}, {"budget": "macs"}, 0.9999, r"compression 0.9999 of macs is out of reach"),
    ],
)
def test_what_is_refused(params, more, compression, words):
    given_problem = problem(**more) if "batches" not in more else None
    if given_problem is None:
        example = {"pixel_values": images("resnet20", 1)}
        given_problem = NetworkProblem(network("resnet20"), "conv", example, None)
    with pytest.raises(LowRankError, match=words) as caught:
        make_method("pfp", **params).compress(given_problem, compression)
    assert "\n" not in str(caught.value)


def test_the_largest_compression_named_by_an_error_is_possible():
    given_problem = problem("vgg16_bn")
    with pytest.raises(LowRankError, match="out of reach") as caught:
        make_method("pfp").compress(given_problem, 0.9999)
    most = float(str(caught.value).rpartition(" ")[2])
    result = make_method("pfp").compress(given_problem, most)
    assert all(one["outputs"] == 1 for one in result.layers[:-1])
    with pytest.raises(LowRankError, match="out of reach"):
        make_method("pfp").compress(given_problem, most + 2e-4)


class Wide(nn.Module):
    """A network whose sums are so long that PyTorch splits them over threads."""

    def __init__(self):
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 24, 5, stride=2), nn.Linear(24 * 14 * 14, 128)
        self.second, self.head = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, pixel_values):
        hidden = self.first(self.conv(pixel_values).relu().flatten(1)).relu()
        return self.head(self.second(hidden).relu())


def test_the_number_of_threads_does_not_matter():
    torch.manual_seed(3)
    model, pixels = Wide().eval(), torch.randn(8, 3, 32, 32)
    for layer in (model.second, model.head):  # rare channels need many samples
        layer.weight.data *= (4 * torch.randn(layer.weight.shape[1])).exp()
    batches = [({"pixel_values": pixels}, None)]
    threads, scores, kept = torch.get_num_threads(), [], []
    try:
        for count_ in (1, 2):
            torch.set_num_threads(count_)
            example = {"pixel_values": pixels[:1]}
            one = NetworkProblem(model, "conv", example, lambda: batches, seed=3)
            names = [layer.name for layer in one.layers]
            scores.append(sensitivities(model, names, [{"pixel_values": pixels}]))
            asked = product(("random", "mixed"), (0.4, 0.6457))
            methods = [(make_method("pfp", variant=v, samples=8), c) for v, c in asked]
            rows = [method.compress(one, c).layers for method, c in methods]
            kept.append([[layer["kept"] for layer in layers] for layers in rows])
            assert torch.get_num_threads() == count_
    finally:
        torch.set_num_threads(threads)
    assert kept[0] == kept[1]
    assert [name for name in names if not torch.equal(*(own[name] for own in scores))] == []


class Viewed(nn.Module):
    """A network whose code hard-codes the number of features."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 3)

    def forward(self, pixel_values):
        return self.head(self.conv(pixel_values).relu().view(-1, 8 * 64))


class Shared(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, pixel_values):
        return self.two(self.one(pixel_values))


@pytest.mark.parametrize(
    ("model", "words"),
    [(Viewed(), "Viewed does not run without"), (Shared(), "shares its memory")],
)
def test_networks_that_are_refused(model, words):
    pixels = torch.randn(2, 3, 8, 8)
    batches = [({"pixel_values": pixels}, None)]
    given_problem = NetworkProblem(
        model.eval(), "conv", {"pixel_values": pixels[:1]}, lambda: batches
    )
    with pytest.raises(LowRankError, match=words):
        make_method("pfp").compress(given_problem, 0.4)


@pytest.mark.parametrize(
    "params", [{"variant": "best"}, {"delta": 0}, {"delta": 1}, {"samples": 0}]
)
def test_parameters_out_of_range(params):
    with pytest.raises(LowRankError, match="method 'pfp'"):
        make_method("pfp", **params)
