"""Whole networks in bytes: budgets, what the file holds, and networks that stay what they are."""

import json
from itertools import product

import pytest
import torch
from torch import nn

from lowrank_bench import load, save
from lowrank_bench.artifact import WEIGHTS
from lowrank_bench.compression.front import compress
from lowrank_bench.compression.networks import compress_network
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.stored import stored_bytes
from lowrank_bench.methods import make_method
from lowrank_bench.testing.small_networks import inputs, network, options

WEIGHED = {"frequency": torch.arange(60, 0, -1).double()}
METHODS = {
    "rtn": ({}, {}),
    "rtn, 4 bits": ({"name": "rtn", "bits": 4, "group": 32, "scale": "absmax"}, {}),
    "transform_code": ({}, WEIGHED),
    "layerwise, relative": (
        {"name": "layerwise", "approximator": "relative", "bits": "auto"},
        WEIGHED,
    ),
    "layerwise, two_sided": ({"name": "layerwise", "bits": "auto", "codes": False}, {}),
    "layerwise, ranks": ({"name": "layerwise", "approximator": "whitened"}, {}),
    "svd": ({}, {}),
    "alds": ({}, {}),
}
# Of the small transformer a table of positions, which is left out, takes more than half.
RESTS = ("as_is", "as_is", "fp16")
CASES = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, target in product(METHODS, ("linear", "conv"))
] + [pytest.param("pfp", "conv", id="conv-pfp")]


def compressed(name, target, share, **changes):
    """Return the small network of a target with that share of its bytes saved, and the report."""
    params, facts = METHODS.get(name, ({}, {}))
    params = dict(params)
    method = make_method(params.pop("name", name), **params)
    facts = facts if target == "linear" else {}
    return compress_network(
        network(target), method, saved_bytes=share, **facts, **options(target) | changes
    )


def predict(model, target):
    with torch.no_grad():
        output = model(**inputs(target, 4, seed=9))
    return getattr(output, "logits", output)


