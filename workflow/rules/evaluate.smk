rule evaluate:
    # Predict with all compressed networks of a method on a few tasks.
    input:
        manifests_before("evaluate"),
    output:
        f"{RESULTS}/jobs/evaluate/{{name}}.json",
    log:
        f"logs/{EXPERIMENT.config.name}/evaluate/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.config.jobs.threads
    resources:
        mem_mb=memory_mb,
    params:
        job=job_json("evaluate"),
        settings=EXPERIMENT.settings,
    message:
        "evaluate {wildcards.name}"
    script:
        "../scripts/evaluate.py"
