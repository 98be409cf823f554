"""Inputs for whole networks, valid and invalid, and what must be preserved in the network."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_bench import compress, load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.network.gradients import true_labels

torch.set_num_threads(1)


class Cnn(nn.Module):
    """A block with a depthwise convolution in its middle, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project = nn.Conv2d(12, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.depthwise(self.norm(self.expand(x)).relu()).relu()
        return self.head(self.project(x).relu().mean((2, 3)))


def network():
    torch.manual_seed(0)
    return Cnn().eval()


def images(count, seed=1):
    return {"x": torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))}


def batches():
    yield images(6), torch.arange(6) % 4
    yield images(6, 2), torch.arange(6) % 4


def run(method, compression=0.4, model=None, **more):
    more = {"target": "conv", "example": images(1), "batches": batches} | more
    return compress(model or network(), method, compression, **more)


def one_batch(inputs, labels=None):
    return {"batches": lambda: [(inputs, labels)]}


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("svd", {"example": {"y": images(1)["x"]}}, r"does not run on example \(y\): .*'y'"),
        ("svd", {"example": {"x": torch.zeros(1, 5, 6, 6)}}, "does not run on example"),
        ("svd", {"example": images(1)["x"]}, "example must hold the keyword arguments"),
        ("svd", {"example": {}}, "example must hold the keyword arguments"),
        ("svd", {"example": images(2)}, "must hold one example; its 'x' has 2"),
        ("pca", {"batches": [(images(2), None)]}, "must be a function .* not list"),
        ("pfp", {"batches": lambda: [images(2)["x"]]}, "must be a pair"),
        ("pca", {"batches": lambda: [(images(2)["x"], None)]}, "calibration batch must hold"),
        ("pca", one_batch({"z": images(2)["x"]}), r"the calibration batches \(z\)"),
        ("thinet", one_batch({"x": images(2)["x"].double()}), "does not run on the calibration"),
        ("pca", one_batch(images(0)), "batches are empty"),
        ("pfp", one_batch(images(0)), "batches are empty"),
        ("thinet", {"batches": list}, "batches are empty"),
        ("pfp", one_batch({"x": images(2)["x"] * torch.nan}), "outputs are NaN or infinite"),
        ("thinet", one_batch({"x": images(2)["x"] / 0}), "outputs are NaN or infinite"),
        ("svd", {"layer": "project"}, "layer means nothing for target 'conv'"),
        ("svd", {"counts": [1.0]}, "counts means nothing for target 'conv'"),
        ("l21", {}, "l21 does not compress the target 'conv'; methods that do: alds, .*, svd"),
        ("svd", {"target": "embedding"}, "example means nothing for target 'embedding'"),
    ],
)
def test_wrong_inputs_end_in_one_line(method, more, words):
    with pytest.raises(LowRankError, match=words) as refusal:
        run(method, **more)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("labels", [torch.zeros(2), [0] * 6])
def test_there_must_be_one_label_for_each_input(labels):
    given = one_batch(images(6), labels)
    with pytest.raises(LowRankError, match="labels must be a tensor, one for each of 6 inputs"):
        run("layerwise", approximator="fwsvd", **given)
    run("pca", **given)  # which reads no labels


