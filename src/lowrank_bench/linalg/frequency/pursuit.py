"""Greedy least squares for many rows at once, with atoms shared by all rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

CHUNK = 256  # rows that are pursued together
LARGEST = 8  # atoms chosen from one list of candidates, the residual of wide rows being noise
NARROW = 48  # columns for each of them: in few dimensions every atom changes the residual much
WIDE = LARGEST * NARROW  # columns from which on the products are costly
LEAST = 8  # candidates, at least
POOL = 1.5  # candidates for each atom that is chosen
SMALL = 64  # a dictionary of at most this many atoms competes as a whole
PANELS = 2  # parts of a large dictionary of wide atoms; later lists come from one part in turn
GROUP = 16  # at most one candidate comes from each group of this many atoms
# The squared length of a unit atom outside the span of those chosen: below this, float32 rounding
# would decide.
DEPENDENT = 1e-4
RIDGE = 1e-6  # keeps the float32 factor of nearly dependent unit atoms finite
REFINEMENTS, ACCURATE = 5, 1e-5  # most corrections of the coefficients; the last one is smaller


def matching_pursuit(
    rows: Tensor, atoms: Tensor, limit: int, worth: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose up to `limit` atoms for each row, by the squared error that each of them removes.

    Each step lists the atoms most aligned with the residual of a row, one product with half of a
    large dictionary, and chooses most of them one by one, each time the one that lowers the
    least-squares error most. A list costs r·m·d operations, a choice among its candidates next
    to nothing. If the dictionary has at most 64 atoms, all of them are candidates.

    Parameters
    ----------
    rows, atoms
        Tensors r×d and m×d, m ≤ 32,767; the search runs in float32.
    limit
        Largest number of atoms of a row, at most m.
    worth
        Tensor r: a row stops when an atom reduces its squared residual by less than this. None:
        never.

    Returns
    -------
    indices
        Tensor r×limit int16: atoms in the order of choice.
    energies
        Tensor r×(limit + 1): the squared length of the residual after 0, 1, …, limit atoms. Where
        it no longer falls, the index means nothing.

    References
    ----------
    Chen, Billings, Luo, "Orthogonal least squares methods and their application to non-linear
    system identification", Int. J. Control 50 (1989); lists of candidates as in generalized
    orthogonal matching pursuit: Wang, Kwon, Shim, IEEE TSP 60 (2012).
    """
    dictionary = Dictionary.of(atoms)
    indices = torch.zeros(len(rows), limit, dtype=torch.int16, device=rows.device)
    energies = rows.new_zeros(len(rows), limit + 1, dtype=torch.float32)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        least = None if worth is None else worth[part].float()
        indices[part], energies[part] = _pursue(rows[part].float(), dictionary, limit, least)
    return indices, energies


