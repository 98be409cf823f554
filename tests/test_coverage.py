"""Every parameter of a network is targeted, listed as left out, or a vector; savings are real."""

import copy
import functools
import types

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5EncoderModel,
)

from lowrank_bench import compress
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import CompressedEmbedding

IDS = torch.arange(1, 9).reshape(1, -1)
SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, intermediate_size=8))


def gpt2():
    return GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))


def mixtral():
    more = {"intermediate_size": 8, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **more, tie_word_embeddings=False))


def llama():
    more = {"intermediate_size": 8, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more))


def t5():
    """A T5 encoder whose two names for the embedding are one module."""
    model = T5EncoderModel(T5Config(**T5))
    model.encoder.embed_tokens = model.shared
    return model


class Cnn(nn.Module):
    """Convolutions of one, two and three dimensions, a transposed one, groups and norms."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.line, self.box = nn.Conv1d(6, 5, 3), nn.Conv3d(1, 2, 3)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.head, self.unused = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).relu() * self.scale
        x = self.up(self.depthwise(x + self.second(x)))
        return self.head(self.line(x.flatten(2)).mean(2))


class Recurrent(nn.Module):
    """An embedding, an LSTM, a cell and a linear layer."""

    def __init__(self):
        super().__init__()
        self.words, self.inner = nn.Embedding(60, 16), nn.Linear(16, 16)
        self.lstm, self.cell = nn.LSTM(16, 8, bidirectional=True), nn.GRUCell(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids):
        hidden, _ = self.lstm(self.inner(self.words(input_ids)))
        return self.head(self.cell(hidden[:, -1]))


class Encoder(nn.Module):
    """Torch's own transformer, whose attention has one weight for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(60, 16), nn.Parameter(torch.randn(1, 8, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, input_ids):
        return self.encoder(self.words(input_ids) + self.places)


def quantized():
    kinds = {nn.Linear, nn.LSTM, nn.GRUCell}
    quantize = torch.ao.quantization.quantize_dynamic
    return quantize(Recurrent().eval(), kinds, dtype=torch.qint8)


NUMBERS_OF_A_RECURRENT = sum(p.numel() for p in Recurrent().parameters())
NETWORKS = [bert, gpt2, mixtral, t5, llama, Cnn, Recurrent, Encoder, quantized]


def run(build, target, compression=0.3, model=None):
    torch.manual_seed(0)
    model = (model or build()).eval()
    if target == "embedding":
        return model, *compress(model, "svd", compression, certificate=False)
    example = {"x": torch.randn(1, 3, 6, 6)} if build is Cnn else {"input_ids": IDS}
    return model, *compress(model, "svd", compression, target, example=example)


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


def test_layers_without_a_shape_yet_count_nothing():
    net = nn.ModuleDict({"words": nn.Embedding(40, 8), "head": nn.LazyLinear(3)})
    _, report = compress(net, "svd", 0.4)
    assert report.network_parameters_dense == 320
    assert [(module["name"], module["parameters"]) for module in report.skipped] == [("head", 0)]
