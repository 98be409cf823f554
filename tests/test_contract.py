"""The checks of `lowrank_bench.testing`: which ones a method gets, and that they find faults."""

from typing import ClassVar

import pytest
import torch
from pydantic import Field

from lowrank_bench.linalg.decomposition import Single
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.methods.alds import Alds
from lowrank_bench.methods.base import MatrixMethod
from lowrank_bench.methods.softnet import SoftNet
from lowrank_bench.methods.svd import Svd
from lowrank_bench.testing import check_method, checks_for
from lowrank_bench.testing.compare import are_near, is_near, refused


def test_a_method_gets_the_checks_of_its_targets():
    names = {type(method): set(checks_for(method)) for method in (Svd(), Alds(), SoftNet())}
    assert {"shapes[torch.float32]", "scale[1e-30]", "check_facts"} <= names[Svd]
    assert {"conv-budget[0.5]", "linear-check_independence"} <= names[Svd] & names[Alds]
    assert not any(name.startswith("scale") for name in names[Alds])
    assert not any(name.startswith("linear") for name in names[SoftNet])
    assert len(names[Svd]) == 3 + 17 + 11 + 2 * 12


def test_a_method_that_keeps_everything_passes():
    check_method(SoftNet())


class Faulty(MatrixMethod):
    """An SVD with faults to find."""

    name: ClassVar[str] = "faulty"
    title: ClassVar[str] = "Faulty"
    source: ClassVar[str] = "tests"
    nested: ClassVar[bool] = False

    fault: str = Field("", description="what is wrong")

    def decompose(self, problem):
        a, rank = problem.matrix, problem.wanted_rank
        basis = torch.linalg.svd(a, full_matrices=False).Vh[:rank].T
        if self.fault == "random":
            basis = torch.linalg.qr(basis + torch.randn(basis.shape) * 1e-3).Q
        if self.fault == "scale":
            gram = a.T @ a + torch.eye(a.shape[1]).double()
            basis = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank]
        if self.fault == "order":
            basis = torch.linalg.svd(a[:60], full_matrices=False).Vh[:rank].T
        if self.fault == "size":
            basis = torch.linalg.svd(a, full_matrices=False).Vh[: rank + 1].T
        if self.fault == "precision":
            return Single(Factors((a @ basis).half().double() * torch.inf, basis.T), rank, {})
        return Single(Factors(a @ basis, basis.T.contiguous()), rank, {})


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("random", "check_determinism"),
        ("scale", "scale[1e-30]"),
        ("order", "check_order_of_rows"),
        ("size", "budget[0.5]"),
        ("precision", "shapes[torch.float64]"),
    ],
)
def test_a_fault_is_found_by_its_check(fault, check):
    checks_for(Faulty())[check]()
    with pytest.raises((AssertionError, ValueError)):
        checks_for(Faulty(fault=fault))[check]()


def test_a_declaration_that_lacks_something_is_found():
    class Untitled(Svd):
        title: ClassVar[str] = ""

    class Vague(Faulty):
        power: float = 1.0

    class Ambiguous(Svd):
        texts: int = Field(1, description="also an argument of compress_embedding")

    class Lost(Svd):
        quiet: ClassVar[tuple[str, ...]] = ("rank",)

    for method, check, message in (
        (Untitled(), "check_names", "title is empty"),
        (Lost(), "check_names", "quiet names an unknown parameter"),
        (Vague(), "check_parameters", "the parameter power has no description"),
        (Ambiguous(), "check_parameters", "texts is an argument of compress"),
    ):
        with pytest.raises(AssertionError, match=message):
            checks_for(method)[check]()


def test_comparisons():
    assert is_near(1 + 1e-7, 1)
    assert is_near(1e-13, 0)
    assert not is_near(1 + 1e-5, 1)
    assert not is_near(float("nan"), 1)
    assert are_near({"a": 1.0}, {"a": 1.0 + 1e-9})
    assert not are_near({"a": 1.0}, {"b": 1.0})
    with pytest.raises(AssertionError, match="expected a LowRankError"), refused("rank"):
        pass
    with pytest.raises(AssertionError, match="does not match"), refused("rank"):
        Svd(p=1)
