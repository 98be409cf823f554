"""The command line: what it writes, what it prints, and its errors for wrong input."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrank_bench import load
from lowrank_bench.cli import main
from lowrank_bench.cli.out import advice
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.errors import LowRankWarning
from lowrank_bench.synthetic.networks import build_network

CONF = str(Path(__file__).parents[1] / "conf")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Return a folder with a small BERT with two outputs, as transformers saves it."""
    folder = tmp_path_factory.mktemp("network")
    model, tokenizer = build_network("bert", 0, num_labels=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_methods_lists_parameters_and_sources(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert "lp: " in text
    assert "--set p=1.0" in text
    assert "Sensors" in text


def test_compress_writes_a_smaller_network_that_loads_and_scores(network, tmp_path, capsys):
    out = tmp_path / "small"
    words = ["compress", str(network), str(out), "--method", "lp", "--set", "p=1.5"]
    assert main([*words, "--compression", "0.5"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["params"] == {"p": 1.5, "center": False}
    assert report["compression"] >= 0.5
    kept = sum(p.numel() for p in load(out).get_input_embeddings().parameters())
    assert kept == report["parameters_kept"]
    place = ["--conf", CONF, "--store", str(tmp_path / "store")]
    assert main(["evaluate", str(out), "--task", "quick_cola", *place]) == 0
    assert "quick_cola validation matthews_correlation" in capsys.readouterr().out


TEXT = ["--method", "frequency_sparse", "--set", "weights=counts", "--compression", "0.5"]


def test_text_is_counted_and_the_vocabulary_is_read(network, tmp_path, capsys):
    words = (network / "tokenizer.json").read_text().split('"')
    text = tmp_path / "train.txt"
    text.write_text("\n".join(word for word in words if word.isalpha())[:2000])
    out = tmp_path / "small"
    assert main(["compress", str(network), str(out), *TEXT, "--text", str(text)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data_used"] == "weights, vocabulary order, training text"
    stored = report["parameters_kept"] + report["index_bits"] / 32
    assert stored <= 0.5 * report["parameters_dense"]
    tensors = load_file(out / "lowrank.safetensors")
    whole = load(out).get_input_embeddings()
    assert sum(t.numel() for n, t in tensors.items() if "word_embeddings" in n) == (
        report["parameters_kept"] + whole.terms.numel() + whole.indices.numel()
    )


@pytest.mark.parametrize(
    ("words", "content", "said"),
    [
        (TEXT, None, "name one with --text"),
        (TEXT, b" \n", "has no text in it"),
        (TEXT, b"caf\xe9", "is not UTF-8"),
        (["--method", "svd", "--compression", "0.5"], b"x", "uses no text"),
        (["--method", "fwsvd", "--compression", "0.5"], None, "which the workflow computes"),
    ],
)
def test_wrong_text_ends_in_one_line(network, tmp_path, capsys, words, content, said):
    options = []
    if content is not None:
        (tmp_path / "text").write_bytes(content)
        options = ["--text", str(tmp_path / "text")]
    assert main(["compress", str(network), str(tmp_path / "out"), *words, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_network_without_a_tokenizer_is_refused_where_one_is_needed(network, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((network / name).read_bytes())
    words = ["--method", "frequency_svd", "--compression", "0.5"]
    assert main(["compress", str(bare), str(tmp_path / "out"), *words]) == 2
    assert "give frequency=, or the tokenizer" in capsys.readouterr().err


def test_an_uncompressed_folder_is_scored_as_well(network, tmp_path, capsys):
    place = ["--conf", CONF, "--store", str(tmp_path / "store")]
    assert main(["evaluate", str(network), "--task", "quick_sst2", *place]) == 0
    assert "quick_sst2 validation accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "lpp", "--compression", "0.5"], "did you mean 'lp'"),
        (["--set", "p=0.5", "--compression", "0.5"], "from 1 to 16, or inf"),
        (["--set", "p=17", "--compression", "0.5"], "from 1 to 16, or inf"),
        (["--set", "q=1", "--compression", "0.5"], "no parameter 'q'"),
        (["--set", "p", "--compression", "0.5"], "NAME=VALUE"),
        (["--set", "p=[", "--compression", "0.5"], "is not a value"),
        (["--set", "name=x", "--compression", "0.5"], "no parameter 'name'"),
        (["--compression", "0"], "between 0 and 1"),
        (["--compression", "1.5"], "between 0 and 1"),
        (["--compression", "0.9999"], "leaves no rank"),
        (["--compression", "0.5", "--target", "heads"], "unknown target 'heads'"),
        (["--compression", "0.5", "--layer", "nothing"], "no layer 'nothing'"),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(network, tmp_path, capsys, words, said):
    assert main(["compress", str(network), str(tmp_path / "out"), *words]) == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(network, tmp_path, capsys, value):
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for file in network.iterdir():
        (spoiled / file.name).write_bytes(file.read_bytes())
    tensors = load_file(spoiled / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    tensors[name][7, 3] = torch.tensor(value)
    save_file(tensors, spoiled / "model.safetensors", metadata={"format": "pt"})
    words = ["compress", str(spoiled), str(tmp_path / "out"), "--compression", "0.5"]
    assert main(words) == 2
    assert "NaN or infinite, the first in row 7" in capsys.readouterr().err


def _files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    return tmp_path / "out"


def _file(tmp_path):
    (tmp_path / "out").write_text("mine")
    return tmp_path / "out"


def _below_a_file(tmp_path):
    return _file(tmp_path) / "deep" / "small"


def _read_only(tmp_path):
    if os.geteuid() == 0:
        if not Path("/proc/self").is_dir():
            pytest.skip("all folders can be written by root")
        return Path("/proc/lowrank/small")
    (tmp_path / "out").mkdir(mode=0o500)
    return tmp_path / "out" / "small"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_files, "holds other files"),
        (_file, "holds other files"),
        (_below_a_file, "cannot be written"),
        (_read_only, "cannot be written"),
    ],
)
def test_an_output_folder_that_cannot_be_written_is_refused_before_any_work(
    network, tmp_path, capsys, monkeypatch, make, said
):
    out = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("lowrank_bench.cli.load.load_network", pytest.fail)
    words = ["compress", str(network), str(out), "--method", "svd", "--compression", "0.5"]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert f"error: OUT {out} {said}" in text
    assert text.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_network_written_before_is_replaced(network, tmp_path, capsys):
    out = tmp_path / "deep" / "small"
    for compression in ("0.5", "0.8"):
        words = ["compress", str(network), str(out), "--method", "svd"]
        assert main([*words, "--compression", compression]) == 0
        kept = json.loads(capsys.readouterr().out)["parameters_kept"]
    assert sum(p.numel() for p in load(out).get_input_embeddings().parameters()) == kept


def test_a_network_of_another_task_is_refused(network, tmp_path, capsys):
    place = ["--conf", CONF, "--store", str(tmp_path / "store")]
    assert main(["evaluate", str(network), "--task", "quick_mnli", *place]) == 2
    assert "2 outputs, the task 3 labels" in capsys.readouterr().err


def test_a_missing_network_or_task_is_named(tmp_path, capsys):
    words = ["compress", str(tmp_path), str(tmp_path / "out"), "--compression", "0.5"]
    assert main(words) == 2
    assert "config.json" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "no"), "--task", "cola", "--conf", CONF]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--task", "colla", "--conf", CONF]) == 2
    assert "did you mean 'cola'" in capsys.readouterr().err


def test_an_unknown_command_or_option_ends_in_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["squeeze"])
    assert caught.value.code == 2
    capsys.readouterr()


def test_a_cnn_is_compressed_with_images_and_scored_on_an_image_task(tmp_path, capsys):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = ResNetConfig(num_channels=1, num_labels=10, layer_type="basic", **sizes)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "cnn")
    words = ["compress", str(tmp_path / "cnn"), str(tmp_path / "out"), "--compression", "0.5"]
    assert main([*words, "--method", "softnet", "--target", "conv"]) == 0
    assert json.loads(capsys.readouterr().out)["compression"] >= 0.5
    place = ["--conf", CONF, "--store", str(tmp_path / "store")]
    assert main(["evaluate", str(tmp_path / "out"), "--task", "digits", *place]) == 0
    assert "digits test accuracy" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "out"), "--task", "quick_cola", *place]) == 2
    assert "takes image; the task gives text" in capsys.readouterr().err


