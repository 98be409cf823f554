"""Layer-wise low rank of whole networks: optimal in each metric, and never over the budget."""

from itertools import product

import numpy as np
import pytest
import torch
from layerwise_cnn import cnn_problem
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.approximators import METRICS, candidates
from lowrank_bench.layerwise.candidates import RULES, build, layer_matrix, options_of
from lowrank_bench.layerwise.fitted import FittedSpectrum
from lowrank_bench.layerwise.spectra import Metric, MetricSpectrum
from lowrank_bench.methods import MatrixMethod, make_method, method_class, method_names
from lowrank_bench.network.count import count
from lowrank_bench.network.moments import input_moments, token_use
from lowrank_bench.network.problem import NetworkProblem

APPROXIMATORS = ["svd", "lp", "l21", "irls", "whitened", "two_sided", "fwsvd"]
PRESETS = ["svd", "svd_energy", "pca", "lrank"]
PARAMS = {"irls": {"sweeps": 3}, "l21": {"steps": 3}}


def bert_problem(**options) -> NetworkProblem:
    from transformers import BertConfig, BertForSequenceClassification

    torch.set_num_threads(1)
    sizes = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 18}
    config = BertConfig(vocab_size=40, num_hidden_layers=1, num_labels=3, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BertForSequenceClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (8, 6), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    example = {name: value[:1] for name, value in inputs.items()}
    batches = [(inputs, torch.arange(8) % 3)]
    return NetworkProblem(net, "linear", example, lambda: batches, **options)


def output(model: nn.Module, inputs) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def kept(problem: NetworkProblem, model: nn.Module) -> int:
    layers = [model.get_submodule(layer.name) for layer in problem.layers]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def by_name(approximator: str):
    """Return the name of a metric, or a matrix method with the parameters of these tests."""
    params = PARAMS.get(approximator, {})
    return approximator if approximator in METRICS else make_method(approximator, **params)


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(LowRankError, match="unknown metric 'whitend'; known: svd, whitened,"):
        candidates(cnn_problem(), "whitend")


def layerwise(approximator: str, allocation: str = "sum"):
    params = PARAMS.get(approximator, {})
    return make_method(
        "layerwise",
        approximator=approximator,
        allocation=allocation,
        approximator_params=params,
    )


def random_metric(seed: int, rows: int, columns: int) -> Metric:
    rng = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, 2 * rows, generator=rng).double()
    right = torch.randn(columns, 2 * columns, generator=rng).double()
    return Metric(left @ left.T, right @ right.T, 0.7)


def root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_factors_reach_the_closed_form_optimum_of_their_metric(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    metric = random_metric(3, *shape)
    found = MetricSpectrum(matrix, metric)
    # Eckart-Young for L^(1/2) W R^(1/2), with symmetric roots and numpy's SVD.
    image = root(metric.left) @ matrix @ root(metric.right)
    values = np.linalg.svd(image.numpy(), compute_uv=False)
    for rank in range(1, min(shape) + 1):
        left, right = found.factors(rank)
        assert left.shape == (shape[0], rank)
        error = root(metric.left) @ (matrix - left @ right) @ root(metric.right)
        optimum = 0.7 * float((values[rank:] ** 2).sum())
        assert float(found.squares[rank]) == pytest.approx(optimum, rel=1e-4, abs=1e-9)
        assert 0.7 * float(error.square().sum()) == pytest.approx(optimum, rel=1e-4, abs=1e-4)
        peak = values[rank] ** 2 if rank < len(values) else 0.0
        assert float(found.peaks[rank]) == pytest.approx(0.7 * peak, rel=1e-4, abs=1e-9)
        assert torch.allclose(left.norm(dim=0), right.norm(dim=1))


def test_singular_and_diagonal_metrics_keep_full_rank_exact():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    singular = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0]).double())
    for metric in (
        Metric(right=singular),
        Metric(right=singular.diagonal().clone()),
        Metric(left=torch.ones(6, 6).double()),
        Metric(left=torch.zeros(6, 6).double(), right=torch.zeros(4).double()),
    ):
        for weight in (matrix, matrix.T.contiguous()):
            turned = metric if weight is matrix else Metric(metric.right, metric.left)
            left, right = MetricSpectrum(weight, turned).factors(4)
            assert torch.allclose(left @ right, weight, atol=1e-6)


def test_whitened_factors_minimise_the_error_of_the_response():
    problem = cnn_problem()
    layer = next(layer for layer in problem.layers if layer.name == "second")
    found = next(c for c in candidates(problem, "whitened") if c.layer is layer)
    images = problem.batches()[0][0]["images"]
    net = problem.model
    with torch.no_grad():
        hidden = net.norm(net.first(images)).relu()
        dense = net.second(hidden).transpose(0, 1).flatten(1).double()
        centred = dense - dense.mean(1, keepdim=True)
        values = torch.linalg.svdvals(centred)
        for rank in (1, 4, 9):
            small = build(problem, found, rank)
            response = small(hidden).transpose(0, 1).flatten(1).double()
            # The best approximation of the responses in a subspace of that dimension.
            optimum = float(values[rank:].square().sum())
            assert float((response - dense).square().sum()) == pytest.approx(optimum, rel=1e-3)
            assert torch.allclose(response.mean(1), dense.mean(1), atol=1e-4)
            share = optimum / float(values.square().sum())
            assert float(found.spectrum.squares[rank]) == pytest.approx(share, rel=1e-3)


