"""A transformers network as an encoder of sentences: its hidden states, without a head."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import logging

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.checked import load_model, load_tokenizer


def load_encoder(folder: Path) -> tuple[nn.Module, Any]:
    """Return the encoder and tokenizer in a folder, float32, in evaluation mode.

    Raises
    ------
    LowRankError
        As `inputs.checked.load_model`, for a network that is no encoder, and when any weight but
        those of a pooler is missing: nothing would train it.
    """
    lacking: set[str] = set()
    model = load_model(_Recorder(lacking), folder, dtype=torch.float32)
    encoder = encoder_of(model, str(folder))
    if random := sorted(lacking & {name for name, _ in encoder.named_parameters()}):
        raise LowRankError(
            f"{folder}: its files lack {random[0]} (and {len(random) - 1} more), which would be "
            "random, and a task of similarity trains nothing; use a complete network"
        )
    return encoder, load_tokenizer(folder)


class _Recorder:
    """`AutoModel`, which notes the weights that the files lack instead of printing a report."""

    def __init__(self, lacking: set[str]):
        self.lacking = lacking

    def __getattr__(self, name: str) -> Any:
        return getattr(AutoModel, name)

    def from_pretrained(self, *places: Any, **options: Any) -> Any:
        """Return what `AutoModel.from_pretrained` does, and note which weights were missing."""
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model, info = AutoModel.from_pretrained(*places, **options)
        finally:
            logging.set_verbosity(before)
        self.lacking.update(info["missing_keys"])
        return model, info


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
