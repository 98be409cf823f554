rule download:
    # Fetch a network or a data set from the hub, or generate it; the only rule with network access.
    output:
        f"{RESULTS}/jobs/download/{{name}}.json",
    log:
        f"logs/{EXPERIMENT.config.name}/download/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory_mb,
    params:
        job=job_json("download"),
        settings=EXPERIMENT.settings,
    message:
        "download {wildcards.name}"
    script:
        "../scripts/download.py"
