"""Counted parameters and multiply-adds, against closed forms and torch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.count import count
from lowrank_bench.network.layers import find_layers, replaced


class Cnn(nn.Module):
    """Convolutions with groups and strides, a transposed one, and a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.last = nn.Linear(6, 6)

    def forward(self, images):
        hidden = self.up(self.depthwise(self.norm(self.first(images))))
        return self.last(self.last(hidden.mean((2, 3))))


def flops(model: nn.Module, example) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**example)
    return counter.get_total_flops()


def test_a_convolutional_network_has_the_multiply_adds_of_the_closed_form():
    net, example = Cnn(), {"images": torch.zeros(1, 3, 12, 12)}
    found = count(net, example)
    expected = {
        "first": 6 * 6 * 8 * 27,
        "depthwise": 4 * 4 * 8 * 9,
        "up": 8 * 8 * 6 * 4,  # each output pixel comes from one input pixel of 4 channels
        "last": 2 * 36,
    }
    assert found.by_module == expected
    assert found.macs == sum(expected.values())
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.uncounted == ()
    assert net.training
    assert not net.norm.num_batches_tracked  # counting ran in evaluation mode


@pytest.mark.parametrize("batch", [1, 3])
def test_it_agrees_with_torch_on_dense_and_factorized_convolutions(batch):
    net, example = Cnn().eval(), {"images": torch.zeros(batch, 3, 12, 13)}
    assert 2 * count(net, example).macs == flops(net, example)
    conv = net.first
    for scheme, (left, right) in enumerate([((8, 27)), ((24, 9)), ((24, 9)), ((72, 3))]):
        factors = torch.ones(1, left, 2), torch.ones(1, 2, right)
        new = {
            "first": FactorizedConv2d.from_dense(conv, *factors, scheme),
            "last": FactorizedLinear.from_dense(net.last, torch.ones(3, 6, 2), torch.ones(3, 2, 2)),
        }
        small = replaced(net, new)
        found = count(small, example)
        # torch's counter sees the linear layer's groups as well: they are batched products.
        assert 2 * found.macs == flops(small, example)
        assert found.by_module["last"] == 2 * batch * (3 * 2 * 2 + 6 * 6)
        assert {"first.encoder", "first.decoder"} <= found.by_module.keys()


def test_the_linear_layers_of_a_transformer_agree_with_torch():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=40, num_hidden_layers=2, **sizes)
    config._attn_implementation = "eager"
    net = BertForSequenceClassification(config).eval()
    example = {"input_ids": torch.ones(1, 7, dtype=torch.long)}
    found = count(net, example)
    attention = 2 * 2 * 7 * 7 * 16  # two layers, two products of activations each: not counted
    assert 2 * (found.macs + attention) == flops(net, example)
    assert found.macs == sum(layer.macs for layer in find_layers(net, "linear", example))
    assert found.parameters == sum(p.numel() for p in net.parameters())


def test_a_transformers_conv1d_counts_and_unknown_matrices_are_named():
    from transformers.pytorch_utils import Conv1D

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.bilinear = Conv1D(5, 3), nn.Bilinear(5, 5, 2)

        def forward(self, given):
            given = self.inner(given)
            return self.bilinear(given, given)

    found = count(Odd(), {"given": torch.zeros(1, 4, 3)})
    assert found.macs == 4 * 15
    assert found.uncounted == ("bilinear",)


def test_shared_parameters_are_stored_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert count(net, {"input": torch.zeros(1, 4)}).parameters == 16 + 2 * 4
