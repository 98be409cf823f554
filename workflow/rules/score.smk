rule score:
    # Compute metrics, intervals and paired tests from the stored predictions.
    input:
        EXPERIMENT.all_manifests(),
    output:
        **SCORES,
    log:
        f"logs/{EXPERIMENT.config.name}/score.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory_mb,
    params:
        overrides=EXPERIMENT.overrides_json,
        digest=EXPERIMENT.score_digest,
    message:
        "metrics, intervals and paired tests"
    script:
        "../scripts/score.py"