def test_a_report_without_its_certificate(network, tmp_path, capsys):
    words = ["compress", str(network), str(tmp_path / "out"), "--method", "svd"]
    assert main([*words, "--compression", "0.5", "--no-certificate"]) == 0
    assert json.loads(capsys.readouterr().out)["within_fro"] is None
    assert main([*words, "--compression", "0.5", "--certificate", "full"]) == 0
    assert json.loads(capsys.readouterr().out)["within_l21"] >= 1
    with pytest.raises(SystemExit) as caught:
        main([*words, "--compression", "0.5", "--certificate", "half"])
    assert caught.value.code == 2


def test_a_warning_of_the_project_is_one_line(monkeypatch, capsys):
    def warn(_):
        for _ in range(2):  # each is printed, even from one place
            warnings.warn("1 image is too few; give 150", LowRankWarning, stacklevel=1)

    monkeypatch.setattr("lowrank_bench.cli.commands.list_methods", warn)
    before = warnings.showwarning
    assert main(["methods"]) == 0
    line = "lowrank methods: warning: 1 image is too few; give 150\n"
    assert capsys.readouterr().err == 2 * line
    assert warnings.showwarning is before


def test_what_the_target_leaves_out_is_said(network, tmp_path, capsys):
    words = ["compress", str(network), str(tmp_path / "out"), "--method", "svd"]
    assert main([*words, "--compression", "0.5", "--no-certificate"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["skipped_share"] > 0.25
    count, share = len(report["skipped"]), report["skipped_share"]
    line = f"left out by target embedding: {count} modules with {share:.1%} of the network's"
    assert line in said.err
    assert "(Linear " in said.err
    assert "sentence-transformers" not in said.err


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "", "type": "sentence_transformers.models.Normalize"},
]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (json.dumps(MODULES), "Pooling (1_Pooling), Dense (2_Dense), Normalize"),
        (json.dumps(MODULES[:1]), "modules.json"),
        ("{", "whatever modules.json lists, which cannot be read"),
        ("[1, 2]", "whatever modules.json lists, which cannot be read"),
    ],
)
def test_parts_of_a_sentence_encoder_that_are_not_written_are_named(
    network, tmp_path, capsys, content, parts
):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for file in network.iterdir():
        (encoder / file.name).write_bytes(file.read_bytes())
    (encoder / "modules.json").write_text(content)
    words = ["compress", str(encoder), str(tmp_path / "out"), "--method", "svd"]
    assert main([*words, "--compression", "0.5", "--no-certificate"]) == 0
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if "sentence-transformers" in line]
    assert f"OUT holds the transformer alone, without {parts}: open it with" in line
    assert "lowrank_bench.load" in line
    assert not (tmp_path / "out" / "modules.json").exists()
    load(tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "weights", "target", "advised"),
    [
        (250_037, "vocabulary", "embedding", True),
        (30_522, "vocabulary", "embedding", False),
        (250_037, "counts", "embedding", False),
        (250_037, "vocabulary", "linear", False),
    ],
)
def test_a_text_is_advised_for_a_vocabulary_of_many_languages(rows, weights, target, advised):
    report = CompressionReport(
        method="transform_code",
        params={"weights": weights},
        target=target,
        layers=[{"name": "table", "shape": [rows, 4]}],
        parameters_dense=4 * rows,
        parameters_kept=rows,
        compression=0.75,
        index_bits=0,
        data_used="weights",
        seconds=0.0,
    )
    assert ("--text FILE" in advice(report)) == advised
