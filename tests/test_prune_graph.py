"""Tied channels: the sliced network against the dense one with the pruned channels masked."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowrank_bench.artifact import load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.network.count import count
from lowrank_bench.network.layers import find_layers
from lowrank_bench.prune.graph import kept_cost, slice_network, trace

torch.set_num_threads(1)


class Lambda(nn.Module):
    """A function wrapped in a module, as in the shortcuts of published ResNets."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Inverted(nn.Module):
    """A block of MobileNetV2: wide inside, with a depthwise convolution in the middle."""

    def __init__(self, channels, wide):
        super().__init__()
        self.expand = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x):
        y = F.relu6(self.bn1(self.expand(x)))
        return x + self.project(F.relu6(self.bn2(self.depthwise(y))))


class Mixed(nn.Module):
    """Manual padding, a depthwise convolution, a gate for each channel, pixels as features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.pad = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3)))
        self.conv = nn.Conv2d(6, 10, 3, 2, 1)
        self.block = Inverted(10, 14)
        self.gate = nn.Linear(10, 10)
        self.head = nn.Linear(10 * 4, 5)

    def forward(self, pixel_values):
        x = F.relu(self.stem(pixel_values))
        x = self.block(self.conv(x) + self.pad(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(F.max_pool2d(F.gelu(x), 2).flatten(1))


NETWORKS = {
    "resnet20, option A": lambda: build_network("resnet20", 5, 8, width=4, shortcut="A"),
    "resnet20, option B": lambda: build_network("resnet20", 5, 8, width=4, shortcut="B"),
    "vgg16_bn": lambda: build_network("vgg16_bn", 5, 32, width=4),
    "densenet22": lambda: build_network("densenet22", 5, 8, layers=2, width=4),
    "wrn16_8": lambda: build_network("wrn16_8", 5, 8, width=8),
    "mixed": Mixed,
}


def example(name):
    side = 32 if name == "vgg16_bn" else 8
    return {"pixel_values": torch.randn(1, 3, side, side)}


def network(name):
    """A network with non-trivial batch normalisations."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def masked(model, graph, mask):
    """The dense network with no layer reading the pruned channels."""
    model = copy.deepcopy(model)
    for name, units in graph.reads.items():
        layer = model.get_submodule(name)
        if getattr(layer, "groups", 1) == 1:
            with torch.no_grad():
                layer.weight[:, torch.from_numpy(~mask[units])] = 0
    return model


def random_mask(graph, seed):
    rng = np.random.default_rng(seed)
    return graph.mask(
        [rng.permutation(pool)[: rng.integers(1, len(pool) + 1)] for pool in graph.pools]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sliced_network_equals_the_masked_one_and_has_the_counted_size(name, tmp_path):
    model, given = network(name), example(name)
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, given)
    layers = find_layers(model, "conv", given)
    images = {"pixel_values": torch.randn(3, *given["pixel_values"].shape[1:])}
    for seed in range(4):
        mask = random_mask(graph, seed)
        small = slice_network(model, graph, mask)
        with torch.no_grad():
            found, expected = small(**images), masked(model, graph, mask)(**images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        own = [small.get_submodule(layer.name) for layer in layers]
        stored = sum(p.numel() for layer in own for p in layer.parameters())
        assert kept_cost(graph, layers, mask) == stored
        macs = count(small, given).by_module
        assert kept_cost(graph, layers, mask, "macs") == sum(macs[one.name] for one in layers)
        save(small, tmp_path / "small")
        again = load(tmp_path / "small", model=model)
        with torch.no_grad():
            assert torch.equal(again(**images), found)
        save(again, tmp_path / "again")
        for file in ("lowrank.json", "lowrank.safetensors"):
            one, two = ((tmp_path / f / file).read_bytes() for f in ("small", "again"))
            assert one == two
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_channels_that_are_added_are_tied():
    graph = trace(network("resnet20, option B"), example("resnet20, option B"))
    stream = graph.writes["conv1"]
    for block in range(3):
        assert (graph.writes[f"layer1.{block}.conv2"] == stream).all()
        assert (graph.reads[f"layer1.{block}.conv1"] == stream).all()
        assert (graph.norms[f"layer1.{block}.bn2"] == stream).all()
        assert not set(graph.writes[f"layer1.{block}.conv1"]) & set(stream)
    assert (graph.reads["layer2.0.downsample.0"] == stream).all()
    assert (graph.writes["layer2.0.downsample.0"] == graph.writes["layer2.0.conv2"]).all()
    assert (graph.reads["conv1"] == 0).all()
    assert (graph.writes["fc"] == 0).all()
    assert sorted(len(pool) for pool in graph.pools) == [4] * 4 + [8] * 4 + [16] * 4


def test_the_memory_format_does_not_matter():
    pixels = {"pixel_values": torch.randn(1, 3, 32, 32)}
    model = build_network("resnet20", 10, 32, 3, 0, "A", width=4)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    one, other = trace(model, pixels), trace(turned, pixels)
    for name, labels in one.writes.items():
        np.testing.assert_array_equal(labels, other.writes[name])
    weight = turned.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)  # as before


