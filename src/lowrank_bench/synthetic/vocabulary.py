"""Pseudo-words with Zipf frequencies and planted meanings, and embedding tables for them.

The tables isolate one mechanism. Ordinary rows lie near a subspace of `AXES` directions with
slowly decaying weights, and these directions determine the labels of the tasks. A few rows of rare
words, the outliers, are many times longer and point in directions without meaning. Truncated SVD
spends its rank on them; a robust subspace does not. With `OUTLIER_LENGTHS` = (1, 1) the difference
disappears.

Only NumPy operations without BLAS or LAPACK are used, so that a seed gives the same bytes with any
number of threads.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
WORDS = 3000
AXES = 28  # dimensions of meaning: three for each task, and one for the genre
FUNCTION_WORDS = 40  # the most frequent words, without meaning
NAMES = 40  # the next most frequent, without meaning too: only their identity matters
OUTLIERS = WORDS // 100
OUTLIER_LENGTHS = (3.0, 25.0)  # log-spaced, in units of the length of a typical row
SPECTRUM = 0.25  # axis j has weight (j + 1)^-SPECTRUM
NOISE = 0.12  # standard deviation of the part of an entry that no axis explains
SPECIAL_AXES = 6  # special tokens lie in the span of the first axes
LENGTH = 3.0  # length of a typical row


@dataclass(frozen=True)
class Vocabulary:
    """Words in order of frequency.

    Attributes
    ----------
    words
        n distinct lower-case words, the most frequent first.
    probabilities
        Zipf-Mandelbrot probabilities, n, decreasing, sum 1.
    meanings
        Array n×AXES: standard normal, clipped at ±2.5; 0 for function words and names.
    functions, names, outliers
        Ids of the function words, of the names, and of the words whose rows are outliers.
    """

    words: tuple[str, ...]
    probabilities: Floats
    meanings: Floats
    functions: Integers
    names: Integers
    outliers: Integers

    def __len__(self) -> int:
        return len(self.words)


@cache
def make_vocabulary(seed: int, size: int = WORDS) -> Vocabulary:
    """Return the vocabulary that all tasks and networks of a suite share.

    Parameters
    ----------
    seed
        Seed of the suite.
    size
        Number of words, at least 300.
    """
    rng = np.random.default_rng([seed, size])
    weights = 1.0 / (np.arange(size) + 2.7)
    meanings = np.clip(rng.standard_normal((size, AXES)), -2.5, 2.5)
    meanings[: FUNCTION_WORDS + NAMES] = 0.0
    rare = np.arange(size // 2, size)
    return Vocabulary(
        words=_words(rng, size),
        probabilities=weights / weights.sum(),
        meanings=meanings,
        functions=np.arange(FUNCTION_WORDS),
        names=np.arange(FUNCTION_WORDS, FUNCTION_WORDS + NAMES),
        outliers=np.sort(rng.choice(rare, OUTLIERS, replace=False)),
    )


def planted_table(
    vocabulary: Vocabulary, width: int, specials: int, seed: int
) -> NDArray[np.float32]:
    """Return an embedding table (specials + n)×width, float32, with rows of special tokens first.

    Parameters
    ----------
    width
        Number of columns, at least AXES + OUTLIERS: every outlier has a direction of its own.
    specials
        Number of special tokens. Their rows have typical length and mix the first axes: they are
        in every text, so compression must not remove them.
    seed
        Seed of the basis, the noise and the lengths of outliers; meanings come from the vocabulary.
    """
    rng = np.random.default_rng([seed, width])
    basis = _orthonormal(rng, width)
    weights = np.arange(1, AXES + 1) ** -SPECTRUM
    table = np.einsum("wa,ad->wd", vocabulary.meanings * weights, basis[:AXES])
    # Noise outside the axes, then the length of a typical row, then the outliers.
    table += NOISE * rng.standard_normal(table.shape)
    table *= LENGTH / np.sqrt((table**2).sum(axis=1).mean())
    lengths = LENGTH * rng.permutation(np.geomspace(*OUTLIER_LENGTHS, OUTLIERS))
    table[vocabulary.outliers] += lengths[:, None] * basis[AXES : AXES + OUTLIERS]
    mixes = rng.choice([-1.0, 1.0], (specials, SPECIAL_AXES)) * LENGTH / np.sqrt(SPECIAL_AXES)
    special = np.einsum("sa,ad->sd", mixes, basis[:SPECIAL_AXES])
    return np.concatenate([special, table]).astype(np.float32)


def _orthonormal(rng: np.random.Generator, width: int) -> Floats:
    """Return an orthonormal basis: cosines with random signs, in random order."""
    signs = rng.choice([-1.0, 1.0], width)
    cosines = dct(np.eye(width), axis=0, norm="ortho") * signs
    basis: Floats = cosines[rng.permutation(width)]
    return basis


def _words(rng: np.random.Generator, size: int) -> tuple[str, ...]:
    """Return distinct words; frequent ones are shorter, as in natural languages."""
    short = _compose(rng, 1, FUNCTION_WORDS)
    middle = _compose(rng, 2, size // 3)
    long = _compose(rng, 3, size - len(short) - len(middle))
    return (*short, *middle, *long)


def _compose(rng: np.random.Generator, syllables: int, count: int) -> list[str]:
    # A word is a number in base `len(parts)`, with one syllable per digit.
    parts = [consonant + vowel for consonant, vowel in product("bdfgklmnprstvz", "aeiou")]
    codes = rng.choice(len(parts) ** syllables, count, replace=False)
    digits = [codes // len(parts) ** place % len(parts) for place in range(syllables)]
    return ["".join(parts[digit] for digit in word) for word in zip(*digits, strict=True)]
