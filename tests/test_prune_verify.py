"""Pruning is right or refused: sliced networks against masked ones, and outputs of any form."""

import collections

import pytest
import torch
from random_cnn import OUTPUTS, RandomCnn, masked, scores_of
from torch import nn

from lowrank_bench import compress
from lowrank_bench.errors import LowRankError
from lowrank_bench.prune.graph import trace
from lowrank_bench.prune.outputs import output_tensors

torch.set_num_threads(1)
PRUNERS = ("filter_threshold", "softnet", "thinet", "pfp")
EXAMPLE = {"x": torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))}


def batches():
    generator = torch.Generator().manual_seed(1)
    return [({"x": torch.randn(6, 3, 8, 8, generator=generator)}, None)]


def prune(model, method="filter_threshold", compression=0.45, example=EXAMPLE, **params):
    data = {"batches": batches} if method in ("thinet", "pfp") else {}
    options = {**data, **params}
    return compress(model, method, compression, target="conv", example=example, **options)


class Between(nn.Module):
    """Two convolutions with some code between and after them."""

    def __init__(self, between=torch.relu, after=lambda y: y, last=4):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, last, 1)
        self.between, self.after = between, after
        with torch.no_grad():
            self.a.weight[:6] *= 0.01
            self.a.weight[10:12] *= 0.01

    def forward(self, x):
        return self.after(self.b(self.between(self.a(x))))


def shuffled(y):
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


WRONG = {
    "slices": (lambda y: torch.cat([y[:, :8].relu(), y[:, 8:].tanh()], 1), "'b' reads"),
    "shuffle": (shuffled, "'b' reads"),
    "chunk": (lambda y: torch.cat([y.chunk(2, 1)[1], y.chunk(2, 1)[0]], 1), "'b' reads"),
    "count": (lambda y: y / y.shape[1], "'b' reads"),
    "hard view": (lambda y: y.view(-1, 16, 6, 6), "does not run .* in its forward"),
    "assertion": (lambda y: [None for _ in range(0) or [0] if y.shape[1] == 16] and y, "does not"),
    "one channel": (lambda y: y * torch.sigmoid(y[:, 3:4].mean()), "'b' reads|averages|known"),
    "step": (lambda y: torch.cat([y[:, ::2], y[:, 1::2].relu()], 1).flip(1), "flip"),
    "thirds": (lambda y: torch.cat([y[:, :5], y[:, 5:].relu()], 1), "'b' reads"),
    "repeats": (lambda y: y + y.roll(1, 1), "'b' reads|roll"),
    "numpy": (lambda y: y + torch.from_numpy(y.detach().numpy()[:, ::-1].copy()), "add|'b' reads"),
}


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("name", WRONG)
def test_code_that_depends_on_the_place_or_number_of_channels_is_refused(method, name):
    between, words = WRONG[name]
    model = Between(between)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LowRankError, match=words) as caught:
        prune(model, method)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_that_counts_after_its_last_layer_is_refused():
    class Counts(Between):
        def forward(self, x):
            y = self.a(x)
            return self.b(y) / y.shape[1]

    with pytest.raises(LowRankError, match="what follows its last layers would differ"):
        prune(Counts())


def test_a_network_that_depends_on_channels_only_in_a_batch_is_refused():
    def between(y):
        return y / y.shape[1] if len(y) > 1 else y

    with pytest.raises(LowRankError, match="'b' reads"):
        prune(Between(between))


def test_the_module_that_stops_is_named():
    class Strict(nn.Module):
        def forward(self, x):
            assert x.shape[1] == 16
            return x

    model = Between()
    model.between = Strict()
    with pytest.raises(LowRankError, match=r"does not run .* in 'between'"):
        prune(model)


