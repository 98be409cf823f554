"""The expected use of tokens, for real tokenizers trained on text with known counts."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.text.vocabulary import vocabulary_frequency

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def text() -> list[str]:
    """Sentences of 60 pseudo-words whose frequencies decay as 1 / rank."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 7))) for _ in range(60)]
    share = 1 / np.arange(1, 61)
    return [" ".join(rng.choice(words, 12, p=share / share.sum())) for _ in range(800)]


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind == "wordpiece":
        raw, make = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer
        raw.pre_tokenizer, extra = pre_tokenizers.Whitespace(), {}
    elif kind == "bpe":
        raw, make = Tokenizer(models.BPE()), trainers.BpeTrainer
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        extra = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        raw, make = Tokenizer(models.Unigram()), trainers.UnigramTrainer
        raw.pre_tokenizer, extra = pre_tokenizers.Metaspace(), {"unk_token": "[UNK]"}
    size = 420 if kind == "bpe" else 220
    trainer = make(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **extra)
    raw.train_from_iterator(text(), trainer)
    ids = [(name, raw.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **{f"{key}_token": value for key, value in names.items()}
    )


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_frequency_follows_the_counts_of_the_text(kind):
    found = tokenizer(kind)
    frequency = vocabulary_frequency(found)
    counts = Counter(i for row in found(text())["input_ids"] for i in row)
    assert frequency.dtype == torch.float64
    assert frequency.shape == (len(found),)
    assert (frequency > 0).all()
    assert frequency.sum().item() == pytest.approx(1)
    used = [i for i in counts if i not in found.all_special_ids]
    rank = spearmanr([counts[i] for i in used], frequency[used]).statistic
    assert rank > 0.3
    # A uniform guess needs more bits to encode the text.
    total = sum(counts.values())
    bits = -sum(c * torch.log2(frequency[i]).item() for i, c in counts.items()) / total
    assert bits < np.log2(len(found))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_special_tokens(kind):
    found = tokenizer(kind)
    frequency = vocabulary_frequency(found)
    place = {name: frequency[found.convert_tokens_to_ids(name)].item() for name in SPECIAL}
    assert place["[CLS]"] == place["[SEP]"] == frequency.max().item()  # in every text
    for name in ("[PAD]", "[unused0]", "[UNK]", "[MASK]"):
        assert place[name] == frequency.min().item()


def test_unigram_keeps_the_ratios_of_its_probabilities():
    found = tokenizer("unigram")
    pieces = json.loads(found.backend_tokenizer.to_str())["model"]["vocab"]
    scores = [(found.convert_tokens_to_ids(piece), score) for piece, score in pieces if score < 0]
    ids, logs = zip(*scores, strict=True)
    gaps = vocabulary_frequency(found)[list(ids)].log() - torch.tensor(logs, dtype=torch.float64)
    assert gaps.max().item() == pytest.approx(gaps.min().item(), abs=1e-9)


def test_a_sorted_alphabet_is_not_mistaken_for_ranks():
    letters = ["!", "'", ",", "-", ".", "0", "1", "a", "b", "é", "中", "語"]
    words = [f"word{i}" for i in range(500)]
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *letters, *words])}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    found = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    place = dict(zip(vocabulary, vocabulary_frequency(found).tolist(), strict=True))
    assert place["word0"] > place["."] == place["!"] > place["word499"] >= place["中"]


def test_rows_without_a_token_are_rare_and_too_few_rows_are_refused():
    found = tokenizer("wordpiece")
    frequency = vocabulary_frequency(found, len(found) + 3)
    assert frequency[-3:].tolist() == [frequency.min().item()] * 3
    with pytest.raises(LowRankError, match="only 10 rows"):
        vocabulary_frequency(found, 10)
    with pytest.raises(LowRankError, match="no vocabulary"):
        vocabulary_frequency(object())
