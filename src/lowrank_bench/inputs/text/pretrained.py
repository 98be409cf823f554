"""A pretrained network with a new classifier for one task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from lowrank_bench.inputs.checked import load_model, load_tokenizer


def pretrained_network(folder: Path, labels: Sequence[str], seed: int) -> tuple[nn.Module, Any]:
    """Return the network and tokenizer in `folder`; the seed decides the classifier's weights.

    Parameters
    ----------
    labels
        Names of the classes in the order of their ids; empty for a regression.
    """
    torch.manual_seed(seed)
    model = load_model(
        AutoModelForSequenceClassification,
        folder,
        num_labels=max(1, len(labels)),
        dtype=torch.float32,
    )
    return model, load_tokenizer(folder)
