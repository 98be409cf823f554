"""Seconds: clocks, what layers take at other sizes, and latency budgets that are kept."""

from importlib import import_module
from typing import TYPE_CHECKING

from lowrank_bench.store.sources import Sources

if TYPE_CHECKING:
    from lowrank_bench.network.problem import SecondsModel

# The code behind a budget of latency. It is loaded by name, so that no other budget depends on it.
SOURCES = Sources("lowrank_bench.latency.measured")


def seconds_for(budget: str) -> "SecondsModel | None":
    """Return what a `NetworkProblem` with this budget needs as `seconds`; None unless latency."""
    if budget != "latency":
        return None
    model: SecondsModel = import_module(SOURCES[0]).MeasuredSeconds()
    return model
