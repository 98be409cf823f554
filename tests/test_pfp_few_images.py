"""PFP saves no more than asked, however few the images."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pfp_networks import problem
from torch import nn

from lowrank_bench.errors import LowRankWarning
from lowrank_bench.methods import make_method
from lowrank_bench.prune.select import Budget, graph_of
from lowrank_bench.prune.shortage import filled

torch.set_num_threads(1)


def few_images(name, count):
    given_problem = problem(name, count)
    with torch.no_grad():
        for module in given_problem.model.modules():
            if isinstance(module, nn.BatchNorm2d):  # most filters are off on one image
                module.bias -= 0.4
    return given_problem


@pytest.mark.parametrize("variant", ["deterministic", "random", "mixed"])
@pytest.mark.parametrize(("name", "count"), [("resnet20", 1), ("resnet20", 2), ("vgg16_bn", 1)])
def test_few_images_save_no_more_than_asked(name, count, variant):
    """The case of the fault: 0.35 was saved where 0.1 was asked with one image."""
    given_problem = few_images(name, count)
    dense = sum(layer.parameters for layer in given_problem.layers)
    graph = graph_of(given_problem)
    # One channel's worth: the most that the last filter of any pool takes along.
    everything = Budget(given_problem, 0.5, graph.pools)
    sizes = [len(pool) for pool in graph.pools]
    whole = everything.cost(sizes)
    one = max(
        whole - everything.cost([n - (place == i) for i, n in enumerate(sizes)])
        for place in range(len(sizes))
    )
    for compression in (0.05, 0.1, 0.3):
        with pytest.warns(LowRankWarning, match=f"{count} images? are too few .* give 1") as caught:
            result = make_method("pfp", variant=variant).compress(given_problem, compression)
        assert "\n" not in str(caught[0].message)
        kept = sum(one_layer["parameters"] for one_layer in result.layers)
        assert (1 - compression) * dense - one < kept <= (1 - compression) * dense
        assert set(result.info["unseen_filters"]) <= set(graph.writes)
        assert all(result.info["unseen_filters"].values())
        assert result.info["images"] == count < result.info["images_wanted"]


def test_enough_images_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", LowRankWarning)
        result = make_method("pfp").compress(problem("resnet20"), 0.6)
    assert "unseen_filters" not in result.info


@settings(deadline=None, max_examples=100)
@given(
    pools=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 50)), min_size=1),
    room=st.integers(0, 500),
)
def test_room_is_filled_to_the_last_channel_that_fits(pools, room):
    counts, sizes = [c for c, _, _ in pools], [c + more for c, more, _ in pools]

    def cost(trial):
        return sum(
            (n - c) * price for n, c, (_, _, price) in zip(trial, counts, pools, strict=True)
        )

    kept = filled(counts, sizes, lambda trial: cost(trial) <= room)
    assert cost(kept) <= room
    for place, size in enumerate(sizes):
        assert counts[place] <= kept[place] <= size
        if kept[place] < size:
            assert cost([n + (i == place) for i, n in enumerate(kept)]) > room
