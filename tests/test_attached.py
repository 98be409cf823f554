"""Layers that would lose something, or that something else holds as well, are refused by name."""

import copy
import functools
import types

import pytest
import torch
from many_networks import IDS, T5, Cnn, Recurrent, gpt2, run, t5
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5EncoderModel

from lowrank_bench import compress
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import CompressedEmbedding


def test_a_copy_of_a_t5_table_is_refused_where_it_does_not_run_and_compressed_where_it_does():
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(**T5)).eval()
    with pytest.raises(LowRankError, match=r"'shared' shares its table with 'encoder.embed_tokens"):
        compress(model, "svd", 0.5)
    model.shared.weight = nn.Parameter(model.shared.weight.detach().clone())
    idle, running = _by_hooks(model)
    with pytest.raises(LowRankError, match=f"'{idle}' does not run .* '{running}' does; choose it"):
        compress(model, "svd", 0.5, layer=idle)
    small, report = compress(model, "svd", 0.5, layer=running)
    dense = sum(p.numel() for p in model.parameters())
    assert dense - sum(p.numel() for p in small.parameters()) == 960 - report.parameters_kept
    with torch.no_grad():
        gap = small(IDS).last_hidden_state - model(IDS).last_hidden_state
    assert gap.abs().max() > 1e-3  # it is the table that runs


def _by_hooks(model):
    """Return which of the names does not run, and which does."""
    ran = []
    names = {"shared": model.shared, "encoder.embed_tokens": model.encoder.embed_tokens}
    for name, module in names.items():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(IDS)
    for module in names.values():
        module._forward_hooks.clear()
    return next(name for name in names if name not in ran), ran[0]


def test_one_module_under_two_names_is_compressed_under_both():
    model, small, report = run(t5, "embedding", 0.5)
    assert isinstance(small.shared, CompressedEmbedding)
    assert small.encoder.embed_tokens is small.shared
    dense, kept = (sum(p.numel() for p in net.parameters()) for net in (model, small))
    assert dense - kept == report.parameters_dense - report.parameters_kept


def test_equal_tables_of_a_network_that_cannot_be_run_are_refused():
    net = nn.ModuleDict({"one": nn.Embedding(30, 8), "two": nn.Embedding(30, 8)})
    compress(net, "svd", 0.5, layer="two")
    net["one"].weight.data = net["two"].weight.data.clone()
    with pytest.raises(LowRankError, match="'two' and 'one' are two embeddings with equal tables"):
        compress(net, "svd", 0.5, layer="two")


def _parameter(net):
    net.table = net.words.weight


def _buffer(net):
    net.register_buffer("table", net.words.weight.data)


def _rows(net):
    net.table = nn.Parameter(net.words.weight.data[3:9])


def _transposed(net):
    net.register_buffer("table", net.words.weight.data.T)


def _list(net):
    net.tables = nn.ParameterList([net.words.weight])


@pytest.mark.parametrize("target", ["embedding", "linear"])
@pytest.mark.parametrize("tie", [_parameter, _buffer, _rows, _transposed, _list])
def test_whatever_holds_the_table_as_well_is_named(tie, target):
    net = Recurrent().eval()
    tie(net)
    with pytest.raises(
        LowRankError, match=r"'words(.weight)?' shares .*'tables?\b.* cannot be comp"
    ):
        run(Recurrent, target, model=net)


@pytest.mark.parametrize("tie", [_parameter, _buffer, _rows, _transposed])
def test_whatever_holds_the_weight_of_a_layer_is_named(tie):
    net = Recurrent().eval()
    net.words, net.inner = nn.Linear(16, 16), nn.Embedding(60, 16)
    net.forward = types.MethodType(lambda self, input_ids: self.words(self.inner(input_ids)), net)
    tie(net)
    words = r"'words.weight' shares its memory with 'table'.*tied|'table' shares .*tied"
    with pytest.raises(LowRankError, match=words):
        run(Recurrent, "linear", model=net)


def _in_a_list(net):
    net.kept = [net.words.weight, net.inner.weight]


def _view(net):
    net.kept = {"tables": (net.words.weight.detach().T, net.inner.weight.detach()[2:])}


@pytest.mark.parametrize("target", ["embedding", "linear"])
@pytest.mark.parametrize("hold", [_in_a_list, _view])
def test_a_weight_that_an_attribute_holds_is_refused(hold, target):
    net = Recurrent().eval()
    hold(net)
    with pytest.raises(LowRankError, match="something besides layer 'words' holds its weight"):
        run(Recurrent, target, model=net)


