"""Small networks of four families with planted embedding tables, and their tokenizers."""

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

from lowrank_bench.errors import LowRankError
from lowrank_bench.synthetic.vocabulary import (
    AXES,
    OUTLIERS,
    Vocabulary,
    make_vocabulary,
    planted_table,
)

SIZES = {"width": 64, "layers": 2, "heads": 4, "inner": 128}
MAX_TOKENS = 128
SPREAD = 0.1  # standard deviation of random weights; narrow layers need more than the usual 0.02


@dataclass(frozen=True)
class Family:
    """What distinguishes a family of networks.

    Attributes
    ----------
    config
        Configuration class of transformers.
    specials
        Special tokens by role, in the order of their ids.
    single, pair
        Templates for a single text and for a pair, with token types.
    names
        The family's names for the sizes `width`, `layers`, `heads` and `inner`.
    positions
        Keyword and value of the number of positions; empty if the family has no limit.
    inputs
        Names of the input tensors of the network.
    padding_side
        Side on which shorter rows are padded.
    extra
        Further arguments of the configuration.
    """

    config: type[PreTrainedConfig]
    specials: dict[str, str]
    single: str
    pair: str
    names: dict[str, str]
    positions: dict[str, int]
    inputs: tuple[str, ...]
    padding_side: str = "right"
    extra: dict[str, Any] = field(default_factory=dict)


_BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_BERT_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
}
# Three epochs on generated sentences do not overfit: dropout would only slow down training.
_BERT_DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TYPED = ("input_ids", "token_type_ids", "attention_mask")
_UNTYPED = ("input_ids", "attention_mask")

FAMILIES = {
    "bert": Family(
        config=BertConfig,
        specials=_BERT_TOKENS,
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        names=_BERT_NAMES,
        positions={"max_position_embeddings": MAX_TOKENS},
        inputs=_TYPED,
        extra=_BERT_DRY,
    ),
    "distilbert": Family(
        config=DistilBertConfig,
        specials=_BERT_TOKENS,
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        names={"width": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim"},
        positions={"max_position_embeddings": MAX_TOKENS},
        inputs=_UNTYPED,
        extra={"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    ),
    "roberta": Family(
        config=RobertaConfig,
        specials={
            "cls_token": "<s>",
            "pad_token": "<pad>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
        names=_BERT_NAMES,
        # RoBERTa numbers positions from the id of the padding token plus one.
        positions={"max_position_embeddings": MAX_TOKENS + 2},
        inputs=_UNTYPED,
        extra={"type_vocab_size": 1, **_BERT_DRY},
    ),
    "xlnet": Family(
        config=XLNetConfig,
        specials={
            "unk_token": "<unk>",
            "cls_token": "<cls>",
            "sep_token": "<sep>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        names={"width": "d_model", "layers": "n_layer", "heads": "n_head", "inner": "d_inner"},
        positions={},
        inputs=_TYPED,
        padding_side="left",
        extra={"dropout": 0.0, "summary_last_dropout": 0.0},
    ),
}
ARCHITECTURES = tuple(FAMILIES)


def build_network(
    architecture: str, seed: int, num_labels: int, body_seed: int = 0, **sizes: int
) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """Return a sequence classifier with a planted embedding table, and its tokenizer.

    Parameters
    ----------
    architecture
        `bert`, `distilbert`, `roberta` or `xlnet`.
    seed
        Seed of the suite: it determines the words, their meanings (which must be those of the
        tasks) and the planted table. The global seed of torch has no influence.
    num_labels
        Number of outputs; 1 means regression.
    body_seed
        Seed of the random weights other than the table.
    **sizes
        Overrides of `SIZES`: `width`, `layers`, `heads`, `inner`.

    Raises
    ------
    LowRankError
        If the architecture or a size is unknown, or the width is not possible.
    """
    if architecture not in FAMILIES:
        raise LowRankError(
            f"unknown synthetic network {architecture!r}; there are {', '.join(FAMILIES)}"
        )
    for name in sizes:
        if name not in SIZES:
            raise LowRankError(
                f"unknown size {name!r} of a synthetic network; there are {', '.join(SIZES)}"
            )
    family, full = FAMILIES[architecture], SIZES | sizes
    if full["width"] < AXES + OUTLIERS or full["width"] % full["heads"]:
        raise LowRankError(
            f"synthetic networks cannot have width {full['width']} with {full['heads']} heads; "
            f"use a multiple of the number of heads that is at least {AXES + OUTLIERS}"
        )
    vocabulary = make_vocabulary(seed)
    tokenizer = _tokenizer(family, vocabulary)
    config = _config(family, full, num_labels, tokenizer)
    index = ARCHITECTURES.index(architecture)
    # The weights depend on the seeds alone, and torch's global generator stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + index + 10 * body_seed)
        model = AutoModelForSequenceClassification.from_config(config)
    table = planted_table(vocabulary, full["width"], len(family.specials), 1000 * seed + index)
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.from_numpy(table)
    return model.eval(), tokenizer


def _config(
    family: Family, sizes: dict[str, int], num_labels: int, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedConfig:
    named = {native: sizes[name] for name, native in family.names.items()}
    return family.config(
        vocab_size=len(tokenizer),
        num_labels=num_labels,
        initializer_range=SPREAD,
        problem_type="regression" if num_labels == 1 else "single_label_classification",
        pad_token_id=tokenizer.pad_token_id,
        **named,
        **family.positions,
        **family.extra,
    )


def _tokenizer(family: Family, vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word; special tokens have the first ids."""
    specials = list(family.specials.values())
    ids = {token: index for index, token in enumerate([*specials, *vocabulary.words])}
    backend = Tokenizer(WordLevel(ids, unk_token=family.specials["unk_token"]))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single=family.single, pair=family.pair, special_tokens=[(t, ids[t]) for t in specials]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side=family.padding_side,
        model_input_names=list(family.inputs),
        model_max_length=MAX_TOKENS,
        **family.specials,
    )
