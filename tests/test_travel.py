"""Numbers that travel: other instruction sets and thread counts, set for the math libraries.

The variables are read when a process starts, so each setting is a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "travel.py"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AVX2 |= {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SSE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SSE |= {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
COMPATIBLE = {"MKL_CBWR": "COMPATIBLE"}


def computed(settings, threads=1, precision="fp64"):
    """Return what `travel.py` prints in a process with these variables."""
    clean = {k: v for k, v in os.environ.items() if k not in (*SSE, *COMPATIBLE)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(threads), precision],
        env=clean | settings | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_equal(here, there):
    """The same weights to the bit, logits to float32, and an ellipsoid to 1e-9."""
    assert here["network"]["weights"] == there["network"]["weights"]
    assert here["network"]["losses"] == pytest.approx(there["network"]["losses"], rel=1e-10)
    logits = [np.array(run["network"]["logits"]) for run in (here, there)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)
    assert here["ellipsoid"]["counts"] == there["ellipsoid"]["counts"]
    assert here["ellipsoid"]["factor"] == pytest.approx(there["ellipsoid"]["factor"], rel=1e-9)
    diagonals = [run["ellipsoid"]["projection"] for run in (here, there)]
    np.testing.assert_allclose(*diagonals, rtol=0, atol=1e-9)


def test_the_oldest_instruction_set_computes_the_same():
    here, there = computed({}), computed(SSE)
    if here["processor"] == there["processor"]:
        pytest.skip(f"torch offers no other instruction set here than {here['processor']}")
    assert_equal(here, there)


@pytest.mark.campaign
def test_every_instruction_set_and_thread_count_computes_the_same():
    here, processors = computed({}), set()
    for settings in ({}, AVX2, SSE, COMPATIBLE):
        for threads in (1, 2):
            there = computed(settings, threads)
            processors.add(there["processor"])
            assert_equal(here, there)
    # The cause that float64 takes away: in float32 other weights result.
    single = {computed(settings, 1, "fp32")["network"]["weights"] for settings in ({}, AVX2, SSE)}
    print(f"{sorted(processors)}: one checkpoint in float64, {len(single)} in float32")
    assert len(single) > 1 or len(processors) == 1
