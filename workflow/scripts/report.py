"""Make the self-contained HTML report of the figures and tables, with Snakemake itself."""

import subprocess
import sys
from pathlib import Path

from lowrank_bench.errors import LowRankError
from lowrank_bench.script import logged

with logged(snakemake.log[0]):  # noqa: F821
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1"]
    command += ["--snakefile", str(Path(snakemake.scriptdir, "../../Snakefile").resolve())]  # noqa: F821
    command += ["--report", snakemake.output[0]]  # noqa: F821
    command += ["--config", f"overrides={snakemake.params.overrides}"]  # noqa: F821
    command += ["--", *sorted(set(snakemake.input))]  # noqa: F821
    made = subprocess.run(command, capture_output=True, text=True)
    print(made.stdout, made.stderr, file=sys.stderr)
    if made.returncode:
        raise LowRankError("snakemake could not make the report; its output stands above")
