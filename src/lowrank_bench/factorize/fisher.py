"""Fisher information of a task's loss about each row of a network's embedding."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.inputs.text.batches import Collator, length_sorted
from lowrank_bench.inputs.text.encode import Encoded
from lowrank_bench.layers.embedding import find_embedding

EXAMPLES = 2048


def fisher_information(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Return Σ_j E[(∂L/∂A_ij)²] for each row i of the embedding A, n float64.

    The mean is over labelled examples, at most `EXAMPLES` of them drawn by `seed`; L is the loss
    that fine-tuning minimises. Each example's own gradient is squared, not a batch's.

    Parameters
    ----------
    max_tokens
        Padded tokens of one batch.

    References
    ----------
    Hsu et al., "Language model compression with weighted low-rank factorization", ICLR 2022,
    section 3: the empirical Fisher information, summed over a row.
    """
    model.to(device).eval()
    _, embedding = find_embedding(model)
    chosen = np.random.default_rng(seed).permutation(len(encoded))[:EXAMPLES]
    collate, total = Collator(tokenizer, device), torch.zeros(embedding.num_embeddings).double()
    for batch in length_sorted(encoded.lengths[chosen], max_tokens):
        rows = chosen[batch]
        inputs = collate(encoded, rows)
        gradient = _output_gradient(model, embedding, inputs, encoded.labels[rows])
        gradient *= inputs["attention_mask"].unsqueeze(-1)
        _add_squares(total, inputs["input_ids"].cpu(), gradient.double().cpu())
    return total / len(chosen)


def _output_gradient(
    model: nn.Module, embedding: nn.Module, inputs: dict[str, Tensor], labels: np.ndarray
) -> Tensor:
    """Return the gradient of the summed loss with respect to what the embedding gave, b×l×d."""
    caught: list[Tensor] = []
    turned = False  # XLNet looks its tokens up with the batch as the second dimension

    def _catch(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        nonlocal turned
        turned = not torch.equal(args[0], inputs["input_ids"])
        caught.append(output.detach().requires_grad_())
        return caught[0]

    hook = embedding.register_forward_hook(_catch)
    try:
        logits = model(**inputs).logits.float()
    finally:
        hook.remove()
    target = torch.as_tensor(labels, device=logits.device)
    if logits.shape[-1] == 1:
        loss = (logits.squeeze(-1) - target.float()).square().sum()
    else:
        loss = nn.functional.cross_entropy(logits, target, reduction="sum")
    gradient = torch.autograd.grad(loss, caught[0])[0]
    return gradient.transpose(0, 1).clone() if turned else gradient


def _add_squares(total: Tensor, ids: Tensor, gradient: Tensor) -> None:
    """Add to `total` the squared length of each example's gradient with respect to each row."""
    example = torch.arange(len(ids)).unsqueeze(1).expand_as(ids)
    pairs, place = torch.unique(
        torch.stack([example.reshape(-1), ids.reshape(-1)]), dim=1, return_inverse=True
    )
    sums = gradient.new_zeros(pairs.shape[1], gradient.shape[-1])
    sums.index_add_(0, place, gradient.reshape(-1, gradient.shape[-1]))
    total.index_add_(0, pairs[1], sums.square().sum(dim=1))
