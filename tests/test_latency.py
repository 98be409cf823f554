"""Latency budgets, and the measurements behind them.

Times are compared only as ratios of the minimum over several alternating runs, never absolutely.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification
from wide_cnn import cnn, images

from lowrank_bench import compress, load
from lowrank_bench.cli import main
from lowrank_bench.device import fixed_threads
from lowrank_bench.errors import LowRankError
from lowrank_bench.latency import SOURCES, seconds_for
from lowrank_bench.latency import seconds as latency
from lowrank_bench.latency import tables as latency_tables
from lowrank_bench.latency.clock import Clock
from lowrank_bench.latency.promise import within_latency
from lowrank_bench.latency.seconds import dense_seconds
from lowrank_bench.latency.tables import ladder, rank_seconds, sliced_seconds
from lowrank_bench.methods import make_method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.forward import repeated
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.store.digest import closure


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measure for less time, on one thread."""
    monkeypatch.setattr(latency, "BUDGET", 0.1)
    monkeypatch.setattr(latency, "ROUNDS", (5, 15))
    monkeypatch.setattr(latency_tables, "BUDGET", 0.02)
    with fixed_threads(1):
        yield


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    config = BertConfig(vocab_size=500, num_hidden_layers=2, **sizes)
    return BertForSequenceClassification(config).eval()


def tokens(rows: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(1, 33).repeat(rows, 1)}


NETWORKS = {"conv": (cnn, images), "linear": (bert, tokens)}


def problem(target: str = "conv", **more) -> NetworkProblem:
    make, inputs = NETWORKS[target]
    batches = [(inputs(4), torch.arange(4) % 2)]
    words = {"budget": "latency", "seconds": seconds_for("latency"), **more}
    return NetworkProblem(make(), target, inputs(1), lambda: batches, **words)


def dense_latency(timed: NetworkProblem) -> float:
    return sum(dense_seconds(timed).values())


def best_ratio(dense, compressed, inputs, rounds=10) -> float:
    """Return the minimum CPU seconds of `compressed` over those of `dense`, run in turn."""
    least = [float("inf")] * 2
    with torch.inference_mode():
        for turn in range(rounds + 3):
            for place, model in enumerate((dense, compressed)):
                start = time.thread_time()
                model(**inputs)
                if turn >= 3:
                    least[place] = min(least[place], time.thread_time() - start)
    return least[1] / least[0]


CASES = [
    ("conv", "svd", {}),
    ("conv", "alds", {}),
    ("conv", "pca", {}),
    ("conv", "softnet", {}),
    ("conv", "pfp", {"samples": 4}),
    ("linear", "alds", {"error": "frobenius"}),
    ("linear", "layerwise", {}),
]


@pytest.mark.parametrize(("target", "name", "params"), CASES)
def test_a_network_within_a_budget_of_latency_is_not_slower(target, name, params):
    make, inputs = NETWORKS[target]
    model, batches = make(), [(inputs(4), torch.arange(4) % 2)]
    small, report = compress(
        model,
        name,
        0.15,
        target=target,
        example=inputs(1),
        batches=(lambda: batches) if make_method(name, **params).needs else None,
        budget="latency",
        **params,
    )
    facts = report.info["latency"]
    assert facts["compressed_seconds"] <= facts["dense_seconds"]
    assert facts["layers_compressed_seconds"] <= 0.85 * facts["layers_dense_seconds"]
    assert json.loads(json.dumps(facts))["batch"] == 16
    assert report.parameters_kept < report.parameters_dense
    ratio = best_ratio(model, small, repeated(inputs(1), 16))
    assert ratio <= 1.1, f"{ratio:.3f} of the dense network's seconds"
    if target == "linear":  # a lookup is faster than any product
        assert isinstance(small.get_input_embeddings(), nn.Embedding)


def test_the_command_line_keeps_the_budget_too(tmp_path, capsys):
    model = bert()
    model.save_pretrained(tmp_path / "dense")
    words = ["compress", str(tmp_path / "dense"), str(tmp_path / "small"), "--method", "svd"]
    assert main([*words, "--target", "linear", "--budget", "latency", "--compression", "0.1"]) == 0
    facts = json.loads(capsys.readouterr().out)["info"]["latency"]
    assert facts["ratio"] >= 1
    small = load(tmp_path / "small")
    assert best_ratio(model, small, repeated(tokens(1), 16)) <= 1.1


