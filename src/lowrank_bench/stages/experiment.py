"""An experiment as the Snakefile sees it: its jobs, what each waits for, and its messages."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lowrank_bench import evaluate, report, score
from lowrank_bench.config import Config, load_config
from lowrank_bench.config.compose import overrides_of
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import method_class
from lowrank_bench.plan.cells import DENSE, Job
from lowrank_bench.plan.grid import Plan, make_plan
from lowrank_bench.report.escape import rst_text
from lowrank_bench.stages.faults import brief
from lowrank_bench.stages.holdings import bring_back, reopen, write_holdings
from lowrank_bench.stages.progress import write_plan
from lowrank_bench.stages.record import KIND, SUFFIX
from lowrank_bench.stages.settings import settings_of
from lowrank_bench.store.digest import canonical, digest
from lowrank_bench.store.store import Store


def load_experiment(conf: Path, settings: Mapping[str, Any]) -> "Experiment":
    """Return the experiment that Snakemake's `--config` settings name.

    Raises
    ------
    SystemExit
        With one line on what is wrong with the configuration.
    """
    # Scripts find the package in environments that it was not installed into.
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    overrides = overrides_of(settings)
    try:
        return Experiment(load_config(conf, overrides), overrides)
    except LowRankError as error:
        raise SystemExit(f"error: {error}") from None


class Experiment:
    """An experiment as the workflow sees it.

    Parameters
    ----------
    config
        The validated experiment.
    overrides
        The overrides that it was composed with; scripts compose the same experiment again.
    """

    def __init__(self, config: Config, overrides: Sequence[str]) -> None:
        self.config, self.overrides = config, list(overrides)
        self.folder = Path("results", config.name)
        self.plan: Plan = make_plan(config)
        self._jobs = {
            stage: {job.name: job for job in jobs} for stage, jobs in self.plan.stages().items()
        }

    @cached_property
    def settings(self) -> str:
        """What jobs need in addition to their work, canonical JSON; none of it decides a result."""
        return _param(settings_of(self.config).to_json())

    @property
    def overrides_json(self) -> str:
        """The overrides, canonical JSON."""
        return _param(canonical(self.overrides))

    @property
    def title_json(self) -> str:
        """The title, canonical JSON."""
        return _param(canonical(self.config.title))

    @cached_property
    def score_digest(self) -> str:
        """Digest of all cells and of everything that turns predictions into scores."""
        keys = sorted(cell.key for cell in self.plan.cells())
        tasks = {name: task.model_dump() for name, task in self.config.task.items()}
        statistics = self.config.statistics.model_dump()
        said = self.config.model_dump(include={"title", "select", "claims", "reference"})
        return digest([keys, tasks, statistics, said, score.SOURCES.digest()])

    @cached_property
    def present_digest(self) -> str:
        """Digest of the sources that draw tables and figures."""
        return digest([self.config.title, report.SOURCES.digest()])

    def score_tables(self) -> list[str]:
        """Return the names of the score tables that the experiment asks for."""
        config = self.config
        targets = {config.target_of(model) for model in config.model.values()}
        asked = {
            "halves": config.statistics.halves,
            "saving_at_half_a_point": targets != {"embedding"},
            "claims": bool(config.claims),
            "paper_vs_ours": bool(config.reference),
        }
        return ["scores", "summary", *(name for name, wanted in asked.items() if wanted)]

    @cached_property
    def latency_digest(self) -> str:
        """Digest of what is measured and of the sources that measure."""
        keys = sorted(cell.key for cell in self.plan.cells())
        return digest([keys, self.config.latency.model_dump(), evaluate.MEASURING.digest()])

    def report_words(self) -> dict[str, str | list[str]]:
        """Return title, description and methods for the first page of the report."""
        used = sorted({entry.name for entry in self.config.method.values()})
        classes = [method_class(name) for name in used]
        return {
            "title": rst_text(self.config.title),
            "description": rst_text(self.config.description),
            "methods": [f"``{c.name}``: {rst_text(f'{c.title}. {c.source}.')}" for c in classes],
        }

    def job_json(self, stage: str, name: str) -> str:
        """Return a job as canonical JSON."""
        return self._jobs[stage][name].to_json()

    def manifests_before(self, stage: str, name: str) -> list[str]:
        """Return the manifests that a job of `stage` waits for."""
        job = self._jobs[stage][name]
        if stage == "checkpoint":
            keys = {source.key for checkpoint in job.checkpoints for source in checkpoint.fetched()}
            return self._manifests("download", lambda other: _sources(other) & keys)
        checkpoints = {checkpoint.key for checkpoint in job.checkpoints}
        if stage == "factorize" or job.specs[0].method == DENSE:
            return self._manifests("checkpoint", lambda other: _checkpoints(other) & checkpoints)
        specs = _specs(job)
        return self._manifests(
            "factorize", lambda other: _checkpoints(other) & checkpoints and specs <= _specs(other)
        )

    def all_manifests(self) -> list[str]:
        """Return the manifests that the scores rest on."""
        stages = ("checkpoint", "evaluate", "finetune")
        return [manifest for stage in stages for manifest in self._manifests(stage)]

    def _manifests(
        self, stage: str, wanted: Callable[[Job], object] = lambda job: True
    ) -> list[str]:
        jobs = self._jobs[stage].values()
        return [
            f"{self.folder.as_posix()}/jobs/{stage}/{job.name}.json" for job in jobs if wanted(job)
        ]

    def reopen(self) -> None:
        """Have jobs run again whose cells were lost, and say what failed for good before."""
        bring_back(self.folder)
        places = [Path(manifest) for manifest in self.all_manifests()]
        opened, failed = reopen(places, Store(self.config.store))
        if opened:
            _say(f"{opened:,} jobs are open again: their cells are no longer in the store")
        if failed:
            _say(
                f"{failed:,} pieces of work failed in an earlier run, see {self.folder}/tables/"
                "status.md; --forcerun evaluate tries them again"
            )

    def announce(self, cores: int, submissions: str = "") -> None:
        """Say what is about to run, and write the plan by which jobs show their progress.

        `submissions` is a line on what the run will ask of a cluster.
        """
        stages = self.plan.stages()
        try:
            measured = bool(self.config.latency.batches)
            write_plan(self.folder, stages, cores, len(self.config.model), measured)
            write_holdings(self.folder, stages)
        except OSError as error:
            raise SystemExit(f"error: {self.folder} cannot be written: {brief(error)}") from None
        config, store = self.config, Store(self.config.store)
        jobs = (*self.plan.evaluate, *self.plan.finetune)
        cells = [cell for job in jobs for cell in job.cells()]
        done = sum(store.holds(KIND, cell.key, SUFFIX) for cell in cells)
        labels = {spec.label for job in self.plan.factorize for spec in job.specs}
        # No product: a method runs on the networks whose layers it compresses, on tasks of theirs.
        parts = {
            "network": len(config.model),
            "task": len(config.task),
            "seed": len(config.seeds),
            "method": len(labels),
            "rate": len(config.compressions),
        }
        of = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in parts.items())
        if self.plan.finetune:
            of += f", {_listed(config.finetune_epochs)} epochs of training after"
        _say(f"{config.title}: {len(cells):,} cells ({of}), {done:,} of them in the store")
        if submissions:
            _say(submissions)

    def conclude(self) -> None:
        """Say where the results are; end with an error when cells failed.

        Raises
        ------
        SystemExit
            With code 1 after the first reason, when a cell failed. Its row is in the tables.
        """
        import pandas as pd

        place = self.folder / "scores.parquet"
        if not place.is_file():  # a run that was asked for something else
            return
        scores = pd.read_parquet(place, columns=["status", "reason"])
        counts = Counter(scores["status"])
        listed = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
        _say(f"{self.config.title}: scores: {listed}; open {self.folder}/report.html")
        failed = scores.loc[scores["status"] == "failed", "reason"]
        if len(failed):
            table = self.folder / "tables/status.md"
            raise SystemExit(f"error: {len(failed)} scores failed, see {table}: {failed.iloc[0]}")


def _sources(job: Job) -> set[str]:
    return {source.key for source in job.sources}


def _param(text: str) -> str:
    """Return JSON in which Snakemake sees no wildcard, and its report no tag of HTML.

    The braces of JSON's own objects are followed by a quotation mark, those of `{name}` within a
    text are not. The report holds the parameters of rules in a script.
    """
    return re.sub(r"\{(?=\s*\w)", r"\\u007b", text).replace("<", r"\u003c")


def _checkpoints(job: Job) -> set[str]:
    return {checkpoint.key for checkpoint in job.checkpoints}


def _specs(job: Job) -> set[str]:
    return {canonical([spec.method, spec.params, spec.code]) for spec in job.specs}


def _listed(values: Sequence[object]) -> str:
    return " and ".join(str(value) for value in values)


def _say(text: str) -> None:
    print(f"[lowrank-bench] {text}", file=sys.stderr, flush=True)
