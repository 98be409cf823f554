"""Saved networks share the tensors that they shared before, and no others."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lowrank_bench import compress, load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.sharing import sharing_of, state_of

IDS = torch.arange(1, 13).reshape(2, 6)
LLAMA = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
BERT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def llama(**more):
    return LlamaForCausalLM(LlamaConfig(**LLAMA, **more))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=16, n_layer=1, n_head=2))


def bert():
    return BertForMaskedLM(BertConfig(**BERT))


def t5():
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=60, **sizes))


def bart():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "vocab_size": 60}
    more = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(
        BartConfig(**sizes, **more, encoder_ffn_dim=8, decoder_ffn_dim=8)
    )


def logits(model, ids=IDS):
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits


def tied(model):
    """Return the names of tensors that are one object, without using what is tested."""
    objects = {}
    named = [*model.named_parameters(remove_duplicate=False)]
    for name, value in [*named, *model.named_buffers(remove_duplicate=False)]:
        objects.setdefault(id(value), set()).add(name)
    return sorted(sorted(names) for names in objects.values())


def check(model, folder, skeleton=None):
    """Save and load; the network must have the same values and the same ties."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(save(model, folder), model=skeleton)
    assert tied(again) == tied(model)
    before, after = state_of(model), state_of(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert type(value) is type(after[name]), name
    for one in before:  # a change of one shows in the same others
        for other in before:
            assert _moves(before, one, other) == _moves(after, one, other), (one, other)
    return again


def _moves(tensors, one, other):
    """Return whether writing into one tensor changes another."""
    value = tensors[one].data
    old, watched = value.clone(), tensors[other].data.clone()
    value.add_(1)
    moved = not torch.equal(tensors[other].data, watched)
    value.copy_(old)
    return moved


@pytest.mark.parametrize("build", [llama, gpt2, bert, t5, bart])
@pytest.mark.parametrize("ties", ["as built", "separate head"])
def test_heads_are_tied_or_not_as_they_were(tmp_path, build, ties):
    torch.manual_seed(0)
    model = build().eval()
    if ties == "separate head":
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach() * 2)
    again = load(save(model, tmp_path / "saved"))
    assert tied(again) == tied(model)
    assert torch.equal(logits(again), logits(model))
    same = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert same == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)


def test_the_inputs_of_the_fault(tmp_path):
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=True).eval()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight * 2)
    again = load(save(model, tmp_path / "llama"))
    assert torch.equal(logits(again), logits(model))
    assert again.lm_head.weight is not again.model.embed_tokens.weight
    other = gpt2().eval()
    other.lm_head = nn.Linear(16, 90, bias=False)
    again = load(save(other, tmp_path / "gpt2"))
    assert torch.equal(logits(again), logits(other))


def test_a_head_that_was_tied_by_hand_stays_tied(tmp_path):
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=False).eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    again = load(save(model, tmp_path / "saved"))
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(logits(again), logits(model))
    assert (tmp_path / "saved" / "lowrank.safetensors").stat().st_size < sum(
        4 * p.numel() for p in llama(tie_word_embeddings=False).parameters()
    )


@pytest.mark.parametrize("build", [llama, gpt2])
def test_a_compressed_network_with_a_separate_head(tmp_path, build):
    torch.manual_seed(0)
    model = build().eval()
    model.get_output_embeddings().weight = nn.Parameter(
        model.get_output_embeddings().weight.detach().clone()
    )
    small, _ = compress(model, "svd", 0.4)
    again = load(save(small, tmp_path / "small"))
    assert torch.equal(logits(again), logits(small))
    assert tied(again) == tied(small)


