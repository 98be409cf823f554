"""Facts about rows: Fisher information and token counts, against one example at a time."""

from collections import Counter

import pandas as pd
import pytest
import torch

from lowrank_bench.factorize import fisher
from lowrank_bench.factorize.fisher import fisher_information
from lowrank_bench.inputs.rows import with_outputs
from lowrank_bench.inputs.text.counts import token_counts
from lowrank_bench.inputs.text.encode import encode
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.synthetic.networks import build_network
from lowrank_bench.synthetic.tasks import make_task

CASES = {"mrpc": (["sentence1", "sentence2"], ["a", "b"]), "stsb": (["sentence1", "sentence2"], [])}


def example(name, architecture="bert"):
    columns, labels = CASES[name]
    model, tokenizer = build_network(architecture, 0, num_labels=max(1, len(labels)))
    rows = pd.DataFrame(make_task(name, 0)["validation"][:12])
    text = {"columns": columns, "label": "label", "labels": labels, "max_length": 64}
    return model.eval(), tokenizer, encode(rows, tokenizer, text)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *((name, "bert") for name in CASES),
        *(("mrpc", a) for a in ("distilbert", "roberta", "xlnet")),
    ],
)
def test_each_examples_own_gradient_is_squared(name, architecture):
    model, tokenizer, encoded = example(name, architecture)
    _, embedding = find_embedding(model)
    embedding.padding_idx = None  # because the layer's own gradient leaves out the padding
    total = torch.zeros(embedding.num_embeddings, dtype=torch.float64)
    for number, label in enumerate(encoded.labels):
        inputs = {key: torch.tensor(ids[None]).long() for key, ids in encoded.row(number).items()}
        logits = model(**inputs).logits
        if name == "stsb":
            loss = (logits[0, 0] - float(label)) ** 2
        else:
            loss = -logits[0].log_softmax(dim=0)[int(label)]
        (gradient,) = torch.autograd.grad(loss, embedding.weight)
        total += gradient.double().square().sum(dim=1)
    found = fisher_information(model, tokenizer, encoded, max_tokens=120)
    torch.testing.assert_close(found, total / len(encoded), rtol=1e-3, atol=1e-9)
    used = set(encoded.tokens["input_ids"].tolist())
    assert {int(row) for row in found.nonzero()} == used


def test_a_large_task_is_sampled(monkeypatch):
    model, tokenizer, encoded = example("mrpc")
    monkeypatch.setattr(fisher, "EXAMPLES", 3)
    one, two = (fisher_information(model, tokenizer, encoded, 500, seed=s) for s in (0, 0))
    assert torch.equal(one, two)
    whole = set(encoded.tokens["input_ids"].tolist())
    assert 0 < int((one > 0).sum()) < len(whole)


@pytest.mark.parametrize("name", list(CASES))
def test_labels_follow_the_order_of_the_outputs(name):
    columns, labels = CASES[name]
    _, tokenizer = build_network("bert", 0, num_labels=2)
    rows = pd.DataFrame(make_task(name, 0)["validation"][:12])
    text = {"columns": columns, "label": "label", "labels": labels, "max_length": 64}
    plain = encode(rows, tokenizer, text)
    turned = with_outputs(plain, labels, [1, 0] if labels else [0])
    expected = 1 - plain.labels if labels else plain.labels
    assert turned.labels.tolist() == expected.tolist()


def test_counts_equal_those_of_a_counter():
    _, _, encoded = example("mrpc")
    ids = [encoded.row(number)["input_ids"].tolist() for number in range(len(encoded))]
    found = token_counts(ids, 3000)
    expected = Counter(token for row in ids for token in row)
    assert {int(i): int(found[i]) for i in found.nonzero()} == dict(expected)
