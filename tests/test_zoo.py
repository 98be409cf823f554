"""Networks of many kinds from transformers: reports account for every parameter, or refuse."""

from collections import Counter
from contextlib import suppress

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lowrank_bench import compress
from lowrank_bench.errors import LowRankError

# Whatever a configuration calls its sizes, made small.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "hidden_dim", "d_inner"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_local_experts", "num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("d_kv", "head_dim", "patch_size", "state_size"), 8),
    "vocab_size": 70,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "image_size": 16,
    "rotary_dim": 4,
    "time_step_rank": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = [
    "albert",
    "electra",
    "mpnet",
    "funnel",
    "squeezebert",
    "mobilebert",
    "nystromformer",
    "fnet",
    "modernbert",
    "xlnet",
    "bart",
    "mbart",
    "mt5",
    "pegasus",
    "opt",
    "bloom",
    "gptj",
    "gpt_neox",
    "gpt_neo",
    "falcon",
    "mistral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "gemma",
    "phi",
    "phi3",
    "mamba",
    "olmoe",
    "granitemoe",
    "stablelm",
    "starcoder2",
    "cohere",
    "xlm",
    "roformer",
    "big_bird",
    "vit",
    "beit",
]


def small(kind, head):
    """Return a small network of a kind; None where it cannot be built."""
    config = AutoConfig.for_model(kind)
    for name, size in SIZES.items():
        with suppress(NotImplementedError, AttributeError):
            if isinstance(getattr(config, name, ""), int | None):
                setattr(config, name, size)
    try:
        torch.manual_seed(0)
        return head.from_config(config).eval()
    except Exception:  # no such head, or sizes that its class does not take
        return None


def answer(model, target):
    """Return what came of a compression; what is said of it must hold."""
    options = {"certificate": False} if target == "embedding" else {}
    try:
        compressed, report = compress(model, "svd", 0.3, target, **options)
    except LowRankError:
        return "refused"
    dense, kept = (sum(p.numel() for p in net.parameters()) for net in (model, compressed))
    assert (report.network_parameters_dense, report.network_parameters_kept) == (dense, kept)
    assert dense - kept == report.parameters_dense - report.parameters_kept
    left = sum(module["parameters"] for module in report.skipped)
    assert report.parameters_dense + left + report.other_parameters == dense
    assert report.other_parameters < 0.1 * dense
    return "right"


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
def test_reports_on_networks_of_many_kinds():
    tally = Counter()
    for kind in KINDS:
        for head in (AutoModel, AutoModelForCausalLM):
            model = small(kind, head)
            for target in ("embedding", "linear", "conv") if model else ():
                tally[answer(model, target)] += 1
    print(f"{len(KINDS)} kinds of networks: {dict(tally)}")
    assert tally["right"] > 100
