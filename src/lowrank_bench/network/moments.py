"""Means and second moments of what each layer of a network multiplies, on calibration data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.rows import choose_positions, input_rows, real_positions

# Of one image: neighbouring patches overlap, more of them say little that is new.
MOST_POSITIONS = 256
GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the rows x that a layer multiplies, over all positions of all examples.

    Attributes
    ----------
    mean
        E[x], float64 d.
    second
        E[x xᵀ], float64 d×d.
    count
        Rows that were looked at.
    positions
        Positions of an example, on average: patches, or tokens without padding.
    """

    mean: Tensor
    second: Tensor
    count: int
    positions: float

    def covariance(self) -> Tensor:
        """Return E[x xᵀ] − E[x] E[x]ᵀ, d×d."""
        return self.second - torch.outer(self.mean, self.mean)


class _Sums:
    """Running sums of one layer."""

    def __init__(self, width: int) -> None:
        self.first = torch.zeros(width, dtype=torch.float64)
        self.second = torch.zeros(width, width, dtype=torch.float64)
        self.rows = self.positions = 0

    def add(self, part: tuple[Tensor, Tensor, int, int]) -> None:
        """Add Σ x, Σ x xᵀ, how many rows these are, and how many positions they stand for."""
        self.first += part[0]
        self.second += part[1]
        self.rows += part[2]
        self.positions += part[3]

    def moments(self, examples: int) -> Moments:
        """Return the means over what was added, for so many examples."""
        count = max(self.rows, 1)
        positions = self.positions / examples
        return Moments(self.first / count, self.second / count, self.rows, positions)


class _Collector:
    """Sums up the rows of all layers while the network runs."""

    def __init__(self, modules: Mapping[str, nn.Module], seed: int) -> None:
        self.modules, self.sums = modules, {name: _Sums(_width(m)) for name, m in modules.items()}
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: Mapping[str, Tensor] = {}
        self.last: tuple[Tensor, tuple, Any] | None = None

    def begin(self, inputs: Mapping[str, Tensor]) -> None:
        """Take note of the inputs of the next forward."""
        self.inputs, self.last = inputs, None

    def watcher(self, name: str) -> Callable[[Tensor, Tensor], None]:
        """Return what adds a layer's inputs to its sums."""
        return lambda given, _: self.sums[name].add(self._part(self.modules[name], given))

    def _part(self, module: nn.Module, given: Tensor) -> tuple[Tensor, Tensor, int, int]:
        """Return the sums over one input; queries, keys and values share theirs."""
        key = (given._version, *(getattr(module, name, None) for name in GEOMETRY))
        if self.last is None or self.last[0] is not given or self.last[1] != key:
            rows, positions = self._rows(module, given)
            # Products in float32 are exact to 1e-6 of the largest entry.
            first = rows.sum(dim=0, dtype=torch.float64)
            part = first.cpu(), (rows.T @ rows).cpu(), len(rows), positions
            self.last = given, key, part
        return self.last[2]

    def _rows(self, module: nn.Module, given: Tensor) -> tuple[Tensor, int]:
        """Return rows n×d of a layer's input, and of how many positions they are a sample."""
        rows = input_rows(module, given)
        mask = real_positions(self.inputs, given)
        if mask is not None:
            rows = rows[mask]
            return rows, len(rows)
        total = rows.shape[0] * rows.shape[1]
        places = choose_positions(rows, MOST_POSITIONS, self.generator)
        rows = rows if places is None else rows[:, places]
        return rows.reshape(-1, rows.shape[-1]), total


def input_moments(problem: NetworkProblem) -> dict[str, Moments]:
    """Return the moments of the inputs of every targeted layer but the embedding, by its name.

    One pass over the calibration data. Padded tokens do not count. Of images with more patches than
    `MOST_POSITIONS`, so many are drawn by the problem's seed, anew for each batch.

    Raises
    ------
    LowRankError
        When there are no calibration data, or a layer's inputs are not finite.
    """
    return problem.cached("input_moments", lambda: _input_moments(problem))