def test_a_forward_that_calls_the_dense_network_is_refused():
    model = Between()
    dense = Between()
    model.forward = lambda x: dense(x)  # a copy still calls the dense one
    model.dense = dense
    with pytest.raises(LowRankError):
        prune(model)


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("form", OUTPUTS)
def test_no_class_is_pruned_whatever_holds_the_output(method, form):
    class Classes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.l = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

        def forward(self, x):
            return OUTPUTS[form](self.l(self.a(x).relu().mean((2, 3))))

    torch.manual_seed(0)
    small, _ = prune(Classes(), method)
    assert scores_of(small(**EXAMPLE)).shape == (1, 10)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda y: (part for part in [y]), "returns a generator, in which"),
        (lambda y: lambda: y, "returns a function, in which"),
        (lambda y: {"scores": y.detach().numpy()}, "a dict with a ndarray, in which"),
        (lambda y: iter([y]), "list_iterator"),
        (lambda y: [collections.deque([y])], "deque"),
        (lambda y: None, "returns no tensors"),
        (lambda y: "score", "returns no tensors"),
    ],
)
def test_outputs_that_cannot_be_seen_are_refused(form, words):
    with pytest.raises(LowRankError, match=words):
        prune(Between(after=form))


def test_tensors_are_seen_once_at_every_depth():
    class Odd(dict):
        pass

    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    odd = Odd(a=[one])
    odd.extra = torch.distributions.Categorical(logits=two)
    odd.self, odd.again, odd.kind = odd, one, Odd
    seen = output_tensors((odd, frozenset([three]), 3, None, "x", torch.float32))
    sizes = sorted(len(value) for value in seen)
    assert sizes[0] == 1
    assert {1, 2, 3} <= set(sizes)
    assert sum(value is one for value in seen) == 1


def test_inputs_that_are_indices_or_no_batches():
    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.a, self.b = nn.Embedding(5, 3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, ids, level):
            return self.b(self.a(self.table(ids).permute(0, 3, 1, 2)).relu()) * level

    example = {"ids": torch.randint(5, (1, 4, 4)), "level": torch.tensor(2.0)}
    small, report = prune(Indexed(), example=example)
    assert report.compression >= 0.45
    assert small(**example).shape == (1, 2, 4, 4)


def test_a_network_for_one_example_and_one_that_needs_positive_inputs_are_pruned():
    small, _ = prune(Between(after=lambda y: y.view(1, -1)))
    assert small(**EXAMPLE).shape == (1, 144)

    class Rooted(Between):
        def forward(self, x):
            return super().forward(x.sqrt())

    prune(Rooted(), example={"x": EXAMPLE["x"].abs()})

    class Broken(Between):
        def forward(self, x):
            return super().forward(x) * torch.inf

    with pytest.raises(LowRankError, match=r"Broken are NaN or infinite"):
        prune(Broken())


def test_draws_in_the_forward_and_counting_buffers_do_no_harm():
    class Noisy(Between):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x):
            self.steps += 1
            return super().forward(x + torch.randn(x.shape))

    model = Noisy()
    state = torch.random.get_rng_state()
    small, _ = prune(model)
    assert small(**EXAMPLE).shape == (1, 4, 6, 6)
    assert model.steps == 0
    assert state is not None


def check_random(seed, method):
    """Return whether a random network was pruned; where it was, it equals the masked one."""
    model = RandomCnn(seed).eval()
    try:
        small, report = prune(model, method, 0.3 + 0.1 * (seed % 4))
    except LowRankError:
        return False
    kept = {layer["name"]: set(layer["kept"]) for layer in report.layers}
    truth = masked(model, trace(model, EXAMPLE), kept).double()
    small = small.double()
    for rows in (1, 5):
        x = torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(77)).double()
        with torch.no_grad():
            got, expected = scores_of(small(x)), scores_of(truth(x))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    return True


@pytest.mark.parametrize("method", PRUNERS)
def test_random_networks_are_right_or_refused(method):
    done = [check_random(seed, method) for seed in range(12)]
    assert 0 < sum(done) < len(done)


@pytest.mark.campaign
@pytest.mark.parametrize("method", PRUNERS)
def test_many_random_networks_are_right_or_refused(method):
    done = [check_random(seed, method) for seed in range(100, 420)]
    print(f"{method}: {sum(done)} of {len(done)} networks pruned right, the others refused")
    assert sum(done) >= 60
