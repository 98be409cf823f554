"""Decoding, normalisation, augmentation and prediction of images."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision import image as modality
from lowrank_bench.inputs.vision.augment import crop_flip, training_images
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.decode import centre, encoding_of
from lowrank_bench.inputs.vision.images import Encoded, Undecoded, batches, encode, normalise
from lowrank_bench.inputs.vision.predict import predict
from lowrank_bench.inputs.vision.settings import ImageSettings

GREY = ImageSettings(8, (0.5,), (0.25,), 1)
COLOUR = ImageSettings(8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
INPUTS = {"columns": ["img"], "label": "label", "labels": ["a", "b", "c"]}


def picture(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return {"bytes": stream.getvalue(), "path": None}


def frame(arrays, labels=None, kind="PNG"):
    labels = [0] * len(arrays) if labels is None else labels
    return pd.DataFrame({"img": [picture(a, kind) for a in arrays], "label": labels})


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def test_lossless_images_are_decoded_exactly(pixels):
    encoded = encode(frame(pixels, [0, 1, 2, 0, 1, 2]), COLOUR, INPUTS)
    assert encoded.images.dtype == torch.uint8
    assert np.array_equal(encoded.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert encoded.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(encoded) == 6


def test_inputs_are_normalised_channel_by_channel(pixels):
    encoded = encode(frame(pixels), COLOUR, INPUTS)
    got = normalise(encoded.images, COLOUR)
    for channel, (mean, std) in enumerate(zip(COLOUR.mean, COLOUR.std, strict=True)):
        wanted = (pixels[..., channel] / 255 - mean) / std
        assert np.allclose(got[:, channel].numpy(), wanted, atol=1e-6)


def test_grey_settings_accept_grey_and_colour_images(pixels):
    grey = pixels[..., 0]
    encoded = encode(frame(list(grey) + list(pixels)), GREY, INPUTS)
    assert encoded.images.shape == (12, 1, 8, 8)
    assert np.array_equal(encoded.images[:6, 0].numpy(), grey)


def test_jpeg_and_png_are_recognised_from_bytes_and_files(pixels, tmp_path):
    assert encoding_of(picture(pixels[0], "JPEG")) == "jpeg"
    assert encoding_of(picture(pixels[0])) == "png"
    (tmp_path / "x").write_bytes(picture(pixels[0])["bytes"])
    assert encoding_of({"bytes": None, "path": str(tmp_path / "x")}) == "png"
    assert encoding_of({"bytes": b"text", "path": None}) == "unknown"


def test_the_shorter_side_is_resized_and_the_centre_cropped():
    """Three bands of colour, twice as wide as high: only the middle one remains."""
    bands = np.zeros((40, 80, 3), dtype=np.uint8)
    bands[:, :20, 0] = bands[:, 20:60, 1] = bands[:, 60:, 2] = 255
    settings = ImageSettings(16, (0.5,) * 3, (0.5,) * 3, resize=20)
    got = centre(Image.fromarray(bands), settings)
    assert got.shape == (3, 16, 16)
    assert (got[1] == 255).all()
    assert (got[[0, 2]] == 0).all()


def test_large_images_are_decoded_on_demand(tmp_path):
    pixels = np.full((90, 120, 3), 77, dtype=np.uint8)
    settings = ImageSettings(80, (0.5,) * 3, (0.5,) * 3)
    file = tmp_path / "x.png"
    file.write_bytes(picture(pixels)["bytes"])
    rows = pd.DataFrame({"img": [{"bytes": None, "path": str(file)}] * 2, "label": [0, 1]})
    encoded = encode(rows, settings, INPUTS)
    assert isinstance(encoded.images, Undecoded)
    assert (encoded.images[[1, 0]] == 77).all()
    generator = torch.Generator().manual_seed(0)
    crops = training_images(encoded, [0, 1, 1], "resized_crop", generator, "cpu")
    assert crops.shape == (3, 3, 80, 80)
    assert (crops == 77).all()
    file.unlink()
    with pytest.raises(LowRankError, match=r"x\.png"):
        encoded.images[[0]]


def test_random_crops_have_the_right_area_and_aspect_ratio(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lowrank_bench.inputs.vision.images.crop",
        lambda image, box, settings: seen.append(box) or np.zeros((3, 80, 80), np.uint8),
    )
    settings = ImageSettings(80, (0.5,) * 3, (0.5,) * 3)
    images = Undecoded([picture(np.zeros((300, 400, 3), np.uint8))] * 200, settings)
    images.crops(range(200), torch.Generator().manual_seed(0))
    boxes = np.array(seen)
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 400).all()
    assert (boxes[:, 3] <= 300).all()
    share, ratio = wide * high / (300 * 400), wide / high
    assert share.min() > 0.075
    assert share.min() < 0.15
    assert share.max() > 0.85
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37


def test_crops_are_shifts_of_the_padded_image_and_half_are_mirrored():
    images = torch.randint(1, 256, (400, 3, 16, 16), dtype=torch.uint8)
    got = crop_flip(images, torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = []
    for number in range(400):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if np.array_equal(
                got[number].numpy(),
                padded[number, :, top : top + 16, left : left + 16][..., ::flip],
            )
        ]
        assert len(matches) == 1, number
        found += matches
    assert {f[:2] for f in found} == {(top, left) for top in range(5) for left in range(5)}
    assert 150 < sum(flip == -1 for *_, flip in found) < 250


def test_no_augmentation_is_the_image_itself(pixels):
    encoded = encode(frame(pixels), COLOUR, INPUTS)
    generator = torch.Generator()
    assert torch.equal(
        training_images(encoded, torch.tensor([4, 1]), "none", generator, "cpu"),
        encoded.images[[4, 1]],
    )
    with pytest.raises(LowRankError, match="crop_flop"):
        training_images(encoded, torch.tensor([4]), "crop_flop", generator, "cpu")
    with pytest.raises(LowRankError, match="64 pixels"):
        training_images(encoded, torch.tensor([4]), "resized_crop", generator, "cpu")


@pytest.mark.parametrize("architecture", ["resnet20", "densenet22"])
def test_predictions_do_not_depend_on_the_batch(architecture):
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (23, 3, 8, 8), dtype=np.uint8))
    encoded = Encoded(images, np.zeros(23, np.int64))
    model = build_network(architecture, 5, 8)
    with torch.no_grad():
        one = torch.cat([model(normalise(images[i : i + 1], COLOUR)) for i in range(23)]).numpy()
    for max_tokens in (1, 12, 4096):
        got = predict(model, COLOUR, encoded, max_tokens)
        assert got.dtype == np.float32
        assert np.abs(got - one).max() < 1e-5
    turned = predict(model, COLOUR, encoded, 4096, output_order=[4, 0])
    assert np.abs(turned - one[:, [4, 0]]).max() < 1e-5


def test_max_tokens_limits_the_pixels_of_a_batch():
    sizes = []

    class Watched(torch.nn.Module):
        def forward(self, pixel_values):
            sizes.append(len(pixel_values))
            return pixel_values.sum((1, 2, 3))[:, None]

    images = torch.zeros((10, 3, 8, 8), dtype=torch.uint8)
    predict(Watched(), COLOUR, Encoded(images, np.zeros(10)), max_tokens=16)
    assert sizes == [4, 4, 2]  # 16 tokens of 16 pixels are four images of 64


def test_batches_keep_the_order_of_the_rows(pixels):
    encoded = encode(frame(pixels, [0, 1, 2, 0, 1, 2]), COLOUR, INPUTS)
    got = list(batches(encoded, COLOUR, [5, 0, 3], "cpu", 2))
    labels = torch.cat([labels for _, labels in got])
    values = torch.cat([inputs["pixel_values"] for inputs, _ in got])
    assert labels.tolist() == [2, 0, 0]
    assert torch.equal(values, normalise(encoded.images[[5, 0, 3]], COLOUR))


def test_wrong_rows_end_in_one_line(pixels):
    with pytest.raises(LowRankError, match="class 3, but the task has 3 labels"):
        encode(frame(pixels[:1], [3]), COLOUR, INPUTS)
    with pytest.raises(LowRankError, match="no rows"):
        encode(frame([]), COLOUR, INPUTS)
    broken = pd.DataFrame({"img": [{"bytes": b"\x89PNG nonsense", "path": None}], "label": [0]})
    with pytest.raises(LowRankError, match="cannot be decoded"):
        encode(broken, COLOUR, INPUTS)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"mean": (0.5,)}, "image.mean"),
        ({"std": (0.5, 0.0, 0.5)}, "not positive"),
        ({"channels": 2}, "1 or 3"),
        ({"resize": 4}, "image.resize"),
    ],
)
def test_wrong_settings_end_in_one_line(arguments, part):
    with pytest.raises(LowRankError, match=part):
        ImageSettings(**{"size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, **arguments})


def test_encoded_images_are_not_stored(pixels, tmp_path):
    encoded = encode(frame(pixels), COLOUR, INPUTS)
    assert modality.processor_name(COLOUR) is None
    with pytest.raises(LowRankError, match="not stored"):
        modality.write_encoded(encoded, tmp_path)
    with pytest.raises(LowRankError, match="not stored"):
        modality.read_encoded(tmp_path)
