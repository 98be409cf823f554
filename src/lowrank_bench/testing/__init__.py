"""Checks that every method must pass, for the authors of methods to run.

In a test file of pytest, with one test for each check:

    import pytest
    from lowrank_bench.testing import checks_for
    from rowsvd import RowSVD

    CHECKS = checks_for(RowSVD(power=-0.5))

    @pytest.mark.parametrize("name", CHECKS)
    def test_rowsvd(name):
        CHECKS[name]()

Without pytest, `check_method(RowSVD())` runs all of them and raises an `AssertionError` at the
first that fails. This package runs the same checks on the methods that it ships.
"""

from lowrank_bench.testing.contract import check_method, checks_for

__all__ = ["check_method", "checks_for"]
