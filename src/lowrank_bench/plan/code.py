"""The code behind each artifact: the digests by which a key follows what runs.

Each room declares its own sources; here they are only put together. An artifact's key holds the
digest of the code that makes it, and the keys of what it is made from.
"""

from lowrank_bench import checkpoint, download, evaluate, factorize, latency
from lowrank_bench.inputs.modality import sources_of
from lowrank_bench.methods import Method
from lowrank_bench.store.digest import code_digest, digest
from lowrank_bench.store.sources import Sources

MODALITIES = {"embedding": "text", "linear": "text", "conv": "image"}  # of each target


def source_code(kind: str, origin: str) -> str:
    """Return the digest behind generated data or networks; empty for what comes from a hub.

    Parameters
    ----------
    kind
        `network` or `data`.
    origin
        Where it comes from: `synthetic`, `digits`, `vision`, `folder` or `hub`.
    """
    made = {"network": checkpoint.BUILDING, "data": download.GENERATING}[kind]
    return made[origin].digest() if origin in made else ""


def checkpoint_code(modality: str, published: bool, patient: bool = False) -> str:
    """Return the digest behind a checkpoint: fine-tuned here, published by others, or as it is.

    Parameters
    ----------
    patient
        Whether held-out rows choose the epoch that is kept.
    """
    inputs = sources_of(modality)
    if not inputs.training:
        return (inputs.starting + inputs.batching).digest()
    if published:
        return (inputs.published + inputs.encoding).digest()
    training = checkpoint.TRAINING + inputs.starting + inputs.encoding + inputs.training
    return (training + checkpoint.STOPPING if patient else training).digest()


def method_code(method: Method, target: str, budget: str) -> str:
    """Return the digest behind a decomposition, or a compressed network.

    Parameters
    ----------
    method
        With its parameters.
    target
        What it compresses.
    budget
        `parameters`, `macs` or `latency`; the last one rests on the code that measures.
    """
    stage = factorize.MATRIX if target == "embedding" else factorize.NETWORK
    modules = [*stage, *method.sources(target)]
    for need in method.needs:
        modules += fact_sources(need, MODALITIES[target])
    if budget == "latency" and target != "embedding":
        modules += latency.SOURCES
    return code_digest(*dict.fromkeys(modules))


def fact_sources(need: str, modality: str) -> Sources:
    """Return the sources of a fact that is not in the weights (`problem.FACTS`)."""
    if need in factorize.CALIBRATION:
        return factorize.CALIBRATION[need] + sources_of(modality).batching
    return factorize.FACTS[need]


def evaluation_code(modality: str, target: str, max_length: int | None, precision: str) -> str:
    """Return the digest of what decides predictions in addition to the network.

    Parameters
    ----------
    max_length
        Longest row in tokens; None for images.
    precision
        Of the forward: `fp32` or `bf16`.
    """
    sources = evaluate.PREDICTING + sources_of(modality).predicting + evaluate.COMPRESSED[target]
    settings: list[object] = [] if max_length is None else [max_length]
    settings += [] if precision == "fp32" else [precision]
    return digest([sources.digest(), *settings])


def finetune_code(evaluation: str, modality: str, iterative: bool) -> str:
    """Return the digest behind a network that is trained after compression, and evaluated."""
    sources = evaluate.RETRAINING + sources_of(modality).training
    if iterative:
        sources += factorize.AGAIN
    return digest([evaluation, sources.digest()])


def encoding_code(modality: str) -> str:
    """Return the digest behind encoded rows."""
    return sources_of(modality).encoding.digest()
