"""Every parameter of a network is targeted, listed as left out, or in a small vector."""

import pytest
from many_networks import Cnn, Encoder, Recurrent, bert, gpt2, llama, mixtral, quantized, run, t5
from torch import nn

from lowrank_bench import compress
from lowrank_bench.errors import LowRankError

NUMBERS_OF_A_RECURRENT = sum(p.numel() for p in Recurrent().parameters())
NETWORKS = [bert, gpt2, mixtral, t5, llama, Cnn, Recurrent, Encoder, quantized]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["embedding", "linear", "conv"])
@pytest.mark.parametrize("build", NETWORKS)
def test_every_parameter_is_accounted_for(build, target):
    if (build is Cnn and target != "conv") or (build in (gpt2, quantized) and target == "conv"):
        with pytest.raises(LowRankError, match=r"nothing to compress|no nn\.Embedding"):
            run(build, target)
        return
    model, small, report = run(build, target)
    total = sum(p.numel() for p in model.parameters())
    stored = sum(p.numel() for p in small.parameters())
    if build is quantized:
        total, packed = NUMBERS_OF_A_RECURRENT, NUMBERS_OF_A_RECURRENT - total
        stored += packed
    left = sum(module["parameters"] for module in report.skipped)
    assert report.network_parameters_dense == total
    assert report.network_parameters_kept == stored
    assert report.parameters_dense + left + report.other_parameters == total
    assert report.skipped_share == left / total
    saved = report.parameters_dense - report.parameters_kept
    assert total - stored == saved >= 0.3 * report.parameters_dense
    # Against the names of the network itself: what is in neither list holds vectors alone.
    listed = {module["name"] for module in [*report.layers, *report.skipped]}
    for name, value in model.named_parameters():
        owner = name.rpartition(".")[0]
        assert owner in listed or sum(size > 1 for size in value.shape) <= 1, name
    assert all(module["reason"] for module in report.skipped)


REASONS = {
    (gpt2, "linear"): {
        "h.0.attn.c_attn": ("Conv1D", 16 * 48 + 48, "Conv1D is not a Linear"),
        "wpe": ("Embedding", 1024 * 16, "embedding"),
    },
    (mixtral, "linear"): {
        "model.layers.0.mlp.experts": ("MixtralExperts", 4 * 16 * 24, "fused experts"),
        "model.layers.0.mlp.gate": (
            "MixtralTopKRouter",
            64,
            "MixtralTopKRouter is not a Linear",
        ),
    },
    (Cnn, "conv"): {
        "depthwise": ("Conv2d", 80, "8 groups"),
        "up": ("ConvTranspose2d", 8 * 6 * 4 + 6, "ConvTranspose2d is not a Conv2d or Linear"),
        "line": ("Conv1d", 6 * 5 * 3 + 5, "Conv1d is not a Conv2d or Linear"),
        "box": ("Conv3d", 56, "Conv3d is not a Conv2d or Linear"),
        "unused": ("Linear", 18, "does not run on the example"),
    },
    (Recurrent, "linear"): {
        "lstm": ("LSTM", 2 * 32 * (16 + 8 + 2), "LSTM is not a Linear"),
        "cell": ("GRUCell", 24 * (16 + 8 + 2), "GRUCell is not a Linear"),
    },
    (Encoder, "linear"): {
        "": ("Encoder", 128, "Encoder is not a Linear"),
        "encoder.layers.0.self_attn": ("MultiheadAttention", 16 * 48 + 48, "attention in_proj"),
        "encoder.layers.1.self_attn.out_proj": (
            "NonDynamicallyQuantizableLinear",
            272,
            "attention out_proj",
        ),
    },
    (quantized, "linear"): {
        "inner": ("Linear", 272, "quantized"),
        "lstm": ("LSTM", 2 * 32 * (16 + 8 + 2), "quantized"),
        "cell": ("GRUCell", 24 * (16 + 8 + 2), "quantized"),
    },
    (bert, "embedding"): {
        "bert.embeddings.position_embeddings": ("Embedding", 512 * 16, "another embedding"),
        "classifier": ("Linear", 34, "Linear is not the embedding"),
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("build", "target"), REASONS)
def test_what_is_left_out_has_its_size_and_reason(build, target):
    _, _, report = run(build, target)
    listed = {
        module["name"]: (module["kind"], module["parameters"], module["reason"])
        for module in report.skipped
    }
    for name, facts in REASONS[build, target].items():
        assert listed[name] == facts


def test_a_weight_of_two_modules_counts_once():
    net = nn.ModuleDict({"words": nn.Embedding(40, 8), "a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    net["b"].weight = net["a"].weight
    _, report = compress(net, "svd", 0.4)
    listed = {module["name"]: module for module in report.skipped}
    assert (listed["a"]["parameters"], listed["b"]["parameters"]) == (72, 8)
    assert listed["b"]["reason"] == "shares its weight with a"
    assert report.network_parameters_dense == 320 + 72 + 8


def test_layers_without_a_shape_yet_count_nothing():
    net = nn.ModuleDict({"words": nn.Embedding(40, 8), "head": nn.LazyLinear(3)})
    _, report = compress(net, "svd", 0.4)
    assert report.network_parameters_dense == 320
    assert [(module["name"], module["parameters"]) for module in report.skipped] == [("head", 0)]
