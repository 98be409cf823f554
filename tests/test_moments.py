"""Calibration statistics against sums over single positions and against autograd."""

import copy

import pytest
import torch
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.gradients import (
    column_information,
    drawn_gradient,
    output_gradients,
    visit_gradients,
)
from lowrank_bench.network.moments import MOST_POSITIONS, input_moments, token_use
from lowrank_bench.network.problem import NetworkProblem


class Cnn(nn.Module):
    """A strided convolution with odd padding, one overwritten in place, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(3, 4, 1)
        self.last = nn.Linear(4, 3)

    def forward(self, images):
        return self.last(self.relu(self.second(self.relu(self.first(images)))).mean((2, 3)))


def cnn_problem(size: int = 6, **options) -> NetworkProblem:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 2, size, size, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = Cnn().eval()
    batches = [({"images": images[:3]}, labels[:3]), ({"images": images[3:]}, labels[3:])]
    return NetworkProblem(net, "conv", {"images": images[:1]}, lambda: batches, **options)


def bert_problem() -> NetworkProblem:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    config = BertConfig(vocab_size=20, num_hidden_layers=1, num_labels=3, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BertForSequenceClassification(config).eval()
    ids = torch.tensor([[1, 5, 5, 2, 0, 0], [1, 7, 5, 9, 9, 2]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    example = {name: value[1:] for name, value in inputs.items()}
    batches = [(inputs, torch.tensor([0, 2]))]
    return NetworkProblem(net, "linear", example, lambda: batches)


def patches(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """All patches, read pixel by pixel."""
    (top, left), (k1, k2), (d1, d2) = conv.padding, conv.kernel_size, conv.dilation
    padded = nn.functional.pad(images, (left, left, top, top))
    height = (padded.shape[2] - d1 * (k1 - 1) - 1) // conv.stride[0] + 1
    width = (padded.shape[3] - d2 * (k2 - 1) - 1) // conv.stride[1] + 1
    rows = [
        torch.stack(
            [
                image[c, y * conv.stride[0] + a * d1, x * conv.stride[1] + b * d2]
                for c in range(images.shape[1])
                for a in range(k1)
                for b in range(k2)
            ]
        )
        for image in padded
        for y in range(height)
        for x in range(width)
    ]
    return torch.stack(rows).double()


def test_convolution_inputs_have_the_moments_of_their_patches():
    problem = cnn_problem()
    images = torch.cat([inputs["images"] for inputs, _ in problem.batches()])
    rows = patches(problem.model.first, images)
    found = input_moments(problem)
    assert list(found) == ["first", "second", "last"]
    first = found["first"]
    assert first.count == len(rows) == 5 * first.positions
    assert torch.allclose(first.mean, rows.mean(0), atol=1e-6)
    assert torch.allclose(first.second, rows.T @ rows / len(rows), atol=1e-6)
    assert torch.allclose(first.covariance(), torch.cov(rows.T, correction=0), atol=1e-6)
    # The weight times a patch is the response, so the entries have the weight's order.
    response = problem.model.first(images).transpose(0, 1).flatten(1).double()
    weight = problem.model.first.weight.flatten(1).double()
    expected = response - problem.model.first.bias.double().unsqueeze(1)
    assert torch.allclose(weight @ rows.T, expected, atol=1e-5)


def test_positions_of_large_images_are_a_seeded_sample():
    found = input_moments(cnn_problem(40, seed=1))["first"]
    again = input_moments(cnn_problem(40, seed=1))["first"]
    other = input_moments(cnn_problem(40, seed=2))["first"]
    assert found.count == 5 * MOST_POSITIONS
    assert found.positions == 20 * 42
    assert torch.equal(found.second, again.second)
    assert not torch.equal(found.second, other.second)
    everything = patches(cnn_problem(40).model.first, cnn_problem(40).batches()[0][0]["images"])
    power = everything.square().mean()
    assert found.second.diagonal().mean() == pytest.approx(float(power), rel=0.2)


def test_padded_tokens_do_not_count():
    problem = bert_problem()
    found = input_moments(problem)
    query = "bert.encoder.layer.0.attention.self.query"
    assert found[query].count == 10
    assert found[query].positions == 5
    inputs = problem.batches()[0][0]
    hidden = problem.model.bert.embeddings(inputs["input_ids"]).detach()
    rows = hidden[inputs["attention_mask"].bool()].double()
    assert torch.allclose(found[query].second, rows.T @ rows / 10, atol=1e-6)
    assert torch.equal(found[query].second, found[query.replace("query", "key")].second)
    assert found["classifier"].count == 2
    counts = torch.zeros(20).double()
    counts[[1, 2, 5, 7, 9]] = torch.tensor([2.0, 2, 3, 1, 2]).double()
    # Of ten tokens one type occurs once: (1 + 1)/(10 + 1) of the mass goes to the fifteen unseen.
    expected = torch.where(counts == 0, 10 * 2 / 11 / 15, counts * 9 / 11) / 2
    assert torch.allclose(token_use(problem), expected)


def test_sampled_gradients_have_the_fisher_information_of_the_prediction():
    logits = torch.tensor([[2.0, -1.0, 0.5]]).expand(200_000, 3)
    drawn = drawn_gradient(0)(logits, None)
    share = logits[0].softmax(0)
    expected = share.diag() - torch.outer(share, share)
    assert torch.allclose(drawn.T @ drawn / len(drawn), expected, atol=2e-3)
    assert drawn_gradient(0)(torch.zeros(200_000, 1), None).var() == pytest.approx(1, abs=0.02)


def test_output_gradients_equal_autograd_through_the_bias_of_each_position():
    problem = cnn_problem(seed=3)
    before = copy.deepcopy(problem.model.state_dict())
    found = output_gradients(problem)
    # The same loss, with an offset for each position instead of the probes.
    net, drawn = problem.model, drawn_gradient(3)
    total, count = 0, 0
    for inputs, _ in problem.batches():
        hidden = net.first(inputs["images"]).relu()
        offset = torch.zeros(len(hidden), 4, *hidden.shape[2:], requires_grad=True)
        logits = net.last((net.second(hidden) + offset).relu().mean((2, 3)))
        loss = (drawn(logits.detach(), None) * logits).sum()
        gradient = torch.autograd.grad(loss, offset)[0].transpose(0, 1).flatten(1).double()
        total, count = total + gradient @ gradient.T, count + gradient.shape[1]
    assert torch.allclose(found["second"], total / count, rtol=1e-4, atol=1e-9)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("make", [cnn_problem, bert_problem])
def test_column_information_is_the_squared_gradient_of_each_example(make):
    problem = make()
    found = column_information(problem)
    net = copy.deepcopy(problem.model)
    totals = {layer.name: 0.0 for layer in problem.layers}
    examples = 0
    for inputs, labels in problem.batches():
        for i in range(len(labels)):
            output = net(**{name: value[i : i + 1] for name, value in inputs.items()})
            logits = output if isinstance(output, torch.Tensor) else output.logits
            net.zero_grad()
            nn.functional.cross_entropy(logits, labels[i : i + 1]).backward()
            examples += 1
            for layer in problem.layers:
                gradient = net.get_submodule(layer.name).weight.grad.double()
                axis = 1 if layer.kind == "embedding" else 0
                squares = gradient.reshape(layer.matrix_shape).square().sum(axis)
                totals[layer.name] = totals[layer.name] + squares
    for name, total in totals.items():
        largest = float(total.max())
        assert torch.allclose(found[name], total / examples, rtol=1e-3, atol=1e-4 * largest), name


def test_missing_data_end_in_one_line():
    problem = cnn_problem()
    bare = NetworkProblem(problem.model, "conv", problem.example)
    for ask in (input_moments, output_gradients, column_information):
        with pytest.raises(LowRankError, match="calibration"):
            ask(bare)
    empty = NetworkProblem(problem.model, "conv", problem.example, list)
    broken_batches = [({"images": torch.full((1, 2, 6, 6), torch.nan)}, torch.zeros(1).long())]
    broken = NetworkProblem(problem.model, "conv", problem.example, lambda: broken_batches)
    for ask in (input_moments, output_gradients, column_information):
        with pytest.raises(LowRankError, match="empty"):
            ask(empty)
        with pytest.raises(LowRankError, match="'first' are NaN"):
            ask(broken)
    unlabelled = [(inputs, None) for inputs, _ in problem.batches()]
    bare = NetworkProblem(problem.model, "conv", problem.example, lambda: unlabelled)
    with pytest.raises(LowRankError, match="labels"):
        column_information(bare)


def test_gradients_need_no_trainable_parameter():
    problem = cnn_problem()
    expected = output_gradients(problem)
    frozen = cnn_problem()
    frozen.model.requires_grad_(False)
    seen = []
    visit_gradients(frozen, drawn_gradient(0), lambda *args: seen.append(args[0]))
    assert set(seen) == {"first", "second", "last"}
    again = output_gradients(frozen)
    assert all(torch.allclose(expected[name], again[name]) for name in expected)