@dataclass(frozen=True)
class Dictionary:
    """Unit atoms in float32, whole and in panels that are searched in turn.

    Attributes
    ----------
    unit
        Tensor m×d: atoms of length one; zero atoms stay zero.
    panels
        Pairs of the places of the atoms of a panel, and these atoms as columns.
    group
        Number of atoms of which at most one becomes a candidate.
    """

    unit: Tensor
    panels: tuple[tuple[Tensor, Tensor], ...]
    group: int

    @classmethod
    def of(cls, atoms: Tensor) -> "Dictionary":
        """Return the dictionary of `atoms`, m×d."""
        unit = atoms.float()
        unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-30)
        count = len(unit)
        # Groups must be many more than candidates, or good atoms would hide each other.
        group = max(1, min(GROUP, count // (PANELS * SMALL)))
        parts = PANELS if group > 1 and atoms.shape[1] >= WIDE else 1
        every = torch.arange(count, device=atoms.device)
        return cls(unit, tuple(_panel(unit, every[p::parts], group) for p in range(parts)), group)

    def candidates(self, residual: Tensor, count: int, number: int) -> Tensor:
        """Return the places of `count` atoms aligned with each residual, r×count.

        Parameters
        ----------
        residual
            Tensor r×d.
        count
            Number of candidates; all atoms if that is the size of the dictionary.
        number
            Number of the step: the panels take turns.
        """
        total = len(self.unit)
        if count == total:
            return torch.arange(total, device=residual.device).expand(len(residual), total)
        # The first list comes from all atoms, later ones from one part after another.
        parts = self.panels if number == 0 else (self.panels[number % len(self.panels)],)
        return torch.cat([self._best(residual, count // len(parts), *part) for part in parts], 1)

    def _best(self, residual: Tensor, count: int, places: Tensor, columns: Tensor) -> Tensor:
        """Return the places of the `count` best atoms of a panel, at most one of each group."""
        match = (residual @ columns).abs_()
        groups = match.shape[1] // self.group
        if self.group == 1:
            return places[match.topk(count, dim=1).indices]
        # The best atom of each of the best groups: much cheaper than a search of all entries.
        grouped = match.view(len(match), self.group, groups)
        best = grouped.amax(dim=1).topk(count, dim=1, sorted=False).indices
        inside = grouped.gather(2, best[:, None].expand(-1, self.group, -1)).argmax(dim=1)
        return places[inside * groups + best]


def _panel(unit: Tensor, places: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return the places of a panel, filled up to whole groups, and its atoms as columns."""
    short = -len(places) % group
    places = torch.cat([places, places[:short]])
    return places, unit[places].T.contiguous()


def _steps(limit: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of atoms that are chosen from one list of candidates, for rows of `width`.

    The first atoms explain most and so come from half as many candidates.
    """
    most = max(1, min(LARGEST, width // NARROW))
    start = 0
    while start < limit:
        stop = min(start + (most if start else max(1, most // 2)), limit)
        yield start, stop
        start = stop


def _pursue(
    rows: Tensor, dictionary: Dictionary, limit: int, worth: Tensor | None
) -> tuple[Tensor, Tensor]:
    count, total = len(rows), len(dictionary.unit)
    indices = torch.zeros(count, limit, dtype=torch.int64, device=rows.device)
    gains = rows.new_zeros(count, limit)
    live = torch.arange(count, device=rows.device)  # rows that have not stopped
    residual = rows
    basis = rows.new_empty(count, limit, rows.shape[1])  # orthonormal, same span as the atoms
    for number, (start, stop) in enumerate(_steps(limit, rows.shape[1])):
        size = total if total <= SMALL else min(total, max(LEAST, int(POOL * (stop - start))))
        places = dictionary.candidates(residual, size, number)
        fresh, vectors = _choose(dictionary.unit, places, residual, basis[:, :start], stop - start)
        basis[:, start:stop] = vectors
        # The residual is orthogonal to the older vectors: only the new ones change it.
        along = vectors @ residual.unsqueeze(2)
        residual = residual - (along.mT @ vectors).squeeze(1)
        gained = along.squeeze(2).square()
        indices[live, start:stop], gains[live, start:stop] = fresh, gained
        if worth is None:
            continue
        # The next atoms gain less than these, in proportion to what is left.
        left = residual.square().sum(dim=1)
        total_gain = gained.sum(dim=1)
        keep = total_gain * left > worth * (stop - start) * (left + total_gain)
        if not keep.any():
            break
        # Drop stopped rows only if there are many: copying costs more than a few extra rows.
        if keep.float().mean() < 0.9:
            live, worth, residual, old = live[keep], worth[keep], residual[keep], basis
            basis = old.new_empty(len(live), *old.shape[1:])
            basis[:, :stop] = old[keep, :stop]
    energy = rows.square().sum(dim=1, keepdim=True)
    return indices, torch.cat([energy, energy - gains.cumsum(dim=1)], dim=1).clamp(min=0)


def _choose(
    unit: Tensor, places: Tensor, residual: Tensor, basis: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Choose `count` candidates of each row one by one, each that which removes most error.

    Returns
    -------
    fresh
        Tensor r×count: the chosen atoms.
    vectors
        Tensor r×count×d: what each adds to `basis` r×t×d, orthonormal, zero if it adds nothing.
    """
    rows, pool = places.shape
    offset = torch.arange(rows, device=places.device) * pool
    candidates = unit.index_select(0, places.flatten()).view(rows, pool, -1)
    inside = candidates @ basis.mT
    # Inner products of the candidates outside the span so far, and with the residual.
    outer = (candidates @ candidates.mT).baddbmm_(inside, inside.mT, alpha=-1)
    aligned = (candidates @ residual.unsqueeze(2)).squeeze(2)
    squares = outer.diagonal(dim1=1, dim2=2).clone()
    outer = outer.reshape(rows * pool, pool)
    columns = residual.new_zeros(rows, count, pool)  # of the Cholesky factor, as they are chosen
    chosen = places.new_zeros(rows, count)
    for step in range(count):
        best = torch.where(squares > DEPENDENT, aligned.square() / squares, -1.0).argmax(dim=1)
        flat, at = best + offset, best.unsqueeze(1)
        chosen[:, step] = flat
        length = squares.gather(1, at)
        scale = torch.where(length > DEPENDENT, length.clamp(min=DEPENDENT).rsqrt(), 0.0)
        column = outer.index_select(0, flat)
        if step:
            older = columns[:, :step]
            at_best = older.gather(2, at.unsqueeze(1).expand(-1, step, 1))
            column = column - (at_best.mT @ older).squeeze(1)
        column = column * scale
        columns[:, step] = column
        aligned = aligned - column * (aligned.gather(1, at) * scale)
        squares = (squares - column.square()).scatter_(1, at, -1.0)
    # Orthonormal vectors: the chosen atoms outside the span, times the inverse of the factor.
    flat = chosen.flatten()
    fresh = places.flatten()[flat].view(rows, count)
    vectors = candidates.view(rows * pool, -1).index_select(0, flat).view(rows, count, -1)
    if basis.shape[1]:
        shares = inside.reshape(rows * pool, -1).index_select(0, flat).view(rows, count, -1)
        vectors = vectors.baddbmm_(shares, basis, alpha=-1)
    within = (chosen - offset.unsqueeze(1)).unsqueeze(1).expand(-1, count, -1)
    lower = columns.gather(2, within).mT.tril()
    useful = lower.diagonal(dim1=1, dim2=2) > 0
    eye = torch.eye(count, dtype=lower.dtype, device=lower.device)
    lower = lower + torch.diag_embed((~useful).to(lower))
    inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
    return fresh, (inverse * useful.unsqueeze(2)) @ vectors


def combination(
    matrix: Tensor,
    chosen: Tensor,
    atoms: Tensor,
    indices: Tensor,
    counts: Tensor,
    unit: float = 1.0,
) -> Tensor:
    """Return the least-squares coefficients of the first `counts` atoms of some rows.

    The normal equations of unit atoms are solved in float32, and corrected by float64 residuals
    until a correction is below 1e-5 of the solution, so that the next would be far smaller: at a
    fraction of the cost, the accuracy of float64.

    Parameters
    ----------
    matrix
        Tensor n×d, float64.
    chosen
        Tensor r: the rows to combine.
    atoms
        Tensor m×d, float64.
    indices
        Tensor r×limit.
    counts
        Tensor r, int64, at most `limit`.
    unit
        Divides all entries first, so that their squares do not overflow; no coefficient changes.

    Returns
    -------
    Tensor
        Vector of Σ counts coefficients, row after row.
    """
    atoms = atoms / unit
    lengths = atoms.norm(dim=1).clamp(min=1e-300)
    single = (atoms / lengths.unsqueeze(1)).float()
    values = matrix.new_zeros(indices.shape)
    # Rows with a similar number of atoms share a batch, so that little padding is computed.
    order = torch.argsort(counts, stable=True)
    for part in torch.split(order, CHUNK // 2):
        width = int(counts[part].max()) if len(part) else 0
        if width == 0:
            continue
        places = indices[part, :width].long()
        live = torch.arange(width, device=matrix.device) < counts[part].unsqueeze(1)
        values[part, :width] = _least_squares(
            matrix[chosen[part]] / unit, places, live, single, atoms, lengths
        )
    return values[torch.arange(indices.shape[1], device=matrix.device) < counts.unsqueeze(1)]


def _least_squares(
    rows: Tensor, places: Tensor, live: Tensor, unit: Tensor, atoms: Tensor, lengths: Tensor
) -> Tensor:
    """Return the coefficients of the atoms at `places`, r×t, zero where not `live`."""
    basis = unit.index_select(0, places.flatten()).view(*places.shape, -1)
    square = basis @ basis.mT
    # Padding has the equation x = 0; a tiny ridge, for nearly dependent atoms.
    square *= live.unsqueeze(1) & live.unsqueeze(2)
    square += torch.diag_embed(torch.where(live, RIDGE, 1.0).to(square))
    factor = torch.linalg.cholesky(square)
    scale = live / lengths[places]
    values, residual = torch.zeros_like(scale), rows
    starts = torch.arange(0, places.numel(), places.shape[1], device=places.device)
    for _ in range(REFINEMENTS):
        # Residuals may be tiny: in units of their own length they do not underflow in float32.
        size = residual.norm(dim=1, keepdim=True).clamp(min=1e-300)
        side = (basis @ (residual / size).float().unsqueeze(2)) * live.unsqueeze(2)
        step = torch.cholesky_solve(side, factor).squeeze(2).double() * size * scale
        values = values + step
        if bool((step.norm(dim=1) <= ACCURATE * values.norm(dim=1)).all()):
            break
        fitted = embedding_bag(
            places.flatten(), atoms, starts, mode="sum", per_sample_weights=values.flatten()
        )
        residual = rows - fitted
    return values
