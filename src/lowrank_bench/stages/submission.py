"""Check what a run of the workflow will submit to a cluster before it submits anything."""

from typing import Any

from lowrank_bench.errors import LowRankError


def cores_at_once(workflow: Any) -> int:
    """Return the number of cores that jobs may use at the same time.

    Parameters
    ----------
    workflow
        Snakemake's workflow. On a cluster it is `--jobs` that bounds a run; `--cores` may be
        missing there.
    """
    settings = workflow.resource_settings
    return settings.cores or settings.nodes or 1


def lift_rate(workflow: Any) -> None:
    """Let a local run start jobs when cores are free, however many a second.

    To keep to a rate, Snakemake 9.27.1 goes through all waiting jobs every second, and once more
    for every job that ends: with hundreds of jobs this takes a tenth of a core. On a cluster the
    rate protects others; on one machine the number of cores is limit enough.

    Parameters
    ----------
    workflow
        Snakemake's workflow, about to start its first job.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def submissions(workflow: Any) -> str:
    """Return a line on the jobs that a run will submit and their bound; nothing for a local run.

    Parameters
    ----------
    workflow
        Snakemake's workflow, its graph of jobs already built. Every job of an array counts.

    Raises
    ------
    SystemExit
        With one line, when the run asks for SLURM arrays that could not work.
    """
    if workflow.local_exec or workflow.dryrun:
        return ""
    jobs = sum(not job.is_local for job in workflow.dag.needrun_jobs())
    bound = workflow.resource_settings.nodes
    if getattr(workflow.executor_settings, "array_jobs", None):
        try:
            _check_arrays(jobs, bound, workflow.config_settings.config_args or ())
        except LowRankError as error:
            raise SystemExit(f"error: {error}") from None
    attempts = 1 + workflow.execution_settings.retries
    return (
        f"{jobs:,} jobs to submit, at most {bound:,} at once and {jobs * attempts:,} with all "
        "retries"
    )


def _check_arrays(jobs: int, bound: int, settings: Any) -> None:
    """Refuse runs for which snakemake-executor-plugin-slurm 2.8.0 cannot make arrays.

    It drops the jobs that are ready when others of their rule must still wait for `--jobs`, and
    hands the command to `sbatch` in double quotes without escaping those inside.
    """
    if jobs > bound:
        raise LowRankError(
            f"SLURM arrays need --jobs of at least the {jobs:,} jobs of this run, not {bound:,}; "
            "or run without them: --slurm-array-jobs ''"
        )
    quoted = [setting for setting in settings if '"' in str(setting) or "'" in str(setting)]
    if quoted:
        raise LowRankError(
            f"SLURM arrays break on the quotes in --config {quoted[0]}; give it in a file, "
            "--configfile FILE, or run without arrays: --slurm-array-jobs ''"
        )
