"""ALDS on whole networks: budgets, reports, and the loss error."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from lowrank_bench.alds.whitened import Whitened
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.fold import fold
from lowrank_bench.methods import make_method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.problem import NetworkProblem

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.strided = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False)
        self.wide = nn.Conv2d(24, 24, (3, 5), padding=(1, 2))
        self.last = nn.Linear(24, 10)

    def forward(self, x):
        for layer in (self.first, self.strided, self.wide):
            x = torch.relu(layer(x))
        return self.last(x.mean((2, 3)))


def problem(budget="parameters", data=True):
    torch.manual_seed(0)
    images = torch.randn(32, 3, 8, 8)

    def batches():
        yield {"x": images}, None

    net = Net().eval()
    return NetworkProblem(net, "conv", {"x": images[:1]}, batches if data else None, budget)


VARIANTS = [
    {},
    {"error": "bound"},
    {"error": "unscaled"},
    {"error": "frobenius", "objective": "sum"},
    {"error": "data"},
    {"error": "data", "objective": "sum", "max_groups": 4},
    {"search": "em"},
    {"groups": 3, "allocation": "uniform"},
    {"allocation": "uniform"},
    {"schemes": "all"},
    {"max_groups": 4, "align": 4},
]


@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_a_network_does_not_depend_on_what_was_compressed_before(params):
    used, method = problem(), make_method("alds", **params)
    rates = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65)
    after = {rate: compress_within(used, method, rate).layers for rate in rates}
    for rate in rates:
        alone = compress_within(problem(), method, rate).layers
        for layer, same in zip(alone, after[rate], strict=True):  # errors up to rounding
            assert {k: v for k, v in layer.items() if not isinstance(v, float)} == {
                k: v for k, v in same.items() if not isinstance(v, float)
            }


@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_networks_keep_the_budget_and_are_reported_truthfully(budget):
    given = problem(budget)
    for params in VARIANTS:
        method = make_method("alds", **params)
        for compression in (0.3, 0.6):
            found = compress_within(given, method, compression)  # checks the kept count itself
            assert found.info["achieved_compression"] >= compression - 1e-12, params
            for layer, row in zip(given.layers, found.layers, strict=True):
                module = found.model.get_submodule(layer.name)
                kept = sum(parameter.numel() for parameter in module.parameters())
                assert row["parameters"] == kept
                if row["rank"] is not None:
                    assert row["rank"] % method.align == 0
                    assert row["groups"] <= (method.max_groups or 24)
                    dense = given.model.get_submodule(layer.name).weight.detach()
                    both = dense - module.weight.detach(), dense
                    shape = (*dense.shape, 1, 1)[:4]
                    lost, whole = (fold(w.reshape(shape), row["scheme"])[0] for w in both)
                    norms = [float(torch.linalg.matrix_norm(m, 2)) for m in (lost, whole)]
                    assert row["spectral_error"] == pytest.approx(norms[0] / norms[1], rel=1e-4)
                    if method.error == "spectral":
                        assert row["error"] == pytest.approx(row["spectral_error"], abs=1e-5)
                    if row["bound"] is not None:
                        assert row["spectral_error"] <= row["bound"] + 1e-5


def test_the_data_error_includes_the_new_bias():
    given = problem()
    found = make_method("alds", error="data", groups=2, objective="minimax").compress(given, 0.5)
    inputs, _ = next(iter(given.batches()))
    images, old, new = inputs["x"], given.model, found.model
    row = next(row for row in found.layers if row["name"] == "first")
    assert row["rank"] is not None
    dense, kept = old.first(images).detach(), new.first(images).detach()
    centred = dense - dense.mean((0, 2, 3), keepdim=True)
    # Up to the shrinkage of a covariance from 2048 rows.
    assert float((dense - kept).norm() / centred.norm()) == pytest.approx(row["error"], rel=0.02)
    # The mean response is preserved.
    torch.testing.assert_close(kept.mean((0, 2, 3)), dense.mean((0, 2, 3)), atol=1e-4, rtol=0)


def test_one_group_is_the_truncated_svd_of_each_layer():
    given = problem()
    found = make_method("alds", groups=1).compress(given, 0.5)
    for row in found.layers:
        dense = given.model.get_submodule(row["name"]).weight
        kept = found.model.get_submodule(row["name"]).weight
        if row["rank"] is None:
            torch.testing.assert_close(kept, dense, rtol=0, atol=0)
            continue
        u, s, vh = torch.linalg.svd(dense.flatten(1), full_matrices=False)
        expected = u[:, : row["rank"]] * s[: row["rank"]] @ vh[: row["rank"]]
        torch.testing.assert_close(kept.flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_more_options_never_raise_the_objective():
    given = problem()

    def objective(**params):
        return make_method("alds", **params).compress(given, 0.6).info["objective"]

    assert objective(schemes="all") <= objective() <= objective(max_groups=4) <= objective(groups=1)
    assert objective() <= objective(search="em")


def test_a_budget_out_of_reach_names_the_largest_compression():
    given = problem()
    with pytest.raises(LowRankError, match=r"the largest compression is 0\.(\d+)") as caught:
        make_method("alds").compress(given, 0.99)
    least = float(str(caught.value).rpartition(" ")[2])
    assert make_method("alds").compress(given, least - 1e-3).info["spent"] > 0


def test_bad_requests_end_in_one_line():
    with pytest.raises(LowRankError, match="calibration"):
        make_method("alds", error="data").compress(problem(data=False), 0.5)
    for params, match in [
        ({"groups": 0}, "groups must be"),
        ({"objective": "sum"}, "objective = sum needs"),
        ({"error": "data", "schemes": "all"}, "schemes = 0"),
        ({"search": "em", "allocation": "uniform"}, "nothing to search"),
        ({"error": "energy"}, "error"),
    ]:
        with pytest.raises(LowRankError, match=match):
            make_method("alds", **params)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_loss_error_is_the_error_of_its_factors_in_both_metrics(groups):
    generator = torch.Generator().manual_seed(groups)
    weight = torch.randn(6, 8, 1, 1, generator=generator).double()
    c, g = (torch.randn(n, n, generator=generator).double() for n in (8, 6))
    c, g = c @ c.T, g @ g.T
    whitened = Whitened(weight, c, gradients=g, scale=0.7)
    errors = whitened.curve(groups, np.arange(1, 3)).all()
    floored = g + 0.01 * g.trace() / 6 * torch.eye(6)
    for rank, error in zip((1, 2), errors, strict=True):
        left, right = whitened.factors(groups, rank)
        lost = weight.flatten(1) - torch.cat(list(left @ right), dim=1)
        assert error**2 == pytest.approx(
            0.7 * float((floored @ lost @ c @ lost.T).trace()), abs=1e-6
        )


def test_one_group_of_the_loss_error_is_optimal_at_its_rank():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 8, 1, 1, generator=generator).double()
    c, g = (torch.randn(n, n, generator=generator).double() for n in (8, 6))
    c, g = c @ c.T, g @ g.T + 5 * torch.eye(6)
    floored = (g + 0.01 * g.trace() / 6 * torch.eye(6)).numpy()
    roots = [scipy.linalg.sqrtm(m).real for m in (floored, c.numpy())]
    values = np.linalg.svd(roots[0] @ weight.flatten(1).numpy() @ roots[1], compute_uv=False)
    found = Whitened(weight, c, gradients=g).curve(1, np.arange(5)).all()
    wanted = np.sqrt([np.square(values[k:]).sum() for k in range(5)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