def test_the_budget_of_an_already_pruned_network_is_that_of_the_original(monkeypatch):
    first = problem()
    # Counted operations stand for seconds, so that no noise decides the sizes.
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(Clock, "stamp", lambda _: 1e-9 * counter.get_total_flops())
        once = compress_within(first, make_method("softnet"), 0.1)
        second = problem(origin=first)
        second = replace(second, model=once.model, _memo={})
        twice = compress_within(second, make_method("softnet"), 0.6)
    facts = twice.info["latency"]
    assert facts["layers_compressed_seconds"] <= 0.4 * facts["layers_dense_seconds"]
    sizes = [part.info["parameters_kept"] for part in (once, twice)]
    assert sizes[0] > sizes[1]
    assert best_ratio(first.model, twice.model, repeated(images(1), 16)) <= 0.8


def test_a_slow_network_is_rejected_and_a_fast_one_returned_at_once(monkeypatch):
    given = problem()
    seconds = iter([(1.2, 1.1), (0.95, 0.9), (0.7, 0.6)])
    names = [layer.name for layer in given.layers]

    def fake(models, *_):
        whole, layers = next(seconds)
        return [1.0, whole], [dict.fromkeys(names, 1.0), dict.fromkeys(names, layers)]

    compressed = make_method("svd").compress(NetworkProblem(given.model, "conv", images(1)), 0.5)
    dense_seconds(given)
    monkeypatch.setattr(latency, "_measured", fake)
    asked = []

    def make(compression: float) -> CompressedNetwork:
        asked.append(compression)
        return compressed

    found = within_latency(given, 0.3, make)
    assert found.info["latency"]["tries"] == len(asked) == 3
    assert found.info["latency"]["compression"] == pytest.approx(0.4)
    assert found.info["latency"]["ratio"] == pytest.approx(1 / 0.7)
    assert asked[0] == 0.3
    assert min(asked[1:]) > 0.3


def test_a_budget_that_cannot_be_kept_ends_in_one_line(monkeypatch):
    given = problem()
    names = [layer.name for layer in given.layers]
    compressed = make_method("svd").compress(NetworkProblem(given.model, "conv", images(1)), 0.5)
    dense_seconds(given)
    sizes = iter([0.9, 0.88, 0.93, 0.9, 0.9, 0.9, 0.9])

    def fake(models, *_):
        own = next(sizes)
        return [1.0, own], [dict.fromkeys(names, 1.0), dict.fromkeys(names, own)]

    monkeypatch.setattr(latency, "_measured", fake)
    with pytest.raises(LowRankError, match=r"largest that was measured is 0\.1200") as refusal:
        within_latency(given, 0.3, lambda compression: compressed)
    assert "\n" not in str(refusal.value)


def test_a_budget_of_latency_without_seconds_is_refused_and_other_budgets_need_none():
    assert seconds_for("parameters") is None
    assert seconds_for("macs") is None
    with pytest.raises(LowRankError, match=r"seconds_for\('latency'\)") as refusal:
        problem(seconds=None)
    assert "\n" not in str(refusal.value)


def test_the_sources_of_latency_are_named_without_torch():
    code = "import sys, lowrank_bench.latency as l; print('torch' in sys.modules, *l.SOURCES)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.split() == ["False", *SOURCES], printed.stderr
    behind = {name for name in closure(SOURCES) if name.startswith("lowrank_bench.latency.")}
    names = ("measured", "promise", "seconds", "tables", "clock")
    assert behind == {f"lowrank_bench.latency.{name}" for name in names}


@pytest.mark.parametrize("name", ["svd", "alds", "softnet"])
def test_a_budget_out_of_reach_names_the_largest_compression(name):
    with pytest.raises(LowRankError, match=r"0\.\d+$"):
        make_method(name).compress(problem(), 0.9999)


def test_saving_nothing_returns_the_dense_network():
    given = problem()
    found = within_latency(given, 0.0, partial(make_method("svd").compress, given))
    same = [isinstance(found.model.get_submodule(one.name), nn.Conv2d) for one in given.layers]
    assert sum(same) == 3
    inputs = images(2)
    assert torch.equal(found.model(**inputs), given.model(**inputs))


@pytest.fixture
def counted(monkeypatch):
    """Let each layer cost its parameters plus 1000; rank 32 is slow, slower than 48."""
    monkeypatch.setattr(
        latency_tables,
        "_seconds",
        lambda modules, shapes, like: [fake_seconds(module) for module in modules],
    )
    given = problem()
    own = {layer.name: layer.parameters + 1000.0 for layer in given.layers}
    given.cached(("latency", "dense", given.batch), lambda: own)
    return given


