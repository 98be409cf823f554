"""How a modality declares the code behind its results."""

from dataclasses import dataclass

from lowrank_bench.store.sources import Sources


@dataclass(frozen=True)
class InputSources:
    """The code of one modality, by the artifact it decides.

    Attributes
    ----------
    starting
        Builds or loads a network before training.
    published
        Reads a network that others trained.
    encoding
        Turns rows into the form that the network takes.
    batching
        Cuts encoded rows into batches for calibration.
    training
        Trains a network.
    predicting
        Predicts with a network.
    """

    starting: Sources
    published: Sources
    encoding: Sources
    batching: Sources
    training: Sources
    predicting: Sources
