"""The quickstart through Snakemake against the same work in one bare Python process.

python benchmarks/pipeline.py            # the whole quickstart; tens of minutes
python benchmarks/pipeline.py --quick    # two networks, three tasks

Both start with an empty store, run side by side on one core each, and must end with the same
scores. The workflow's CPU seconds are those of Snakemake and of all its jobs, including the HTML
page, which the bare process does not make.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from workflow_runs import Run, snakemake, timed

QUICK = [
    "model=[quick_bert,quick_distilbert]",
    "task=[quick_cola,quick_mrpc,quick_rte]",
    "method=[svd,lp,lowner,l21,irls,messi,partition_svd,frequency_svd,fwsvd,frequency_blocks,"
    "frequency_sparse]",
]
# Columns that may differ between two runs of the same work.
TIMES = ["factorize_seconds", "finetune_seconds", "evaluate_seconds", "created_at"]


def bare(folder: Path, overrides: Sequence[str]) -> Run:
    """Run the experiment in one process."""
    script = Path(__file__).with_name("bare.py")
    return timed([sys.executable, str(script), str(folder), *overrides], folder)


RUNS = (snakemake, bare)


def scores(folder: Path) -> pd.DataFrame:
    """Return the scores of a run without the columns that may differ."""
    return pd.read_parquet(folder / "results/quickstart/scores.parquet").drop(columns=TIMES)


def main() -> None:
    """Print both, their ratio, and the CPU seconds of each script of the workflow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two networks, three tasks")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides")
    options = parser.parse_args()
    overrides = [*(QUICK if options.quick else []), *options.set]
    with tempfile.TemporaryDirectory() as temporary:
        ours, theirs = Path(temporary, "workflow"), Path(temporary, "bare")
        with ThreadPoolExecutor() as side_by_side:  # other load affects both equally
            found = side_by_side.map(lambda run, place: run(place, overrides), RUNS, (ours, theirs))
            workflow, single = found
        print("                  processes   CPU s   wall s")
        for name, run in (("workflow", workflow), ("one bare process", single)):
            number = sum(map(len, run.scripts.values()))
            print(f"{name:18s} {number:8d} {run.cpu:7.1f} {run.wall:8.1f}")
        ratio = workflow.cpu / single.cpu
        print(f"ratio: the workflow takes {ratio:.2f}x the CPU seconds of the bare process")
        different = scores(ours).compare(scores(theirs))
        print(f"ratio: {len(different)} of {len(scores(ours)):,} rows of scores differ")
        print("\nof the workflow's:   processes   CPU s   least of one")
        for script, seconds in sorted(workflow.scripts.items()):
            print(f"{script:18s} {len(seconds):10d} {sum(seconds):8.1f} {min(seconds):10.1f}")
    if len(different):
        sys.exit("error: the scores differ")


if __name__ == "__main__":
    main()
