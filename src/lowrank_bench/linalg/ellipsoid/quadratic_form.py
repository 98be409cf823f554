"""Quadratic forms of ellipsoids, kept as a root."""

from torch import Tensor


class QuadraticForm:
    """M = rootᵀ root for a tensor `root` r×d of full rank, which derived classes hold."""

    root: Tensor

    @property
    def rank(self) -> int:
        """Return r, the numerical rank of the matrix that the form stands for."""
        return self.root.shape[0]

    @property
    def form(self) -> Tensor:
        """Return M, d×d."""
        return self.root.T @ self.root
