"""Nine generated tasks in the schema of GLUE, all from one generator of sentences.

A sentence has a meaning: one weight for every axis of meaning. Its words are drawn with a
probability proportional to zipf(word) · exp(strength · <meaning of word, meaning of sentence>), a
log-linear topic model (Arora et al. 2016, "A latent variable model approach to PMI-based word
embeddings"). A task defines how the meanings of its sentences depend on the label.

Task number t uses the axes t, t + 9 and t + 18, one from each third of the spectrum of the
embedding table, so that stronger compression gradually harms every task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.synthetic.vocabulary import AXES, Vocabulary, make_vocabulary

Row = dict[str, Any]
Floats = NDArray[np.float64]
GENRE_AXIS = AXES - 1
WORDS_IN_SENTENCE = (6, 14)  # fewest and most words


class Writer:
    """Generates sentences whose meaning lies on the axes of one task.

    Parameters
    ----------
    axes
        Indices of the three axes that determine the label.
    strength
        Weight of the meaning of a sentence; a larger weight makes the task easier.
    genre
        Weight along the genre axis, on which no label depends.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        axes: list[int],
        strength: float,
        genre: float,
        rng: np.random.Generator,
    ) -> None:
        self.vocabulary, self.rng = vocabulary, rng
        self._meanings = strength * vocabulary.meanings[:, axes]
        self._base = vocabulary.probabilities * np.exp(genre * vocabulary.meanings[:, GENRE_AXIS])
        self._cumulative: dict[bytes, Floats] = {}  # of the word probabilities, by meaning

    def words(self, meaning: Floats, count: int | None = None) -> list[int]:
        """Return ids of `count` words (default: a random number) for a sentence with `meaning`."""
        if count is None:
            count = int(self.rng.integers(WORDS_IN_SENTENCE[0], WORDS_IN_SENTENCE[1] + 1))
        key = meaning.tobytes()
        if key not in self._cumulative:
            # Summed axis by axis: a BLAS product could depend on the number of threads.
            energy = sum(c * weight for c, weight in zip(self._meanings.T, meaning, strict=True))
            self._cumulative[key] = np.cumsum(self._base * np.exp(energy))
        cumulative = self._cumulative[key]
        # Inverse transform sampling from unnormalised probabilities.
        ids: list[int] = np.searchsorted(
            cumulative, self.rng.random(count) * cumulative[-1]
        ).tolist()
        return ids

    def sentence(self, meaning: Floats) -> str:
        """Return a sentence with `meaning`."""
        return self.text(self.words(meaning))

    def text(self, ids: list[int]) -> str:
        """Return the words with these ids as text."""
        return " ".join(self.vocabulary.words[i] for i in ids)

    def topic(self) -> Floats:
        """Return a random meaning: one sign per axis."""
        return self.rng.choice([-1.0, 1.0], 3)

    def turned(self, topic: Floats, count: int) -> Floats:
        """Return `topic` with the signs of `count` random axes flipped."""
        result = topic.copy()
        result[self.rng.permutation(3)[:count]] *= -1
        return result


def _cola(writer: Writer, label: int) -> Row:
    """Acceptable sentences keep their meaning from start to end; in others it flips half-way."""
    topic = writer.topic()
    start = writer.words(topic)
    half = len(start) // 2
    end = writer.words(topic if label else -topic, len(start) - half)
    return {"sentence": writer.text(start[:half] + end)}


def _sst2(writer: Writer, label: int) -> Row:
    """Positive sentences lie on one side of the axes, negative ones on the other."""
    return {"sentence": writer.sentence(np.full(3, 1.0 if label else -1.0))}


def _mrpc(writer: Writer, label: int) -> Row:
    """Both classes share words; in paraphrases the other words also share their meaning."""
    topic = writer.topic()
    first = writer.words(topic)
    shared = [word for word in first if writer.rng.random() < 0.3]
    second = shared + writer.words(topic if label else -topic, max(6, len(first) - len(shared)))
    order = writer.rng.permutation(len(second))
    return {
        "sentence1": writer.text(first),
        "sentence2": writer.text([second[i] for i in order]),
    }


def _stsb(writer: Writer, label: int) -> Row:
    """The score falls with the number of axes on which the sentences differ."""
    topic = writer.topic()
    return {
        "sentence1": writer.sentence(topic),
        "sentence2": writer.sentence(writer.turned(topic, label)),
    }


