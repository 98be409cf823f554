"""Keys follow what runs: an edit of a file changes the keys of exactly what rests on it."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from lowrank_bench import evaluate, report, score
from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method, method_class, method_names
from lowrank_bench.plan import code
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.store import digest
from lowrank_bench.store.sources import Sources

CONF = Path(__file__).parents[1] / "conf"
FACTS = ("frequency", "counts", "fisher")

LAYERWISE = [f"{name} on *" for name in ("layerwise", "lrank", "pca", "svd_energy")]
LAYERWISE += ["svd on linear*", "svd on conv*"]
IN_BYTES = ["layerwise on *"]
IN_BYTES += [
    f"{name} on {target}*" for name in ("rtn", "transform_code") for target in ("linear", "conv")
]
LAYERWISE += IN_BYTES
BY_USE = [f"{name} on embedding" for name in ("pq", "transform_code", "waterfill")]
PRUNERS = [f"{name} on *" for name in ("filter_threshold", "pfp", "softnet", "thinet")]
UNIFORM = [f"{name} on *" for name in ("filter_threshold", "softnet", "thinet")]
PREDICTED = ["evaluate *", "finetune *", "iterate *"]
TEXT = [
    f"{stage} {target}"
    for stage in ("evaluate", "finetune", "iterate")
    for target in ("embedding", "linear")
]
IMAGE = ["evaluate conv", "finetune conv", "iterate conv"]
NETWORKS = ["network vision", "checkpoint image*", "published image"]

# What an edit of a file makes stale; nothing else may change.
TABLE = {
    # A method's file: that method. Whole-network parts leave the matrix part alone.
    "methods.lp": ["lp on embedding"],
    "methods.messi": ["messi on embedding"],
    "methods.frequency_sparse": ["frequency_sparse on embedding"],
    "methods.transform_code": ["transform_code on *"],
    "methods.rtn": ["rtn on *"],
    "methods.fwsvd": ["fwsvd on embedding"],
    "methods.svd": ["svd on *"],
    "methods.alds": ["alds on *"],
    "methods.layerwise": ["layerwise on *"],
    "methods.pfp": ["pfp on *"],
    "methods.thinet": ["thinet on *"],
    "methods.registry": [],
    # What methods are made of.
    "linalg.clustering.projective": ["messi on embedding"],
    "linalg.clustering.partition": ["messi on embedding", "partition_svd on embedding"],
    "linalg.ellipsoid.lowner": ["lowner on embedding"],
    "linalg.robust.irls": ["irls on embedding"],
    "linalg.robust.starts": ["irls on embedding", "l21 on embedding"],
    "linalg.frequency.pursuit": ["frequency_sparse on embedding"],
    "linalg.frequency.row_use": ["frequency_* on embedding", *BY_USE, *IN_BYTES],
    "linalg.certificates.certificate": [
        "evaluate embedding",
        "finetune embedding",
        "iterate embedding",
    ],
    "methods.quantized": [],  # of quantized methods alone, as the next three
    "linalg.coding.choice": [],
    "linalg.coding.quantized": [],
    "linalg.coding.readers": [],
    "linalg.certificates.quick": [],  # of `compress` alone; the workflow's are thorough
    "alds.search": ["alds on *"],
    "alds.curves": ["alds on *"],
    "layerwise.approximators": LAYERWISE,
    "layerwise.spectra": LAYERWISE,
    "layerwise.fronts": IN_BYTES,
    "layerwise.whole_bytes": [name for name in IN_BYTES if not name.startswith("layerwise")],
    "network.knapsack": IN_BYTES,
    "prune.graph": PRUNERS,
    "prune.draw": ["pfp on *"],
    "prune.shortage": PRUNERS,
    "prune.uniform": UNIFORM,
    "network.restore": ["iterate *"],
    "network.coverage": ["* on linear*", "* on conv*", "iterate *"],
    "network.idle": [],
    # Budgets of time alone rest on what measures.
    "latency.tables": ["* by latency"],
    "latency.promise": ["* by latency"],
    "latency.measured": ["* by latency"],
    "latency.clock": ["* by latency", "latency table"],
    # The stages.
    "synthetic.networks": ["network synthetic"],
    "synthetic.tasks": ["data synthetic"],
    "download.hub": [],
    "download.data": [],
    "checkpoint.train": ["checkpoint *"],
    "factorize.decompose": ["* on embedding"],
    "factorize.fisher": ["fwsvd on embedding", "fact fisher"],
    "factorize.again": ["iterate *"],
    "evaluate.compressed": ["evaluate embedding", "finetune embedding", "iterate embedding"],
    "evaluate.predictions": PREDICTED,
    "evaluate.retrain": ["finetune *", "iterate *"],
    "evaluate.latency": ["latency table"],
    "evaluate.compare": ["latency table"],
    "score.scores": ["score"],
    "score.spearman": ["score"],
    "score.glue_metric": ["score"],
    "score.halves": ["score"],
    "report.figures": ["present"],
    "report.style": ["present"],
    "report.tables": ["present"],
    # Kinds of input.
    "inputs.text.pretrained": ["checkpoint text*"],
    "inputs.text.finetune": [
        "checkpoint text*",
        "finetune embedding",
        "finetune linear",
        "iterate embedding",
        "iterate linear",
    ],
    "inputs.text.predict": TEXT,
    "inputs.text.vocabulary": [
        "frequency_* on embedding",
        "fact frequency",
        *BY_USE,
        "transform_code on *",
    ],
    "inputs.text.counts": ["fact counts"],
    "inputs.labels": ["published text"],
    "inputs.held_out": ["checkpoint * by patience"],
    "inputs.training_loop": ["checkpoint *", "finetune *", "iterate *"],
    "inputs.vision.build": NETWORKS,
    "inputs.vision.digits": ["data digits"],
    "inputs.vision.augment": ["checkpoint image*", "finetune conv", "iterate conv"],
    "inputs.vision.predict": IMAGE,
    "inputs.vision.published": ["published image"],
    # What only carries work about.
    "plan.grid": [],
    "plan.work": [],
    "stages.run": [],
    "stages.progress": [],
    "stages.time_left": [],
    "store.store": [],
    "store.checksum": [],
    "store.manifest": [],
    "store.upkeep": [],
    "stages.faults": [],
    "cli.main": [],
    "compression.front": [],
    "config.schema": [],
}


def codes():
    """Return the digests of code that keys rest on, by what they decide."""
    known = {}
    for kind, origins in (("network", ("synthetic", "vision")), ("data", ("synthetic", "digits"))):
        known |= {f"{kind} {origin}": code.source_code(kind, origin) for origin in origins}
    for modality in ("text", "image"):
        known[f"checkpoint {modality}"] = code.checkpoint_code(modality, published=False)
        known[f"published {modality}"] = code.checkpoint_code(modality, published=True)
        known[f"encoded {modality}"] = code.encoding_code(modality)
    for modality in ("text", "image"):
        patient = code.checkpoint_code(modality, published=False, patient=True)
        known[f"checkpoint {modality} by patience"] = patient
    for name in method_names():
        for target in method_class(name).targets:
            method = make_method(name)
            known[f"{name} on {target}"] = code.method_code(method, target, "parameters")
            if target != "embedding":
                timed = code.method_code(method, target, "latency")
                known[f"{name} on {target} by latency"] = timed
    known |= {f"fact {fact}": code.fact_sources(fact, "text").digest() for fact in FACTS}
    for target, modality in code.MODALITIES.items():
        evaluation = code.evaluation_code(modality, target, None, "fp32")
        known[f"evaluate {target}"] = evaluation
        known[f"finetune {target}"] = code.finetune_code(evaluation, modality, iterative=False)
        known[f"iterate {target}"] = code.finetune_code(evaluation, modality, iterative=True)
    known["score"], known["present"] = score.SOURCES.digest(), report.SOURCES.digest()
    return known | {"latency table": evaluate.MEASURING.digest()}


@pytest.fixture(scope="module")
def before():
    digest.code_digest.cache_clear()
    return codes()


@pytest.fixture
def edited(monkeypatch):
    """Return the digests after an edit of one module; its file stays as it is."""
    read = digest._read

    def of(module):
        def edit(name):
            imported, text = read(name)
            return imported, f"{text} edited" if name == module else text

        monkeypatch.setattr(digest, "_read", edit)
        digest.code_digest.cache_clear()
        return codes()

    yield of
    digest.code_digest.cache_clear()


@pytest.mark.parametrize("file", TABLE)
def test_an_edit_makes_exactly_this_stale(file, before, edited):
    after = edited(f"lowrank_bench.{file}")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {n for n in before if any(fnmatch(n, pattern) for pattern in TABLE[file])}


def sentences():
    """Return the digests of code behind tasks of similarity."""
    return {
        "network": code.checkpoint_code("similarity", published=False),
        "rows": code.encoding_code("similarity"),
        "cosines": code.evaluation_code("similarity", "embedding", None, "fp32"),
    }


SENTENCES = {
    "inputs.similarity.encoder": {"network"},
    "inputs.similarity.sentences": {"network", "rows", "cosines"},
    "inputs.similarity.vectors": {"cosines"},
    "inputs.text.finetune": set(),
    "inputs.text.predict": set(),
    "checkpoint.train": set(),
    "evaluate.compressed": {"cosines"},
}


@pytest.mark.parametrize("file", SENTENCES)
def test_sentences_rest_on_code_of_their_own(file, before, edited):
    known = sentences()
    after, changed = edited(f"lowrank_bench.{file}"), sentences()
    assert {name for name in known if known[name] != changed[name]} == SENTENCES[file]
    if file.startswith("inputs.similarity"):
        assert after == before


def keys(config):
    """Return the keys of all that an experiment plans, by kind and name."""
    plan = make_plan(config)
    planned = {}
    for job in plan.download:
        planned |= {f"{source.kind} {source.name}": source.key for source in job.sources}
    for job in plan.checkpoint:
        planned |= {f"checkpoint {c.task}": c.key for c in job.checkpoints}
    for job in plan.factorize:
        pieces = job.decompositions().items()
        planned |= {f"{spec.method} of {c.task} at {rate}": key for key, (c, spec, rate) in pieces}
    for cell in plan.cells():
        trained = f" after {cell.finetune_epochs}" if cell.finetune_epochs else ""
        name = f"cell of {cell.spec.method} on {cell.checkpoint.task} at {cell.compression}"
        planned[name + trained] = cell.key
    return planned


CELLS = ["cell *"]
PLANNED = {
    "methods.lp": ["lp of *", "cell of lp *"],
    "methods.alds": ["alds of *", "cell of alds *"],
    "latency.tables": [],
    "linalg.gram": ["lp of *", "svd of *", "cell of svd *", "cell * on quick_rte *"],
    "evaluate.predictions": CELLS,
    "evaluate.retrain": ["cell * after 1"],
    "inputs.text.predict": ["cell * on quick_rte *"],
    "inputs.vision.predict": ["cell * on digits *"],
    "factorize.network": ["* of digits *", "cell of svd on digits *", "cell of alds *"],
    "synthetic.tasks": ["data quick_rte", "*quick_rte*"],
    "checkpoint.train": ["checkpoint *", "* of *"],
    "score.scores": [],
    "report.style": [],
}


@pytest.fixture(scope="module")
def config():
    """Return an experiment with texts and images, with and without training after compression."""
    overrides = ["model=[quick_bert,quick_resnet]", "task=[quick_rte,digits]"]
    overrides += ["method=[svd,lp,alds]", "compressions=[0.5]", "finetune_epochs=[0,1]"]
    return load_config(CONF, overrides)


@pytest.mark.parametrize("file", PLANNED)
def test_the_keys_of_planned_work_follow_the_digests(file, config, edited):
    before = keys(config)
    edited(f"lowrank_bench.{file}")
    after = keys(config)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {n for n in before if any(fnmatch(n, pattern) for pattern in PLANNED[file])}


@pytest.mark.parametrize("file", ["methods.quantized", "linalg.coding.readers", "methods.svd"])
def test_quantized_factors_rest_on_the_method_and_on_what_rounds(file, before, edited):
    few = make_method("svd", quantize=8)
    first = code.method_code(few, "embedding", "bytes")
    edited(f"lowrank_bench.{file}")
    assert code.method_code(few, "embedding", "bytes") != first


def test_an_approximator_of_the_registry_belongs_to_its_layerwise_method(before, edited):
    lp, svd = (make_method("layerwise", approximator=name) for name in ("lp", "svd"))
    first = [code.method_code(method, "linear", "parameters") for method in (lp, svd)]
    edited("lowrank_bench.methods.lp")
    then = [code.method_code(method, "linear", "parameters") for method in (lp, svd)]
    assert [a == b for a, b in zip(first, then, strict=True)] == [False, True]


@pytest.mark.parametrize("name", ["lowrank_bench.linalg.grammar", "lowrank_bench", "torch.nn"])
def test_a_misspelt_source_is_refused_where_it_is_declared(name):
    with pytest.raises(LowRankError, match="not a module of this package"):
        Sources("lowrank_bench.linalg.gram", name)
