"""How often texts will use each row of an embedding, estimated from the vocabulary alone.

Vocabularies are built from text, with the most frequent entries first: WordPiece orders whole
words and pieces by their counts, byte-pair encoding orders its merges by theirs, and a unigram
model stores the logarithm of each piece's probability.
"""

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError

# Zipf's and Mandelbrot's law: a word of rank r is used in proportion to (r + SHIFT)^-POWER. Rare
# pieces fall off faster than 1 / r.
SHIFT = 30.0
POWER = 1.25
# The order of single characters in a sorted alphabet says nothing of their use. Those of ASCII,
# with the punctuation marks, are as common as frequent words; the others are rare.
ASCII_RANK = 200
ALPHABET = 8  # the shortest run of sorted characters that counts as an alphabet
CONTINUES = "##"
MARKS = "\u2581\u0120"  # the start of a word, in SentencePiece and in byte-level vocabularies
UNUSED = re.compile(r"[\[<]?unused_?\d+[\]>]?|madeupword\d+|<extra_id_\d+>|<pad>|\[pad\]", re.I)


def vocabulary_frequency(tokenizer: Any, rows: int | None = None) -> Tensor:
    """Return the expected relative use of each row of an embedding: n float64 > 0 with sum 1.

    Ranks follow the order of the ids, or the probabilities of a unigram model. Tokens that the
    tokenizer adds to every text come first. Other special tokens, unused ones, and rows without a
    token come last.

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
    tokens = _tokens(tokenizer, rows)
    always, never = _special(tokenizer, tokens)
    # Only ordinary tokens are ranked; special ones have no count to be ordered by.
    ordinary = [
        i
        for i, token in enumerate(tokens)
        if token is not None and i not in never and i not in always
    ]
    scores = _unigram_scores(tokenizer)
    logs = _by_order(tokens, ordinary) if scores is None else _by_score(tokens, ordinary, scores)
    # Every other row is as rare as the rarest ordinary token, or as common as the most common.
    values = torch.full((len(tokens),), min(logs.values(), default=0.0), dtype=torch.float64)
    for number, value in logs.items():
        values[number] = value
    values[sorted(always)] = max(logs.values(), default=0.0)
    return values.softmax(dim=0)


def _tokens(tokenizer: Any, rows: int | None) -> list[str | None]:
    """Return the token of each row of the embedding, None for rows without one."""
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    if not vocabulary:
        raise LowRankError(f"{type(tokenizer).__name__} has no vocabulary to rank its tokens by")
    size = max(vocabulary.values()) + 1
    rows = size if rows is None else rows
    if rows < size:
        raise LowRankError(f"the tokenizer has {size} tokens, the embedding only {rows} rows")
    tokens: list[str | None] = [None] * rows
    for token, number in vocabulary.items():
        tokens[number] = token
    return tokens


def _special(tokenizer: Any, tokens: list[str | None]) -> tuple[set[int], set[int]]:
    """Return the ids that every text contains, and those of tokens that no text should contain."""
    always = set(tokenizer("")["input_ids"])
    special = set(tokenizer.all_special_ids)
    unused = {i for i, token in enumerate(tokens) if token and UNUSED.fullmatch(token)}
    return always, (special | unused) - always


def _unigram_scores(tokenizer: Any) -> dict[str, float] | None:
    """Return the log-probability of each piece of a unigram model, or None for other models."""
    # Only fast tokenizers have a backend that describes its model.
    to_json = getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None)
    model = json.loads(to_json())["model"] if to_json is not None else {}
    return dict(model["vocab"]) if model.get("type") == "Unigram" else None


def _by_score(
    tokens: list[str | None], ordinary: list[int], scores: dict[str, float]
) -> dict[int, float]:
    """Return log-probabilities; a token without one counts as the rarest."""
    known = {i: scores.get(tokens[i] or "", 0.0) for i in ordinary}
    # Log-probabilities are negative: 0 stands for pieces that were added without one.
    least = min((value for value in known.values() if value < 0), default=0.0)
    return {i: value if value < 0 else least for i, value in known.items()}


def _by_order(tokens: list[str | None], ordinary: list[int]) -> dict[int, float]:
    """Return the logarithm of (rank + SHIFT)^-POWER for each ordinary token."""
    letters = _alphabets(tokens, ordinary)
    ranked = [i for i in ordinary if i not in letters]
    ranks = {i: rank for rank, i in enumerate(ranked)}
    # Letters get a rank by their kind: ASCII among the frequent words, the rest behind all.
    common = min(ASCII_RANK, len(ranked) // 2)
    for i in letters:
        token = tokens[i] or ""
        is_ascii = token.isascii() and not token.startswith(CONTINUES)
        ranks[i] = common if is_ascii else len(ranked)
    return {i: -POWER * math.log(rank + SHIFT) for i, rank in ranks.items()}


def _alphabets(tokens: list[str | None], ordinary: list[int]) -> set[int]:
    """Return the single-character tokens in runs that are sorted by code point."""
    letters: set[int] = set()
    run: list[int] = []
    last = -1
    for i in ordinary:
        token = tokens[i] or ""
        body = token.removeprefix(CONTINUES).lstrip(MARKS) or token
        point = ord(body) if len(body) == 1 else -1
        # A longer token, or a character out of order, ends the run; short runs are by chance.
        if not (point > last and run):
            if len(run) >= ALPHABET:
                letters.update(run)
            run = []
        if point >= 0:
            run.append(i)
        last = point
    return letters | set(run) if len(run) >= ALPHABET else letters
