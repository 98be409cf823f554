"""Networks of strangers: their code does not run, and damage of any kind is one line."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from lowrank_bench import compress, load, save
from lowrank_bench.cli import main
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network as build_cnn
from lowrank_bench.inputs.vision.published import load_weights
from lowrank_bench.synthetic.networks import build_network

CONF = str(Path(__file__).parents[1] / "conf")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"intermediate_size": 32, "vocab_size": 120}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    model, tokenizer = build_network("bert", 0, num_labels=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy_of(network, tmp_path):
    return Path(shutil.copytree(network, tmp_path / "copy"))


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(capsys, *words):
    """Run the command line, and return its one line of error."""
    assert main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0].split("error:", 1)[1]


def compressing(folder):
    return ["compress", folder, folder.parent / "out", "--method", "svd", "--compression", "0.5"]


CONFIGS = [
    ({"architectures": [3]}, "architectures"),
    ({"architectures": "BertModel"}, "architectures"),
    ({"architectures": []}, "architectures"),
    ({"architectures": ["pipeline"]}, "no network 'pipeline'"),
    ({"architectures": ["../../x"]}, "architectures"),
    ({"hidden_size": 10_000_000}, "do not belong together"),
    ({"vocab_size": 10**11}, "do not belong together"),
    ({"num_hidden_layers": 10**7}, "num_hidden_layers"),
    ({"hidden_size": 1e7}, "cannot load"),
    ({"hidden_size": "a"}, "cannot load"),
    ({"hidden_size": -5}, "cannot load"),
    ({"hidden_size": None}, "cannot load"),
    ({"num_attention_heads": 0}, "cannot load"),
    ({"model_type": "nothing"}, "cannot load"),
    ({"model_type": 3}, "cannot load"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized"),
    ({"quantization_config": {"quant_method": "torchao", "quant_type": "int8"}}, "quantized"),
    ({"quantization_config": "x"}, "quantized"),
    ({"_attn_implementation": "evil/kernels"}, "_attn_implementation"),
    ({"attn_implementation": "evil/kernels:run"}, "attn_implementation"),
]


@pytest.mark.parametrize(("values", "said"), CONFIGS, ids=[str(c[0])[:40] for c in CONFIGS])
def test_a_configuration_out_of_bounds_is_one_line(copy_of, capsys, values, said):
    change(copy_of, **values)
    assert said in refused(capsys, *compressing(copy_of))


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "\xff", '{"a": ' * 3000, "null"])
def test_a_configuration_that_is_no_json_object_is_one_line(copy_of, capsys, text):
    (copy_of / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refused(capsys, *compressing(copy_of))


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, b"\x08" + b"\0" * 7 + b"{}      "])
def test_weights_that_are_damaged_are_one_line(copy_of, capsys, content):
    (copy_of / "model.safetensors").write_bytes(content)
    said = refused(capsys, *compressing(copy_of))
    assert "cannot load" in said or "would be random" in said


class Evil:
    """What a malicious pickle does when it is opened: here it leaves a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_a_pickle_that_runs_code_is_not_opened(copy_of, tmp_path, capsys):
    (copy_of / "model.safetensors").unlink()
    torch.save({"a": Evil(tmp_path / "ran")}, copy_of / "pytorch_model.bin")
    assert "not opened" in refused(capsys, *compressing(copy_of))
    assert not (tmp_path / "ran").exists()


CODE = "import pathlib; pathlib.Path(__file__)\nopen({file!r}, 'w')\nclass C: pass\nclass M: pass\n"


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_folder_runs_only_where_it_is_asked_for(copy_of, tmp_path, capsys, known):
    """A class that transformers has is taken from there; another one is refused."""
    ran = tmp_path / "ran"
    (copy_of / "evil.py").write_text(CODE.format(file=str(ran)))
    maps = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.C", None]}
    names = {} if known else {"model_type": "evil", "architectures": ["EvilModel"]}
    change(copy_of, auto_map=maps, **names)
    tokenizer = copy_of / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"auto_map": maps}))
    if known:
        assert main([str(word) for word in compressing(copy_of)]) == 0
    else:
        assert "--trust-remote-code" in refused(capsys, *compressing(copy_of))
    assert not ran.exists()


def test_code_that_is_asked_for_runs(tmp_path, capsys):
    folder = tmp_path / "own"
    BertModel(BertConfig(**TINY)).save_pretrained(folder)
    (folder / "mine.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class MineConfig(BertConfig):\n    model_type = 'mine'\n"
        "class MineModel(BertModel):\n    config_class = MineConfig\n"
    )
    maps = {"AutoConfig": "mine.MineConfig", "AutoModel": "mine.MineModel"}
    change(folder, auto_map=maps, model_type="mine", architectures=["MineModel"])
    assert "--trust-remote-code" in refused(capsys, *compressing(folder))
    assert main([*map(str, compressing(folder)), "--trust-remote-code"]) == 0


def test_an_attention_of_strangers_in_lowrank_json_is_refused(network, tmp_path):
    model, _ = build_network("bert", 0, num_labels=2)
    small, _ = compress(model, "svd", 0.5)
    out = save(small, tmp_path / "out")
    assert load(out) is not None
    for said in ("evil/kernels", "kernels-community/flash-attn", "", 3):
        file = out / "lowrank.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"attention": said}))
        with pytest.raises(LowRankError, match="attention"):
            load(out)


