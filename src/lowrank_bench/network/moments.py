"""Means and second moments of the inputs of each layer of a network, on calibration data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.geometry import OPTIONS
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.layers import weight_of
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.rows import choose_positions, input_rows, real_positions

# Patches of one image that are used: neighbours overlap, so more of them add little.
MOST_POSITIONS = 256
# Layers with the same input and the same of these attributes multiply the same rows.
GEOMETRY = ("kernel_size", *OPTIONS)


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
        Number of rows.
    positions
        Mean number of positions of an example: patches, or tokens without padding.
    """

    mean: Tensor
    second: Tensor
    count: int
    positions: float

    def covariance(self) -> Tensor:
        """Return E[x xᵀ] − E[x] E[x]ᵀ, d×d."""
        return self.second - torch.outer(self.mean, self.mean)


# Σ x, Σ x xᵀ, the number of rows x, and the number of positions they represent.
Part = tuple[Tensor, Tensor, int, int]


class _Sums:
    """Running sums of one layer."""

    def __init__(self, width: int) -> None:
        self.first = torch.zeros(width, dtype=torch.float64)
        self.second = torch.zeros(width, width, dtype=torch.float64)
        self.rows = self.positions = 0

    def add(self, part: Part) -> None:
        """Add Σ x, Σ x xᵀ, the number of rows, and the number of positions they represent."""
        self.first += part[0]
        self.second += part[1]
        self.rows += part[2]
        self.positions += part[3]

    def moments(self, examples: int) -> Moments:
        """Return the means over all rows, which come from this number of examples."""
        count = max(self.rows, 1)
        positions = self.positions / examples
        return Moments(self.first / count, self.second / count, self.rows, positions)


class _Collector:
    """Sums over the rows of all layers, collected while the network runs."""

    def __init__(self, modules: Mapping[str, nn.Module], seed: int) -> None:
        self.modules, self.sums = modules, {name: _Sums(_width(m)) for name, m in modules.items()}
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: Mapping[str, Tensor] = {}
        self.last: tuple[Tensor, tuple[Any, ...], Part] | None = None

    def begin(self, inputs: Mapping[str, Tensor]) -> None:
        """Remember the inputs of the next forward."""
        self.inputs, self.last = inputs, None

    def watcher(self, name: str) -> Callable[[Tensor, Tensor], None]:
        """Return the watcher that adds a layer's inputs to its sums."""
        return lambda inputs, _: self.sums[name].add(self._part(self.modules[name], inputs))

    def _part(self, module: nn.Module, inputs: Tensor) -> Part:
        """Return the sums over one input; queries, keys and values share theirs."""
        # A layer may overwrite its input, which raises the version.
        key = (inputs._version, *(getattr(module, name, None) for name in GEOMETRY))
        if self.last is None or self.last[0] is not inputs or self.last[1] != key:
            rows, positions = self._rows(module, inputs)
            # Products in float32 are exact to 1e-6 of the largest entry.
            first = rows.sum(dim=0, dtype=torch.float64)
            part = first.cpu(), (rows.T @ rows).cpu(), len(rows), positions
            self.last = inputs, key, part
        return self.last[2]

    def _rows(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, int]:
        """Return rows n×d of a layer's input, and the number of positions that they represent."""
        rows = input_rows(module, inputs)
        mask = real_positions(self.inputs, inputs)
        if mask is not None:
            rows = rows[mask]
            return rows, len(rows)
        total = rows.shape[0] * rows.shape[1]
        places = choose_positions(rows, MOST_POSITIONS, self.generator)
        rows = rows if places is None else rows[:, places]
        return rows.reshape(-1, rows.shape[-1]), total


def input_moments(problem: NetworkProblem) -> dict[str, Moments]:
    """Return the moments of the inputs of every targeted layer but the embedding, by name.

    Takes one pass over the calibration data. Padding does not count. If an image has more than
    `MOST_POSITIONS` patches, that many are drawn with the problem's seed, new ones for each batch.

    Raises
    ------
    LowRankError
        When there are no calibration data, or a layer's inputs are not finite.
    """
    return problem.cached("input_moments", lambda: _input_moments(problem))


def token_use(problem: NetworkProblem) -> Tensor:
    """Return the expected number of look-ups of each embedding row per example, n float64.

    Counted on the calibration data without padding. Rows that do not occur there share the
    probability that the Good-Turing estimate gives them: that of the rows seen once, at most half.

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
    # Good-Turing: rows seen once are as probable together as rows never seen.
    share = min((float((counts == 1).sum()) + 1) / (total + 1), 0.5)
    use = (1 - share) * counts
    use[unseen] = share * total / int(unseen.sum())
    return use / examples


def run_batches(
    problem: NetworkProblem,
    watchers: Mapping[str, Callable[[Tensor, Tensor], None]],
    before: Callable[[Mapping[str, Tensor]], None],
) -> int:
    """Run the network on all calibration data with `watchers`; return the number of examples.

    `before` is called with the inputs of each batch before its forward.
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
    """Refuse layers that did not run on any calibration batch."""
    unseen = [name for name, count in rows.items() if not count]
    if unseen:
        raise LowRankError(
            f"layer {unseen[0]!r} does not run on the calibration data, though it runs on the "
            "example; give data on which every layer runs, as the example does"
        )


def check_finite(statistics: Mapping[str, Tensor], what: str) -> None:
    """Refuse statistics with NaN or infinite entries, naming the layer."""
    for name, value in statistics.items():
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
    check_seen({name: sums.rows for name, sums in collector.sums.items()})
    check_finite({name: sums.second for name, sums in collector.sums.items()}, "inputs of")
    return {name: sums.moments(examples) for name, sums in collector.sums.items()}


def _width(module: nn.Module) -> int:
    return weight_of(module)[0].numel()


def _token_counts(problem: NetworkProblem) -> tuple[Tensor, int]:
    """Return how often the calibration data look up each row, and the number of examples."""
    # An embedding looks rows up: how often it does takes the place of the inputs' moments.
    layer = next(layer for layer in problem.layers if layer.kind == "embedding")
    total = torch.zeros(layer.shape[0], dtype=torch.float64)
    current: Mapping[str, Tensor] = {}

    def before(inputs: Mapping[str, Tensor]) -> None:
        """Remember the inputs of the next forward."""
        nonlocal current
        current = inputs

    def add(tokens: Tensor, _: Tensor) -> None:
        """Count the tokens that are not padding."""
        mask = real_positions(current, tokens)
        tokens = tokens.reshape(-1) if mask is None else tokens[mask]
        total.add_(torch.bincount(tokens.cpu(), minlength=len(total)))

    examples = run_batches(problem, {layer.name: add}, before)
    return total, examples
