"""The contract of every matrix method, checked for each file in conf/method.

A new method is discovered by its file and gets these tests for free. The checks themselves are in
`lowrank_bench.testing`, where the authors of plug-ins find them too.
"""

import pytest
import torch
import yaml
from configured_methods import CONFIGS, configured

from lowrank_bench.methods import MatrixMethod, method_names
from lowrank_bench.testing import declaration, matrix_checks


@pytest.fixture(params=configured("embedding"))
def method(request) -> MatrixMethod:
    return request.param


def test_the_configurations_name_every_method():
    named = {yaml.safe_load(file.read_text())["name"] for file in CONFIGS.glob("*.yaml")}
    assert named == set(method_names())


@pytest.mark.parametrize("check", declaration.CHECKS)
def test_what_the_class_declares(method: MatrixMethod, check):
    check(method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_precision(method: MatrixMethod, dtype: torch.dtype):
    matrix_checks.check_shapes_and_precision(method, dtype)


def test_the_same_input_gives_the_same_bits(method: MatrixMethod):
    matrix_checks.check_determinism(method)


def test_more_rank_is_less_error(method: MatrixMethod):
    matrix_checks.check_more_rank_is_less_error(method)


@pytest.mark.parametrize("compression", [0.15, 0.3, 0.5, 0.7])
def test_no_budget_is_exceeded(method: MatrixMethod, compression: float):
    matrix_checks.check_budget(method, compression)


def test_an_impossible_budget_is_refused(method: MatrixMethod):
    matrix_checks.check_impossible_budget(method)


def test_network_saved_and_loaded_predicts_the_same_bits(method: MatrixMethod):
    matrix_checks.check_save_and_load(method)


def test_the_stored_decomposition_gives_the_same_factors(method: MatrixMethod):
    matrix_checks.check_stored_decomposition(method)


def test_permuting_the_rows_changes_nothing(method: MatrixMethod):
    if method.row_order:
        pytest.skip("its parts or starts follow the order of the rows")
    matrix_checks.check_order_of_rows(method)


def test_gradients_reach_every_parameter(method: MatrixMethod):
    matrix_checks.check_gradients(method)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(method: MatrixMethod, scale: float):
    matrix_checks.check_scale(method, scale)


def test_a_zero_matrix_stays_zero(method: MatrixMethod):
    matrix_checks.check_zero_matrix(method)


def test_missing_or_wrong_facts_are_named(method: MatrixMethod):
    matrix_checks.check_facts(method)
