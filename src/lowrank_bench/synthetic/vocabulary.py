"""Pseudo-words with Zipf frequencies and planted meanings, and the embedding table of a network.

The tables are built to show one mechanism in the open: their ordinary rows share few directions
of decaying weight (the meaning that decides the tasks' labels), and a few rows of rare words are
far longer than the rest. Truncated SVD spends its rank on those long rows; a robust subspace
does not. Pure numpy, and no BLAS or LAPACK, so that a seed gives the same bytes everywhere.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.fft import dct

AXES = 28  # dimensions of meaning: three for each task, and one for the genre
FUNCTION_WORDS = 40  # the most frequent words mean nothing
NAMES = 40  # the next most frequent: told apart by identity, not by meaning
OUTLIER_SHARE = 0.01  # of all words
SPECTRUM = 0.15
NOISE = 0.12  # deviation of an entry that no axis explains
OUTLIER_DIRECTIONS = 20
LENGTHS = (4.0, 25.0)
SCALE = 3.0
SHARED = 6
SPECIAL = 1.0


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
        Array n×AXES: standard normal for words with meaning, 0 for function words and names.
    functions, names, outliers
        Ids of the function words, of the names, and of the words with outlier rows.
    """

    words: tuple[str, ...]
    probabilities: np.ndarray
    meanings: np.ndarray
    functions: np.ndarray
    names: np.ndarray
    outliers: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@lru_cache(maxsize=4)
def make_vocabulary(seed: int, size: int = 3000) -> Vocabulary:
    """Return the vocabulary that all tasks and networks of a suite share.

    Parameters
    ----------
    seed
        Seed of the suite.
    size
        Number of words, at least 200.
    """
    rng = np.random.default_rng([seed, size])
    weights = 1.0 / (np.arange(size) + 2.7)
    meanings = np.clip(rng.standard_normal((size, AXES)), -2.5, 2.5)
    meanings[: FUNCTION_WORDS + NAMES] = 0.0
    rare = np.arange(size // 2, size)
    outliers = np.sort(rng.choice(rare, max(1, round(OUTLIER_SHARE * size)), replace=False))
    return Vocabulary(
        words=_words(rng, size),
        probabilities=weights / weights.sum(),
        meanings=meanings,
        functions=np.arange(FUNCTION_WORDS),
        names=np.arange(FUNCTION_WORDS, FUNCTION_WORDS + NAMES),
        outliers=outliers,
    )


def planted_table(vocabulary: Vocabulary, width: int, seed: int, specials: int = 5) -> np.ndarray:
    """Return an embedding table size×width, float32, that carries the words' meanings.

    Parameters
    ----------
    width
        Columns of the table, at least AXES.
    seed
        Decides the basis, the noise and the outliers' directions; the meanings do not change.
    """
    rng = np.random.default_rng([seed, width])
    spectrum = np.arange(1, AXES + 1) ** -SPECTRUM
    basis = _orthonormal(rng, width)
    table = np.einsum("wa,ad->wd", vocabulary.meanings, basis[:AXES] * spectrum[:, None])
    table += NOISE * rng.standard_normal(table.shape)
    typical = np.sqrt((table**2).sum(axis=1).mean())
    count = len(vocabulary.outliers)
    lengths = typical * rng.permutation(np.geomspace(*LENGTHS, count))
    directions = basis[AXES + np.arange(count) % OUTLIER_DIRECTIONS]
    table[vocabulary.outliers] += (lengths * rng.choice([-1, 1], count))[:, None] * directions
    common = np.einsum("sa,ad->sd", rng.choice([-1.0, 1.0], (specials, SHARED)), basis[:SHARED])
    table = np.concatenate([typical * SPECIAL / np.sqrt(SHARED) * common, table])
    return (SCALE * table / typical).astype(np.float32)


def _orthonormal(rng: np.random.Generator, width: int) -> np.ndarray:
    """Return an orthonormal basis: cosines with random signs in random order."""
    signs = rng.choice([-1.0, 1.0], width)
    return (dct(np.eye(width), axis=0, norm="ortho") * signs)[rng.permutation(width)]


def _words(rng: np.random.Generator, size: int) -> tuple[str, ...]:
    """Return distinct words; frequent ones are shorter, as in languages."""
    syllables = [c + v for c, v in product("bdfgklmnprstvz", "aeiou")]
    short = _compose(rng, syllables, 1, FUNCTION_WORDS)
    middle = _compose(rng, syllables, 2, size // 3)
    long = _compose(rng, syllables, 3, size - len(short) - len(middle))
    return (*short, *middle, *long)


def _compose(rng: np.random.Generator, syllables: list[str], parts: int, count: int) -> list[str]:
    base = len(syllables)
    codes = rng.choice(base**parts, count, replace=False)
    digits = [codes // base**power % base for power in range(parts)]
    return ["".join(syllables[d] for d in word) for word in zip(*digits, strict=True)]