class Two(nn.Module):
    """Two linear layers and two buffers of one size."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("kept", torch.randn(4, 4))
        self.register_buffer("passing", torch.randn(4, 4), persistent=False)


def share_module(model):
    model.two = model.one


def tie_weight(model):
    model.two.weight = model.one.weight


def tie_bias_only(model):
    model.two.bias = model.one.bias


def buffer_of_parameter(model):
    model.kept = model.one.weight.data


def buffers_are_one(model):
    model.passing = model.kept


def same_memory_two_parameters(model):
    model.two.weight = nn.Parameter(model.one.weight.data)


def alias_of_an_alias(model):
    model.two.weight = nn.Parameter(model.one.weight.data)
    model.kept, model.passing = model.two.weight.data, model.two.weight.data


def views_of_one_memory(model):
    memory = torch.randn(6, 4)
    model.one.weight, model.two.weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])
    model.kept = memory[1:5]


def transposed(model):
    model.two.weight = nn.Parameter(model.one.weight.data.T)


def interleaved(model):
    memory = torch.randn(4, 8)
    model.kept, model.passing = memory[:, ::2], memory[:, 1::2]


def neighbours(model):
    memory = torch.randn(8, 4)
    model.kept, model.passing = memory[:4], memory[4:]


def a_row(model):
    model.two.bias = nn.Parameter(model.one.weight.data[2])


SHARED = [
    share_module,
    tie_weight,
    tie_bias_only,
    buffer_of_parameter,
    buffers_are_one,
    same_memory_two_parameters,
    alias_of_an_alias,
    views_of_one_memory,
    transposed,
    interleaved,
    neighbours,
    a_row,
]


@pytest.mark.parametrize("change", SHARED)
@pytest.mark.parametrize("skeleton", ["itself", "plain"])
def test_what_shares_memory_does_so_after_loading(tmp_path, change, skeleton):
    torch.manual_seed(0)
    model = Two()
    change(model)
    fresh = Two() if skeleton == "plain" else model
    if change is share_module and skeleton == "plain":
        again = load(save(model, tmp_path / "saved"), model=fresh)
        assert again.two.weight is again.one.weight  # two modules with the same tensors
    else:
        again = check(model, tmp_path / "saved", fresh)
    check(again, tmp_path / "again", fresh)
    one, two = ((tmp_path / f / "lowrank.safetensors").read_bytes() for f in ("saved", "again"))
    assert one == two


@pytest.mark.parametrize("change", [tie_weight, buffers_are_one, views_of_one_memory, a_row])
def test_a_skeleton_that_shares_more_is_untied(tmp_path, change):
    torch.manual_seed(0)
    skeleton = Two()
    change(skeleton)
    check(Two(), tmp_path / "saved", skeleton)


def test_a_skeleton_with_one_module_for_two_is_refused(tmp_path):
    folder = save(Two(), tmp_path / "saved")
    skeleton = Two()
    share_module(skeleton)
    with pytest.raises(LowRankError, match="one module under several names"):
        load(folder, model=skeleton)


def test_recurrent_layers_run_on_the_tensors_that_they_are_given(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LSTM(4, 4), nn.LSTM(4, 4)

    model, x = Recurrent(), torch.randn(3, 1, 4)
    model.two.weight_ih_l0 = model.one.weight_ih_l0
    again = load(save(model, tmp_path / "saved"), model=Recurrent())
    assert again.two.weight_ih_l0 is again.one.weight_ih_l0
    assert torch.equal(again.two(x)[0], model.two(x)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m, "kept", m.one.weight.data.view(torch.int32)), "different types"),
        (lambda m: setattr(m, "kept", torch.eye(4).to_sparse()), "'kept' is sparse_coo"),
        (lambda m: m.to("meta"), "has no values"),
        (
            lambda m: (
                setattr(m, "kept", (x := torch.randn(999))[::499]) or setattr(m, "passing", x[:1])
            ),
            "large gaps",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, change, words):
    model = Two()
    change(model)
    with pytest.raises(LowRankError, match=words):
        save(model, tmp_path / "saved")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["shared"].update({"one.bias": "nothing"}),
        lambda m: m["shared"].update({"one.bias": "two.bias", "two.bias": "one.bias"}),
        lambda m: m["views"]["two.weight"].update(of="nothing"),
        lambda m: m["views"]["two.weight"].update(offset=10**15),
        lambda m: m["views"]["two.weight"].update(stride=[10**15, 1]),
        lambda m: m["views"]["two.weight"].update(stride=[1]),
        lambda m: m["views"]["two.weight"].update(offset=-3),
        lambda m: m["views"].pop("one.weight"),
    ],
)
def test_damaged_ties_end_in_one_line(tmp_path, edit):
    model = Two()
    views_of_one_memory(model)
    folder = save(model, tmp_path / "saved")
    manifest = json.loads((folder / "lowrank.json").read_text())
    edit(manifest)
    (folder / "lowrank.json").write_text(json.dumps(manifest))
    with pytest.raises(LowRankError) as caught:
        load(folder, model=Two())
    assert "\n" not in str(caught.value)


def test_a_network_that_its_class_does_not_rebuild_is_announced(tmp_path):
    model = BertForSequenceClassification(BertConfig(**BERT)).eval()
    model.extra = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"load\(folder\) will not .*extra.* model=\.\.\."):
        folder = save(model, tmp_path / "saved")
    with pytest.raises(LowRankError, match="does not fit"):
        load(folder)
    assert torch.equal(logits(load(folder, model=copy.deepcopy(model))), logits(model))
    other = BertForSequenceClassification(BertConfig(**BERT))
    other.classifier.forward = lambda x: x
    with pytest.warns(UserWarning, match="'classifier' has a forward of its own"):
        save(other, tmp_path / "other")


def test_older_folders_still_load(tmp_path):
    model = bert().eval()
    folder = save(model, tmp_path / "saved")
    (folder / "lowrank.safetensors").rename(folder / "model.safetensors")
    assert torch.equal(logits(load(folder)), logits(model))


def test_sharing_is_described_the_same_without_values():
    model = Two()
    views_of_one_memory(model)
    tie_bias_only(model)
    sharing = sharing_of(state_of(model))
    assert sharing.shared == {"two.bias": "one.bias"}
    assert {name: view.offset for name, view in sharing.views.items()} == {
        "one.weight": 0,
        "kept": 4,
        "two.weight": 8,
    }