def test_a_padded_shortcut_ties_its_middle_channels():
    graph = trace(network("resnet20, option A"), example("resnet20, option A"))
    first, second, third = (
        graph.writes[name] for name in ("conv1", "layer2.0.conv2", "layer3.0.conv2")
    )
    assert (second[2:6] == first).all()
    assert (third[4:12] == second).all()
    assert len(set(third)) == 16


def test_concatenated_channels_are_read_by_all_later_layers():
    graph = trace(network("densenet22"), example("densenet22"))
    first, added = graph.writes["conv1"], graph.writes["dense1.0.conv2"]
    assert (graph.reads["dense1.1.conv1"] == np.concatenate([first, added])).all()
    assert (graph.norms["trans1.bn1"][:12] == np.concatenate([first, added])).all()
    pool = next(pool for pool in graph.pools if added[0] in pool)
    assert set(pool) == set(added)
    assert graph.readers(pool) == ["dense1.1.conv1", "trans1.conv1"]


@pytest.mark.parametrize("end", [nn.LogSoftmax(dim=-1), nn.Softmax(dim=-1)])
def test_a_network_that_ends_in_probabilities_is_pruned_like_one_that_does_not(end):
    model, given = network("mixed"), example("mixed")
    ended = nn.Sequential()
    ended.add_module("mixed", model)
    ended.add_module("end", end)
    ended.forward = lambda pixel_values: end(model(pixel_values))
    graph, other = trace(model, given), trace(ended, given)
    assert [pool.tolist() for pool in other.pools] == [pool.tolist() for pool in graph.pools]
    for name, units in graph.writes.items():
        assert other.writes[f"mixed.{name}"].tolist() == units.tolist()


def test_a_channel_keeps_all_its_pixels_and_its_own_filter():
    graph = trace(network("mixed"), example("mixed"))
    assert (graph.reads["head"] == np.repeat(graph.reads["gate"], 4)).all()
    assert (graph.writes["gate"] == graph.reads["gate"]).all()
    assert (graph.writes["block.depthwise"] == graph.writes["block.expand"]).all()
    assert (graph.writes["block.project"] == graph.writes["conv"]).all()
    assert (graph.writes["conv"][1:7] == graph.writes["stem"]).all()


def test_a_pruned_network_can_be_pruned_again(tmp_path):
    model, given = network("resnet20, option A"), example("resnet20, option A")
    once = slice_network(model, (g := trace(model, given)), random_mask(g, 5))
    graph = trace(once, given)
    mask = random_mask(graph, 6)
    twice = slice_network(once, graph, mask)
    with torch.no_grad():
        expected = masked(once, graph, mask)(**given)
        torch.testing.assert_close(twice(**given), expected, rtol=1e-5, atol=1e-5)
        save(twice, tmp_path / "twice")
        assert torch.equal(load(tmp_path / "twice", model=model)(**given), twice(**given))
    other = build_network("resnet20", 5, 8, width=8, shortcut="A")
    with pytest.raises(LowRankError, match=r"'conv1' has sizes .3, 8, 1., not .3, 4, 1."):
        load(tmp_path / "twice", model=other)
    with pytest.raises(LowRankError, match="does not fit"):
        load(tmp_path / "twice", model=network("densenet22"))


def chain(*layers):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3)
            self.between = nn.Sequential(*layers)

        def forward(self, pixel_values):
            return self.last(self.between(self.first(pixel_values)))

    return Chain().eval()


class PadsItself(nn.Module):
    """A module that pads channels in its forward and also convolves."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 2, 1)

    def forward(self, pixel_values):
        return self.head(F.pad(self.conv(pixel_values), (0, 0, 0, 0, 1, 1)))


class Fixed(nn.Module):
    """Only a linear layer from the input to the output."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 64, 2)

    def forward(self, pixel_values):
        return self.fc(pixel_values.flatten(1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (chain(nn.Conv2d(8, 8, 3, groups=2)), r"layer 'between.0' has 2 groups of channels"),
        (chain(nn.GroupNorm(2, 8)), r"around 'between.0' .* go through native_group_norm"),
        (chain(nn.Softmax(dim=1)), "has no filters to prune"),
        (chain(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), r"go through pixel_shuffle"),
        (chain(Lambda(lambda x: x.mean(1, keepdim=True).expand(-1, 8, -1, -1))), "averages over"),
        (chain(Lambda(lambda x: x.reshape(1, 4, 16, 8).repeat(1, 2, 1, 1))), "repeat|pixels"),
        (chain(Lambda(lambda x: x + torch.ones(8, 1, 1))), "go through add"),
        (PadsItself(), "the network pads channels by itself"),
        (Fixed(), "Fixed has no filters to prune"),
    ],
)
def test_networks_that_cannot_be_pruned(model, words):
    with pytest.raises(LowRankError, match=words) as caught:
        trace(model, {"pixel_values": torch.randn(1, 3, 8, 8)})
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_compiled_parts_are_refused():
    with pytest.warns(DeprecationWarning, match="deprecated"):
        model = chain(torch.jit.script(nn.ReLU()))
    with pytest.raises(LowRankError, match=r"around 'between\.0', which is compiled"):
        trace(model, {"pixel_values": torch.randn(1, 3, 8, 8)})
