"""Layer-wise low rank: a choice of approximation for each layer, and of budget allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import CodingMethod, MatrixMethod, NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

# Names of `problem.FACTS` that each data-aware approximator needs.
NEEDS = {
    "relative": ("frequency",),
    "whitened": ("inputs",),
    "two_sided": ("inputs",),
    "fwsvd": ("inputs", "labels"),
}
BUILT_IN = ("svd", *NEEDS)  # the others are matrix methods of the registry
# Matrix methods that give more than two factors, which cannot replace a convolution.
PARTED = ("frequency_blocks", "frequency_sparse", "messi", "partition_svd")
Rule = Literal["uniform", "rank", "energy", "minimax", "sum", "product"]


class Layerwise(NetworkMethod):
    """Approximate the matrix of every layer by low rank, and divide one budget over the layers.

    Idea
        Two independent choices. `approximator` says which error of a layer's matrix W is minimized
        at each rank: that of the weight itself (`svd`, or a matrix method: `lp`, `irls`, `l21`),
        that of the layer's response to calibration inputs (`whitened`: ‖(W − Ŵ) C^{1/2}‖ with the
        covariance C), that of the weight scaled by the Fisher information of the inputs (`fwsvd`),
        or the second-order change of the loss (`two_sided`: ‖G^{1/2} (W − Ŵ) C^{1/2}‖ with the
        second moment G of the gradient at the layer's output, the Kronecker-factored Fisher
        information). `allocation` says how ranks follow from these errors. A layer stays dense
        where that is cheaper or as good.
    Cost
        One pass over the calibration data for `whitened`, a second one with gradients for
        `two_sided`; then an eigenproblem of the shorter side of each layer's matrix.
    Guarantee
        Each layer's error is the least of its rank in its metric, and `sum` is the least total to
        1e-4. The total of `two_sided` equals the rise of the loss only for small errors that do
        not interact between layers.

    Parameters
    ----------
    approximator
        `svd`, `relative` (the share of the squared norm that is lost; rows of a table weigh by
        use), `whitened`, `two_sided`, `fwsvd`, or a matrix method that needs no facts.
    approximator_params
        Parameters of the matrix method.
    allocation
        `uniform`: each layer keeps the same share of its cost; `rank`: the same share of its rank;
        `energy`: each loses the same share of its squared norm; `minimax`: the largest relative
        spectral error is least; `sum`: the total squared error is least; `product`: the product of
        the shares of energy kept is largest.
    bits
        `auto`: rank and bits of every layer are chosen together, for a budget of bytes and the
        allocation `sum`: each layer is one rounded matrix, two rounded factors, a transform code,
        half precision or dense, whichever division of the bytes has the least total error, exactly.
        Null: factors in the network's precision.
    codes
        With `bits: auto`, whether transform codes are among the forms.

    References
    ----------
    Chen, Yu, Dhillon, Hsieh, "DRONE: Data-aware low-rank compression for large NLP models", NeurIPS
    2021 (`whitened`); Hsu et al., ICLR 2022 (`fwsvd`); Martens and Grosse, ICML 2015 (G ⊗ C).
    """

    name: ClassVar[str] = "layerwise"
    title: ClassVar[str] = "Layer-wise low rank"
    source: ClassVar[str] = "Chen et al., NeurIPS 2021; Martens and Grosse, ICML 2015"
    quiet: ClassVar[tuple[str, ...]] = ("approximator_params", "bits", "codes")

    approximator: str = Field(
        default="two_sided", description="which error of a layer is minimized"
    )
    approximator_params: dict[str, Any] = Field(
        default={}, validate_default=True, description="parameters of the approximator"
    )
    allocation: Rule = Field(default="sum", description="how the budget is divided")
    bits: Literal["auto"] | None = Field(
        default=None, description="auto: rank and bits together, for a budget of bytes"
    )
    codes: bool = Field(default=True, description="with bits=auto: transform codes as well")

    @field_validator("approximator")
    @classmethod
    def _known(cls, name: str) -> str:
        """Check that the approximator exists before any work starts."""
        from lowrank_bench.methods.registry import method_class

        if name not in BUILT_IN and not issubclass(method_class(name), MatrixMethod):
            raise ValueError(f"{name} is not a method for single matrices")
        if name in PARTED:
            raise ValueError(f"{name} gives more than two factors; take svd, lp, l21 or irls")
        return name

    @field_validator("approximator_params")
    @classmethod
    def _fitting(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Check the parameters of the matrix method, and that it needs only weights."""
        from lowrank_bench.methods.registry import make_method

        name = info.data.get("approximator", "svd")
        if name in BUILT_IN:
            if params:
                raise ValueError(f"{name} takes no parameters here")
            return params
        method = make_method(name, **params)
        if isinstance(method, CodingMethod):
            raise ValueError(f"{name} stores a table in few bits; a layer needs two factors")
        if method.needs:
            raise ValueError(f"{name} needs more than the weights of a layer")
        if getattr(method, "center", False):
            raise ValueError(f"{name} with a mean row gives more than two factors; drop center")
        return params

    @model_validator(mode="after")
    def _jointly(self) -> Layerwise:
        """Check that rank and bits are chosen for a sum of errors in a known metric."""
        if self.bits and (self.approximator not in BUILT_IN or self.allocation != "sum"):
            raise ValueError(
                f"bits = auto needs allocation = sum and an approximator of {', '.join(BUILT_IN)}"
            )
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the calibration data that the approximator needs."""
        return NEEDS.get(self.approximator, ())

    def sources(self, target: str) -> tuple[str, ...]:
        """Return the module of this method, and those of the matrix method that it runs."""
        modules, approximator = super().sources(target), self._approximator()
        if isinstance(approximator, str):
            return modules
        return tuple(dict.fromkeys([*modules, *approximator.sources("embedding")]))

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, a layer cannot be handled, or calibration data are
            needed and absent.
        """
        from lowrank_bench.layerwise.approximators import compress_layerwise
        from lowrank_bench.layerwise.fronts import FURTHER, compress_jointly

        if self.bits:
            if problem.budget != "bytes":
                raise LowRankError(
                    f"bits = auto is for a budget of bytes, not of {problem.budget}; give "
                    "saved_bytes instead of compression"
                )
            return compress_jointly(problem, compression, self.approximator, self.codes)
        rule = self.allocation
        return compress_layerwise(problem, compression, self._approximator(), rule, FURTHER)

    def _approximator(self) -> str | MatrixMethod:
        """Return the name of the metric, or the matrix method."""
        from lowrank_bench.methods.registry import make_method

        if self.approximator in BUILT_IN:
            return self.approximator
        method = make_method(self.approximator, **self.approximator_params)
        assert isinstance(method, MatrixMethod), "validated with the other parameters"
        return method
