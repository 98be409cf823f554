"""Evaluation: order, padding and batch size must not show in the predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

from lowrank_bench.synthetic.networks import build_network
from lowrank_bench.synthetic.tasks import make_task
from lowrank_bench.text.batches import Collator, length_sorted, shuffled
from lowrank_bench.text.encode import encode
from lowrank_bench.text.predict import predict

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


def test_left_padding_is_kept_for_networks_that_want_it(rows):
    _, tokenizer = build_network("xlnet", 0, num_labels=2)
    encoded = encode(rows, tokenizer, TEXT | {"max_length": 128})
    mask = Collator(tokenizer)(encoded, np.argsort(encoded.lengths)[[0, -1]])["attention_mask"]
    assert mask[0, 0] == 0
    assert mask[0, -1] == 1
