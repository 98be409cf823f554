"""The generated suite: GLUE's schema, Zipf's law, planted tables, formats and seeds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import PROJECT
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lowrank_bench.errors import LowRankError
from lowrank_bench.synthetic.networks import ARCHITECTURES, build_network
from lowrank_bench.synthetic.tasks import TASKS, make_task
from lowrank_bench.synthetic.vocabulary import AXES, OUTLIERS, make_vocabulary, planted_table

# GLUE's columns and number of classes (0: a score), as in nyu-mll/glue.
GLUE = {
    "cola": (["sentence"], 2),
    "sst2": (["sentence"], 2),
    "mrpc": (["sentence1", "sentence2"], 2),
    "stsb": (["sentence1", "sentence2"], 0),
    "qqp": (["question1", "question2"], 2),
    "mnli": (["premise", "hypothesis"], 3),
    "qnli": (["question", "sentence"], 2),
    "rte": (["sentence1", "sentence2"], 2),
    "wnli": (["sentence1", "sentence2"], 2),
}


@pytest.fixture(scope="module")
def suite():
    return {task: make_task(task, 0) for task in TASKS}


def _texts(splits):
    rows = [row for split in splits.values() for row in split]
    return [text for row in rows for text in row.values() if isinstance(text, str)]


def test_columns_splits_and_labels_match_glue(suite):
    assert set(suite) == set(GLUE)
    for task, (columns, classes) in GLUE.items():
        held_out = (
            ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        )
        assert list(suite[task]) == ["train", *held_out]
        for rows in suite[task].values():
            assert all(list(row) == [*columns, "label", "idx"] for row in rows)
            assert [row["idx"] for row in rows] == list(range(len(rows)))
            labels = [row["label"] for row in rows]
            if classes:
                assert set(labels) == set(range(classes))
                assert all(type(label) is int for label in labels)
            else:
                assert all(type(label) is float and 0 <= label <= 5 for label in labels)
                assert np.std(labels) > 1


def test_no_class_has_more_than_three_quarters(suite):
    for task, (_, classes) in GLUE.items():
        for rows in suite[task].values() if classes else []:
            shares = np.bincount([row["label"] for row in rows]) / len(rows)
            assert 0.2 < shares.min() <= shares.max() < 0.75, task


def test_configured_tasks_match_the_generated_ones(suite):
    for task, splits in suite.items():
        config = yaml.safe_load((PROJECT / f"conf/task/quick_{task}.yaml").read_text())
        columns, classes = GLUE[task]
        assert config["columns"] == columns
        assert len(config["labels"]) == classes
        named = [config["train"]["split"], *(part["split"] for part in config["evaluation"])]
        assert named == list(splits)


def test_splits_share_no_row(suite):
    for task, splits in suite.items():
        rows = [" | ".join(_texts({"one": [row]})) for split in splits.values() for row in split]
        assert len(set(rows)) > 0.99 * len(rows), task


def test_word_frequencies_follow_zipf(suite):
    words = " ".join(text for splits in suite.values() for text in _texts(splits)).split()
    _, counts = np.unique(words, return_counts=True)
    ranks = np.arange(10, 1001)
    slope = np.polyfit(np.log(ranks), np.log(np.sort(counts)[::-1][ranks - 1]), 1)[0]
    assert -1.2 < slope < -0.6
    assert set(words) <= set(make_vocabulary(0).words)


def test_labels_follow_the_planted_meanings(suite):
    """The mean meaning along SST-2's axes separates its classes; along another axis it does not."""
    vocabulary = make_vocabulary(0)
    place = {word: i for i, word in enumerate(vocabulary.words)}
    rows, task = suite["sst2"]["train"], TASKS.index("sst2")
    ids = [[place[word] for word in row["sentence"].split()] for row in rows]
    means = np.array([vocabulary.meanings[i].mean(axis=0) for i in ids])
    positive = np.array([row["label"] for row in rows]) == 1
    gap = means[positive].mean(axis=0) - means[~positive].mean(axis=0)
    read = [task, task + 9, task + 18]
    assert gap[read].min() > 5 * np.abs(np.delete(gap, read)).max()


def test_vocabulary_has_distinct_words_and_decreasing_probabilities():
    vocabulary = make_vocabulary(0)
    assert len(set(vocabulary.words)) == len(vocabulary)
    assert all(word.isalpha() and word.islower() for word in vocabulary.words)
    assert np.all(np.diff(vocabulary.probabilities) < 0)
    assert vocabulary.probabilities.sum() == pytest.approx(1)
    assert not vocabulary.meanings[[*vocabulary.functions, *vocabulary.names]].any()


def test_planted_table_has_few_long_rows_outside_the_meanings():
    vocabulary = make_vocabulary(0)
    table = planted_table(vocabulary, 64, specials=5, seed=0)[5:].astype(np.float64)
    norms = np.linalg.norm(table, axis=1)
    longest = np.sort(np.argsort(norms)[-OUTLIERS:])
    np.testing.assert_array_equal(longest, vocabulary.outliers)
    assert norms[vocabulary.outliers].min() > 2 * np.median(norms)
    ordinary = np.delete(np.arange(len(table)), vocabulary.outliers)
    spectrum = np.linalg.svd(table[ordinary], compute_uv=False)
    assert spectrum[AXES - 1] > 2 * spectrum[AXES]
    # A least-squares fit from the meanings leaves only the noise of the ordinary rows.
    fit = vocabulary.meanings[ordinary]
    left = table[ordinary] - fit @ np.linalg.lstsq(fit, table[ordinary], rcond=None)[0]
    assert np.linalg.norm(left) < 0.4 * np.linalg.norm(table[ordinary])


