rule factorize:
    # Decompose the target weight once per method and parameters, for all ranks.
    input:
        manifests_before("factorize"),
    output:
        f"{RESULTS}/jobs/factorize/{{name}}.json",
    log:
        f"logs/{EXPERIMENT.config.name}/factorize/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.config.jobs.threads
    resources:
        mem_mb=memory_mb,
    params:
        job=job_json("factorize"),
        settings=EXPERIMENT.settings,
    message:
        "factorize {wildcards.name}"
    script:
        "../scripts/factorize.py"
