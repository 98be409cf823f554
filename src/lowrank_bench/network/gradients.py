"""Gradients at the outputs of each layer of a network, on calibration data."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.forward import logits_of, sentence_vectors
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.layers import weight_of
from lowrank_bench.network.moments import check_examples, check_finite, check_seen
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.rows import input_rows, output_rows, real_positions

# Called with a layer's name, the batch's inputs, the layer's input, and the gradient at its output.
Visit = Callable[[str, Mapping[str, Tensor], Tensor, Tensor], None]
# Returns the gradient of the loss with respect to the logits b×k, given the labels, and whether
# they are vectors of sentences instead.
LossGradient = Callable[[Tensor, Tensor | None, bool], Tensor]


def output_gradients(problem: NetworkProblem) -> dict[str, Tensor]:
    """Return E[g gᵀ] of every targeted layer by name: f×f float64, d×d for an embedding.

    g is the gradient, at one position of a layer's output, of the loss of one example under the
    network's own prediction (`drawn_gradient`), as the Fisher information requires. The draws use
    the problem's seed. Padding does not count.

    Raises
    ------
    LowRankError
        When there are no calibration data.

    References
    ----------
    Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature",
    ICML 2015; Grosse and Martens, ICML 2016, for convolutions.
    """
    return problem.cached("output_gradients", lambda: _output_gradients(problem))


def column_information(problem: NetworkProblem) -> dict[str, Tensor]:
    """Return Σ_i E[(∂L/∂W_ij)²] for each column j of every layer's matrix W: d float64, by name.

    For an embedding n×d it is the sum over each row, n. L is the loss of one example with its true
    label: the empirical Fisher information.

    Raises
    ------
    LowRankError
        When there are no calibration data or no labels.

    References
    ----------
    Hsu et al., "Language model compression with weighted low-rank factorization", ICLR 2022,
    section 3, where a layer is x ↦ xW, so that rows there are columns here.
    """
    return problem.cached("column_information", lambda: _column_information(problem))


def visit_gradients(problem: NetworkProblem, gradient_of: LossGradient, visit: Visit) -> int:
    """Run all calibration data forward and backward; return the number of examples.

    The gradients are taken at probes, zeros that are added to the outputs: this also works if the
    next layer overwrites its input, and no parameter needs a gradient.
    """
    caught: list[tuple[str, Tensor, Tensor]] = []

    def watcher(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the watcher that adds a probe to a layer's output."""

        def probe(inputs: Tensor, output: Tensor) -> Tensor:
            """Return the output plus zeros, whose gradient is that of the output."""
            zeros = torch.zeros_like(output, requires_grad=True)
            caught.append((name, inputs.detach(), zeros))
            return output + zeros

        return probe

    # Gradients are caught per call: a layer that runs twice has two probes.
    examples = 0
    watchers = {layer.name: watcher(layer.name) for layer in problem.layers}
    with torch.enable_grad(), watching(problem.model, watchers):
        for inputs, labels in problem.data():
            caught.clear()
            output = problem.model(**inputs)
            vectors = sentence_vectors(output, inputs)
            logits = logits_of(output) if vectors is None else vectors
            examples += len(logits)
            # The gradient of this product is the one of the loss, for any gradient of the logits.
            slope = gradient_of(logits.detach(), labels, vectors is not None)
            loss = (slope * logits).sum()
            probes = [zeros for *_, zeros in caught]
            gradients = torch.autograd.grad(loss, probes, materialize_grads=True, allow_unused=True)
            for (name, layer_inputs, _), gradient in zip(caught, gradients, strict=True):
                visit(name, inputs, layer_inputs, gradient)
    check_examples(examples)
    return examples


def _output_gradients(problem: NetworkProblem) -> dict[str, Tensor]:
    modules = {layer.name: problem.model.get_submodule(layer.name) for layer in problem.layers}
    totals: dict[str, Tensor] = {}
    counts = dict.fromkeys(modules, 0)

    def visit(name: str, batch: Mapping[str, Tensor], inputs: Tensor, gradient: Tensor) -> None:
        """Add the second moment of a layer's output gradients."""
        rows = output_rows(modules[name], gradient)
        mask = real_positions(batch, inputs)
        # Padding has gradients too, which say nothing about real inputs.
        rows = (rows.flatten(0, 1) if mask is None else rows[mask]).double()
        totals[name] = totals.get(name, 0) + (rows.T @ rows).cpu()
        counts[name] += len(rows)

    # Gradients with the covariance that labels drawn from the predictions would give.
    visit_gradients(problem, drawn_gradient(problem.seed), visit)
    check_seen(counts)
    check_finite(totals, "gradients at")
    return {name: total / counts[name] for name, total in totals.items()}


