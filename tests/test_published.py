"""The label map of a published checkpoint: matched by name, never by position."""

from types import SimpleNamespace

import pytest

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.labels import output_order

MNLI = ["entailment", "neutral", "contradiction"]


def config(*names):
    return SimpleNamespace(id2label=dict(enumerate(names)))


def test_a_shuffled_label_map_is_reordered_to_match_the_task():
    order = output_order(config("CONTRADICTION", "Neutral", "entailment"), MNLI, [], "x")
    assert order == [2, 1, 0]


def test_generic_names_need_a_declaration():
    generic = config("LABEL_0", "LABEL_1", "LABEL_2")
    with pytest.raises(LowRankError, match="published"):
        output_order(generic, MNLI, [], "x")
    assert output_order(generic, MNLI, MNLI[::-1], "x") == [2, 1, 0]


def test_other_labels_are_refused():
    with pytest.raises(LowRankError, match="are not the task's"):
        output_order(config("yes", "no", "perhaps"), MNLI, [], "x")
    with pytest.raises(LowRankError, match="2 outputs"):
        output_order(config("entailment", "neutral"), MNLI, [], "x")
    with pytest.raises(LowRankError, match="contradict"):
        output_order(config(*MNLI), MNLI, MNLI[::-1], "x")


def test_a_regression_has_one_output():
    assert output_order(config("LABEL_0"), [], [], "x") == [0]
