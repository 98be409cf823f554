"""The contract of every method that codes, checked for each file in conf/method."""

import pytest
from configured_methods import codes

from lowrank_bench.testing import coding_checks, declaration


@pytest.fixture(params=codes())
def method(request):
    return request.param


@pytest.mark.parametrize("check", [*declaration.CHECKS, *coding_checks.CHECKS])
def test_the_contract_of_a_code(method, check):
    check(method)