def drawn_gradient(seed: int) -> LossGradient:
    """Return random gradients v of the logits with E[v vᵀ] = diag(p) − p pᵀ, p the prediction.

    This is the Fisher information of the logits, as for labels drawn from p. A normal vector
    replaces the label: where the network is sure, nearly every drawn label is the likely one and
    its gradient is nearly zero, so a few draws would carry all the information. A single output, as
    of a regression, has variance one, and so has each number of a sentence's vector: there half the
    squared error is 1 − cosine.
    """
    generator = torch.Generator().manual_seed(seed)

    def gradient_of(logits: Tensor, _: Tensor | None, are_vectors: bool = False) -> Tensor:
        """Return a normal draw with the covariance of a drawn label's gradient."""
        normal = torch.randn(logits.shape, generator=generator).to(logits)
        if logits.shape[-1] == 1 or are_vectors:
            return normal
        # With z normal, √p z − p ⟨√p, z⟩ has the covariance diag(p) − p pᵀ.
        shares = logits.softmax(dim=-1)
        roots = shares.sqrt()
        return roots * normal - shares * (roots * normal).sum(dim=-1, keepdim=True)

    return gradient_of


def true_labels(logits: Tensor, labels: Tensor | None, are_vectors: bool = False) -> Tensor:
    """Return the gradient of cross-entropy, or of half the squared error for a single output.

    Raises
    ------
    LowRankError
        When there are no labels, or they do not fit the network's task.
    """
    if are_vectors:
        raise LowRankError(
            "the method needs the loss of a task, and an encoder of sentences has none; take an "
            "approximator that needs no labels"
        )
    if labels is None:
        raise LowRankError("the method needs labels; give them with the calibration batches")
    labels = labels.to(logits.device)
    _check_task(logits, labels)
    if logits.shape[-1] == 1:
        return logits - labels.reshape(logits.shape).to(logits)
    return logits.softmax(dim=-1) - nn.functional.one_hot(labels.long(), logits.shape[-1])


def _check_task(logits: Tensor, labels: Tensor) -> None:
    """Check that labels fit the network's outputs b×k.

    Raises
    ------
    LowRankError
        When they are not one number for each output of a regression, or one class in 0..k − 1 for
        each row of logits.
    """
    outputs = logits.shape[-1]
    # A single output is a regression, also for transformers' problem types.
    if outputs == 1:
        fits = labels.numel() == logits.numel() and bool(labels.isfinite().all())
        wanted = "one finite number for each example of a regression"
    else:
        whole = not labels.is_floating_point() and not labels.is_complex()
        fits = whole and labels.shape == logits.shape[:-1]
        fits = fits and bool(((labels >= 0) & (labels < outputs)).all())
        wanted = f"whole numbers in 0..{outputs - 1}, one for each example"
    if not fits:
        raise LowRankError(
            f"the labels do not fit the network: {outputs} "
            f"{'outputs need' if outputs > 1 else 'output needs'} {wanted}, "
            f"not {_described(labels)}; correct the labels, or use a network that was "
            "trained for this task"
        )


def _described(labels: Tensor) -> str:
    shape = "x".join(str(size) for size in labels.shape)
    kind = f"{labels.dtype}".removeprefix("torch.")
    if not labels.numel() or labels.is_complex():
        return f"{shape or 'one'} {kind}"
    return f"{shape or 'one'} {kind} from {labels.min():g} to {labels.max():g}"


def _column_information(problem: NetworkProblem) -> dict[str, Tensor]:
    kinds = {layer.name: layer.kind for layer in problem.layers}
    totals: dict[str, Any] = dict.fromkeys(kinds, 0)
    runs = dict.fromkeys(kinds, 0)

    def visit(name: str, _: Mapping[str, Tensor], inputs: Tensor, gradient: Tensor) -> None:
        """Add a layer's squared gradients."""
        runs[name] += 1
        module = problem.model.get_submodule(name)
        # A look-up has one gradient per row used; no product of inputs and slopes is needed.
        if kinds[name] == "embedding":
            totals[name] = totals[name] + _row_squares(module, inputs, gradient)
            return
        pairs = zip(input_rows(module, inputs), output_rows(module, gradient), strict=True)
        for rows, slopes in pairs:  # one example each; squares come after the sum over positions
            totals[name] = totals[name] + (slopes.T @ rows).square().sum(dim=0).double().cpu()

    examples = visit_gradients(problem, true_labels, visit)
    check_seen(runs)
    check_finite(totals, "gradients at")
    return {name: total / examples for name, total in totals.items()}


def _row_squares(module: nn.Module, tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return the squared gradient of each row of an embedding, summed over examples and columns."""
    total = torch.zeros(len(weight_of(module)), dtype=torch.float64)
    for ids, slopes in zip(tokens, gradient, strict=True):
        # A token that occurs several times in an example has one gradient, the sum.
        rows, place = torch.unique(ids, return_inverse=True)
        sums = slopes.new_zeros(len(rows), slopes.shape[-1]).index_add_(0, place, slopes)
        total[rows.cpu()] += sums.square().sum(dim=1).double().cpu()
    return total
