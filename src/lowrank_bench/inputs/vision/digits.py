"""Scikit-learn's 1,797 handwritten digits, which need no network, as the splits of a task."""

import io
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST, VALIDATION = 500, 300  # rows; 997 are left to train on
WHITE = 16  # the brightest value of these images


def make_digits(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the splits `train`, `validation` and `test`.

    Parameters
    ----------
    seed
        Decides which image falls into which split; the classes have equal shares of each.

    Returns
    -------
    dict
        Rows with `image`, a grey image of 8×8 pixels as PNG, and `label`, 0 to 9.
    """
    digits = load_digits()
    rows = np.arange(len(digits.target))
    rest, test = train_test_split(rows, test_size=TEST, stratify=digits.target, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=VALIDATION, stratify=digits.target[rest], random_state=seed
    )
    splits = {"train": train, "validation": validation, "test": test}
    return {
        name: [{"image": _png(digits.images[i]), "label": int(digits.target[i])} for i in some]
        for name, some in splits.items()
    }


def _png(image: np.ndarray) -> dict[str, Any]:
    pixels = np.rint(image * (255 / WHITE)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}