def fake_seconds(module: nn.Module) -> float:
    slow = 2 if getattr(module, "rank", 0) == 32 else 1
    return slow * float(sum(part.numel() for part in module.parameters())) + 1000


def test_a_rank_costs_as_much_as_the_next_measured_one(counted):
    layer = counted.layers[1]
    seconds = rank_seconds(counted, layer)
    dense = dense_seconds(counted)[layer.name]
    measured = ladder(143)  # 143·(160 + 1440) < 160·1440 ≤ 144·1600
    assert measured[:3] == [4, 8, 16]
    assert all(size % 16 == 0 for size in measured[2:])
    for rank in range(1, 161):
        above = next((size for size in measured if size >= rank), None)
        if above is None:
            assert seconds[rank - 1] > dense
        else:
            slow = 2 if above == 32 else 1
            assert seconds[rank - 1] == pytest.approx(slow * (above * 1600 + 160) + 1000)
    assert counted.allowance(0.0) == dense_latency(counted) * (1 + 1e-12)


def test_the_choice_is_the_best_within_the_time_budget(counted):
    """Against a search over every combination of the measured ranks."""
    options = []
    for layer in counted.layers:
        dense = dense_seconds(counted)[layer.name]
        matrix = counted.model.get_submodule(layer.name).weight.detach().flatten(1).double()
        squares = torch.linalg.svdvals(matrix).square().flip(0).cumsum(0).flip(0)
        lost = [*squares.tolist(), 0.0]
        costs = rank_seconds(counted, layer)
        ranks = [rank for rank in ladder(160) if rank <= len(costs) and costs[rank - 1] < dense]
        options.append([(costs[rank - 1], lost[rank]) for rank in ranks] + [(dense, 0.0)])
    for compression in (0.1, 0.4, 0.7):
        budget = (1 - compression) * dense_latency(counted)
        choices = ((sum(c for c, _ in one), sum(e for _, e in one)) for one in product(*options))
        best = min(error for cost, error in choices if cost <= budget)
        found = make_method("lrank").compress(counted, compression)
        assert found.info["spent"] <= budget
        assert found.info["objective"] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("align", [1, 8, 24])
def test_alds_takes_few_groups_and_no_rank_that_a_larger_one_beats(counted, align):
    found = make_method("alds", align=align, error="bound").compress(counted, 0.5)
    cut = [row for row in found.layers if row["rank"] is not None]
    assert cut
    assert all(row["groups"] in (1, 2, 4) and row["rank"] % align == 0 for row in cut)
    assert not {17, 24, 31, 32} & {row["rank"] for row in cut}
    spent = 0.0
    for layer, row in zip(counted.layers, found.layers, strict=True):
        if row["rank"] is None:
            spent += dense_seconds(counted)[layer.name]
        else:
            spent += rank_seconds(counted, layer, 0, row["groups"])[row["rank"] - 1]
    assert spent <= 0.5 * dense_latency(counted)
    assert found.info["spent"] == pytest.approx(spent)


def test_more_channels_never_cost_less(counted):
    layer = counted.layers[1]
    cost = partial(sliced_seconds, counted, layer)
    sizes = [*range(1, 160, 5), 160]
    table = np.array([[cost(i, o) for o in sizes] for i in sizes])
    assert (np.diff(table, axis=0) >= -1e-9).all()
    assert (np.diff(table, axis=1) >= -1e-9).all()
    assert table[-1, -1] == dense_seconds(counted)[layer.name]
    for inputs, outputs in ((16, 160), (160, 64), (32, 32)):  # at measured pairs, exactly
        expected = 9 * inputs * outputs + outputs + 1000
        assert cost(inputs, outputs) == pytest.approx(expected)
    for inputs, outputs in ((15, 160), (101, 33), (48, 48)):  # elsewhere, never below
        assert cost(inputs, outputs) >= 9 * inputs * outputs + outputs + 1000


@pytest.mark.parametrize("name", ["softnet", "pfp"])
def test_pruned_channels_fill_whole_blocks(counted, name):
    found = make_method(name).compress(counted, 0.4)
    rows = {row["name"]: row for row in found.layers}
    spent = sum(
        sliced_seconds(counted, layer, rows[layer.name]["inputs"], rows[layer.name]["outputs"])
        for layer in counted.layers
    )
    assert spent <= 0.6 * dense_latency(counted)
    assert all(row["outputs"] % 16 == 0 for row in found.layers[:-1])
