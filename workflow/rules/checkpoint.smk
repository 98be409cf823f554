rule checkpoint:
    # Fine-tune a network on its tasks, or fetch a published checkpoint; evaluate the dense network.
    input:
        manifests_before("checkpoint"),
    output:
        f"{RESULTS}/jobs/checkpoint/{{name}}.json",
    log:
        f"logs/{EXPERIMENT.config.name}/checkpoint/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.config.jobs.threads
    resources:
        mem_mb=memory_mb,
    params:
        job=job_json("checkpoint"),
        settings=EXPERIMENT.settings,
    message:
        "checkpoint {wildcards.name}"
    script:
        "../scripts/checkpoint.py"
