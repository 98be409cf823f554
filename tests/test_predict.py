"""Evaluation: order, padding and batch size must not affect the predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

from lowrank_bench.inputs.text.batches import Collator, length_sorted, shuffled
from lowrank_bench.inputs.text.encode import encode, read_encoded, tokenizer_name, write_encoded
from lowrank_bench.inputs.text.predict import predict
from lowrank_bench.synthetic.networks import build_network
from lowrank_bench.synthetic.tasks import make_task

TEXT = {"columns": ["sentence1", "sentence2"], "label": "label", "labels": ["a", "b"]}


@pytest.fixture(scope="module")
def rows():
    return pd.DataFrame(make_task("mrpc", 0)["validation"][:90])


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "xlnet"])
def test_length_sorted_batches_equal_the_padded_unsorted_pass(architecture, rows):
    model, tokenizer = build_network(architecture, 0, num_labels=2)
    model.eval()
    encoded = encode(rows, tokenizer, TEXT | {"max_length": 128})
    ours = predict(model, tokenizer, encoded, max_tokens=300)
    texts = [rows[column].tolist() for column in TEXT["columns"]]
    with torch.inference_mode():
        batch = tokenizer(*texts, padding="max_length", max_length=64, return_tensors="pt")
        plain = model(**batch).logits.numpy()
    assert len(set(encoded.lengths)) > 5
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    np.testing.assert_allclose(ours, predict(model, tokenizer, encoded, 10**6), atol=1e-5)


def test_output_order_permutes_the_labels(rows):
    model, tokenizer = build_network("bert", 0, num_labels=3)
    encoded = encode(rows.head(8), tokenizer, TEXT | {"max_length": 128})
    plain = predict(model.eval(), tokenizer, encoded, 500)
    permuted = predict(model, tokenizer, encoded, 500, output_order=[2, 0, 1])
    np.testing.assert_array_equal(permuted, plain[:, [2, 0, 1]])


def test_long_rows_are_cut_to_max_length(rows):
    _, tokenizer = build_network("bert", 0, num_labels=2)
    assert encode(rows, tokenizer, TEXT | {"max_length": 9}).lengths.max() == 9


@pytest.mark.parametrize("max_tokens", [1, 50, 400])
def test_batches_hold_every_row_once_within_the_budget(max_tokens):
    lengths = np.random.default_rng(0).integers(3, 60, size=200)
    batches = length_sorted(lengths, max_tokens)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= max_tokens for b in batches)


def test_training_batches_hold_every_row_once_and_change_with_the_seed():
    lengths = np.random.default_rng(0).integers(3, 60, size=203)
    first, second = (shuffled(lengths, 16, np.random.default_rng(seed)) for seed in (0, 1))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(203))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    spread = np.mean([np.ptp(lengths[batch]) for batch in first])
    assert spread < np.ptp(lengths) / 2


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "xlnet"])
def test_padding_equals_that_of_transformers(architecture, rows):
    _, tokenizer = build_network(architecture, 0, num_labels=2)
    encoded = encode(rows, tokenizer, TEXT | {"max_length": 40})
    some = np.random.default_rng(0).permutation(len(rows))[:17]
    texts = [rows[column].iloc[some].tolist() for column in TEXT["columns"]]
    plain = tokenizer(*texts, truncation=True, max_length=40, padding=True, return_tensors="pt")
    ours = Collator(tokenizer)(encoded, some)
    assert ours.keys() == plain.keys()
    assert 0 in plain["attention_mask"]
    for name, values in plain.items():
        assert torch.equal(ours[name], values)


def test_stored_rows_are_those_that_were_encoded(rows, tmp_path):
    _, tokenizer = build_network("bert", 0, num_labels=2)
    encoded = encode(rows, tokenizer, TEXT | {"max_length": 40})
    write_encoded(encoded, tmp_path)
    found = read_encoded(tmp_path)
    assert isinstance(found.tokens["input_ids"], np.memmap)
    for i in range(len(rows)):
        texts = [rows[column].iloc[i] for column in TEXT["columns"]]
        plain = tokenizer(*texts, truncation=True, max_length=40)
        assert found.row(i)["input_ids"].tolist() == plain["input_ids"]
        assert found.row(i)["token_type_ids"].tolist() == plain["token_type_ids"]
    assert found.labels.tolist() == rows["label"].tolist()


def test_a_tokenizers_key_follows_its_settings_not_its_past_use(rows):
    _, first = build_network("bert", 0, num_labels=2)
    _, second = build_network("bert", 0, num_labels=2)
    _, other = build_network("roberta", 0, num_labels=2)
    before = tokenizer_name(first)
    encode(rows, first, TEXT | {"max_length": 9})
    assert tokenizer_name(first) == before == tokenizer_name(second) != tokenizer_name(other)
    first.add_tokens(["unheard-of"])
    assert tokenizer_name(first) != before