def test_two_sided_errors_add_up_to_the_rise_of_a_quadratic_loss():
    # One linear layer on whitened single positions. Its Fisher information is a Kronecker product
    # except that the prediction depends on the input, so small errors add up to the rise.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    net[1].weight.data *= 0.05
    inputs = torch.randn(4000, 8)
    batches = [({"input": inputs}, None)]
    problem = NetworkProblem(net, "conv", {"input": inputs[:1]}, lambda: batches)
    first = candidates(problem, "two_sided")[0]
    with torch.no_grad():
        before = net(inputs).log_softmax(1)
        for rank in (6, 7):
            small = nn.Sequential(build(problem, first, rank), net[1])
            after = small(inputs).log_softmax(1)
            rise = float((before.exp() * (before - after)).sum(1).mean())
            assert float(first.spectrum.squares[rank]) == pytest.approx(rise, rel=0.15, abs=1e-9)


@pytest.mark.parametrize("make", [cnn_problem, bert_problem])
@pytest.mark.parametrize("approximator", APPROXIMATORS)
def test_full_rank_reproduces_the_outputs(make, approximator):
    problem = make()
    inputs = problem.batches()[0][0]
    found = candidates(problem, by_name(approximator))
    from lowrank_bench.network.layers import replaced

    new = {c.layer.name: build(problem, c, min(c.layer.matrix_shape)) for c in found}
    whole = replaced(problem.model, new)
    assert torch.allclose(output(whole, inputs), output(problem.model, inputs), atol=2e-4)


@pytest.mark.parametrize("make", [cnn_problem, bert_problem])
@pytest.mark.parametrize("approximator", APPROXIMATORS)
def test_every_rule_keeps_the_budget_and_reports_the_true_counts(make, approximator):
    problem = make()
    inputs = problem.batches()[0][0]
    dense = kept(problem, problem.model)
    for rule, compression in product(RULES, (0.25, 0.5)):
        found = layerwise(approximator, rule).compress(problem, compression)
        own = kept(problem, found.model)
        assert own <= (1 - compression) * dense * (1 + 1e-9)
        assert own == sum(layer["parameters"] for layer in found.layers) == found.info["spent"]
        assert output(found.model, inputs).isfinite().all()
        assert [layer["name"] for layer in found.layers] == [x.name for x in problem.layers]
    assert kept(problem, problem.model) == dense


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("make", [cnn_problem, bert_problem])
def test_the_named_baselines_keep_the_budget(make, name):
    problem = make()
    found = make_method(name).compress(problem, 0.4)
    assert kept(problem, found.model) <= problem.allowance(0.4)
    assert make_method(name).needs == (("inputs",) if name == "pca" else ())


@pytest.mark.parametrize("make", [cnn_problem, bert_problem])
def test_a_budget_of_multiply_adds_is_kept_as_counted(make):
    problem = make(budget="macs")
    dense = count(problem.model, problem.example).macs
    for approximator, rule in product(("svd", "two_sided"), RULES):
        found = layerwise(approximator, rule).compress(problem, 0.3)
        own = count(found.model, problem.example).macs
        assert own <= 0.7 * dense * (1 + 1e-9)
        assert own == found.info["spent"]


def test_the_sum_is_the_smallest_over_all_ranks():
    problem = cnn_problem()
    found = candidates(problem, "two_sided")
    errors = [c.spectrum.squares.numpy() for c in found]
    options = [options_of(problem, c, e) for c, e in zip(found, errors, strict=True)]
    for compression in (0.2, 0.5, 0.7):
        budget = problem.allowance(compression)
        least = min(
            sum(o.error[i] for o, i in zip(options, choice, strict=True))
            for choice in product(*(range(len(o.cost)) for o in options))
            if sum(o.cost[i] for o, i in zip(options, choice, strict=True)) <= budget
        )
        own = layerwise("two_sided").compress(problem, compression).info["objective"]
        worst = sum(e[1] for e in errors)
        assert least <= own * (1 + 1e-9) + 1e-15
        assert own <= least + 1e-4 * worst


def test_uniform_svd_uses_one_relative_rank():
    problem = cnn_problem()
    found = make_method("svd").compress(problem, 0.5)
    ranks = {layer["name"]: layer["rank"] for layer in found.layers}
    full = {layer.name: min(layer.matrix_shape) for layer in problem.layers}

    def at(share: float) -> dict[str, int]:
        return {name: max(1, int(np.ceil(share * r - 1e-9))) for name, r in full.items()}

    shares = [k / r for r in full.values() for k in range(1, r + 1)]
    expected = {}
    for share in sorted(shares):
        cost = {
            layer.name: min(
                layer.parameters,
                at(share)[layer.name] * sum(layer.matrix_shape) + layer.has_bias * layer.shape[0],
            )
            for layer in problem.layers
        }
        if sum(cost.values()) <= problem.allowance(0.5):
            expected = at(share)
    assert all(rank is None or rank == expected[name] for name, rank in ranks.items())
    assert any(rank is not None for rank in ranks.values())


