"""A small experiment and a store with every kind of artifact, for the tests of records."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np

from lowrank_bench.config import load_config
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.holdings import write_holdings
from lowrank_bench.stages.progress import write_plan
from lowrank_bench.stages.run import (
    run_checkpoint,
    run_download,
    run_evaluate,
    run_factorize,
)
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.files import write_signed
from lowrank_bench.store.store import Store

CONF = Path(__file__).parents[1] / "conf"
SMALL = ["model=[quick_bert]", "task=[quick_wnli]", "method=[frequency_svd]", "compressions=[0.5]"]
SMALL += ["recipe.epochs=1", "model.quick_bert.recipe={epochs: 1}", "statistics.resamples=100"]
RUNS = {
    "download": run_download,
    "checkpoint": run_checkpoint,
    "factorize": run_factorize,
    "evaluate": run_evaluate,
}


@cache
def config(store):
    return load_config(CONF, [*SMALL, f"store={store}"])


@cache
def plan():
    return make_plan(config("store"))


def job(stage):
    """Return the only job of a stage."""
    (only,) = plan().stages()[stage]
    return only


def run(stage, root, results):
    """Do the work of a stage; return its outcome."""
    settings = Settings(store=str(root), folder=results, device="cpu")
    return RUNS[stage](job(stage), Store(root), settings)


def fill(folder):
    """Run the experiment in a folder up to its last cell; return its store."""
    root = folder / "store"
    write_plan(folder / "results/small", plan().stages(), 1)
    write_holdings(folder / "results/small", plan().stages())
    for stage in RUNS:
        outcome = run(stage, root, folder / "results/small")
        assert {piece["status"] for piece in outcome} == {"ok"}
    return root


def add_other_kinds(root):
    """Add what this experiment has none of: a network, a trained network, an open training."""
    store, random = Store(root), np.random.default_rng(0)
    for kind in ("network", "trained"):
        with store.new_folder(kind, f"{kind:0<8}".encode().hex(), {"sha256": {"a": "b"}}) as fresh:
            (fresh / "deep").mkdir()
            (fresh / "deep/weights.bin").write_bytes(random.bytes(3000))
            (fresh / "empty.txt").touch()
    key = job("checkpoint").checkpoints[0].key
    write_signed(store.place("unfinished", key, ".pt"), random.bytes(2000))


def copy(root, place):
    """Return a copy of a store, in place of an earlier one."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(root, place))


def artifacts(root):
    """Return every artifact with the files in it."""
    places = sorted(root.glob("*/??/*"))
    return {
        place: [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]
        for place in places
    }


def flip(file, random):
    """Flip one bit of a file; return False when it has none."""
    content = bytearray(file.read_bytes())
    if not content:
        return False
    bit = int(random.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return True
