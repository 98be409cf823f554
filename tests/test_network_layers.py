"""Layers that replace convolutions and linears, and the search for layers to replace."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lowrank_bench import load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.fold import fold
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.layers import find_layers, replaced, skipped_layers

STRIDED = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}


class Cnn(nn.Module):
    """Two convolutions, one of them strided, and a linear layer."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, (3, 5), bias=False, groups=groups, **STRIDED)
        self.last = nn.Linear(6, 4)

    def forward(self, images):
        hidden = self.second(self.first(images).relu()).relu()
        return self.last(hidden.mean((2, 3)))


def images(size: int = 9) -> dict[str, torch.Tensor]:
    return {"images": torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))}


def bert(**options):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=40, num_hidden_layers=2, num_labels=3, **sizes, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def tokens(length: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.arange(1, length + 1).reshape(1, -1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def random_factors(conv: nn.Conv2d, scheme: int, groups: int, rank: int):
    _, rows, columns = fold(conv.weight, scheme, groups).shape
    return torch.randn(groups, rows, rank), torch.randn(groups, rank, columns)


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        STRIDED,
        {"padding": "same", "bias": False},
        {"padding": (1, 2), "padding_mode": "circular"},
        {"padding": (2, 1), "padding_mode": "reflect", "stride": 2},
    ],
)
def test_a_factorized_convolution_equals_the_dense_one_with_its_weight(scheme, groups, options):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, (3, 5), **options)
    left, right = random_factors(conv, scheme, groups, rank=3)
    layer = FactorizedConv2d.from_dense(conv, left, right, scheme)
    assert torch.allclose(fold(layer.dense_weight(), scheme, groups), left @ right, atol=1e-4)
    dense = copy.deepcopy(conv)
    dense.weight.data = layer.dense_weight().detach()
    given = torch.randn(2, 8, 11, 12)
    assert torch.allclose(layer(given), dense(given), atol=1e-3)
    mode = conv.padding_mode
    if mode == "zeros":  # the functional form, independent of nn.Conv2d
        direct = functional.conv2d(
            given, layer.dense_weight(), conv.bias, conv.stride, conv.padding, conv.dilation
        )
        assert torch.allclose(layer(given), direct, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_factorized_linear_layer_equals_the_dense_one_with_its_weight(groups):
    torch.manual_seed(0)
    dense = nn.Linear(8, 6)
    left, right = torch.randn(groups, 6, 3), torch.randn(groups, 3, 8 // groups)
    layer = FactorizedLinear.from_dense(dense, left, right)
    weight = torch.cat(list(left @ right), dim=1)  # slice by slice
    given = torch.randn(2, 5, 8)
    assert torch.allclose(layer.dense_weight(), weight, atol=1e-5)
    assert torch.allclose(layer(given), functional.linear(given, weight, dense.bias), atol=1e-5)


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_full_rank_factors_reproduce_the_dense_convolution(scheme):
    conv = nn.Conv2d(8, 6, (3, 5), **STRIDED)
    u, s, v = torch.linalg.svd(fold(conv.weight.detach(), scheme, 2), full_matrices=False)
    layer = FactorizedConv2d.from_dense(conv, u * s.unsqueeze(1), v, scheme)
    assert torch.allclose(layer.dense_weight(), conv.weight, atol=1e-5)


def test_factors_that_do_not_fit_are_refused():
    conv = nn.Conv2d(8, 6, 3)
    with pytest.raises(LowRankError, match="do not fit a 6x8 convolution"):
        FactorizedConv2d.from_dense(conv, torch.ones(6, 2), torch.ones(2, 71))
    with pytest.raises(LowRankError, match="3 groups do not divide 8"):
        fold(conv.weight, 0, 3)
    with pytest.raises(LowRankError, match="folding scheme 4"):
        fold(conv.weight, 4)
    with pytest.raises(LowRankError, match="do not fit a linear layer 6x8"):
        FactorizedLinear.from_dense(nn.Linear(8, 6), torch.ones(6, 2), torch.ones(2, 7))


def test_networks_with_factors_are_saved_and_loaded_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    net = Cnn().eval()
    second, last = net.second, net.last
    new = {
        "second": FactorizedConv2d.from_dense(second, *random_factors(second, 1, 2, 2), 1),
        "last": FactorizedLinear.from_dense(last, torch.randn(2, 4, 1), torch.randn(2, 1, 3)),
    }
    small = replaced(net, new)
    assert net.second is second
    assert small.first is not net.first
    assert small.second is new["second"]
    again = load(save(small, tmp_path / "net"), Cnn())
    assert torch.equal(again(**images()), small(**images()))
    assert again.second.spec() == small.second.spec()
    transformer = bert()
    dense = transformer.bert.pooler.dense
    factors = FactorizedLinear.from_dense(dense, torch.randn(16, 3), torch.randn(3, 16))
    small = replaced(transformer, {"bert.pooler.dense": factors})
    again = load(save(small, tmp_path / "bert"))
    assert torch.equal(again(**tokens()).logits, small(**tokens()).logits)


def test_layers_are_found_with_their_positions():
    net = Cnn()
    found = {layer.name: layer for layer in find_layers(net, "conv", images(9))}
    assert list(found) == ["first", "second", "last"]
    # By the formula of torch.nn.Conv2d: height (9 + 2 - 2 - 1)/2 + 1, width (9 + 4 - 8 - 1) + 1.
    assert [layer.positions for layer in found.values()] == [81, 5 * 5, 1]
    assert found["second"].shape == (6, 8, 3, 5)
    assert found["second"].parameters == 6 * 8 * 15
    assert found["first"].parameters == 8 * 27 + 8
    assert found["second"].macs == 25 * 6 * 8 * 15
    assert net.training


def test_linears_and_embedding_of_a_transformer_are_found():
    found = find_layers(bert(), "linear", tokens(7))
    assert [layer.kind for layer in found] == ["embedding"] + ["linear"] * 14
    assert found[0].shape == (40, 16)
    assert found[0].macs == 0
    assert {layer.positions for layer in found[:-2]} == {7}
    assert [layer.positions for layer in found[-2:]] == [1, 1]  # pooler and classifier


def test_grouped_convolutions_are_left_out_and_named():
    net = Cnn(groups=2)
    assert [layer.name for layer in find_layers(net, "conv", images())] == ["first", "last"]
    assert skipped_layers(net, "conv") == {"second": "2 groups"}
    alone = nn.Sequential(nn.Conv2d(3, 6, 1, groups=3))
    with pytest.raises(LowRankError, match="all have groups: 0"):
        find_layers(alone, "conv", {"input": torch.ones(1, 3, 2, 2)})


@pytest.mark.parametrize(
    "change", [lambda _: None, lambda other: other.weight.data.fill_(torch.nan)]
)
def test_a_layer_that_does_not_run_is_left_out_and_named_whatever_its_contents(change):
    net = Cnn()
    names = [layer.name for layer in find_layers(net, "conv", images())]
    net.other = nn.Linear(2, 2)
    change(net.other)
    found = find_layers(net, "conv", images())
    assert [layer.name for layer in found] == names == ["first", "second", "last"]
    assert skipped_layers(net, "conv", found) == {"other": "does not run on the example"}
    net.other = nn.LazyLinear(2)
    with pytest.raises(LowRankError, match="'other' has no shape yet"):
        find_layers(net, "conv", images())


class Scaled(nn.Linear):
    def forward(self, given):
        return 2 * super().forward(given)


def _share(net):
    net.other = nn.Linear(6, 4)
    net.other.weight = net.last.weight


def _parametrize(net):
    nn.utils.parametrizations.orthogonal(net.last)


def _factorize(net):
    net.last = FactorizedLinear(6, 4, 2)


def _unused(net):
    net.forward = lambda images: images.sum()


def _break(net):
    net.last.weight.data[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_share, "shares its memory with"),
        (_parametrize, "parametriz"),
        (_factorize, "already compressed"),
        (_unused, "none of the layers .* runs on the example"),
        (_break, "'last' holds NaN"),
        (lambda net: setattr(net, "last", Scaled(6, 4)), "does more than a Linear"),
        (lambda net: net.last.register_forward_hook(lambda *_: None), "'last' has hooks"),
        (lambda net: setattr(net, "last", net.last.to("meta")), "load the weights"),
    ],
)
def test_what_cannot_be_replaced_is_refused_in_one_line(change, words):
    net = Cnn()
    change(net)
    with pytest.raises(LowRankError, match=words) as caught:
        find_layers(net, "conv", images())
    assert "\n" not in str(caught.value)


def test_a_tied_embedding_and_unknown_targets_are_refused():
    net = bert()
    net.head = nn.Linear(16, 40, bias=False)
    net.head.weight = net.bert.embeddings.word_embeddings.weight
    with pytest.raises(LowRankError, match="shares its table"):
        find_layers(net, "linear", tokens())
    with pytest.raises(LowRankError, match="unknown target"):
        find_layers(Cnn(), "everything", images())
    with pytest.raises(LowRankError, match=r"no nn\.Embedding"):
        find_layers(Cnn(), "linear", images())
    with pytest.raises(LowRankError, match="wrap it in a module"):
        find_layers(nn.Linear(2, 2), "conv", {"input": torch.ones(1, 2)})
