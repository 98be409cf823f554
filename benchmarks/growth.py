"""The cost of an experiment as it grows: the same one with 1, 4 and 16 times the cells.

python benchmarks/growth.py            # 125, 500 and 2,000 cells through Snakemake
python benchmarks/growth.py --quick    # 30, 120 and 480 of them

First come dry-runs of up to 10,000 cells and more, then real runs on small networks, each in a
fresh folder with an empty store, then the largest run again, with nothing left to do. CPU seconds
are those of Snakemake and of all its jobs.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workflow_runs import ROOT, Run, snakemake

from lowrank_bench.config import load_config
from lowrank_bench.plan.grid import make_plan

FACTORS = (1, 4, 16)
# 4 networks x 9 tasks x 4 series x 5 rates, and a job for every task and series.
TEXTS = "model=[quick_bert,quick_distilbert,quick_roberta,quick_xlnet]"
TASKS = "cola,sst2,mrpc,stsb,qqp,mnli,qnli,rte,wnli"
WIDE = [TEXTS, f"task=[{','.join(f'quick_{task}' for task in TASKS.split(','))}]", "method=[lp]"]
SINGLE = ["jobs.tasks_per_checkpoint_job=1", "jobs.tasks_per_job=1", "jobs.methods_per_job=1"]
SMALL = ["model=[quick_bert]", "task=[quick_wnli]", "method=[svd,lp]"]


@dataclass(frozen=True)
class Step:
    """One run of an experiment of one size."""

    cells: int
    jobs: int
    run: Run


def step(folder: Path, overrides: Sequence[str], *flags: str) -> Step:
    """Run an experiment, and count its cells and jobs."""
    plan = make_plan(load_config(ROOT / "conf", overrides))
    jobs = sum(len(found) for found in plan.stages().values())
    return Step(len(plan.cells()), jobs, snakemake(folder, overrides, *flags))


def show(title: str, steps: Sequence[Step]) -> None:
    """Print a line for every size, the smallest first.

    `of a cell` is the total cost divided by the cells, `of a cell more` the cost of each cell added
    since the previous size; the last column compares the latter with its first value.
    """
    print(
        f"\n{title:24s} cells  jobs   CPU s  wall s   CPU over 1x  wall over 1x   ms of a cell   "
        "ms of a cell more"
    )
    first, before = steps[0], None
    slopes: list[float] = []
    for now in steps:
        line = f"{now.cells / first.cells:20.1f}x {now.cells:8,d} {now.jobs:5d} {now.run.cpu:7.1f} "
        line += f"{now.run.wall:7.1f} {now.run.cpu / first.run.cpu:12.2f}x"
        line += f"{now.run.wall / first.run.wall:13.2f}x{1e3 * now.run.cpu / now.cells:15.1f}"
        if before:
            more = (now.run.cpu - before.run.cpu) / (now.cells - before.cells)
            slopes.append(more)
            line += f"{1e3 * more:15.1f} ({more / slopes[0]:.2f}x)"
        print(line)
        before = now


def bend(steps: Sequence[Step], kind: str) -> float:
    """Return the relative deviation of the middle sizes from the line through the outer two."""
    first, last = steps[0], steps[-1]
    low, high = getattr(first.run, kind), getattr(last.run, kind)
    slope = (high - low) / (last.cells - first.cells)
    straight = [low + slope * (step.cells - first.cells) for step in steps]
    offs = (getattr(s.run, kind) / own - 1 for s, own in zip(steps, straight, strict=True))
    return max(offs, key=abs)


def rates(number: int) -> str:
    """Return an override with `number` compressions, evenly spaced from 10 to 90 %."""
    found = [0.1 + 0.8 * place / max(1, number - 1) for place in range(number)]
    return f"compressions=[{','.join(f'{rate:.5f}' for rate in found)}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the cells")
    base = 6 if parser.parse_args().quick else 25
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for title, jobs in (("dry-run", []), ("dry-run, many jobs", SINGLE)):
            seeds = [f"seeds=[{','.join(map(str, range(factor)))}]" for factor in FACTORS]
            dry = [step(folder, [*WIDE, *jobs, own], "--dry-run") for own in seeds]
            show(title, dry)
            print(f"ratio: {title} of {dry[-1].cells:,} cells: {dry[-1].run.cpu:.1f} CPU seconds")
        real = []
        for factor in FACTORS:
            overrides = [*SMALL, rates(base * factor)]
            real.append(step(folder / str(factor), overrides))
        show("real run", real)
        print(f"{'of it, by script':>24s}")
        for script in sorted(set().union(*(own.run.scripts for own in real))):
            seconds = [sum(own.run.scripts.get(script, ())) for own in real]
            print(f"{script:>24s}  " + "  ".join(f"{own:8.2f} s" for own in seconds))
        off = ", ".join(f"{kind} {bend(real, kind):+.0%}" for kind in ("cpu", "wall"))
        print(f"ratio: real runs, the middle one off the straight line between the others: {off}")
        again = step(folder / str(FACTORS[-1]), overrides)
        show("once more, all done", [again])
        print(f"ratio: no-op rerun of {again.cells:,} cells: {again.run.cpu:.1f} CPU seconds")


if __name__ == "__main__":
    main()
