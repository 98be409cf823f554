"""Nine generated tasks in GLUE's schema, all made by one generator.

A sentence has a meaning, one tilt for every axis of meaning, and draws its words from
p(word | tilt) proportional to zipf(word) · exp(<meaning(word), tilt>), a log-linear topic model
(Arora et al. 2016, "A latent variable model approach to PMI-based word embeddings"). A task only
says how the tilts of its sentences follow from the label.

Every task reads three axes, one from each third of the embedding table's spectrum, so that a
stronger compression takes away more and more of each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lowrank_bench.errors import LowRankError
from lowrank_bench.synthetic.vocabulary import AXES, Vocabulary, make_vocabulary

Row = dict[str, object]
GENRE_AXIS = AXES - 1
LENGTH = (6, 14)  # words of a sentence


class Writer:
    """Draws sentences about the three axes of one task.

    Parameters
    ----------
    axes
        Ids of the axes that carry the label.
    strength
        Tilt of a sentence along each of them: the larger, the clearer its meaning.
    genre
        Tilt along the genre axis, which no label depends on.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        axes: list[int],
        strength: float,
        rng: np.random.Generator,
        genre: float = 0.0,
    ) -> None:
        self.vocabulary, self.rng = vocabulary, rng
        self._meanings = strength * vocabulary.meanings[:, axes]
        self._base = genre * vocabulary.meanings[:, GENRE_AXIS]

    def words(self, meaning: np.ndarray, count: int | None = None) -> list[int]:
        """Return ids of words of a sentence with `meaning`, one sign (or weight) an axis."""
        count = count or int(self.rng.integers(LENGTH[0], LENGTH[1] + 1))
        energy = self._base.copy()
        for column, weight in zip(self._meanings.T, meaning, strict=True):
            energy += weight * column
        cumulative = np.cumsum(self.vocabulary.probabilities * np.exp(energy))
        return np.searchsorted(cumulative, self.rng.random(count) * cumulative[-1]).tolist()

    def sentence(self, meaning: np.ndarray) -> str:
        return self.text(self.words(meaning))

    def text(self, ids: list[int]) -> str:
        """Return the words of `ids` as a sentence."""
        return " ".join(self.vocabulary.words[i] for i in ids)

    def topic(self) -> np.ndarray:
        """Return a random meaning: a sign for each axis."""
        return self.rng.choice([-1.0, 1.0], self._meanings.shape[1])

    def turned(self, topic: np.ndarray, count: int) -> np.ndarray:
        """Return `topic` with the signs of `count` random axes turned."""
        turned = topic.copy()
        turned[self.rng.permutation(len(topic))[:count]] *= -1
        return turned


def _cola(writer: Writer, label: int) -> Row:
    """Acceptable sentences keep one meaning; the others turn it half-way."""
    topic = writer.topic()
    half = writer.words(topic, 5), writer.words(topic if label else -topic, 5)
    return {"sentence": writer.text([*half[0], *half[1]])}


def _sst2(writer: Writer, label: int) -> Row:
    return {"sentence": writer.sentence(np.full(3, 1.0 if label else -1.0))}


def _mrpc(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    first = writer.words(topic)
    second = writer.words(topic if label else -topic)
    kept = [w for w in first if writer.rng.random() < 0.3]
    second = (kept + second)[:14]
    writer.rng.shuffle(second)
    return {"sentence1": writer.text(first), "sentence2": writer.text(second)}


def _stsb(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    other = writer.turned(topic, label)
    a, b = writer.sentence(topic), writer.sentence(other)
    return {"sentence1": a, "sentence2": b}


def _qqp(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    other = topic if label else writer.turned(topic, int(writer.rng.integers(2, 4)))
    return {"question1": writer.sentence(topic), "question2": writer.sentence(other)}


def _mnli(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    other = [topic, 0 * topic, -topic][label]
    return {"premise": writer.sentence(topic), "hypothesis": writer.sentence(other)}


def _qnli(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    other = -topic if label else topic
    q = writer.words(topic, int(writer.rng.integers(4, 8)))
    return {"question": writer.text(q), "sentence": writer.sentence(other)}


def _rte(writer: Writer, label: int) -> Row:
    topic = writer.topic()
    other = -topic if label else topic
    q = writer.words(other, int(writer.rng.integers(4, 8)))
    return {"sentence1": writer.sentence(topic), "sentence2": writer.text(q)}


def _wnli(writer: Writer, label: int) -> Row:
    names = writer.rng.choice(writer.vocabulary.names, 2, replace=False).tolist()
    a, b = writer.words(writer.topic(), 5), writer.words(writer.topic(), 5)
    s1 = [names[0], *a, names[1], *b]
    return {"sentence1": writer.text(s1), "sentence2": writer.text([names[1 - label], *b])}


T = dict(
    cola=(_cola, 2, 0.7, 1.0, 2500),
    sst2=(_sst2, 2, 0.5, 0.3, 2500),
    mrpc=(_mrpc, 2, 0.6, 1.0, 2500),
    stsb=(_stsb, 4, 0.5, 1.0, 2500),
    qqp=(_qqp, 2, 0.4, 1.0, 2500),
    mnli=(_mnli, 3, 0.33, 1.0, 2500),
    qnli=(_qnli, 2, 0.5, 1.0, 2500),
    rte=(_rte, 2, 0.5, 1.0, 2000),
    wnli=(_wnli, 2, 0.45, 1.0, 635),
)
TASKS = tuple(T)


def make_task(task, seed, train=None, val=500):
    v = make_vocabulary(seed)
    i = TASKS.index(task)
    fn, k, p1, strength, n = T[task]
    n = train or n
    axes = [i, i + 9, i + 18]
    out = {}
    splits = (
        {"train": n, "validation": val}
        if task != "mnli"
        else {"train": n, "validation_matched": val, "validation_mismatched": val}
    )
    if task == "wnli":
        splits["validation"] = 71
    for s, (split, m) in enumerate(splits.items()):
        rng = np.random.default_rng([seed, i, s])
        w = Writer(
            v, axes, strength, rng, genre=-0.7 if "mis" in split else (0.7 if task == "mnli" else 0)
        )
        rows = []
        for idx in range(m):
            y = int(rng.integers(k)) if k > 2 else int(rng.random() < p1)
            r = fn(w, y)
            r["label"] = (
                float(np.clip(5 - 5 / 3 * y + rng.normal(0, 0.4), 0, 5)) if task == "stsb" else y
            )
            r["idx"] = idx
            rows.append(r)
        out[split] = rows
    return out
