"""Image networks on disk, weights that others trained, and the data sets."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.splits import unofficial
from lowrank_bench.inputs.vision import image as modality
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.decode import open_image
from lowrank_bench.inputs.vision.digits import make_digits
from lowrank_bench.inputs.vision.files import load_network, save_network
from lowrank_bench.inputs.vision.folder import list_folder
from lowrank_bench.inputs.vision.published import from_transformers, load_weights
from lowrank_bench.inputs.vision.settings import ImageSettings
from lowrank_bench.plan.cells import Source
from lowrank_bench.stages.download import source_step
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.store import Store

SETTINGS = ImageSettings(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """Give the batch norm statistics values that differ from a fresh network's."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def tiny_resnet(labels=3):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    return ResNetForImageClassification(
        ResNetConfig(**sizes, layer_type="basic", num_labels=labels)
    )


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_saved_networks_predict_the_same_bits(shortcut, tmp_path):
    model = shaken(build_network("resnet20", 10, seed=2, shortcut=shortcut, width=8, blocks=1))
    save_network(model, SETTINGS, tmp_path)
    again, settings = load_network(tmp_path)
    assert settings == SETTINGS
    assert not again.training
    assert torch.equal(again(X), model(X))
    assert not list(tmp_path.glob("*.bin"))


def test_networks_from_transformers_can_be_saved_too(tmp_path):
    model = shaken(tiny_resnet())
    save_network(model, SETTINGS, tmp_path)
    again, _ = load_network(tmp_path)
    assert torch.equal(again(pixel_values=X).logits, model(pixel_values=X).logits)


def test_damaged_folders_end_in_one_line(tmp_path):
    with pytest.raises(LowRankError, match="cannot read an image network"):
        load_network(tmp_path)
    save_network(build_network("resnet20", 10, width=4, blocks=1), SETTINGS, tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LowRankError, match="cannot read an image network"):
        load_network(tmp_path)
    with pytest.raises(LowRankError, match="Linear cannot be written"):
        save_network(torch.nn.Linear(2, 2), SETTINGS, tmp_path)


def theirs(model, file):
    """Write a file like those of nn.DataParallel and akamaster's code."""
    tensors = {
        "module." + name.replace("fc.", "linear."): tensor
        for name, tensor in model.state_dict().items()
        if "num_batches_tracked" not in name
    }
    torch.save({"state_dict": tensors, "best_prec1": 91.7}, file)


def test_published_weights_are_loaded_into_the_network(tmp_path):
    model = shaken(build_network("resnet20", 10, seed=4, shortcut="A", width=8, blocks=1))
    theirs(model, tmp_path / "weights.th")
    fresh = build_network("resnet20", 10, seed=5, shortcut="A", width=8, blocks=1)
    assert not torch.equal(fresh(X), model(X))
    load_weights(tmp_path / "weights.th", fresh)
    assert torch.equal(fresh(X), model(X))


def test_published_weights_of_another_network_are_refused(tmp_path):
    theirs(build_network("resnet20", 10, shortcut="A", blocks=1), tmp_path / "weights.th")
    wrong = {
        "layer2.0.downsample.0.weight": {"shortcut": "B", "blocks": 1},
        "layer1.1.conv1.weight": {"shortcut": "A", "blocks": 2},
        "has shape": {"shortcut": "A", "blocks": 1, "width": 8},
    }
    for part, sizes in wrong.items():
        with pytest.raises(LowRankError) as caught:
            load_weights(tmp_path / "weights.th", build_network("resnet20", 10, **sizes))
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


def test_a_pickle_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.th").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(LowRankError, match="has no weights"):
        load_weights(tmp_path / "weights.th", build_network("resnet20", 10, blocks=1))
    torch.save({"state_dict": Harmful()}, tmp_path / "weights.th")
    with pytest.raises(LowRankError, match="has no weights"):
        load_weights(tmp_path / "weights.th", build_network("resnet20", 10, blocks=1))
    assert not (tmp_path / "harmed").exists()


def test_the_background_class_of_tensorflow_networks_is_left_out(tmp_path):
    names = ["background", "cat", "dog", "bird"]
    config = MobileNetV2Config(num_labels=4, depth_multiplier=0.35, id2label=dict(enumerate(names)))
    MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    _, order, said = from_transformers(tmp_path, 3, "x")
    assert order == [1, 2, 3]
    assert said == {"mean": [0.5, 0.5, 0.5], "std": None}
    with pytest.raises(LowRankError, match="4 outputs, the task 10 labels"):
        from_transformers(tmp_path, 10, "x")