@pytest.mark.parametrize("name", [3, "pipeline", "Trainer", None])
def test_an_architecture_that_is_no_network_is_refused(tmp_path, name):
    model, _ = build_network("bert", 0, num_labels=2)
    out = save(compress(model, "svd", 0.5)[0], tmp_path / "out")
    change(out, architectures=[name])
    with pytest.raises(LowRankError):
        load(out)


def test_a_network_of_two_inputs_is_refused_with_the_mend(tmp_path, capsys):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    text = sizes | {"vocab_size": 60, "max_position_embeddings": 16}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with pytest.raises(LowRankError, match="give example="):
        compress(model, "svd", 0.5, target="linear")
    model.save_pretrained(tmp_path / "clip")
    words = [*compressing(tmp_path / "clip"), "--target", "linear"]
    assert "does not say what it takes" in refused(capsys, *words)


class Quantized(torch.Tensor):
    """A tensor that wraps others, as libraries for quantization make them."""

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    def __deepcopy__(self, memo):
        return self


def test_weights_of_a_class_of_their_own_are_refused():
    for name in ("classifier", "bert.embeddings.word_embeddings"):
        model, _ = build_network("bert", 0, num_labels=2)
        layer = model.get_submodule(name)
        weight = layer.weight.data.clone().as_subclass(Quantized)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        with pytest.raises(LowRankError, match="Quantized"):
            compress(model, "svd", 0.5, target="linear")
    with pytest.raises(LowRankError, match="Quantized"):
        compress(model, "svd", 0.5)


THINGS = [b"", b"just text\n", b"\x80\x02.", b"x" * 1000, b"PK\x03\x04", b"\x80\x05N.", b"(lp0\n."]


@pytest.mark.parametrize("content", THINGS)
def test_a_file_of_weights_that_is_none_is_one_line(tmp_path, content):
    file = tmp_path / "net.th"
    file.write_bytes(content)
    with pytest.raises(LowRankError, match=r"net\.th has no weights from torch\.save"):
        load_weights(file, build_cnn("resnet20", 10, 8, width=4))


@pytest.mark.parametrize("content", [3, [1], {"a": 1}, {"state_dict": 3}, {1: torch.ones(2)}, None])
def test_a_file_with_other_things_than_weights_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "net.th")
    with pytest.raises(LowRankError, match=r"net\.th has no weights from torch\.save"):
        load_weights(tmp_path / "net.th", build_cnn("resnet20", 10, 8, width=4))


def test_a_malicious_file_of_weights_is_not_opened(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "net.th")
    (tmp_path / "old.th").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("net.th", "old.th"):
        with pytest.raises(LowRankError, match="no weights"):
            load_weights(tmp_path / name, build_cnn("resnet20", 10, 8, width=4))
    assert not (tmp_path / "ran").exists()


def test_a_sentence_encoder_is_refused_before_anything_is_downloaded(tmp_path, capsys, monkeypatch):
    encoder, out = tmp_path / "encoder", tmp_path / "out"
    model, tokenizer = build_network("bert", 0, num_labels=2)
    model.bert.save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    assert main([*map(str, compressing(encoder))]) == 0
    monkeypatch.setattr("lowrank_bench.download.hub.list_files", pytest.fail)
    for folder in (encoder, out):
        place = ["--conf", CONF, "--store", tmp_path / "store"]
        said = refused(capsys, "evaluate", folder, "--task", "sst2", *place)
        assert "no classifier for sst2" in said
        assert "fine-tuned" in said


def test_loading_through_the_checks_gives_the_same_network(network):
    from transformers import AutoModelForSequenceClassification

    from lowrank_bench.inputs.checked import load_model

    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = load_model(AutoModelForSequenceClassification, network, dtype=torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    stored = load_file(network / "model.safetensors")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in stored.items())


@pytest.fixture
def on_a_hub(network, tmp_path, monkeypatch):
    """Return a folder that the fake hub serves as the repository a/b, and what was fetched."""
    from lowrank_bench.download import hub

    folder = Path(shutil.copytree(network, tmp_path / "hub"))
    fetched = []

    def _fetch(repo, name, *_):
        fetched.append(name)
        return folder / name

    names = sorted(file.name for file in folder.iterdir())
    monkeypatch.setattr(hub, "list_files", lambda *_: (names, "c0ffee"))
    monkeypatch.setattr(hub, "fetch", _fetch)
    return folder, fetched


def test_a_repository_of_a_hub_is_fetched_with_its_configuration_first(on_a_hub, tmp_path, capsys):
    folder, fetched = on_a_hub
    words = ["compress", "a/b", tmp_path / "out", "--method", "svd", "--compression", "0.5"]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    assert fetched[0] == "config.json"
    assert "model.safetensors" in fetched
    fetched.clear()
    change(folder, quantization_config={"quant_method": "bitsandbytes"})
    assert "a/b is no folder here" in refused(capsys, *words[:2], tmp_path / "new", *words[3:])
    assert fetched == ["config.json"]
