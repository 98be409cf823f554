"""The contract of every method for whole networks, checked for each file in conf/method.

A new method is discovered by its file and gets these tests for free. The checks themselves are in
`lowrank_bench.testing`, where the authors of plug-ins find them too.
"""

import pytest
from configured_methods import configured

from lowrank_bench.methods import NetworkMethod
from lowrank_bench.testing import declaration, network_checks

CASES = [
    pytest.param((case.values[0], target), id=f"{target}-{case.id}")
    for target in ("conv", "linear")
    for case in configured(target)
]


@pytest.fixture(params=CASES)
def case(request) -> tuple[NetworkMethod, str]:
    """Return a method and a target."""
    return request.param


@pytest.mark.parametrize("check", declaration.CHECKS)
def test_what_the_class_declares(case, check):
    check(case[0])


@pytest.mark.parametrize("compression", [0.2, 0.5, 0.7])
def test_no_budget_is_exceeded_and_the_report_matches_what_is_stored(case, compression: float):
    network_checks.check_budget(*case, compression)


def test_the_multiply_adds_equal_torchs_count(case):
    network_checks.check_multiply_adds(*case)


def test_a_budget_of_multiply_adds_is_kept(case):
    network_checks.check_budget_of_multiply_adds(*case)


def test_the_input_network_is_left_unchanged(case):
    network_checks.check_input_is_left_alone(*case)


def test_the_same_call_gives_the_same_bits(case):
    network_checks.check_determinism(*case)


def test_a_saved_and_loaded_network_predicts_the_same_bits(case):
    network_checks.check_save_and_load(*case)


def test_it_can_be_trained_further(case):
    network_checks.check_training(*case)


def test_an_impossible_budget_is_refused_in_one_line(case):
    network_checks.check_impossible_budget(*case)


def test_methods_that_need_data_ask_for_them(case):
    network_checks.check_data_are_asked_for(*case)


def test_a_network_does_not_depend_on_what_was_compressed_before(case):
    network_checks.check_independence(*case)
