"""Networks for small images against published counts, closed forms and plain evaluation."""

import pytest
import torch
from torch.nn import functional as F

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import FAMILIES, build_network
from lowrank_bench.layers.shortcut import PaddedShortcut


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shortcut", "count"),
    [
        ("resnet20", "B", 272_474),  # as counted by ALDS's and PFP's code
        ("vgg16_bn", None, 14_728_266),
        ("densenet22", None, 71_686),
        ("wrn16_8", None, 10_961_370),
        ("resnet20", "A", 269_722),  # He et al. (2016), table 6: 0.27, 0.46, 0.66, 0.85, 1.7 M
        ("resnet32", "A", 464_154),
        ("resnet44", "A", 658_586),
        ("resnet56", "A", 853_018),
        ("resnet110", "A", 1_727_962),
    ],
)
def test_parameter_counts_match_the_papers(name, shortcut, count):
    assert parameters(build_network(name, 10, shortcut=shortcut)) == count


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_layers_with_weights(depth):
    model = build_network(f"resnet{depth}", 10, shortcut="A")
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    assert sum(isinstance(module, kinds) for module in model.modules()) == depth


def multiply_adds(model, size):
    total = 0

    def add(module, given, output):
        nonlocal total
        total += output[0, 0].numel() * module.weight.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return total


def test_resnet_halves_the_resolution_where_it_doubles_the_channels():
    stages = [(16, 16, 1024), (16, 32, 256), (32, 64, 64)]
    wanted = 3 * 16 * 9 * 1024
    for before, width, pixels in stages:
        wanted += (before + 5 * width) * width * 9 * pixels
    assert multiply_adds(build_network("resnet20", 10, shortcut="A"), 32) == wanted


def test_shortcut_a_is_a_slice_between_zeros():
    x = torch.randn(2, 3, 5, 6)
    got = PaddedShortcut(before=2, after=1)(x)
    wanted = torch.zeros(2, 6, 3, 3)
    for row in range(3):
        for column in range(3):
            wanted[:, 2:5, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(got, wanted)


def plain_resnet(tensors, x, blocks, shortcut):
    """Evaluate a residual network from its tensors alone."""

    def norm(x, name):
        mean, var, scale, shift = (
            tensors[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(x, name, stride):
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = norm(conv(x, "conv1", 1), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            out = norm(conv(out, f"{name}.conv2", 1), f"{name}.bn2")
            if stride == 2 and shortcut == "A":
                quarter = x.shape[1] // 2
                zeros = torch.zeros_like(x[:, :quarter, ::2, ::2])
                x = torch.cat((zeros, x[:, :, ::2, ::2], zeros), 1)
            elif stride == 2:
                x = norm(conv(x, f"{name}.downsample.0", 2), f"{name}.downsample.1")
            x = (out + x).clamp(min=0)
    return x.mean((2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("size", [8, 16, 32])
def test_resnet_matches_a_plain_evaluation_of_its_tensors(shortcut, size):
    model = build_network("resnet20", 7, size, seed=3, shortcut=shortcut, width=8, blocks=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    x = torch.randn(3, 3, size, size)
    with torch.no_grad():
        wanted = plain_resnet(model.state_dict(), x, 2, shortcut)
        assert torch.allclose(model(pixel_values=x), wanted, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_small_grey_images_give_gradients_everywhere(name):
    size = FAMILIES[name].least
    small = {"blocks": 1} if name.startswith("resnet") else {}
    model = build_network(name, 4, size, channels=1, **small).train()
    logits = model(torch.randn(2, 1, 2 * size, 2 * size))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_vgg_has_the_layer_order_of_its_reference():
    names = dict(build_network("vgg16_bn", 10, width=4).named_modules())
    convolutions = [n for n, module in names.items() if isinstance(module, torch.nn.Conv2d)]
    numbers = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert convolutions == [f"features.{number}" for number in numbers]
    assert "classifier" in names


def test_only_the_seed_determines_the_weights():
    torch.manual_seed(1)
    first = build_network("resnet20", 10, seed=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    second = build_network("resnet20", 10, seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_network("resnet20", 10, seed=6).state_dict()
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_convolutions_have_the_variance_of_he_initialization():
    weight = build_network("vgg16_bn", 10).features[37].weight
    assert weight.var().item() == pytest.approx(2 / (512 * 9), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"architecture": "resnet21"}, ["resnet21", "resnet20"]),
        ({"architecture": "vgg16_bn", "size": 16}, ["32×32", "16×16"]),
        ({"architecture": "vgg16_bn", "shortcut": "A"}, ["no choice of shortcuts"]),
        ({"architecture": "resnet20", "shortcut": "C"}, ["'C'", "A, B"]),
        ({"architecture": "resnet20", "depth": 3}, ["'depth'", "blocks, width"]),
        ({"architecture": "resnet20", "width": 0}, ["width = 0"]),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, parts):
    with pytest.raises(LowRankError) as caught:
        build_network(classes=10, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts)
