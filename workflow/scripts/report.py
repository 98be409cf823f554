"""Make the self-contained HTML report of the figures and tables, with Snakemake itself."""

import json
import subprocess
import sys

from lowrank_bench.script import logged

with logged(snakemake.log[0]):  # noqa: F821
    overrides = json.loads(snakemake.params.overrides)  # noqa: F821
    command = [sys.executable, "-m", "snakemake", "--report", snakemake.output[0]]  # noqa: F821
    command += ["--snakefile", snakemake.params.snakefile, "--nolock"]  # noqa: F821
    command += ["--config", f"overrides={json.dumps(overrides)}"]
    command += ["--", *snakemake.input]  # noqa: F821
    made = subprocess.run(command, capture_output=True, text=True)
    print(made.stdout, made.stderr, file=sys.stderr)
    made.check_returncode()
