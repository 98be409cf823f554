"""Networks on disk: bit-identical predictions, atomic writes, and clear errors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
    pipeline,
)

from lowrank_bench import compress, load, save
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import FactorizedEmbedding

BERT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
NETWORKS = {
    "bert": (BertForSequenceClassification, BertConfig(**BERT, num_labels=3)),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertConfig(vocab_size=60, dim=16, n_layers=1, n_heads=2, hidden_dim=8),
    ),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**BERT, pad_token_id=1)),
    "xlnet": (
        XLNetForSequenceClassification,
        XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=8),
    ),
}
INDICES = torch.arange(2, 26).reshape(3, 8)


def network(name: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    kind, config = NETWORKS[name]
    return kind(config).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model(INDICES)
    return out if isinstance(out, torch.Tensor) else out.logits


class Plain(nn.Module):
    """A model from outside transformers: shared layers, a batch norm, a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 6, padding_idx=0)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(6, 2)
        self.again = self.head
        self.register_buffer("shift", torch.randn(2), persistent=False)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.again(self.norm(self.words(indices)).mean(dim=1)) + self.shift


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_survive_bit_for_bit(tmp_path, name, compressed):
    model = network(name)
    if compressed:
        model, _ = compress(model, "lp", 0.4)
    state = torch.random.get_rng_state()
    again = load(save(model.train(), tmp_path / "saved"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(logits(again), logits(model.eval()))
    assert again.config.to_dict() == {**model.config.to_dict(), **_written(again)}
    layer = again.get_input_embeddings()
    assert isinstance(layer, FactorizedEmbedding if compressed else nn.Embedding)
    assert layer.padding_idx == model.get_input_embeddings().padding_idx


def _written(model: nn.Module) -> dict[str, object]:
    """The entry that saving adds to a configuration."""
    config = model.config.to_dict()
    added = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {key: config[key] for key in added}


def test_files_are_safetensors_and_json(tmp_path):
    model, report = compress(network(), "svd", 0.4)
    folder = save(model, str(tmp_path / "deep" / "saved"))
    assert folder == tmp_path / "deep" / "saved"
    files = {"lowrank.safetensors", "config.json", "lowrank.json"}
    assert {f.name for f in folder.iterdir()} == files
    assert [f.name for f in folder.parent.iterdir()] == ["saved"]  # no temporary files are left
    about = json.loads((folder / "lowrank.json").read_text())
    assert about["version"] == 1
    [swap] = about["swaps"]
    assert swap["name"] == report.layers[0]["name"]
    assert swap["dtype"] == "float32"
    assert swap["spec"] == model.get_input_embeddings().spec()
    with safe_open(folder / "lowrank.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert f"{swap['name']}.left" in names
    assert f"{swap['name']}.weight" not in names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_survives(tmp_path, dtype):
    model = compress(network(), "svd", 0.4)[0].to(dtype)
    again = load(save(model, tmp_path / "saved"))
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert torch.equal(logits(again), logits(model))


def test_attention_survives(tmp_path):
    model = network()
    model.set_attn_implementation("eager")
    assert load(save(model, tmp_path / "saved")).config._attn_implementation == "eager"


def test_tied_tables_stay_tied(tmp_path):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**BERT)).eval()
    again = load(save(model, tmp_path / "saved"))
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("compressed", [True, False])
def test_other_modules_need_a_skeleton(tmp_path, compressed):
    torch.manual_seed(0)
    model = Plain()
    model(INDICES)  # updates the statistics of the batch norm
    model.eval()
    if compressed:
        model, _ = compress(model, "lp", 0.4)
    folder = save(model, tmp_path / "saved")
    skeleton = Plain()
    before = {name: value.clone() for name, value in skeleton.state_dict().items()}
    again = load(folder, model=skeleton)
    assert torch.equal(logits(again), logits(model))
    assert again.again is again.head
    assert all(torch.equal(v, before[name]) for name, v in skeleton.state_dict().items())
    assert torch.equal(logits(load(folder, model=model)), logits(model))
    with pytest.raises(LowRankError, match=r"config\.json is missing; Plain is not .* model="):
        load(folder)
    with pytest.raises(LowRankError, match="does not fit"):
        load(folder, model=nn.Linear(2, 2))


def test_saving_replaces_only_a_folder_that_save_wrote(tmp_path):
    folder = tmp_path / "saved"
    save(network("bert"), folder)
    model = network("xlnet")
    save(model, folder)
    assert torch.equal(logits(load(folder)), logits(model))
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]
    other = tmp_path / "other"
    other.mkdir()
    save(model, other)  # an empty folder is fine
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(
            LowRankError, match="holds other files; choose a new or an empty folder"
        ):
            save(model, place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_save_that_fails_leaves_the_old_network(tmp_path, monkeypatch):
    model = network()
    folder = save(model, tmp_path / "saved")

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("lowrank_bench.artifact.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(network("xlnet"), folder)
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]
    assert torch.equal(logits(load(folder)), logits(model))


@pytest.mark.parametrize("name", ["lowrank.safetensors", "config.json", "lowrank.json"])
@pytest.mark.parametrize("size", [None, 0, 30, -7])
def test_missing_and_truncated_files_are_named(tmp_path, name, size):
    folder = save(compress(network(), "svd", 0.4)[0], tmp_path / "saved")
    file: Path = folder / name
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(LowRankError, match=str(file)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    one = save(compress(network(), "svd", 0.4)[0], tmp_path / "one")
    two = save(compress(network(), "svd", 0.6)[0], tmp_path / "two")
    (one / "lowrank.json").write_bytes((two / "lowrank.json").read_bytes())
    with pytest.raises(
        LowRankError, match=r"does not fit BertForSequenceClassification: 2 tensors"
    ):
        load(one)
    about = json.loads((two / "lowrank.json").read_text())
    (two / "lowrank.json").write_text(json.dumps(about | {"version": 2}))
    with pytest.raises(LowRankError, match=r"lowrank\.json is damaged: version"):
        load(two)
    with pytest.raises(LowRankError, match=r"is missing; .*nowhere is not a saved network"):
        load(tmp_path / "nowhere")


def test_only_tensors_are_saved(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(LowRankError, match="'_extra_state' is not a tensor"):
        save(Odd(2, 2), tmp_path / "saved")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"rank": 3},
        {"num_embeddings": -4, "embedding_dim": 8, "rank": 2},
        {"num_embeddings": 60, "embedding_dim": "x", "rank": 2},
        {"num_embeddings": 60, "embedding_dim": 8, "rank": 2, "colour": 1},
    ],
)
def test_a_damaged_layer_ends_in_one_line(tmp_path, spec):
    net = nn.Sequential(nn.Embedding(60, 8), nn.Linear(8, 2))
    small, _ = compress(net, "svd", 0.4)
    folder = save(small, tmp_path / "net")
    manifest = json.loads((folder / "lowrank.json").read_text())
    manifest["swaps"][0]["spec"] = spec
    (folder / "lowrank.json").write_text(json.dumps(manifest))
    with pytest.raises(LowRankError, match=r"lowrank\.json is damaged: layer '0' cannot be built"):
        load(folder, net)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_libraries_refuse_a_folder_in_place_of_random_weights(tmp_path, name, compressed):
    model = network(name)
    if compressed:
        model, _ = compress(model, "svd", 0.4)
    folder = save(model, tmp_path / "saved")
    for kind in (type(model), AutoModel, AutoModelForSequenceClassification):
        with pytest.raises(OSError, match="no file named"):
            kind.from_pretrained(folder)
        with pytest.raises(OSError, match="no file named"):
            kind.from_pretrained(folder, use_safetensors=False)
    with pytest.raises((OSError, ValueError), match="no file named"):
        pipeline("text-classification", str(folder), tokenizer=str(folder))


def test_settings_of_generation_survive(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=60, eos_token_id=2, **sizes, **more)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = [2, 5]
    model.generation_config.update(max_new_tokens=7, temperature=0.3)  # no sampling: odd, and kept
    again = load(save(model, tmp_path / "saved"))
    kept = again.generation_config.to_dict()
    assert kept["eos_token_id"] == [2, 5]
    assert kept == {**model.generation_config.to_dict(), "_from_model_config": False}
    small, _ = compress(model, "svd", 0.4)
    assert load(save(small, tmp_path / "small")).generation_config.eos_token_id == [2, 5]
    (tmp_path / "saved" / "generation_config.json").write_text("{")
    with pytest.raises(LowRankError, match=r"generation_config\.json is damaged"):
        load(tmp_path / "saved")
