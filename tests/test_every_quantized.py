"""The contract of quantized factors, checked for every method for matrices."""

import pytest

from lowrank_bench.methods import CodingMethod, make_method, method_class, method_names
from lowrank_bench.testing import declaration, quantized_checks

# Smaller than usual where a method searches: what is checked here is the rounding.
SMALL = {
    "messi": {"k": 3, "restarts": 1, "steps": 4},
    "frequency_sparse": {"limit": 3},
}
METHODS = [
    name
    for name in method_names()
    if "embedding" in method_class(name).targets
    and not issubclass(method_class(name), CodingMethod)
]


@pytest.fixture(params=METHODS)
def method(request):
    return make_method(request.param, **SMALL.get(request.param, {}))


@pytest.mark.parametrize("check", [*declaration.CHECKS[:2], *quantized_checks.CHECKS])
def test_the_contract_of_quantized_factors(method, check):
    if check is declaration.check_parameters:
        quantized = quantized_checks.in_bits(method, 4)
        assert type(quantized)(**quantized.model_dump()) == quantized
        assert type(quantized)(**quantized.model_dump(mode="json")) == quantized
    else:
        check(quantized_checks.in_bits(method, 4))


def test_auto_is_the_best_number_of_bits(method):
    assert quantized_checks.can_be_quantized(method)
    quantized_checks.check_choice_of_bits(method)