def _qqp(writer: Writer, label: int) -> Row:
    """Questions that are not duplicates differ on two or three axes."""
    topic = writer.topic()
    other = topic if label else writer.turned(topic, int(writer.rng.integers(2, 4)))
    return {"question1": writer.sentence(topic), "question2": writer.sentence(other)}


def _mnli(writer: Writer, label: int) -> Row:
    """A hypothesis agrees with its premise, is unrelated to it, or contradicts it."""
    topic = writer.topic()
    other = (1.0 - label) * topic
    return {"premise": writer.sentence(topic), "hypothesis": writer.sentence(other)}


def _qnli(writer: Writer, label: int) -> Row:
    """A sentence that answers its question agrees with it."""
    topic = writer.topic()
    other = -topic if label else topic
    return {"question": writer.sentence(topic), "sentence": writer.sentence(other)}


def _rte(writer: Writer, label: int) -> Row:
    """An entailed sentence agrees with the first one."""
    topic = writer.topic()
    other = -topic if label else topic
    return {"sentence1": writer.sentence(topic), "sentence2": writer.sentence(other)}


def _wnli(writer: Writer, label: int) -> Row:
    """The second sentence repeats words and one of the two names: the first or the second.

    As in the original task, the label asks who is meant, and small networks only learn to predict
    the majority class.
    """
    names = writer.rng.choice(writer.vocabulary.names, 2, replace=False).tolist()
    start, end = writer.words(writer.topic(), 5), writer.words(writer.topic(), 5)
    return {
        "sentence1": writer.text([names[0], *start, names[1], *end]),
        "sentence2": writer.text([names[1 - label], *end]),
    }


@dataclass(frozen=True)
class _Task:
    """A task: `shares` of the labels, and `strength` of the meanings (see `Writer`)."""

    write: Callable[[Writer, int], Row]
    shares: tuple[float, ...]
    strength: float
    train: int = 2500
    validation: int = 500


_TASKS = {
    "cola": _Task(_cola, (0.3, 0.7), 0.9),
    "sst2": _Task(_sst2, (0.45, 0.55), 0.4),
    "mrpc": _Task(_mrpc, (0.33, 0.67), 1.0),
    "stsb": _Task(_stsb, (0.25, 0.25, 0.25, 0.25), 1.2),
    "qqp": _Task(_qqp, (0.63, 0.37), 1.1),
    "mnli": _Task(_mnli, (0.34, 0.33, 0.33), 1.1, validation=400),
    "qnli": _Task(_qnli, (0.5, 0.5), 1.0),
    "rte": _Task(_rte, (0.5, 0.5), 0.9),
    "wnli": _Task(_wnli, (0.5, 0.5), 1.0, train=635, validation=71),
}
TASKS = tuple(_TASKS)


def make_task(task: str, seed: int) -> dict[str, list[Row]]:
    """Return the splits of a task: rows with the columns and label ids of GLUE.

    Parameters
    ----------
    task
        Name of a GLUE task, one of `TASKS`.
    seed
        Seed of the suite: the same for all tasks and networks, which share its words.

    Raises
    ------
    LowRankError
        If there is no such task.
    """
    if task not in _TASKS:
        raise LowRankError(f"unknown synthetic task {task!r}; there are {', '.join(TASKS)}")
    # As in MNLI, the mismatched split comes from genres that are not in the training rows.
    if task == "mnli":
        genres = {"train": 0.7, "validation_matched": 0.7, "validation_mismatched": -0.7}
    else:
        genres = {"train": 0.0, "validation": 0.0}
    return {
        split: _split(task, seed, number, split == "train", genre)
        for number, (split, genre) in enumerate(genres.items())
    }


def _split(task: str, seed: int, number: int, train: bool, genre: float) -> list[Row]:
    plan, index = _TASKS[task], TASKS.index(task)
    rng = np.random.default_rng([seed, index, number])
    axes = [index, index + 9, index + 18]
    writer = Writer(make_vocabulary(seed), axes, plan.strength, genre, rng)
    rows = []
    for idx in range(plan.train if train else plan.validation):
        # Draw the label, then write a text for it.
        label = int(np.searchsorted(np.cumsum(plan.shares)[:-1], rng.random(), side="right"))
        text = plan.write(writer, label)
        rows.append(text | {"label": _score(label, rng) if task == "stsb" else label, "idx": idx})
    return rows


def _score(turned: int, rng: np.random.Generator) -> float:
    """Return a similarity from 0 to 5 for sentences that differ on `turned` of three axes."""
    return round(float(np.clip(5 * (1 - turned / 3) + rng.normal(0, 0.4), 0, 5)), 3)