# --- in the pipeline -----------------------------------------------------------------------------

IMAGE = {"size": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "resize": None}
HUB = {"kind": "hub", "repo": "owner/nets", "revision": "main", "config": None}


INPUTS = {"columns": ["img"], "label": "label", "labels": list("abc"), "image": IMAGE}


def download(source, store):
    return Runner(store).ensure(source_step(source)).folder


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    folder.mkdir()
    files = lambda *_: (sorted(f.name for f in folder.iterdir()), "c0ffee")  # noqa: E731
    monkeypatch.setattr(hub, "list_files", files)
    monkeypatch.setattr(hub, "fetch", lambda repo, name, *_: folder / name)
    return folder


def test_a_fresh_network_is_initialized_from_the_checkpoint_s_seed(tmp_path):
    spec = {"kind": "vision", "architecture": "resnet20", "shortcut": "A", "sizes": {"blocks": 1}}
    model, settings = modality.initial_network(spec, None, INPUTS, seed=3)
    wanted = build_network("resnet20", 3, seed=3, shortcut="A", blocks=1)
    assert torch.equal(model(X), wanted(X))
    assert settings == ImageSettings(32, (0.5,) * 3, (0.25,) * 3)
    assert modality.example(settings, 0)["pixel_values"].shape == (1, 3, 32, 32)
    modality.check_network(model, "net")
    model.bn1.running_var[0] = torch.nan
    with pytest.raises(LowRankError, match=r"bn1\.running_var contains NaN"):
        modality.check_network(model, "net")


def test_a_published_file_is_downloaded_checked_and_loaded(fake_hub, tmp_path):
    model = shaken(build_network("resnet20", 3, shortcut="A", blocks=1))
    theirs(model, fake_hub / "draft")
    sha256 = hashlib.sha256((fake_hub / "draft").read_bytes()).hexdigest()
    name = f"resnet8-{sha256[:8]}.th"
    (fake_hub / "draft").rename(fake_hub / name)
    network = {
        "kind": "vision",
        "architecture": "resnet20",
        "shortcut": "A",
        "sizes": {"blocks": 1},
    }
    entry = {"network": network, "mean": [0.1, 0.2, 0.3], "std": None, "labels": []}
    source = Source("network", "net", HUB | {"file": name}, {"sha256": {name: sha256}})
    folder = download(source, Store(tmp_path / "store"))
    loaded, settings, order = modality.published_network(
        source.spec, folder, INPUTS, {"published": entry}, "net"
    )
    assert torch.equal(loaded(X), model(X))
    assert (settings.mean, settings.std) == ((0.1, 0.2, 0.3), (0.25,) * 3)
    assert order is None
    other = Source("network", "net", HUB | {"file": name}, {"sha256": {name: "0" * 64}})
    with pytest.raises(LowRankError, match="another file"):
        download(other, Store(tmp_path / "second"))


def test_the_hash_in_a_file_name_is_its_checksum(fake_hub, tmp_path):
    (fake_hub / "net-0123abcd.th").write_bytes(b"something else")
    source = Source("network", "net", HUB | {"file": "net-0123abcd.th"}, {"sha256": {}})
    with pytest.raises(LowRankError, match="0123abcd"):
        download(source, Store(tmp_path / "store"))
    absent = Source("network", "net", HUB | {"file": "net.th"}, {"sha256": {}})
    with pytest.raises(LowRankError, match=r"no file net\.th, only net-0123abcd"):
        download(absent, Store(tmp_path / "store"))


def test_a_hub_network_gets_a_last_layer_for_the_task(fake_hub, tmp_path):
    tiny_resnet(labels=7).save_pretrained(fake_hub)
    source = Source("network", "net", HUB, {"sha256": {}})
    folder = download(source, Store(tmp_path / "store"))
    first, _ = modality.initial_network(source.spec, folder, INPUTS, seed=3)
    second, _ = modality.initial_network(source.spec, folder, INPUTS, seed=3)
    logits = first(pixel_values=X).logits
    assert logits.shape == (2, 3)
    assert torch.equal(logits, second(pixel_values=X).logits)


# --- data --------------------------------------------------------------------------------------


