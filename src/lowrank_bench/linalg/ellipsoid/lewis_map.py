"""The fixed-point map of Lewis weights, in the precision that the target residual needs."""

import torch
from torch import Tensor

from lowrank_bench.linalg.ellipsoid.fixed_point import Evaluation
from lowrank_bench.linalg.gram import Blocks, gram, squared_norms

# Largest accepted ‖M‖·‖M⁻¹‖ (Frobenius norms, an upper bound on the condition number of M). It
# leaves one digit in float32, which only prepares, and seven in float64, which decides.
MILD = {torch.float32: 1e6, torch.float64: 1e9}


class IllConditionedError(Exception):
    """The coordinates lose too many digits; other coordinates are needed."""


class Rows:
    """The nonzero rows of a matrix as lengths and directions.

    Attributes
    ----------
    matrix
        Tensor A, n×d, float64.
    live
        Indices of the nonzero rows.
    log_length
        Logarithms of their lengths.
    inverse_length
        Tensor n: one over the length, 0 for zero rows.
    """

    def __init__(self, matrix: Tensor) -> None:
        length = torch.linalg.vector_norm(matrix, dim=1)
        odd = ~((length > 1e-140) & (length < 1e140))
        if odd.any():  # zero rows, and rows whose squared length may leave the range of float64
            part = matrix[odd]
            peak = part.abs().amax(dim=1, keepdim=True)
            peak = torch.where(peak > 0, peak, 1.0)
            length[odd] = torch.linalg.vector_norm(part / peak, dim=1) * peak[:, 0]
        self.matrix = matrix
        self.live = length.nonzero()[:, 0]
        self.log_length = length[self.live].log()
        self.inverse_length = torch.where(length > 0, 1 / length, 0.0)

    def directions(self) -> "Directions":
        """Return the rows scaled to length one, in float32."""
        return Directions(self)


class Directions:
    """Rows scaled to length one, n×d float32, computed from the matrix when a block is read.

    The products of `gram` read blocks, so a copy of the matrix would only take memory.
    """

    dtype = torch.float32

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.shape = rows.matrix.shape

    def __len__(self) -> int:
        return len(self._rows.matrix)

    def __getitem__(self, part: slice) -> Tensor:
        return (self._rows.matrix[part] * self._rows.inverse_length[part, None]).float()

    def new_zeros(self, *size: int) -> Tensor:
        """Return zeros, float32."""
        return self._rows.matrix.new_zeros(*size, dtype=self.dtype)

    def element_size(self) -> int:
        """Return the bytes of an entry."""
        return 4


class LewisMap:
    """The map u ↦ log (a_iᵀ M⁻¹ a_i)^{p/2} on u = log w over the nonzero rows.

    Parameters
    ----------
    rows
        Lengths and directions of the rows.
    p
        Exponent.
    worst
        Largest accepted ‖M‖·‖M⁻¹‖.
    directions
        The unit rows as a float32 matrix, or None to work on the matrix itself.
    rough
        Whether M too is computed in float32, not only the quadratic forms.
    accepted
        Rounding error up to which the quadratic forms are computed in float32.
    """

    def __init__(
        self,
        rows: Rows,
        p: float,
        worst: float,
        directions: Directions | None = None,
        rough: bool = False,
        accepted: float = 0.0,
    ) -> None:
        self.rows, self.p, self.worst = rows, p, worst
        self.directions, self.rough, self.accepted = directions, rough, accepted

    def __call__(self, log_weights: Tensor) -> Evaluation:
        # Row i contributes w_i^{1−2/p} a_i a_iᵀ to M. `shift` scales the largest of these to length
        # one, and heights refer to unit rows, so that nothing overflows.
        logs, shift = self._lengths(log_weights)
        form = self._gram(logs.exp())
        inverse = self._inverse(form)
        heights, error = self._heights(inverse)
        # log (a_iᵀ M⁻¹ a_i) is log_heights + 2·(log_length − shift).
        log_heights = heights[self.rows.live].double().log()
        leverage = (log_heights + 2 * logs).exp().clamp(max=1.0)
        image = self.p / 2 * (log_heights + 2 * (self.rows.log_length - shift))
        # In float32 the worst case is larger than `error`, which assumes independent rounding.
        single = 0.0
        if heights.dtype == torch.float32:
            least = float(heights[self.rows.live].min()) ** 0.5
            single = 2 * torch.finfo(torch.float32).eps * len(form) * float(inverse.norm()) / least
        return Evaluation(image, leverage, (form, shift, single), error)

    def _lengths(self, log_weights: Tensor) -> tuple[Tensor, float]:
        logs = (0.5 - 1 / self.p) * log_weights + self.rows.log_length
        shift = float(logs.max())
        return logs - shift, shift

    def _gram(self, lengths: Tensor) -> Tensor:
        """Return the Gram matrix of the nonzero rows, scaled to these lengths."""
        data: Blocks = self._unit_rows() if self.rough else self.rows.matrix
        scale = lengths.new_zeros(len(data))
        scale[self.rows.live] = lengths
        scale = scale if self.rough else scale * self.rows.inverse_length
        return gram(data, scale.to(data.dtype)).double()

    def _inverse(self, form: Tensor) -> Tensor:
        """Return T with TᵀT = M⁻¹, lower triangular."""
        # M = LLᵀ gives M⁻¹ = L⁻ᵀL⁻¹, so T = L⁻¹.
        factor, failed = torch.linalg.cholesky_ex(form)
        if failed:
            raise IllConditionedError
        identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
        norm = form.norm()
        # ‖M⁻¹‖ ≤ trace(M⁻¹) = ‖T‖² costs nothing; the product TᵀT only if that is too large.
        mild = norm * inverse.norm() ** 2 <= self.worst
        if not mild and not norm * (inverse.T @ inverse).norm() <= self.worst:
            raise IllConditionedError
        return inverse

    def _heights(self, inverse: Tensor) -> tuple[Tensor, float]:
        """Return ‖Ta‖² for the unit rows a, and the rounding error of its (p/2)·log.

        The error is at least three standard deviations, if rounding errors are independent.
        """
        if self.rough or self.accepted > 0:
            heights = squared_norms(self._unit_rows(), inverse.float())
            if self.rough:
                return heights, 0.0
            # Rounding the entries of a and T to float32 changes Ta by less than ε·max‖T e_j‖.
            least = float(heights[self.rows.live].min()) ** 0.5
            longest = float(torch.linalg.vector_norm(inverse, dim=0).max())
            error = self.p * torch.finfo(torch.float32).eps * longest / least
            if error <= self.accepted:
                return heights, error
            self.accepted = 0.0  # it would not be accurate enough at later points either
        return squared_norms(self.rows.matrix, inverse, self.rows.inverse_length), 0.0

    def _unit_rows(self) -> Directions:
        assert self.directions is not None, "float32 passes need the directions"
        return self.directions
