"""Group the work into processes: a process takes seconds to start, a piece of work less."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from lowrank_bench.config.schema import Config
from lowrank_bench.plan.cells import Checkpoint, Source, Spec

Checkpoints = dict[tuple[str, str], list[Checkpoint]]

MADE = ("synthetic", "digits")  # kinds of data that take less time to make than a process to start


def fetch_batches(sources: Collection[Source]) -> Iterator[tuple[str, tuple[Source, ...]]]:
    """Yield the sources of each download job, with a name: one, or all that are made quickly."""
    made = tuple(source for source in sources if source.spec["kind"] in MADE)
    if made:
        yield _span([source.name for source in made]), made
    yield from ((source.name, (source,)) for source in sources if source not in made)


def checkpoint_batches(
    config: Config, checkpoints: Checkpoints, size: int
) -> Iterator[tuple[str, tuple[Checkpoint, ...]]]:
    """Yield the checkpoints of each network, `size` tasks at a time, with a name.

    The tasks of a batch have one modality, and so one code that evaluates them.
    """
    for name in config.model:
        groups: dict[str, list[str]] = {}
        for task, entry in config.task.items():
            if (name, task) in checkpoints:
                groups.setdefault(entry.modality, []).append(task)
        for tasks in groups.values():
            for start in range(0, len(tasks), size):
                chunk = tasks[start : start + size]
                batch = (checkpoint for task in chunk for checkpoint in checkpoints[name, task])
                yield f"{name}.{_span(chunk)}", tuple(batch)


def rates_of(config: Config, method: str) -> tuple[float, ...]:
    """Return the compressions of an entry of the configuration: its own, or the experiment's."""
    return tuple(config.method[method].compressions or config.compressions)


def method_batches(
    config: Config, specs: Mapping[str, tuple[Spec, ...]]
) -> Iterator[tuple[str, tuple[Spec, ...], tuple[float, ...]]]:
    """Yield the specs of some methods at a time, with a name and their compressions."""
    size = config.jobs.methods_per_job
    by_rates: dict[tuple[float, ...], list[str]] = {}
    for name in specs:
        by_rates.setdefault(rates_of(config, name), []).append(name)
    for rates, names in by_rates.items():
        for start in range(0, len(names), size):
            chunk = names[start : start + size]
            yield _span(chunk), tuple(spec for name in chunk for spec in specs[name]), rates


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-to-{names[-1]}"
