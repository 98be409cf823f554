"""Orthogonal matching pursuit for many rows at once, with atoms shared by all rows."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # rows that are pursued together
BATCHES = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # atoms chosen in each step; afterwards LARGEST
LARGEST = 8
JITTER = 1e-5  # keeps the Cholesky factor of nearly dependent unit atoms finite


def matching_pursuit(
    rows: Tensor, atoms: Tensor, limit: int, worth: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose up to `limit` atoms for each row, by their alignment with its residual.

    After each step the row is projected onto all its atoms again. The first atoms are chosen one by
    one and later ones several at a time, which costs little accuracy and saves most of the time.
    A step costs 2·r·m·d operations.

    Parameters
    ----------
    rows, atoms
        Tensors r×d and m×d; the search runs in float32.
    limit
        Largest number of atoms of a row, at most m.
    worth
        Tensor r: a row stops when an atom reduces its squared residual by less than this. None:
        never.

    Returns
    -------
    indices
        Tensor r×limit int64: atoms in the order of choice.
    energies
        Tensor r×(limit + 1): the squared length of the residual after 0, 1, …, limit atoms.

    References
    ----------
    Pati, Rezaiifar, Krishnaprasad, "Orthogonal matching pursuit", Asilomar 1993. Several atoms per
    step: Wang, Kwon, Shim, "Generalized orthogonal matching pursuit", IEEE TSP 60 (2012).
    """
    unit = atoms.float()
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-30)
    indices = torch.zeros(len(rows), limit, dtype=torch.int64, device=rows.device)
    energies = rows.new_zeros(len(rows), limit + 1, dtype=torch.float32)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        least = None if worth is None else worth[part].float()
        indices[part], energies[part] = _pursue(rows[part].float(), unit, limit, least)
    return indices, energies


def _steps(limit: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of atoms that are chosen together."""
    start, number = 0, 0
    while start < limit:
        size = BATCHES[number] if number < len(BATCHES) else LARGEST
        yield start, min(start + size, limit)
        start, number = start + size, number + 1


def _pursue(rows: Tensor, unit: Tensor, limit: int, worth: Tensor | None) -> tuple[Tensor, Tensor]:
    count, width = rows.shape
    out = torch.zeros(count, limit, dtype=torch.int64, device=rows.device)
    energies = rows.square().sum(dim=1, keepdim=True).repeat(1, limit + 1)
    live = torch.arange(count, device=rows.device)  # rows that have not stopped
    residual, chosen = rows, out.clone()
    taken = rows.new_zeros(count, limit, width)  # B: the chosen atoms of each row
    factor = rows.new_zeros(count, limit, limit)  # L, with LLᵀ = BBᵀ
    forward = rows.new_zeros(count, limit)  # L⁻¹B·row
    for start, stop in _steps(limit):
        # The atoms with the largest |inner product|; -1 excludes those already chosen.
        match = (residual @ unit.T).abs_().scatter_(1, chosen[:, :start], -1.0)
        fresh = match.topk(stop - start, dim=1).indices
        chosen[:, start:stop] = fresh
        taken[:, start:stop] = unit[fresh]
        _extend(factor, taken, start, stop)
        # The residual is orthogonal to the older atoms, so the new entries of the forward
        # substitution need only the new corner of the factor.
        corner = factor[:, start:stop, start:stop]
        aligned = taken[:, start:stop] @ residual.unsqueeze(2)
        forward[:, start:stop] = _solve(corner, aligned)
        # Each squared entry of L⁻¹B·row is the energy that its atom explains.
        gains = forward[:, start:stop].square()
        energies[live, start + 1 :] = energies[live, start : start + 1].expand(-1, limit - start)
        energies[live, start + 1 : stop + 1] -= gains.cumsum(dim=1)
        # The energy stays at this value, until the next step or for good in rows that stop.
        energies[live, stop + 1 :] = energies[live, stop : stop + 1]
        out[live, start:stop] = fresh
        # Least squares over all atoms by back substitution: residual = row − Bᵀ L⁻ᵀ (L⁻¹B·row).
        upper = factor[:, :stop, :stop].transpose(1, 2)
        weights = torch.linalg.solve_triangular(upper, forward[:, :stop, None], upper=True)
        residual = rows - (weights.transpose(1, 2) @ taken[:, :stop]).squeeze(1)
        if worth is None:
            continue
        keep = gains.mean(dim=1) > worth
        if not keep.any():
            break
        # Drop stopped rows only if there are many: copying costs more than a few extra rows.
        if keep.float().mean() < 0.85:
            live, worth, rows, residual = live[keep], worth[keep], rows[keep], residual[keep]
            chosen, taken, factor = chosen[keep], taken[keep], factor[keep]
            forward = forward[keep]
    return out, energies.clamp(min=0)


def _solve(lower: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(lower, right, upper=False).squeeze(2)
    return solution


def _extend(factor: Tensor, taken: Tensor, start: int, stop: int) -> None:
    """Add rows `start` to `stop` to the Cholesky factors of the Gram matrices of the atoms."""
    # [G C; Cᵀ S] has the factor [L 0; (L⁻¹C)ᵀ K] with KKᵀ = S − (L⁻¹C)ᵀ(L⁻¹C).
    fresh = taken[:, start:stop]
    square = fresh @ fresh.transpose(1, 2)
    if start:
        cross = taken[:, :start] @ fresh.transpose(1, 2)
        side = torch.linalg.solve_triangular(factor[:, :start, :start], cross, upper=False)
        factor[:, start:stop, :start] = side.transpose(1, 2)
        square = square - side.transpose(1, 2) @ side
    jitter = JITTER * torch.eye(stop - start, dtype=square.dtype, device=square.device)
    factor[:, start:stop, start:stop] = torch.linalg.cholesky_ex(square + jitter)[0]


def combination(rows: Tensor, atoms: Tensor, indices: Tensor, counts: Tensor) -> Tensor:
    """Return the least-squares coefficients of the first `counts` atoms of each row.

    Parameters
    ----------
    rows, atoms
        Tensors r×d and m×d, float64.
    indices
        Tensor r×limit.
    counts
        Tensor r, int64, at most `limit`.

    Returns
    -------
    Tensor
        Vector of Σ counts coefficients, row after row.
    """
    values = rows.new_zeros(len(rows), indices.shape[1])
    # Rows with a similar number of atoms share a batch, so that little padding is computed.
    order = torch.argsort(counts, stable=True)
    for part in torch.split(order, CHUNK // 4):
        width = int(counts[part].max())
        if width == 0:
            continue
        # Normal equations BBᵀx = B·row; padding atoms are zero.
        live = torch.arange(width, device=rows.device) < counts[part].unsqueeze(1)
        basis = atoms[indices[part, :width]] * live.unsqueeze(2)
        square = basis @ basis.transpose(1, 2)
        size = square.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-300)
        # A tiny ridge for nearly dependent atoms; a diagonal of one for the padding.
        square = square + torch.diag_embed(torch.where(live, 1e-10, 1.0) * size.unsqueeze(1))
        side = basis @ rows[part].unsqueeze(2)
        values[part, :width] = torch.cholesky_solve(side, torch.linalg.cholesky(square)).squeeze(2)
    return values[torch.arange(indices.shape[1], device=rows.device) < counts.unsqueeze(1)]
