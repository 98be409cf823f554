rule finetune:
    # Train all compressed networks of a method on a task, then predict with them.
    input:
        manifests_before("finetune"),
    output:
        f"{RESULTS}/jobs/finetune/{{name}}.json",
    log:
        f"logs/{EXPERIMENT.config.name}/finetune/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.config.jobs.threads
    resources:
        mem_mb=memory_mb,
    params:
        job=job_json("finetune"),
        settings=EXPERIMENT.settings,
    message:
        "finetune {wildcards.name}"
    script:
        "../scripts/finetune.py"
