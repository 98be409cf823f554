"""Random resamples and swaps of a split's examples, in blocks that fit in memory.

A block holds one resample or swap a row. The rows are drawn one after another, so they do not
depend on the block size; their seed is a digest of names (task, split), so that all cells of a
split share them and nothing else does.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

# 64 MiB as float32; work arrays of a few times this size keep the whole below 500 MB.
BLOCK_ELEMENTS = 1 << 24


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator that belongs to `names` under `seed`."""
    text = "\0".join((str(seed), *names))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def resample_blocks(n: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples: how often each of `n` examples is drawn, n draws a row.

    Yields
    ------
    numpy.ndarray
        Counts, rows×n float32; counts below 2^24 are exact.
    """
    for rows in _block_rows(n, resamples):
        block = np.empty((rows, n), np.float32)
        for row in block:
            row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield block


def swap_blocks(n: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw swaps: 1 where the two systems' predictions of an example change places.

    Yields
    ------
    numpy.ndarray
        Zeros and ones, rows×n float32, each with probability ½.
    """
    for rows in _block_rows(n, resamples):
        block = np.empty((rows, n), np.float32)
        for row in block:
            row[:] = rng.integers(2, size=n, dtype=np.uint8)
        yield block


def _block_rows(n: int, resamples: int) -> Iterator[int]:
    size = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def chunks(cells: int, elements: int) -> Iterator[slice]:
    """Cut `cells` cells into slices whose work arrays, `elements` a cell, fill half a block."""
    size = max(1, BLOCK_ELEMENTS // 2 // elements)
    for start in range(0, cells, size):
        yield slice(start, min(start + size, cells))
