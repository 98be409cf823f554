"""Quadratic forms of ellipsoids, stored as a root."""

from torch import Tensor


class QuadraticForm:
    """M = rootᵀ root, for a tensor `root` r×d of full rank that subclasses provide."""

    root: Tensor

    @property
    def rank(self) -> int:
        """Return r, the numerical rank of the matrix A that the form was computed for."""
        return self.root.shape[0]

    @property
    def form(self) -> Tensor:
        """Return M, d×d."""
        return self.root.T @ self.root
