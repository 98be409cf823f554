"""The methods of an experiment with all combinations of their parameters."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lowrank_bench.config.schema import Config
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method, method_class, methods_for
from lowrank_bench.plan.cells import DENSE, Spec
from lowrank_bench.plan.code import method_code
from lowrank_bench.store.digest import canonical

PARAMETERS, BYTES = "parameters", "bytes"
Specs = dict[str, tuple[Spec, ...]]


def specs_by_target(config: Config) -> dict[str, Specs]:
    """Return the specs of all methods by target, and by the entry's name in the configuration.

    Raises
    ------
    LowRankError
        When a method or one of its parameters is unknown or out of range, a target has no method,
        a method has no target, or two entries run the same method with the same parameters.
    """
    targets = dict.fromkeys(config.target_of(model) for model in config.model.values())
    specs = {target: _specs(config, target) for target in targets}
    _check_all_run(config, specs)
    return specs


def dense_spec(config: Config, target: str) -> Spec:
    """Return the pseudo-method of the network as trained."""
    settings = _settings(config, target)
    return Spec(DENSE, {}, target, DENSE, "", settings=settings, budget=_budget(config, target))


def _check_all_run(config: Config, specs: Mapping[str, Specs]) -> None:
    """Refuse methods that compress no target of the experiment."""
    idle = [
        name for name in config.method if not any(name in entries for entries in specs.values())
    ]
    if idle:
        known = ", ".join(method_class(config.method[idle[0]].name).targets)
        raise LowRankError(
            f"method.{idle[0]} compresses {known}, and the experiment {', '.join(sorted(specs))}; "
            "take it out, or add a network with its target"
        )


def _check_distinct(specs: Mapping[str, Sequence[Spec]]) -> None:
    """Refuse entries that would run the same method with the same parameters twice."""
    seen: dict[str, str] = {}
    for name, entry in specs.items():
        for spec in entry:
            key = canonical([spec.method, spec.params])
            if key in seen:
                raise LowRankError(
                    f"method.{name} runs {spec.label}, as method.{seen[key]} does already; "
                    "take one of them out"
                )
            seen[key] = name


def _budget(config: Config, target: str) -> str:
    """Return what a compression of a target limits."""
    return config.budget if target != "embedding" or config.budget == BYTES else PARAMETERS


def _settings(config: Config, target: str) -> dict[str, Any]:
    """Return the experiment's settings for methods: the budget, and what whole networks need."""
    if target == "embedding":  # of the two budgets of embeddings, the papers' goes without saying
        return {"budget": BYTES} if config.budget == BYTES else {}
    settings = {"budget": config.budget, "calibration": config.calibration.model_dump()}
    return settings if config.rest == "as_is" else {**settings, "rest": config.rest}


def _specs(config: Config, target: str) -> Specs:
    """Return the specs of the methods that can compress a target, by the entry's name."""
    specs = {
        name: tuple(_entry_specs(config, name, target))
        for name, entry in config.method.items()
        if target in method_class(entry.name).targets
    }
    if not specs:
        raise LowRankError(
            f"none of the methods {', '.join(config.method)} compresses the target {target!r}; "
            f"add one that does: {', '.join(methods_for(target))}"
        )
    _check_distinct(specs)
    return specs


def _entry_specs(config: Config, name: str, target: str) -> Iterator[Spec]:
    """Yield a spec for each precision and each combination of an entry's grid."""
    entry = config.method[name]
    twice = sorted(set(entry.params) & set(entry.grid))
    if twice:
        raise LowRankError(
            f"method.{name}: parameter {twice[0]!r} is in both params and grid; keep one of them"
        )
    for precision, values in product(entry.quantize, product(*entry.grid.values())):
        combination = dict(zip(entry.grid, values, strict=True))
        if precision is not None and target != "embedding":
            raise LowRankError(
                f"method.{name}.quantize stores the factors of embeddings, and the experiment "
                f"compresses {target}; take it out"
            )
        method = make_method(entry.name, **entry.params, **combination, quantize=precision)
        yield Spec(
            method=entry.name,
            params=method.model_dump(mode="json"),
            target=target,
            label=method.label(),
            code=method_code(method, target, config.budget),
            nested=method.nested and target == "embedding",
            needs=method.needs,
            settings=_settings(config, target),
            budget=_budget(config, target),
        )
