"""Make the self-contained HTML report of the figures and tables with Snakemake's own report."""

import subprocess
import sys
from pathlib import Path

from lowrank_bench.errors import LowRankError
from lowrank_bench.stages.faults import is_transient, transient
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1"]
    command += ["--snakefile", str(Path(snakemake.scriptdir, "../../Snakefile").resolve())]
    command += ["--report", snakemake.output[0]]
    style = Path(snakemake.scriptdir, "../report/page.css").resolve()
    command += ["--report-stylesheet", str(style)]
    command += ["--config", f"overrides={snakemake.params.overrides}"]
    command += ["--", *sorted(set(snakemake.input))]
    made = subprocess.run(command, capture_output=True, text=True)
    fault = RuntimeError((made.stderr.strip().splitlines() or [""])[-1])
    if made.returncode and is_transient(fault):  # a full disk, which its last line says
        raise transient(fault, "report")
    print(made.stdout, made.stderr, file=sys.stderr)
    if made.returncode:
        raise LowRankError("snakemake could not make the report; its output stands above")