def data_source(spec, columns=("image", "label"), accept=False, **splits):
    checks = {"splits": splits, "columns": list(columns), "unofficial": accept, "train": "train"}
    return Source("data", "pictures", spec, checks)


def test_digits_are_split_once_and_evenly():
    digits, splits = load_digits(), make_digits(0)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 997,
        "validation": 300,
        "test": 500,
    }
    values = {}
    for name, rows in splits.items():
        shares = np.bincount([row["label"] for row in rows]) / len(rows)
        assert np.abs(shares - np.bincount(digits.target) / 1797).max() < 0.01
        pixels = np.stack([np.asarray(open_image(row["image"], 1)) for row in rows])
        values[name] = np.rint(pixels / 255 * 16)
    everything = np.concatenate(list(values.values())).reshape(1797, -1)
    wanted = digits.images.reshape(1797, -1)
    assert np.array_equal(everything[np.lexsort(everything.T)], wanted[np.lexsort(wanted.T)])
    assert make_digits(0) == splits
    assert make_digits(1) != splits


def test_digits_are_generated_in_the_download_stage(tmp_path):
    source = data_source({"kind": "digits", "seed": 0}, train={}, test={}, other={})
    folder = download(source, Store(tmp_path))
    about = Store(tmp_path).manifest(folder)
    assert about["splits"]["test"] == {"rows": 500, "sha256": None, "encoding": "png"}
    assert "other" in about["missing"]
    rows = pd.read_parquet(folder / "test.parquet")
    encoded = modality.encode(
        rows,
        ImageSettings(16, (0.3,), (0.4,), 1),
        {"columns": ["image"], "label": "label", "labels": list("0123456789")},
    )
    assert encoded.images.shape == (500, 1, 16, 16)


def test_a_lossy_copy_is_detected_refused_and_labelled(fake_hub, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "JPEG")
    image = {"bytes": stream.getvalue(), "path": "0.png"}
    rows = pd.DataFrame({"img": [image], "label": [0]})
    rows.to_parquet(fake_hub / "train-00000-of-00001.parquet")
    expected = {"rows": 1, "encoding": "png", "sha256": "0" * 64}
    spec = HUB | {"kind": "hub"}
    with pytest.raises(LowRankError, match=r"JPEG copy.*hub\.unofficial=true"):
        download(data_source(spec, ("img", "label"), train=expected), Store(tmp_path / "a"))
    accepted = data_source(spec, ("img", "label"), accept=True, train=expected)
    store = Store(tmp_path / "b")
    facts = store.manifest(download(accepted, store))["splits"]["train"]
    assert unofficial(facts, expected) == "JPEG copy, official PNG"
    assert unofficial(facts, {"rows": 1}) == ""


def test_a_folder_of_class_folders_is_a_data_set(tmp_path, monkeypatch):
    for number, name in enumerate(["n02", "n01", "n10"]):
        for split in ("train", "val"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            (place / "note.txt").write_text("no image")
            for copy in range(number + 1):
                Image.new("RGB", (5, 4), (number, copy, 0)).save(place / f"{copy}.png")
    listed = Path.iterdir  # file systems list in arbitrary order
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self), reverse=True)))
    spec = {"kind": "folder", "path": str(tmp_path)}
    source = data_source(spec, train={}, validation={}, test={})
    folder = download(source, Store(tmp_path / "store"))
    about = Store(tmp_path / "store").manifest(folder)
    assert {name: facts["rows"] for name, facts in about["splits"].items()} == {
        "train": 6,
        "validation": 6,
    }
    assert "has no folder test" in about["missing"]["test"]
    rows = pd.read_parquet(folder / "validation.parquet")
    assert rows["label"].tolist() == [0, 0, 1, 2, 2, 2]  # n01 has two images, n02 one, n10 three
    reds = [open_image(item, 3).getpixel((0, 0))[0] for item in rows["image"]]
    assert reds == [1, 1, 0, 2, 2, 2]


def test_wrong_folders_end_in_one_line(tmp_path):
    with pytest.raises(LowRankError, match="no folder of images"):
        list_folder(str(tmp_path / "nowhere"), "train", ("image", "label"))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(LowRankError, match="has no images"):
        list_folder(str(tmp_path), "train", ("image", "label"))
    assert list_folder(str(tmp_path), "test", ("image", "label")) is None