def token_use(problem: NetworkProblem) -> Tensor:
    """Return how often an example may be expected to look each row of the embedding up, n float64.

    Counted on the calibration data, where padding does not count. Rows that these never use share
    the use that Good and Turing foretell for them: that of the rows used once, at most half of all.

    Raises
    ------
    LowRankError
        When there are no calibration data.

    References
    ----------
    Good, "The population frequencies of species and the estimation of population parameters",
    Biometrika 40 (1953).
    """
    counts, examples = problem.cached("token_counts", lambda: _token_counts(problem))
    total, unseen = float(counts.sum()), counts == 0
    if not total or not unseen.any():
        return counts / examples
    share = min((float((counts == 1).sum()) + 1) / (total + 1), 0.5)
    use = (1 - share) * counts
    use[unseen] = share * total / int(unseen.sum())
    return use / examples


def run_batches(
    problem: NetworkProblem,
    watchers: Mapping[str, Callable[[Tensor, Tensor], None]],
    before: Callable[[Mapping[str, Tensor]], None],
) -> int:
    """Run the network on all calibration data under `watchers`; return the number of examples.

    `before` sees the inputs of each batch first.
    """
    examples = 0
    with torch.no_grad(), watching(problem.model, watchers):
        for inputs, _ in problem.data():
            before(inputs)
            problem.model(**inputs)
            examples += len(next(iter(inputs.values())))
    check_examples(examples)
    return examples


def check_examples(examples: int) -> None:
    """Refuse calibration data without a single example."""
    if not examples:
        raise LowRankError("the calibration batches are empty; give some training inputs")


def check_seen(rows: Mapping[str, int]) -> None:
    """Refuse layers of whose inputs or outputs no calibration batch gave a single row."""
    unseen = [name for name, count in rows.items() if not count]
    if unseen:
        raise LowRankError(
            f"layer {unseen[0]!r} does not run on the calibration data, though it runs on the "
            "example; give data on which every layer runs, as the example does"
        )


def check_finite(found: Mapping[str, Tensor], what: str) -> None:
    """Refuse statistics with NaN or infinite entries, naming the layer."""
    for name, value in found.items():
        if not value.isfinite().all():
            raise LowRankError(
                f"{what} layer {name!r} are NaN or infinite on the calibration data; check that "
                "the inputs are finite and preprocessed as in training"
            )


def _input_moments(problem: NetworkProblem) -> dict[str, Moments]:
    names = [layer.name for layer in problem.layers if layer.kind != "embedding"]
    modules = {name: problem.model.get_submodule(name) for name in names}
    collector = _Collector(modules, problem.seed)
    watchers = {name: collector.watcher(name) for name in names}
    examples = run_batches(problem, watchers, collector.begin)
    check_seen({name: found.rows for name, found in collector.sums.items()})
    check_finite({name: found.second for name, found in collector.sums.items()}, "inputs of")
    return {name: found.moments(examples) for name, found in collector.sums.items()}


def _width(module: nn.Module) -> int:
    return module.weight[0].numel()


def _token_counts(problem: NetworkProblem) -> tuple[Tensor, int]:
    """Return how often the calibration data look each row up, and the number of examples."""
    layer = next(layer for layer in problem.layers if layer.kind == "embedding")
    total = torch.zeros(layer.shape[0], dtype=torch.float64)
    current: Mapping[str, Tensor] = {}

    def before(inputs: Mapping[str, Tensor]) -> None:
        """Keep the inputs of the forward that begins."""
        nonlocal current
        current = inputs

    def add(tokens: Tensor, _: Tensor) -> None:
        """Count the tokens that are no padding."""
        mask = real_positions(current, tokens)
        tokens = tokens.reshape(-1) if mask is None else tokens[mask]
        total.add_(torch.bincount(tokens.cpu(), minlength=len(total)))

    examples = run_batches(problem, {layer.name: add}, before)
    return total, examples