def test_svd_spends_its_rank_on_outliers_at_the_cost_of_ordinary_rows():
    vocabulary = make_vocabulary(0)
    table = planted_table(vocabulary, 64, specials=5, seed=0)[5:].astype(np.float64)
    ordinary = np.delete(table, vocabulary.outliers, axis=0)

    def kept(rows):
        basis = np.linalg.svd(rows, full_matrices=False)[2][:15]
        return (np.linalg.norm(ordinary @ basis.T) / np.linalg.norm(ordinary)) ** 2

    assert kept(table) < kept(ordinary) - 0.2


PAIRS = {
    "bert": ("[CLS] {a} [SEP] {b} [SEP]", "[CLS] {a} [SEP]", "00001111", "right"),
    "distilbert": ("[CLS] {a} [SEP] {b} [SEP]", "[CLS] {a} [SEP]", None, "right"),
    "roberta": ("<s> {a} </s> </s> {b} </s>", "<s> {a} </s>", None, "right"),
    "xlnet": ("{a} <sep> {b} <sep> <cls>", "{a} <sep> <cls>", "00011112", "left"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokenizer_has_the_format_of_its_family_and_survives_saving(architecture, tmp_path):
    model, tokenizer = build_network(architecture, 0, num_labels=2)
    words = make_vocabulary(0).words
    a, b = f"{words[0]} {words[2999]}", " ".join(words[100:103])
    pair, single, types, side = PAIRS[architecture]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        encoded = each(a, b)
        assert each.convert_ids_to_tokens(encoded["input_ids"]) == pair.format(a=a, b=b).split()
        assert each.convert_ids_to_tokens(each(a)["input_ids"]) == single.format(a=a).split()
        assert ("token_type_ids" in encoded) == (types is not None)
        if types:
            assert encoded["token_type_ids"] == [int(t) for t in types]
        padded = each([a, f"{a} {b}"], padding=True)["attention_mask"][0]
        assert padded[0] == (0 if side == "left" else 1)
        assert each("unheard")["input_ids"].count(each.unk_token_id) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network_survives_saving_and_ignores_padding(architecture, tmp_path):
    model, tokenizer = build_network(architecture, 0, num_labels=3)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    texts = [" ".join(make_vocabulary(0).words[50:57])] * 2
    short, long = (
        tokenizer(texts, return_tensors="pt", padding="max_length", max_length=n) for n in (9, 20)
    )
    with torch.inference_mode():
        logits = model(**short).logits
        assert torch.equal(again(**short).logits, logits)
        torch.testing.assert_close(model(**long).logits, logits, atol=1e-5, rtol=1e-4)
    assert logits.shape == (2, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network_contains_the_planted_rows_whatever_torchs_seed(architecture):
    torch.manual_seed(1)
    first, tokenizer = build_network(architecture, 0, num_labels=1)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, _ = build_network(architecture, 0, num_labels=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    vocabulary = make_vocabulary(0)
    table = first.get_input_embeddings().weight.detach().numpy()
    ids = tokenizer.convert_tokens_to_ids(list(vocabulary.words))
    planted = planted_table(vocabulary, 64, 5, ARCHITECTURES.index(architecture))
    np.testing.assert_array_equal(table[ids], planted[5:])
    assert first.config.problem_type == "regression"
    other, _ = build_network(architecture, 0, num_labels=1, body_seed=1)
    assert torch.equal(other.get_input_embeddings().weight, first.get_input_embeddings().weight)
    assert not all(map(torch.equal, other.parameters(), first.parameters()))


SCRIPT = """
import hashlib, json
from lowrank_bench.synthetic.tasks import TASKS, make_task
from lowrank_bench.synthetic.vocabulary import make_vocabulary, planted_table
text = json.dumps({task: make_task(task, 0) for task in TASKS})
table = planted_table(make_vocabulary(0), 64, 5, 0).tobytes()
print(json.dumps([hashlib.sha256(part).hexdigest() for part in (text.encode(), table)]))
"""


def test_bytes_do_not_depend_on_hash_seed_or_threads():
    digests = []
    for number in ("1", "2"):
        setting = {"PYTHONHASHSEED": number, "OMP_NUM_THREADS": number}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | setting | {"OPENBLAS_NUM_THREADS": number},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(json.loads(run.stdout))
    assert digests[0] == digests[1]


def test_another_seed_gives_another_suite(suite):
    other = make_task("rte", 1)
    assert not set(_texts(other)) & set(_texts(suite["rte"]))
    assert make_vocabulary(1).words != make_vocabulary(0).words


def test_vocabulary_and_tasks_import_no_torch():
    script = "import sys, lowrank_bench.synthetic.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: make_task("ax", 0), "'ax'"),
        (lambda: build_network("gpt", 0, 2), "'gpt'"),
        (lambda: build_network("bert", 0, 2, depth=3), "'depth'"),
    ],
)
def test_unknown_names_are_named(call, culprit):
    with pytest.raises(LowRankError, match=culprit) as caught:
        call()
    assert "there are" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [{"width": 32}, {"width": 64, "heads": 5}])
def test_invalid_widths_are_refused(sizes):
    with pytest.raises(LowRankError, match=f"width {sizes['width']}.*at least {AXES + OUTLIERS}"):
        build_network("bert", 0, 2, **sizes)