class Regressor(Cnn):
    """The same network with a single output."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        (Cnn, torch.tensor([0, 1, 2, 3, 4, 1]), r"4 outputs need .* in 0\.\.3, .* from 0 to 4;"),
        (Cnn, torch.tensor([0, 1, -1, 3, 0, 1]), "6 int64 from -1 to 3; correct the labels"),
        (Cnn, torch.tensor([0, 1, 2, 3, 0, 1]) / 1.0, "6 float32 from 0 to 3; correct the labels"),
        (Cnn, torch.full((6,), torch.nan), "6 float32 from nan to nan; correct the labels"),
        (Cnn, torch.zeros(6, 4).long(), "6x4 int64 from 0 to 0; correct the labels"),
        (Regressor, torch.zeros(6, 2), "1 output needs one finite number .* 6x2 float32"),
        (
            Regressor,
            torch.tensor([0.5, 1, torch.inf, 0, 0, 0]),
            "from 0 to inf; correct the labels",
        ),
    ],
)
def test_labels_of_another_task_end_in_one_line(kind, labels, words):
    torch.manual_seed(0)
    given = one_batch(images(6), labels)
    with pytest.raises(LowRankError, match=words) as refusal:
        run("layerwise", model=kind().eval(), approximator="fwsvd", **given)
    assert "labels do not fit the network" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_of_any_integer_type_give_the_same_gradient(dtype):
    labels = torch.arange(6) % 4
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    found = true_labels(logits.detach(), labels.to(dtype))
    torch.testing.assert_close(found, logits.grad)


def test_data_that_can_be_read_only_once_are_refused():
    once = iter(list(batches()))
    with pytest.raises(LowRankError, match="gave data once and then none"):
        run("layerwise", batches=lambda: once)


def test_a_network_that_cannot_be_copied_is_refused():
    model = network()
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.utils.weight_norm(model.project)
    with pytest.raises(LowRankError, match="cannot be copied"):
        run("svd", model=model)


@pytest.mark.parametrize("method", ["svd", "softnet"])
def test_each_module_keeps_its_own_mode(method):
    model = network().train()
    model.norm.eval()
    model.project.eval()
    before = {name: module.training for name, module in model.named_modules()}
    small, _ = run(method, model=model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert small.training
    assert not small.norm.training
    assert not any(part.training for part in small.project.modules())
    assert all(part.training for part in small.expand.modules())


@pytest.mark.parametrize("method", ["svd", "alds", "pca"])
def test_rank_one_layers_are_loaded_with_the_saved_strides_and_outputs(method, tmp_path):
    small, report = run(method, 0.75)
    assert 1 in [layer["rank"] for layer in report.layers]
    for name, value in small.named_parameters():
        assert value.stride() == torch.empty(value.shape).stride(), name
    again = load(save(small, tmp_path / "out"), model=network())
    assert torch.equal(again(**images(5)), small(**images(5)))


def test_random_filters_are_reweighted_once_and_after_the_depthwise_convolution():
    dense = network()
    small, report = run("pfp", 0.6, dense, variant="random")
    kept = {layer["name"]: layer["kept"] for layer in report.layers}["expand"]
    assert len(kept) < 12
    assert torch.equal(small.depthwise.weight, dense.depthwise.weight[kept])
    out = {layer["name"]: layer["kept"] for layer in report.layers}["project"]
    factors = small.project.weight / dense.project.weight[out][:, kept]
    factors = factors.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert (factors != 1).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_pruned_like_the_same_numbers_in_float32(dtype):
    half = network().to(dtype)
    data = images(6)["x"].to(dtype)
    _, one = run("pfp", 0.5, half, example={"x": data[:1]}, **one_batch({"x": data}))
    same = network().to(dtype).float()
    _, two = run("pfp", 0.5, same, **one_batch({"x": data.float()}))
    assert one.layers == two.layers


@pytest.mark.parametrize("method", ["pfp", "thinet", "softnet", "alds"])
def test_a_mobilenet_whose_code_reads_the_sizes_of_its_layers(method):
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=4)
    model = MobileNetV2ForImageClassification(config)
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    small, report = run(method, 0.3, model, example=None, **one_batch(pixels))
    assert report.network_parameters_kept == sum(p.numel() for p in small.parameters())
    assert report.compression >= 0.3
    assert small.eval()(**pixels).logits.shape == (2, 4)


class Aided(Cnn):
    """The same network with a second head that only training uses."""

    def __init__(self):
        super().__init__()
        self.aid = nn.Sequential(nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.aid_head = nn.Linear(5, 4)

    def forward(self, x):
        hidden = self.project(self.depthwise(self.norm(self.expand(x)).relu()).relu()).relu()
        if self.training:
            self.norm.num_batches_tracked.add_(1)
            return self.head(hidden.mean((2, 3))), self.aid_head(self.aid(hidden).mean((2, 3)))
        return self.head(hidden.mean((2, 3)))


@pytest.mark.parametrize("method", ["svd", "alds", "pca", "layerwise", "softnet", "pfp", "thinet"])
def test_a_head_that_only_training_uses_stays_dense_and_is_named(method):
    torch.manual_seed(0)
    model = Aided().eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    small, report = run(method, 0.4, model)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    reason = "does not run on the example"
    skipped = {"aid.0": reason, "aid_head": reason, "depthwise": "12 groups"}
    assert report.info["left_dense"] == skipped
    assert [layer["name"] for layer in report.layers] == ["expand", "project", "head"]
    assert report.parameters_dense == (3 * 12 + 12) + (12 * 8 * 9 + 8) + (8 * 4 + 4)
    assert report.network_parameters_kept == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(**images(1))
    assert 2 * report.macs_kept == counter.get_total_flops()
    for name, value in model.state_dict().items():
        if name.startswith("aid"):
            assert torch.equal(small.state_dict()[name], value)
    assert int(small.norm.num_batches_tracked) == 0
    one, other = small.train()(**images(2))
    assert one.shape == other.shape == (2, 4)


class Sized(Cnn):
    """The same network with a layer that large images skip."""

    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x):
        hidden = self.expand(x).relu()
        hidden = self.more(hidden).relu() if x.shape[-1] < 8 else hidden
        return self.head(self.project(hidden).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("pca", {}),
        ("alds", {"error": "data"}),
        ("layerwise", {"approximator": "two_sided"}),
        ("layerwise", {"approximator": "fwsvd"}),
        ("layerwise", {"approximator": "whitened"}),
        ("pfp", {}),
        ("thinet", {}),
    ],
)
def test_a_layer_that_runs_on_no_calibration_batch_is_named(method, params):
    torch.manual_seed(0)
    large = {"x": torch.randn(6, 3, 9, 9)}
    more = one_batch(large, torch.arange(6) % 4) | params
    words = "'more' does not run on the calibration data, though it runs on the example; give data"
    with pytest.raises(LowRankError, match=words):
        run(method, 0.4, Sized().eval(), **more)


@pytest.mark.parametrize("sizes", [[-1, 3, 1], [0, 3, 1], [3, 100, 1], [10**9, 5, 1]])
def test_damaged_sizes_of_pruned_layers_end_in_one_line(sizes, tmp_path):
    small, _ = run("softnet", 0.5)
    file = save(small, tmp_path / "out") / "lowrank.json"
    manifest = json.loads(file.read_text())
    assert manifest["resized"][0]["name"] == "expand"
    manifest["resized"][0]["sizes"] = sizes
    file.write_text(json.dumps(manifest))
    with pytest.raises(LowRankError, match="'expand' cannot have sizes"):
        load(tmp_path / "out", model=network())
