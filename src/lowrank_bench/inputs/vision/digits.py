"""Scikit-learn's 1,797 handwritten digits, available offline, as the splits of a task."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST, VALIDATION = 500, 300  # rows; the other 997 are for training
WHITE = 16  # the largest value of a pixel


def make_digits(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the splits `train`, `validation` and `test`.

    Parameters
    ----------
    seed
        Decides the split of each image; every split has the same shares of the classes.

    Returns
    -------
    dict
        Rows with `image`, a grey PNG of 8×8 pixels, and `label`, 0 to 9.
    """
    digits = load_digits()
    rows = np.arange(len(digits.target))
    rest, test = train_test_split(rows, test_size=TEST, stratify=digits.target, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=VALIDATION, stratify=digits.target[rest], random_state=seed
    )
    splits = {"train": train, "validation": validation, "test": test}
    return {
        name: [{"image": _png(digits.images[i]), "label": int(digits.target[i])} for i in numbers]
        for name, numbers in splits.items()
    }


def _png(image: NDArray[np.float64]) -> dict[str, Any]:
    pixels = np.rint(image * (255 / WHITE)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}