def test_the_errors_of_a_fitted_method_are_those_of_its_factors():
    torch.manual_seed(0)
    for shape in ((9, 30), (30, 9)):
        matrix = torch.randn(*shape).double()
        found = FittedSpectrum(matrix, make_method("lp", p=1.0))
        for rank in (1, 3, 9):
            left, right = found.factors(rank)
            error = matrix - left @ right
            assert float(found.squares[rank]) == pytest.approx(
                float(error.square().sum()), abs=1e-9
            )
            peak = float(torch.linalg.matrix_norm(error, 2)) ** 2
            assert float(found.peaks[rank]) == pytest.approx(peak, rel=1e-6, abs=1e-9)
        assert float(found.squares[0]) == pytest.approx(float(matrix.square().sum()))


def test_embedding_rows_are_weighted_by_their_use():
    problem = bert_problem()
    found = candidates(problem, "whitened")[0]
    assert found.layer.kind == "embedding"
    table = layer_matrix(problem, found.layer).T
    weights = token_use(problem).sqrt().unsqueeze(1)
    values = torch.linalg.svdvals(weights * table)
    for rank in (2, 6):
        rows = build(problem, found, rank).weight.detach().double()
        lost = (weights * (rows - table)).square().sum()
        assert float(lost) == pytest.approx(float(values[rank:].square().sum()), rel=1e-3)


def test_unreachable_budgets_and_missing_data_end_in_one_line():
    problem = cnn_problem()
    with pytest.raises(LowRankError, match=r"largest compression that is reachable is 0\.\d+"):
        layerwise("svd").compress(problem, 0.99)
    least = 27 + 8 + 72 + 12 + 12 + 12 + 10 + 10  # rank 1 everywhere, with its biases
    reachable = 1 - least / kept(problem, problem.model)
    with pytest.raises(LowRankError, match=f"{reachable:.4f}"):
        layerwise("svd").compress(problem, 0.99)
    assert layerwise("svd").compress(problem, reachable - 1e-9).info["spent"] == least
    bare = NetworkProblem(problem.model, "conv", problem.example)
    for name in ("whitened", "two_sided", "fwsvd"):
        with pytest.raises(LowRankError, match="calibration"):
            layerwise(name).compress(bare, 0.5)
    layerwise("svd").compress(bare, 0.5)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"approximator": "nothing"}, "unknown method"),
        ({"approximator": "pca"}, "is not a method for single matrices"),
        ({"approximator": "frequency_svd"}, "needs more than the weights"),
        ({"approximator": "svd", "approximator_params": {"p": 1}}, "takes no parameters"),
        ({"approximator": "lp", "approximator_params": {"q": 1}}, "no parameter 'q'"),
        ({"approximator": "lp", "approximator_params": {"p": float("nan")}}, "p = nan"),
        ({"approximator": "lp", "approximator_params": {"center": True}}, "drop center"),
        ({"approximator": "l21", "approximator_params": {"center": True}}, "drop center"),
        (
            {"approximator": "frequency_sparse", "approximator_params": {"weights": "uniform"}},
            "more than two factors",
        ),
        ({"allocation": "best"}, "should be"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(params, words):
    with pytest.raises(LowRankError, match=words):
        make_method("layerwise", **params)


@pytest.mark.parametrize("name", sorted({*method_names(), *METRICS}))
def test_an_approximator_is_refused_before_any_work_or_replaces_every_layer(name):
    try:
        method = layerwise(name)
    except LowRankError:
        if name in METRICS or issubclass(method_class(name), MatrixMethod):
            with pytest.raises(LowRankError, match="more than two factors"):
                candidates(cnn_problem(), by_name(name))
        return
    method.compress(cnn_problem(), 0.5)


def test_what_a_method_needs_follows_from_its_approximator():
    needs = {name: layerwise(name).needs for name in APPROXIMATORS}
    assert needs["svd"] == needs["lp"] == ()
    assert needs["two_sided"] == needs["whitened"] == ("inputs",)
    assert needs["fwsvd"] == ("inputs", "labels")
    assert set(METRICS) <= set(APPROXIMATORS)


def test_moments_are_collected_once_for_all_compressions():
    problem = cnn_problem()
    calls = []
    data = problem.batches()

    def batches():
        calls.append(1)
        return data

    again = NetworkProblem(problem.model, "conv", problem.example, batches)
    for compression in (0.3, 0.5):
        layerwise("whitened").compress(again, compression)
    assert len(calls) == 1
    input_moments(again)
    assert len(calls) == 1
