"""ALDS: slices of each layer's channels, an SVD of each slice, one budget for all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.alds.cuts import AldsLayer, Cuts
    from lowrank_bench.alds.search import Choice
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class Alds(NetworkMethod):
    """Cut the input channels of each layer into groups, and truncate the SVD of each slice.

    Idea
        A layer with weight f×c×k1×k2 becomes a convolution with k groups of j channels, and a
        second one that mixes the groups. One rule sets the number of groups and the rank of each
        layer: minimize the largest relative error over all layers. A layer that no cut makes
        cheaper stays dense.
    Cost
        The eigenvalues of the slices' Gram matrices for all k: 3 CPU seconds for VGG16. The exact
        spectral error also needs the eigenvectors of some of them.
    Guarantee
        `search: exact` finds the optimum of the chosen error, up to rounding, without random
        starts. The spectral error of a layer bounds the change of its response to any input:
        ‖(W − Ŵ)x‖ ≤ error·‖W‖·‖x‖.

    Parameters
    ----------
    error
        What is minimized. `spectral`: ‖W − Ŵ‖/‖W‖, exact; `bound`: the upper bound of Theorem 1 of
        the paper; `unscaled`: that bound without √k, as in the published code; `frobenius`; `data`:
        relative error of the outputs on calibration inputs, with decoders fitted to all groups at
        once and the mean output kept by the bias; `loss`: as `data`, with outputs weighted by the
        gradients of the loss, in units of the loss.
    search
        `exact`, or `em`: the paper's Algorithm 1, the best of 15 random starts.
    groups
        `best`, or one number for all layers; each takes the divisor of its channels nearest to it.
    allocation
        `minimax`, or `uniform`: each layer keeps the same share of its cost.
    objective
        `minimax`, or `sum`: the least sum of squared errors, for the last three errors. Null means
        `sum` for `data` and `loss`, where the largest error of one layer says little about the
        error of the network, and `minimax` otherwise, as in the paper.
    schemes
        `0`: the first convolution keeps the whole kernel; `all`: each layer takes the best of the
        four ways to divide the kernel between the two convolutions (ALDS+).
    max_groups
        Largest number of groups, for `groups: best`. Many groups run slowly; with a latency budget
        null means 4.
    align
        Ranks are multiples of this number, in 1..256.

    References
    ----------
    Liebenwein, Maalouf, Gal, Feldman, Rus, "Compressing neural networks: towards determining the
    optimal layer-wise decomposition", NeurIPS 2021.
    """

    name: ClassVar[str] = "alds"
    title: ClassVar[str] = "ALDS"
    source: ClassVar[str] = "Liebenwein et al., NeurIPS 2021"
    quiet: ClassVar[tuple[str, ...]] = (
        "search",
        "groups",
        "allocation",
        "objective",
        "schemes",
        "max_groups",
        "align",
    )

    error: Literal["spectral", "bound", "unscaled", "frobenius", "data", "loss"] = Field(
        default="spectral", description="which error is minimized"
    )
    search: Literal["exact", "em"] = Field(
        default="exact", description="how the optimum is searched"
    )
    groups: Literal["best"] | int = Field(
        default="best", description="best, or one number for all layers"
    )
    allocation: Literal["minimax", "uniform"] = Field(
        default="minimax", description="how the budget is divided"
    )
    objective: Literal["minimax", "sum"] | None = Field(
        default=None, description="minimize the largest error or the sum of squares"
    )
    schemes: Literal["0", "all"] = Field(default="0", description="folding schemes, 0 or all")
    max_groups: int | None = Field(
        default=None, ge=1, strict=True, description="largest number of groups"
    )
    align: int = Field(
        default=1, ge=1, le=256, strict=True, description="ranks are multiples of this, at most 256"
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _counted(cls, groups: Any) -> Any:
        """Replace pydantic's two messages, one for each type, by one sentence."""
        whole = isinstance(groups, int) and not isinstance(groups, bool)
        if groups != "best" and not (whole and groups >= 1):
            raise ValueError("groups must be best or a whole number of at least 1")
        return groups

    @field_validator("schemes", mode="before")
    @classmethod
    def _named(cls, schemes: Any) -> Any:
        """Accept the number 0, which is how YAML reads the name."""
        return "0" if schemes == 0 and not isinstance(schemes, bool) else schemes

    @model_validator(mode="after")
    def _consistent(self) -> Alds:
        if self.groups != "best" and self.max_groups is not None:
            raise ValueError("max_groups needs groups = best; drop one of them")
        if self.objective == "sum" and self.error not in ("data", "loss", "frobenius"):
            raise ValueError("objective = sum needs error = data, loss or frobenius")
        if self.error in ("data", "loss") and self.schemes != "0":
            raise ValueError(f"error = {self.error} needs schemes = 0")
        if (self.search == "em" or self.objective == "sum") and self.allocation == "uniform":
            raise ValueError("allocation = uniform leaves nothing to search; drop one of them")
        if self.search == "em" and self.objective == "sum":
            raise ValueError("search = em needs objective = minimax")
        return self

    @property
    def rule(self) -> str:
        """Return the objective, or the default for the error where none is set."""
        free = self.search == "exact" and self.allocation == "minimax"
        return self.objective or ("sum" if self.error in ("data", "loss") and free else "minimax")

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the calibration data that the error needs."""
        return ("inputs",) if self.error in ("data", "loss") else ()

    def cuts(self) -> Cuts:
        """Return the cuts that the parameters allow."""
        from lowrank_bench.alds.cuts import Cuts

        groups = None if self.groups == "best" else int(self.groups)
        schemes = (0, 1, 2, 3) if self.schemes == "all" else (0,)
        return Cuts(self.error, groups, self.max_groups, schemes, self.align)

    def choose(self, layers: list[AldsLayer], budget: float, seed: int = 0) -> list[Choice]:
        """Return the choice for each layer.

        Raises
        ------
        LowRankError
            When the budget is below what the smallest cuts of all layers keep.
        """
        from lowrank_bench.alds import search as alds_search

        candidates = [layer.candidates for layer in layers]
        least = sum(layer.least for layer in candidates)
        if least > budget:
            dense = sum(layer.dense for layer in candidates)
            raise LowRankError(
                f"the budget of {budget:.10g} is below {least:.10g}, the least that alds can "
                f"keep of {dense:.10g}; the largest compression is {max(1 - least / dense, 0):.4f}"
            )
        if self.search == "em":
            return alds_search.em(candidates, budget, seed)
        if self.allocation == "uniform":
            return alds_search.uniform(candidates, budget)
        if self.rule == "sum":
            return alds_search.least_total(candidates, budget)
        return alds_search.exact(candidates, budget)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with sliced and truncated layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, a layer cannot be handled, or calibration data are
            needed and absent.
        """
        import time

        from lowrank_bench.alds.cuts import alds_layers
        from lowrank_bench.alds.search import filled
        from lowrank_bench.alds.summary import describe, summary
        from lowrank_bench.network.layers import replaced
        from lowrank_bench.network.problem import CompressedNetwork
        from lowrank_bench.network.scarce import warn_of_shortage

        start = time.process_time()
        layers = alds_layers(problem, self.cuts())
        budget = problem.allowance(compression)
        parts = [layer.candidates for layer in layers]
        least = sum(part.least for part in parts)
        if problem.budget == "bytes" and least > budget:  # what the target leaves out counts too
            raise LowRankError(
                "the budget is below what alds can keep; the largest share of bytes that it saves "
                f"here is {problem.reachable(least):.4f}"
            )
        chosen = self.choose(layers, budget, problem.seed)
        scarce: list[str] = []
        if self.error in ("data", "loss") and self.allocation != "uniform":
            chosen, raised = filled(parts, chosen, budget)
            scarce = [layers[place].layer.name for place in raised]
            warn_of_shortage(scarce)
        searched = time.process_time()
        new = {
            each.layer.name: each.replacement(problem.model.get_submodule(each.layer.name), choice)
            for each, choice in zip(layers, chosen, strict=True)
            if choice.cut is not None
        }
        seconds = {"search": searched - start, "factors": time.process_time() - searched}
        rows = describe(layers, chosen, new)
        info: dict[str, Any] = summary(self.error, self.rule, rows, chosen)
        if scarce:
            info["scarce_layers"] = scarce
        return CompressedNetwork(
            replaced(problem.model, new), rows, {**info, "cpu_seconds": seconds}
        )
