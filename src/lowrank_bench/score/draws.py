"""Random resamples and swaps of a split's examples, in blocks that fit in memory.

Each row of a block is one resample or swap. Rows are drawn one after another, so they do not
depend on the block size. Their seed is a digest of names (task, split), so that all cells of a
split share them and different splits are independent.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# 64 MiB as float32; work arrays of a few times this size keep the whole below 500 MB.
BLOCK_ELEMENTS = 1 << 24


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator that belongs to `names` under `seed`."""
    text = "\0".join((str(seed), *names))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def resample_blocks(
    n: int, resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Draw bootstrap resamples: how often each of `n` examples occurs among n draws.

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


def swap_blocks(n: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Draw swaps: 1 where the two systems exchange their predictions of an example.

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
    """Cut `cells` into slices whose work arrays, `elements` for each cell, fill half a block."""
    size = max(1, BLOCK_ELEMENTS // 2 // elements)
    for start in range(0, cells, size):
        yield slice(start, min(start + size, cells))
