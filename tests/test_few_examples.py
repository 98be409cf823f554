"""Methods that look at inputs save no more than asked, however few the examples."""

import warnings
from dataclasses import replace

import pytest
import torch
from layerwise_cnn import cnn_problem
from torch import nn

from lowrank_bench.errors import LowRankWarning
from lowrank_bench.methods import make_method
from lowrank_bench.network.problem import NetworkProblem


@pytest.mark.parametrize(("name", "params"), [("pca", {}), ("layerwise", {"allocation": "sum"})])
def test_few_examples_save_no_more_than_asked(name, params):
    """Directions that no data reach cost no error, and were all dropped: 0.43 saved for 0.1."""
    problem = cnn_problem()
    images = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    few = replace(problem, batches=lambda: [({"images": images}, torch.tensor([1]))], _memo={})
    dense = sum(layer.parameters for layer in problem.layers)
    with pytest.warns(LowRankWarning, match="too few for this compression: .* give more") as caught:
        result = make_method(name, **params).compress(few, 0.1)
    assert "\n" not in str(caught[0].message)
    kept = sum(one["parameters"] for one in result.layers)
    step = max(sum(layer.matrix_shape) for layer in problem.layers)  # one more rank
    assert 0.9 * dense - step - 20 < kept <= 0.9 * dense
    assert set(result.info["scarce_layers"]) <= {layer.name for layer in problem.layers}
    with warnings.catch_warnings():
        warnings.simplefilter("error", LowRankWarning)
        assert "scarce_layers" not in make_method(name, **params).compress(problem, 0.3).info


@pytest.mark.parametrize("objective", ["sum", "minimax"])
@pytest.mark.parametrize("compression", [0.1, 0.5])
def test_alds_keeps_what_fits_where_one_image_reaches_few_directions(objective, compression):
    """Each layer had rank one or two, which saved 0.70 for 0.1."""
    torch.manual_seed(0)
    layers = [nn.Linear(288, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), *layers).eval()
    method = make_method("alds", error="data", objective=objective)
    images = torch.randn(200, 3, 8, 8)

    def kept(count: int):
        part = {"input": images[:count]}
        problem = NetworkProblem(model, "conv", {"input": images[:1]}, lambda: [(part, None)])
        result = method.compress(problem, compression)
        dense = sum(layer.parameters for layer in problem.layers)
        return sum(one["parameters"] for one in result.layers) / dense, result

    with pytest.warns(LowRankWarning, match="too few for this compression"):
        share, result = kept(1)
    assert 1 - compression - 0.02 < share <= 1 - compression
    assert result.info["scarce_layers"]
    # What the image shows is computed as before: the choice costs no error that can be seen.
    with torch.no_grad():
        assert torch.allclose(result.model(images[:1]), model(images[:1]), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LowRankWarning)
        assert "scarce_layers" not in kept(200)[1].info


def test_a_layer_without_gradients_is_not_cut_to_rank_one():
    problem = cnn_problem()
    with torch.no_grad():
        problem.model.last.weight.zero_()  # nothing before it matters to the loss
    with pytest.warns(LowRankWarning, match="too few"):
        result = make_method("layerwise", approximator="fwsvd").compress(problem, 0.1)
    dense = sum(layer.parameters for layer in problem.layers)
    kept = sum(one["parameters"] for one in result.layers)
    assert 0.7 * dense < kept <= 0.9 * dense
