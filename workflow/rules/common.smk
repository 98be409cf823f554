"""Functions that the rules share: jobs by stage and name, and what each waits for."""


def job_json(stage):
    """Return a function that gives the job of a wildcard as canonical JSON."""
    return lambda wildcards: EXPERIMENT.job_json(stage, wildcards.name)


def manifests_before(stage):
    """Return a function that gives the manifests that a job of `stage` waits for."""
    return lambda wildcards: EXPERIMENT.manifests_before(stage, wildcards.name)


def memory_mb(wildcards, attempt):
    """Return the memory of a job in MB, twice as much at every further attempt."""
    return EXPERIMENT.config.jobs.memory_mb * 2 ** (attempt - 1)
