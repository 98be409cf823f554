"""Product quantization: a row is cut into parts, each replaced by the nearest of 2^b vectors."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.coded import Coded, exponent_of, finite_unit, power, relative_error
from lowrank_bench.linalg.coding.groups import take
from lowrank_bench.linalg.coding.packing import MOST, pack, unpack

SAMPLE = 64  # rows for each codebook vector that the iterations see
ITERATIONS = 8
BLOCK = 512  # rows whose distances stay in the cache


@dataclass(frozen=True)
class ProductCodes(Coded, mark="product"):
    """Row i is the vectors `codebooks[j, codes[i, j]]` for j = 0, …, m − 1 side by side.

    Attributes
    ----------
    codes
        Tensor n×⌈m·b/8⌉ uint8: packed numbers of vectors.
    codebooks
        Tensor m×K×⌈d/m⌉ float16, K ≤ 2^b; the last part is padded with zeros.
    product
        Tensor of three int32: b, d and a power of two for all rows.
    """

    codes: Tensor
    codebooks: Tensor
    product: Tensor

    derived: ClassVar[tuple[str, ...]] = ("starts",)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return len(self.codes), int(self.product[1])

    def tensors(self) -> dict[str, Tensor]:
        """Return `codes`, `codebooks` and `product`."""
        return {"codes": self.codes, "codebooks": self.codebooks, "product": self.product}

    @cached_property
    def starts(self) -> Tensor:
        """Where the vectors of each part begin among those of all, m int32."""
        parts, size, _ = self.codebooks.shape
        return torch.arange(parts, dtype=torch.int32, device=self.codes.device) * size

    @cached_property
    def vectors(self) -> Tensor:
        """The vectors of all parts in the units of the rows, m·K×⌈d/m⌉ float32."""
        return self.codebooks.flatten(0, 1).float() * power(self.exponent)

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        parts, _, depth = self.codebooks.shape
        codes = self.codes.index_select(0, ids)
        bits = int(self.product[0])
        if bits < MOST:
            codes = unpack(codes, torch.full((parts,), bits))
        numbers = codes.int().add_(self.starts)
        return take(self.vectors, numbers.flatten()).view(len(ids), parts * depth)[
            :, : self.shape[1]
        ]


def product_code(
    matrix: Tensor, weights: Tensor, parts: int, bits: int = 8, *, seed: int = 0
) -> tuple[ProductCodes, dict[str, Any]]:
    """Return the product quantization of a matrix with codebooks from weighted k-means.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    weights
        Tensor n > 0: the error of row i counts w_i times.
    parts
        m, 1 to d: pieces of a row.
    bits
        b, 1 to 8: bits of a piece.
    seed
        Of the rows that k-means starts from.

    Raises
    ------
    LowRankError
        If `parts` or `bits` is out of range, or an entry is not finite.
    """
    n, width = matrix.shape
    if not 1 <= parts <= width:
        raise LowRankError(f"parts must be 1 to {width}, the columns of the matrix, not {parts}")
    if not 1 <= bits <= MOST:
        raise LowRankError(f"bits must be 1 to {MOST}, not {bits}")
    unit = finite_unit(matrix)
    depth = -(-width // parts)
    parts = -(-width // depth)  # pieces of equal width may be fewer than asked for
    rows = torch.nn.functional.pad((matrix.double() / unit).float(), (0, parts * depth - width))
    generator = torch.Generator().manual_seed(seed)
    share = (weights / weights.sum()).float()
    books, codes = [], []
    for part in range(parts):
        points = rows[:, part * depth : (part + 1) * depth].contiguous()
        book = weighted_means(points, share, min(n, 1 << bits), generator).half()
        books.append(book)
        codes.append(nearest(points, book.float()))
    packed = pack(torch.stack(codes, dim=1), torch.full((parts,), bits))
    sizes = torch.tensor([bits, width, exponent_of(unit)], dtype=torch.int32)
    coded = ProductCodes(packed, torch.stack(books), sizes.to(matrix.device))
    return coded, {"parts": parts, "weighted_error": relative_error(matrix, coded, weights)}


def parts_for(shape: tuple[int, int], n_bytes: int, bits: int = 8) -> int:
    """Return the most parts m whose codes and codebooks fit into `n_bytes`.

    Raises
    ------
    LowRankError
        If one part does not fit.
    """
    n, width = shape
    for parts in range(width, 0, -1):
        depth = -(-width // parts)
        real = -(-width // depth)
        size = n * ((real * bits + 7) // 8) + 2 * real * depth * min(n, 1 << bits) + 12
        if size <= n_bytes:
            return real
    raise LowRankError(f"{n_bytes} bytes do not hold product codes of {n} rows; allow more bytes")


def weighted_means(
    points: Tensor, weights: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Return `count` centres, K×p, of weighted k-means (Lloyd's steps on a sample of the points).

    The start draws distinct rows in proportion to their weight, and the sample likewise, so that
    its points count alike. A centre without points moves to the point that is worst served.
    """
    n = len(points)
    size = min(n, SAMPLE * count)
    if size < n:  # sampled by weight: of the heaviest rows each is there, and counts in full
        chance = weights.double().sqrt()
        chosen = torch.multinomial(chance, size, generator=generator)
        points, weights = points[chosen], (weights[chosen].double() / chance[chosen]).float()
    start = torch.multinomial(weights.double(), count, generator=generator)
    centres = points[start].clone()
    for _ in range(ITERATIONS):
        labels = nearest(points, centres)
        mass = torch.zeros(count).index_add_(0, labels, weights)
        sums = torch.zeros_like(centres).index_add_(0, labels, points * weights.unsqueeze(1))
        empty = mass == 0
        centres = torch.where(
            empty.unsqueeze(1), centres, sums / mass.clamp(min=1e-30).unsqueeze(1)
        )
        if bool(empty.any()):
            error = weights * (points - centres[labels]).square().sum(1)
            worst = error.topk(int(empty.sum())).indices
            centres[empty] = points[worst]
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the number of the nearest centre of each point, n int64."""
    half, turned = centres.square().sum(1) / 2, centres.T.contiguous()
    parts = [_least(torch.addmm(half, part, turned, alpha=-1)) for part in points.split(BLOCK)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def _least(values: Tensor) -> Tensor:
    """Return the place of the first least entry of each row, m int64."""
    # numpy's is twelve times as fast as torch's.
    return torch.from_numpy(values.cpu().numpy().argmin(1)).to(values.device)