def payload(folder):
    """Return the bytes of the weights' file without its header."""
    content = (folder / WEIGHTS).read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_file_is_what_is_counted_and_within_the_budget(name, target, tmp_path):
    for place, (share, rest) in enumerate(zip((0.15, 0.3, 0.55), RESTS, strict=True)):
        model, report = compressed(name, target, share, rest=rest)
        assert report.compression >= share
        assert report.network_bytes_kept == stored_bytes(model)
        assert report.network_bytes_kept <= (1 - share) * report.network_bytes_dense
        assert report.compression == 1 - report.network_bytes_kept / report.network_bytes_dense
        folder = save(model, tmp_path / str(place))
        assert payload(folder) == report.network_bytes_kept
        again = load(folder, model=network(target))
        assert torch.equal(predict(again, target), predict(model, target))
        assert stored_bytes(again) == report.network_bytes_kept
        second = save(again, tmp_path / f"{place} again")
        assert (second / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", ["rtn", "transform_code", "layerwise, two_sided"])
@pytest.mark.parametrize("target", ["linear", "conv"])
def test_more_bytes_are_never_worse_and_most_of_a_budget_is_used(name, target):
    dense = predict(network(target), target)
    errors, used = [], []
    for share in (0.4, 0.5, 0.6):
        model, report = compressed(name, target, share, rest="fp16")
        errors.append(float((predict(model, target) - dense).norm()))
        used.append(report.network_bytes_kept / ((1 - share) * report.network_bytes_dense))
    assert errors[0] <= errors[2]
    if name != "rtn":  # whose bits are whole numbers
        assert min(used) > 0.8  # at 16 bits everywhere there is nothing to add


@pytest.mark.parametrize("name", ["rtn", "transform_code", "layerwise, relative"])
@pytest.mark.parametrize("target", ["linear", "conv"])
def test_a_compressed_network_can_be_trained_and_stays_what_it_is(name, target, tmp_path):
    model, _ = compressed(name, target, 0.6, rest="fp16")
    small = stored_bytes(model)
    model.train()
    output = model(**inputs(target, 4))
    loss = getattr(output, "logits", output).square().sum()
    loss.backward()
    lost = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
    model.eval()
    folder = save(model, tmp_path / "out")
    again = load(folder, model=network(target))
    assert torch.equal(predict(again, target), predict(model, target))
    # What is no longer exact in half precision is saved as it is, and loaded as it was.
    assert payload(folder) == stored_bytes(model) > small
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_the_rest_in_half_precision_is_the_rest_alone():
    dense = network("linear")
    model, report = compressed("svd", "linear", 0.3, rest="fp16")
    state = model.state_dict()
    inside = {layer["name"] for layer in report.layers}
    for name, value in state.items():
        layer, _, local = name.rpartition(".")
        is_half = bool((value.half().float() == value).all())
        assert is_half == (layer not in inside or local == "bias") or local in ("left", "right")
    norms = [name for name in state if "LayerNorm.weight" in name]
    assert norms
    position = "bert.embeddings.position_embeddings.weight"
    assert torch.equal(state[position], dense.state_dict()[position].half().float())


def test_what_half_precision_cannot_hold_stays_as_it_is(tmp_path):
    dense = network("conv")
    with torch.no_grad():
        dense.stem[1].running_var[2] = 1e-7  # a variance that would become zero
        dense.stem[1].bias[0] = 1e6
        dense.head.bias[0] = 70_000.0  # a bias of a layer that is coded
    model, _ = compress_network(dense, "rtn", saved_bytes=0.5, rest="fp16", **options("conv"))
    assert float(model.stem[1].running_var[2]) == pytest.approx(1e-7)
    assert model.stem[1].bias[0].item() == 1e6
    assert model.head.bias[0].item() == 70_000
    again = load(save(model, tmp_path / "out"), model=dense)
    assert torch.equal(predict(again, "conv"), predict(model, "conv"))


def test_excluded_layers_stay_as_they_are():
    dense = network("linear")
    model, report = compressed("rtn", "linear", 0.4, rest="fp16", exclude=["classifier"])
    assert torch.equal(model.classifier.weight, dense.classifier.weight)
    assert isinstance(model.classifier, nn.Linear)
    assert report.network_bytes_kept == stored_bytes(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "rtn", "compression": 0.5}, "saves bytes, not parameters"),
        ({"method": "transform_code", "compression": 0.5, "weights": "uniform"}, "saves bytes"),
        ({"method": "layerwise", "compression": 0.5, "bits": "auto"}, "budget of bytes"),
        ({"method": "rtn", "saved_bytes": 0.5, "budget": "macs"}, "not of macs"),
        ({"method": "rtn", "saved_bytes": 0.5, "compression": 0.5}, "not both"),
        ({"method": "rtn", "saved_bytes": 1.5}, "between 0 and 1"),
        ({"method": "rtn", "saved_bytes": 0.5, "rest": "fp8"}, "unknown rest"),
        ({"method": "transform_code", "saved_bytes": 0.5}, "tokenizer"),
        ({"method": "layerwise", "saved_bytes": 0.5, "approximator": "lp", "bits": "auto"}, "lp"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(arguments, words):
    with pytest.raises(LowRankError) as caught:
        compress(network("linear"), **options("linear") | arguments)
    assert words in str(caught.value) or words == "lp"
    assert "\n" not in str(caught.value)


def test_the_rest_and_tables_belong_to_whole_networks():
    with pytest.raises(LowRankError, match="rest means nothing"):
        compress(network("linear"), "rtn", saved_bytes=0.5, rest="fp16")
    with pytest.raises(LowRankError, match="for whole networks"):
        compress(network("linear"), "rtn", saved_bytes=0.5, table="transform_code", **WEIGHED)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_a_budget_out_of_reach_is_refused(name, target):
    with pytest.raises(LowRankError):
        compressed(name, target, 0.9999)


@pytest.mark.parametrize("name", ["rtn", "transform_code", "layerwise, relative", "svd"])
def test_the_largest_share_that_is_named_is_one(name):
    with pytest.raises(LowRankError) as caught:
        compressed(name, "linear", 0.999)
    most = float(str(caught.value).split()[-1])
    _, report = compressed(name, "linear", most - 0.0001)
    assert report.compression >= most - 0.0001
    with pytest.raises(LowRankError):
        compressed(name, "linear", most + 0.0001)


def test_a_table_can_be_coded_among_rounded_layers():
    table = {"name": "rtn", "bits": 5, "table": "transform_code"}
    METHODS["mixed"] = (table, WEIGHED)
    model, report = compressed("mixed", "linear", 0.5, rest="fp16")
    forms = {layer["name"]: layer["form"] for layer in report.layers}
    assert forms.pop("bert.embeddings.word_embeddings") == "transform"
    assert set(forms.values()) == {"rounded"}
    assert report.data_used == "weights, vocabulary order"
    json.dumps(report.to_dict())
    assert stored_bytes(model) == report.network_bytes_kept
