rule latency:
    # Time and memory of dense and compressed forward passes, while no other job is running.
    input:
        EXPERIMENT.all_manifests(),
        **SCORES,
    output:
        **LATENCY,
    log:
        f"logs/{EXPERIMENT.config.name}/latency.log",
    conda:
        "../../environment.yml"
    threads: workflow.cores or EXPERIMENT.config.latency.threads
    resources:
        mem_mb=memory_mb,
    params:
        overrides=EXPERIMENT.overrides_json,
        digest=EXPERIMENT.latency_digest,
    message:
        "latency of the compressed networks"
    script:
        "../scripts/latency.py"
