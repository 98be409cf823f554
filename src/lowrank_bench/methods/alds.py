"""ALDS: channel slices of every layer, an SVD for each, and one budget for all layers."""

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
        A layer with weight f×c×k1×k2 becomes a convolution with k groups, j channels each, and one
        that mixes them. How many groups and which rank each layer takes follows from one rule: the
        largest relative error of any layer is least. Layers where no cut pays stay dense.
    Cost
        The eigenvalues of the slices' Gram matrices for all k, 3 CPU seconds for VGG16; the exact
        spectral error asks for the vectors of some of them as well.
    Guarantee
        `search: exact` is the optimum of the chosen error, up to rounding; there are no seeds. The
        spectral error of a layer bounds what it does to any input: ‖(W − Ŵ)x‖ ≤ error·‖W‖·‖x‖.

    Parameters
    ----------
    error
        `spectral`: ‖W − Ŵ‖/‖W‖, exact; `bound`: Theorem 1 of the paper; `unscaled`: that without
        √k, which the published code minimizes; `frobenius`; `data`: relative error of the
        outputs on calibration inputs, decoders fitted to all groups at once, the mean kept by the
        bias; `loss`: the same with the outputs weighted by the gradients of the loss there, in
        units of the loss.
    search
        `exact`, or `em`: the paper's Algorithm 1, the best of 15 random starts.
    groups
        `best`, or a number for all layers: the nearest divisor of their channels.
    allocation
        `minimax`, or `uniform`: each layer keeps the same share of its cost.
    objective
        `minimax`, or `sum`: the least sum of squared errors, for the last three errors. Null:
        `sum` for `data` and `loss`, where the largest error of one layer tells little of the
        network's, else `minimax` as in the paper.
    schemes
        `0`: the kernel stays with the groups; `all`: each layer takes the best of the four ways to
        divide it between the two convolutions (ALDS+).
    max_groups
        Most groups, for `groups: best`. Many groups run slowly; for a budget of latency null
        stands for 4.
    align
        Ranks are multiples of it, in 1..256.

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
        default="spectral", description="what is least"
    )
    search: Literal["exact", "em"] = Field(default="exact", description="how it is found")
    groups: Literal["best"] | int = Field(default="best", description="best, or a number for all")
    allocation: Literal["minimax", "uniform"] = Field(
        default="minimax", description="how the budget is divided"
    )
    objective: Literal["minimax", "sum"] | None = Field(
        default=None, description="least largest error, or least sum of squares"
    )
    schemes: Literal["0", "all"] = Field(default="0", description="folding schemes, 0 or all")
    max_groups: int | None = Field(default=None, ge=1, strict=True, description="most groups")
    align: int = Field(
        default=1, ge=1, le=256, strict=True, description="ranks are multiples of it, at most 256"
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _counted(cls, groups: Any) -> Any:
        """Say in one sentence what both kinds of values must be."""
        whole = isinstance(groups, int) and not isinstance(groups, bool)
        if groups != "best" and not (whole and groups >= 1):
            raise ValueError("groups must be best or a whole number of at least 1")
        return groups

    @field_validator("schemes", mode="before")
    @classmethod
    def _named(cls, schemes: Any) -> Any:
        """Take the number 0 for its name, as YAML reads it."""
        return "0" if schemes == 0 and not isinstance(schemes, bool) else schemes

    @model_validator(mode="after")
    def _consistent(self) -> Alds:
        if self.groups != "best" and self.max_groups is not None:
            raise ValueError("groups = best alone takes max_groups; drop one of them")
        if self.objective == "sum" and self.error not in ("data", "loss", "frobenius"):
            raise ValueError("objective = sum takes error = data, loss or frobenius")
        if self.error in ("data", "loss") and self.schemes != "0":
            raise ValueError(f"error = {self.error} takes schemes = 0")
        if (self.search == "em" or self.objective == "sum") and self.allocation == "uniform":
            raise ValueError("allocation = uniform leaves nothing to search; drop the other")
        if self.search == "em" and self.objective == "sum":
            raise ValueError("search = em takes objective = minimax")
        return self

    @property
    def rule(self) -> str:
        """Return the objective, by default the one that fits the error."""
        free = self.search == "exact" and self.allocation == "minimax"
        return self.objective or ("sum" if self.error in ("data", "loss") and free else "minimax")

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the calibration data that the error looks at."""
        return ("inputs",) if self.error in ("data", "loss") else ()

    def cuts(self) -> Cuts:
        """Return which cuts the parameters allow."""
        from lowrank_bench.alds.cuts import Cuts

        groups = None if self.groups == "best" else int(self.groups)
        schemes = (0, 1, 2, 3) if self.schemes == "all" else (0,)
        return Cuts(self.error, groups, self.max_groups, schemes, self.align)

    def choose(self, layers: list[AldsLayer], budget: float, seed: int = 0) -> list[Choice]:
        """Return the choice for each layer.

        Raises
        ------
        LowRankError
            When the budget is below the smallest that is reachable.
        """
        from lowrank_bench.alds import search as alds_search

        candidates = [layer.candidates for layer in layers]
        least = sum(min([own.dense, *(cut.costs[0] for cut in own.cuts)]) for own in candidates)
        if least > budget:
            dense = sum(own.dense for own in candidates)
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
            When the budget is below the smallest that is reachable, a layer cannot be handled, or
            calibration data are needed and absent.
        """
        import time

        from lowrank_bench.alds.cuts import alds_layers
        from lowrank_bench.alds.summary import describe, summary
        from lowrank_bench.network.layers import replaced
        from lowrank_bench.network.problem import CompressedNetwork

        start = time.process_time()
        layers = alds_layers(problem, self.cuts())
        chosen = self.choose(layers, problem.allowance(compression), problem.seed)
        searched = time.process_time()
        new = {
            own.layer.name: own.replacement(problem.model.get_submodule(own.layer.name), choice)
            for own, choice in zip(layers, chosen, strict=True)
            if choice.cut is not None
        }
        seconds = {"search": searched - start, "factors": time.process_time() - searched}
        rows = describe(layers, chosen, new)
        info: dict[str, Any] = summary(self.error, self.rule, rows, chosen)
        return CompressedNetwork(
            replaced(problem.model, new), rows, {**info, "cpu_seconds": seconds}
        )