def test_attributes_that_hold_a_layer_are_right():
    class Listed(Recurrent):
        def __init__(self):
            super().__init__()
            self.order = [self.words, self.inner]

        def forward(self, input_ids):
            hidden = self.order[1](self.order[0](input_ids))
            return self.head(self.cell(self.lstm(hidden)[0][:, -1]))

    for target in ("embedding", "linear"):
        _, small, _ = run(Listed, target)
        assert small.order == [small.words, small.inner]
        with torch.no_grad():
            torch.testing.assert_close(small(IDS), Recurrent.forward(small, IDS))


def test_what_ties_a_head_is_said():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))
    for target in ("embedding", "linear"):
        with pytest.raises(LowRankError, match=r"'lm_head' \(config\.tie_word_embeddings\); tied"):
            run(gpt2, target, model=model)


def test_a_network_that_keeps_its_table_is_refused():
    class Stubborn(Recurrent):
        def __deepcopy__(self, memo):
            new = Recurrent()
            for name, module in self._modules.items():
                setattr(new, name, copy.deepcopy(module, dict(memo)))
            new.old = nn.Linear(16, 60)
            return new

    with pytest.raises(
        LowRankError, match=r"parameters after|after compression, though the layers"
    ):
        run(Recurrent, "embedding", model=Stubborn())


def _own_forward(layer):
    layer.forward = types.MethodType(type(layer).forward, layer)


def _offload(layer):
    """Give a layer a forward as accelerate's hooks do."""
    layer._old_forward = layer.forward
    new = functools.partial(lambda module, *args: module._old_forward(*args), layer)
    layer.forward = functools.update_wrapper(new, layer._old_forward)


def _hook(layer):
    layer.register_forward_hook(lambda *_: None)


def _before(layer):
    layer.register_forward_pre_hook(lambda *_: None)


def _backward(layer):
    layer.register_full_backward_hook(lambda *_: None)


def _parametrize(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity())


ATTACHED = {
    _own_forward: "has a forward of its own, .*remove_hook_from_module",
    _offload: "has a forward of its own",
    _hook: "has hooks",
    _before: "has hooks",
    _backward: "has hooks",
    _parametrize: "has a parametrization",
}


@pytest.mark.parametrize(
    ("build", "target", "name"),
    [
        (Recurrent, "embedding", "words"),
        (Recurrent, "linear", "words"),
        (Recurrent, "linear", "inner"),
        (Cnn, "conv", "first"),
        (Cnn, "conv", "head"),
    ],
)
@pytest.mark.parametrize("attach", ATTACHED)
def test_what_is_attached_to_a_layer_is_refused_by_name(attach, build, target, name):
    model = build()
    attach(model.get_submodule(name))
    with pytest.raises(LowRankError, match=f"'{name}' {ATTACHED[attach]}") as caught:
        run(build, target, model=model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["embedding", "linear"])
def test_a_function_that_calls_the_dense_network_is_refused(target):
    model = Recurrent().eval()
    dense = model.forward
    model.forward = lambda input_ids: dense(input_ids) * 2
    with pytest.raises(LowRankError, match="the network has a function as its forward"):
        run(Recurrent, target, model=model)
    model.forward = types.MethodType(
        lambda self, input_ids: Recurrent.forward(self, input_ids), model
    )
    _, small, _ = run(Recurrent, target, model=model)
    state = copy.deepcopy(small.state_dict())
    with torch.no_grad():
        model.words.weight.zero_()
        one = small(IDS)
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    torch.testing.assert_close(one, Recurrent.forward(small, IDS))


def test_hooks_and_offloading_of_other_modules_stay():
    model = Recurrent().eval()
    model.lstm.register_forward_hook(lambda _, args, out: (out[0] * 2, out[1]))
    _offload(model.lstm)
    _, small, _ = run(Recurrent, "linear", model=model)
    plain = copy.deepcopy(small)
    plain.lstm._forward_hooks.clear()
    with torch.no_grad():
        before = small(IDS)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(small(IDS), before)  # the copy runs its own LSTM
        assert not torch.equal(plain(IDS), before)


class Standardized(nn.Conv2d):
    """A convolution that centres its weight, as BiT's do."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Typed(nn.Linear):
    """A linear layer with a forward of its class's own, as timm's are."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("first", Standardized(3, 8, 3, padding=1), "Standardized, which does more than a Conv2d"),
        ("head", Typed(5, 4), "Typed, which does more than a Linear"),
    ],
)
def test_a_layer_of_another_class_is_refused_by_name(name, layer, words):
    model = Cnn()
    setattr(model, name, layer)
    with pytest.raises(LowRankError, match=f"layer '{name}' is a .*{words}"):
        run(Cnn, "conv", model=model)


@pytest.mark.parametrize("fault", [AttributeError, NotImplementedError, TypeError])
def test_a_network_that_cannot_name_its_embedding_has_the_only_one_taken(fault):
    class Asked(Recurrent):
        def get_input_embeddings(self):
            raise fault("no single embedding")

    _, _, report = run(Asked, "linear")
    assert report.layers[0]["name"] == "words"
