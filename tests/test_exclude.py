"""Layers that are left out of the compression of a whole network."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from lowrank_bench import compress
from lowrank_bench.cli.main import main
from lowrank_bench.errors import LowRankError


class Sine(nn.Linear):
    """A linear layer that does more, as those of published networks do."""

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value).sin()


class Flip(nn.Conv2d):
    """A convolution that moves channels."""

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value).flip(1)


class Odd(nn.Module):
    """A CNN with an odd convolution and an odd head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.odd = Flip(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 32, 3)
        self.head = Sine(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        value = self.third(self.odd(self.first(images).relu()).relu()).relu()
        return self.head(self.last(value).relu().mean((2, 3)))


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return Odd().eval()


EXAMPLE = {"images": torch.ones(1, 3, 12, 12)}
OPTIONS = {"target": "conv", "example": EXAMPLE}


@pytest.mark.parametrize("method", ["svd", "alds", "filter_threshold"])
def test_an_odd_layer_costs_itself_and_not_the_network(odd, method):
    with pytest.raises(LowRankError, match="exclude 'odd'"):
        compress(odd, method, 0.2, **OPTIONS)
    small, report = compress(odd, method, 0.2, exclude=["odd", "he*"], **OPTIONS)
    reasons = {module["name"]: module["reason"] for module in report.skipped}
    assert reasons == {"odd": "excluded", "head": "excluded"}
    others = [layer for name, layer in odd.named_children() if name not in reasons]
    dense = sum(p.numel() for layer in others for p in layer.parameters())
    assert report.parameters_dense == dense
    assert report.parameters_kept <= 0.8 * dense
    for name in reasons:
        for one, other in zip(
            odd.get_submodule(name).parameters(),
            small.get_submodule(name).parameters(),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_pruning_around_an_excluded_layer_is_that_of_the_masked_network(odd):
    small, _ = compress(odd, "filter_threshold", 0.2, exclude=["odd", "head"], **OPTIONS)
    # The channels that the excluded layers read and write stay; only those between c and d can go.
    assert (small.first.out_channels, small.last.out_channels) == (16, 32)
    kept = small.third.out_channels
    assert kept < 24
    same = small.third.weight.flatten(1).unsqueeze(0) == odd.third.weight.flatten(1).unsqueeze(1)
    gone = ~same.all(2).any(1)
    assert int(gone.sum()) == 24 - kept
    with torch.no_grad():
        odd.last.weight[:, gone] = 0
        images = torch.randn(5, 3, 12, 12)
        assert torch.allclose(small(images), odd(images), atol=1e-5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: orthogonal(layer),
        lambda layer: setattr(layer.weight, "data", layer.weight.data * float("nan")),
    ],
    ids=["hook", "parametrization", "nan"],
)
def test_whatever_one_layer_is_refused_for_it_can_be_left_out(odd, spoil):
    odd.head = nn.Linear(32, 10)
    odd.odd = nn.Conv2d(16, 16, 3, padding=1)
    spoil(odd.last)
    with pytest.raises(LowRankError, match="exclude 'last'"):
        compress(odd, "svd", 0.3, **OPTIONS)
    _, report = compress(odd, "svd", 0.3, exclude=("last",), **OPTIONS)
    assert [layer["name"] for layer in report.layers] == ["first", "odd", "third", "head"]


def test_tied_heads_are_left_out_with_their_table():
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50,
            n_positions=8,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    model.extra = nn.Linear(16, 16)
    model.transformer.h[0].mlp.act = nn.Sequential(nn.Linear(64, 64), nn.GELU())
    example = {"input_ids": torch.tensor([[1, 2, 3]])}
    with pytest.raises(LowRankError, match="shares its table"):
        compress(model, "svd", 0.3, target="linear", example=example)
    leave = ["lm_head", "transformer.wte", "transformer.wpe"]
    small, report = compress(model, "svd", 0.3, target="linear", example=example, exclude=leave)
    assert [layer["name"] for layer in report.layers] == ["transformer.h.0.mlp.act.0"]
    assert small.lm_head.weight is small.transformer.wte.weight


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["haed"], "did you mean 'head'"),
        ("head", "is a list"),
        ([3], "is a list"),
        (["*"], "all its layers are excluded"),
    ],
)
def test_a_wrong_name_is_refused(odd, exclude, message):
    with pytest.raises(LowRankError, match=message):
        compress(odd, "svd", 0.3, exclude=exclude, **OPTIONS)


def test_embeddings_have_a_layer_and_no_exclude(odd):
    with pytest.raises(LowRankError, match="exclude means nothing for target 'embedding'"):
        compress(odd, "svd", 0.3, exclude=["head"])


def test_the_command_line_leaves_layers_out(tmp_path, capsys):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    line = ["compress", str(tmp_path / "bert"), str(tmp_path / "out"), "--method", "svd"]
    line += ["--target", "linear", "--compression", "0.3"]
    assert main([*line, "--exclude", "*.attention", "--exclude", "classifier"]) == 0
    shown = capsys.readouterr()
    assert '"reason": "excluded"' in shown.out
    assert "attention.output.dense" not in shown.out.split('"skipped"')[0]
    assert main([*line, "--exclude", "klassifier"]) == 2
    assert "did you mean 'classifier'" in capsys.readouterr().err
