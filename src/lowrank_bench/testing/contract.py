"""Gather the checks that apply to a method."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from lowrank_bench.methods import CodingMethod, MatrixMethod, Method, NetworkMethod
from lowrank_bench.testing import (
    coding_checks,
    declaration,
    matrix_checks,
    network_checks,
    quantized_checks,
)

Check = Callable[[], None]


def checks_for(method: Method) -> dict[str, Check]:
    """Return the checks of a method on all its targets, functions without arguments, by name.

    Parameters
    ----------
    method
        An object with the parameters to check, such as `Lp(p=1.5)`.
    """
    return dict(_checks(method))


def check_method(method: Method) -> None:
    """Run all checks of a method.

    Raises
    ------
    AssertionError
        When one of them fails; its name is in the traceback.
    """
    for check in checks_for(method).values():
        check()


def _checks(method: Method) -> Iterator[tuple[str, Check]]:
    for function in declaration.CHECKS:
        yield function.__name__, partial(function, method)
    if isinstance(method, CodingMethod):
        for check in coding_checks.CHECKS:
            yield check.__name__, partial(check, method)
    elif isinstance(method, MatrixMethod) and "embedding" in method.targets:
        yield from _matrix_checks(method)
    if isinstance(method, NetworkMethod):
        for target in [target for target in method.targets if target != "embedding"]:
            yield from _network_checks(method, target)


def _matrix_checks(method: MatrixMethod) -> Iterator[tuple[str, Check]]:
    checks = matrix_checks
    for dtype in (torch.float32, torch.float64):
        yield f"shapes[{dtype}]", partial(checks.check_shapes_and_precision, method, dtype)
    for compression in checks.COMPRESSIONS:
        yield f"budget[{compression}]", partial(checks.check_budget, method, compression)
    for scale in checks.SCALES:
        yield f"scale[{scale}]", partial(checks.check_scale, method, scale)
    for function in checks.CHECKS:
        yield function.__name__, partial(function, method)
    if quantized_checks.can_be_quantized(method):
        few = quantized_checks.in_bits(method, 4)
        for check in quantized_checks.CHECKS:
            yield f"quantized-{check.__name__}", partial(check, few)
        choice = quantized_checks.check_choice_of_bits
        yield choice.__name__, partial(choice, method)


def _network_checks(method: NetworkMethod, target: str) -> Iterator[tuple[str, Check]]:
    checks = network_checks
    for compression in checks.COMPRESSIONS:
        check = partial(checks.check_budget, method, target, compression)
        yield f"{target}-budget[{compression}]", check
    for function in checks.CHECKS:
        yield f"{target}-{function.__name__}", partial(function, method, target)
