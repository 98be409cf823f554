"""How often a text will use each row of an embedding, told from the vocabulary alone.

Vocabularies are built from text, the most frequent first: WordPiece lists whole words and pieces
by their counts, byte-pair encoding its merges by theirs, and a unigram model keeps the logarithm
of each piece's probability.
"""

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError

# Zipf and Mandelbrot: a word of rank r is used in proportion to (r + SHIFT)^-POWER. Rare pieces
# fall off faster than 1 / r.
SHIFT = 30.0
POWER = 1.25
# Single characters of a sorted alphabet carry no rank. Those of ASCII, with the punctuation marks,
# are as common as frequent words; the others are rare.
ASCII_RANK = 200
ALPHABET = 8  # least length of a run of sorted characters that is taken for an alphabet
CONTINUES = "##"
MARKS = "\u2581\u0120"  # where a word starts, in SentencePiece and in byte-level vocabularies
UNUSED = re.compile(r"[\[<]?unused_?\d+[\]>]?|madeupword\d+|<extra_id_\d+>|<pad>|\[pad\]", re.I)


def vocabulary_frequency(tokenizer: Any, rows: int | None = None) -> Tensor:
    """Return the expected relative use of each row of an embedding, n float64 > 0 of sum 1.

    Ranks follow the order of the ids, or a unigram model's probabilities. Tokens that the
    tokenizer adds to every text come first; other special tokens, those reserved for later, and
    rows without a token come last.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    rows
        Rows n of the embedding; by default one for each token.

    Raises
    ------
    LowRankError
        When the tokenizer has no vocabulary, or more tokens than the embedding has rows.
    """
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    if not vocabulary:
        raise LowRankError(f"{type(tokenizer).__name__} has no vocabulary to read an order from")
    size = max(vocabulary.values()) + 1
    rows = size if rows is None else rows
    if rows < size:
        raise LowRankError(f"the tokenizer has {size} tokens, the embedding only {rows} rows")
    tokens: list[str | None] = [None] * rows
    for token, number in vocabulary.items():
        tokens[number] = token
    always, never = _special(tokenizer, tokens)
    ordinary = [i for i, token in enumerate(tokens) if token is not None and i not in never]
    ordinary = [i for i in ordinary if i not in always]
    scores = _unigram_scores(tokenizer)
    logs = _by_order(tokens, ordinary) if scores is None else _by_score(tokens, ordinary, scores)
    values = torch.full((rows,), min(logs.values(), default=0.0), dtype=torch.float64)
    for number, value in logs.items():
        values[number] = value
    values[sorted(always)] = max(logs.values(), default=0.0)
    return values.softmax(dim=0)


def _special(tokenizer: Any, tokens: list[str | None]) -> tuple[set[int], set[int]]:
    """Return the ids that every text holds, and those of tokens that no text is expected to."""
    always = set(tokenizer("")["input_ids"])
    special = set(tokenizer.all_special_ids)
    unused = {i for i, token in enumerate(tokens) if token and UNUSED.fullmatch(token)}
    return always, (special | unused) - always


def _model(tokenizer: Any) -> dict[str, Any]:
    """Return the model of a fast tokenizer as its file describes it; empty for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"] if hasattr(backend, "to_str") else {}


def _unigram_scores(tokenizer: Any) -> dict[str, float] | None:
    """Return the log-probability of each piece of a unigram model, or None for other models."""
    model = _model(tokenizer)
    return dict(model["vocab"]) if model.get("type") == "Unigram" else None


def _by_score(
    tokens: list[str | None], ordinary: list[int], scores: dict[str, float]
) -> dict[int, float]:
    """Return log-probabilities; tokens without one (it is negative) are rare."""
    known = {i: scores.get(tokens[i] or "", 0.0) for i in ordinary}
    least = min((value for value in known.values() if value < 0), default=0.0)
    return {i: value if value < 0 else least for i, value in known.items()}


def _by_order(tokens: list[str | None], ordinary: list[int]) -> dict[int, float]:
    """Return the logarithm of (rank + SHIFT)^-POWER."""
    letters = _alphabets(tokens, ordinary)
    ranked = [i for i in ordinary if i not in letters]
    ranks = {i: rank for rank, i in enumerate(ranked)}
    common = min(ASCII_RANK, len(ranked) // 2)
    for i in letters:
        token = tokens[i] or ""
        plain = token.isascii() and not token.startswith(CONTINUES)
        ranks[i] = common if plain else len(ranked)
    return {i: -POWER * math.log(rank + SHIFT) for i, rank in ranks.items()}


def _alphabets(tokens: list[str | None], ordinary: list[int]) -> set[int]:
    """Return the tokens of one character that stand in runs sorted by code point."""
    found: set[int] = set()
    run: list[int] = []
    last = -1
    for i in ordinary:
        token = tokens[i] or ""
        body = token.removeprefix(CONTINUES).lstrip(MARKS) or token
        point = ord(body) if len(body) == 1 else -1
        if not (point > last and run):
            if len(run) >= ALPHABET:
                found.update(run)
            run = []
        if point >= 0:
            run.append(i)
        last = point
    return found | set(run) if len(run) >= ALPHABET else found
