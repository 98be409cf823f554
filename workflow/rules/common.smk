"""Input and parameter functions shared by the rules."""


def job_json(stage):
    """Return a function from wildcards to the canonical JSON of their job in `stage`."""
    return lambda wildcards: EXPERIMENT.job_json(stage, wildcards.name)


def manifests_before(stage):
    """Return a function from wildcards to the manifests that their job in `stage` depends on."""
    return lambda wildcards: EXPERIMENT.manifests_before(stage, wildcards.name)


def memory_mb(wildcards, attempt):
    """Return the memory of a job in MB; it doubles with every attempt."""
    return EXPERIMENT.config.jobs.memory_mb * 2 ** (attempt - 1)
