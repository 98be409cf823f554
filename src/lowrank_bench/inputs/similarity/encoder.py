"""A transformers network as an encoder of sentences: its hidden states, without a head."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.checked import load_model, load_tokenizer


def load_encoder(folder: Path) -> tuple[nn.Module, Any]:
    """Return the encoder and tokenizer in a folder, float32, in evaluation mode.

    Raises
    ------
    LowRankError
        As `inputs.checked.load_model`, and for a network that is no encoder.
    """
    model = load_model(AutoModel, folder, dtype=torch.float32)
    return encoder_of(model, str(folder)), load_tokenizer(folder)


def encoder_of(model: nn.Module, title: str) -> nn.Module:
    """Return the part of a network that gives the hidden states, without head and pooler.

    The pooler of BERT and its relatives reads the hidden states and is not read by them: vectors
    that are pooled here rest on none of its weights, so it is neither counted nor compressed.

    Parameters
    ----------
    model
        A transformers model; its pooler is taken out in place.
    title
        Its name, for the message.

    Raises
    ------
    LowRankError
        When the network has a decoder beside its encoder.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise LowRankError(
            f"{title} is a {type(model).__name__}, whose last hidden states are its decoder's; "
            "sentences are encoded by networks without a decoder"
        )
    encoder: Any = getattr(model, "base_model", model)  # itself for a network without a head
    # Classes that can be built without a pooler also run without one.
    optional = "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters
    if optional and getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    result: nn.Module = encoder
    return result
