"""The empirical Fisher information of each row of a network's embedding."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.inputs.text.batches import Collator, length_sorted
from lowrank_bench.inputs.text.encode import Encoded
from lowrank_bench.layers.embedding import find_embedding

EXAMPLES = 2048  # the largest sample of training rows


def fisher_information(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Return Σ_j E[(∂L/∂A_ij)²] for each row i of the embedding A, n float64.

    The mean is over labelled examples, a random sample of at most `EXAMPLES`; L is the loss that
    fine-tuning minimises. The gradient of each example is squared, not that of a batch.

    Parameters
    ----------
    max_tokens
        Tokens of one batch, with padding.

    References
    ----------
    Hsu et al., "Language model compression with weighted low-rank factorization", ICLR 2022,
    section 3: the empirical Fisher information, summed over a row.
    """
    model.to(device).eval()
    _, embedding = find_embedding(model)
    sample = np.random.default_rng(seed).permutation(len(encoded))[:EXAMPLES]
    collate, total = Collator(tokenizer, device), torch.zeros(embedding.num_embeddings).double()
    for batch in length_sorted(encoded.lengths[sample], max_tokens):
        rows = sample[batch]
        inputs = collate(encoded, rows)
        gradient = _output_gradient(model, embedding, inputs, encoded.labels[rows])
        gradient *= inputs["attention_mask"].unsqueeze(-1)  # leave out the padding
        _add_squares(total, inputs["input_ids"].cpu(), gradient.double().cpu())
    return total / len(sample)


def _output_gradient(
    model: nn.Module, embedding: nn.Module, inputs: dict[str, Tensor], labels: NDArray[Any]
) -> Tensor:
    """Return the gradient of the summed loss with respect to the embedding's output, b×l×d."""
    outputs: list[Tensor] = []
    is_transposed = False  # XLNet looks its tokens up with the batch as the second dimension

    def _replace_output(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        # A new leaf in place of the output: its gradient is that of every lookup, one by one.
        nonlocal is_transposed
        is_transposed = not torch.equal(args[0], inputs["input_ids"])
        outputs.append(output.detach().requires_grad_())
        return outputs[0]

    hook = embedding.register_forward_hook(_replace_output)
    try:
        logits = model(**inputs).logits.float()
    finally:
        hook.remove()
    target = torch.as_tensor(labels, device=logits.device)
    if logits.shape[-1] == 1:
        loss = (logits.squeeze(-1) - target.float()).square().sum()
    else:
        loss = nn.functional.cross_entropy(logits, target, reduction="sum")
    gradient = torch.autograd.grad(loss, outputs[0])[0]
    return gradient.transpose(0, 1).clone() if is_transposed else gradient


def _add_squares(total: Tensor, ids: Tensor, gradient: Tensor) -> None:
    """Add to `total` the squared norm of each example's gradient with respect to each row."""
    # An example may use a row several times: its gradients are summed before they are squared.
    example = torch.arange(len(ids)).unsqueeze(1).expand_as(ids)
    pairs, pair_of = torch.unique(
        torch.stack([example.reshape(-1), ids.reshape(-1)]), dim=1, return_inverse=True
    )
    sums = gradient.new_zeros(pairs.shape[1], gradient.shape[-1])
    sums.index_add_(0, pair_of, gradient.reshape(-1, gradient.shape[-1]))
    total.index_add_(0, pairs[1], sums.square().sum(dim=1))
