"""Print how much faster compressed networks run than dense ones, on one thread.

python benchmarks/latency.py            # ResNet-20, VGG16 and a BERT; half an hour
python benchmarks/latency.py --quick    # only the ResNet-20 and a short text
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from embedding_latency import embeddings
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.compare import Comparison, measure
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.latency import seconds_for
from lowrank_bench.latency.clock import Clock, rounds_within, taken_in_turn
from lowrank_bench.methods import make_method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.forward import repeated
from lowrank_bench.network.problem import NetworkProblem

CAPPED = {"max_groups": 4, "align": 8}
SVD_LAYERS = {"approximator": "svd"}  # the default looks at data, which are random here
METHODS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "conv": [("svd", {}), ("alds", {}), ("alds", CAPPED), ("layerwise", SVD_LAYERS), ("pfp", {})],
    "linear": [("svd", {}), ("alds", {}), ("alds", CAPPED), ("layerwise", SVD_LAYERS)],
}
SECONDS = 2.0  # of dense forward passes for each line, if that allows 8 of them
MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}


@dataclass(frozen=True, eq=False)
class Case:
    """A network with random weights and one of its inputs.

    Attributes
    ----------
    name, target
        The name of the network, and the layers that are compressed.
    model, example
        The network, and the keyword arguments of one forward pass, batch size 1.
    batch
        Rows of the timed forward passes.
    shares
        Shares of the parameters to keep, in turn.
    savings
        Shares of the time to save, in turn.
    """

    name: str
    target: str
    model: nn.Module
    example: dict[str, Tensor]
    batch: int
    shares: tuple[float, ...] = (0.5, 0.3)
    savings: tuple[float, ...] = (0.05, 0.1, 0.3)
    memos: dict[str, dict[Any, Any]] = field(default_factory=dict)

    def problem(self, budget: str) -> NetworkProblem:
        """Return the network as methods see it; all of them share its decompositions."""
        batches = [(self.example, None)]
        memo = self.memos.setdefault(budget, {})
        return NetworkProblem(
            self.model,
            self.target,
            self.example,
            lambda: batches,
            budget,
            batch=self.batch,
            seconds=seconds_for(budget),
            _memo=memo,
        )

    def at(self, batch: int) -> "Case":
        """Return the same network at another batch; the costs in parameters are kept."""
        memos = {"parameters": self.memos.setdefault("parameters", {})}
        sizes = self.shares, self.savings
        return Case(self.name, self.target, self.model, self.example, batch, *sizes, memos)


def cnn(name: str) -> Case:
    """Return a network for 32×32 images."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    return Case(name, "conv", build_network(name, 10).eval(), {"pixel_values": images}, 1)


def bert(layers: int, lengths: tuple[int, ...]) -> Iterator[Case]:
    """Yield a network with MiniLM's widths and fewer layers, at several lengths."""
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=layers, **MINILM)
    model = BertForSequenceClassification(config).eval()
    memos: dict[str, dict[Any, Any]] = {}
    for length in lengths:
        tokens = {"input_ids": torch.randint(1000, 30000, (1, length))}
        title = f"BERT 384, {layers} layers, {length} tokens"
        # The cost in parameters is the same at any length; the cost in seconds is not.
        own = {"parameters": memos.setdefault("parameters", {})}
        yield Case(title, "linear", model, tokens, 1, savings=(0.1, 0.3), memos=own)


def lines(case: Case, repeats: int) -> Iterator[str]:
    """Yield a line for each method and budget."""
    with torch.inference_mode():
        forward = partial(case.model, **repeated(case.example, case.batch))
        times = taken_in_turn([forward], Clock(torch.device("cpu")), 2, 1)
    few = rounds_within(min(times[0]), SECONDS, 8, repeats)
    budgets = [("parameters", 1 - share) for share in case.shares]
    budgets += [("latency", saving) for saving in case.savings]
    for budget, compression in budgets:
        for name, params in METHODS[case.target]:
            label = name + (" (groups <= 4, ranks of 8)" if params is CAPPED else "")
            head = f"{case.name:26s} {case.batch:5d} {budget:10s} {compression:4.2f} {label:31s}"
            start = time.process_time()
            try:
                make = make_method(name, **params)
                found = compress_within(case.problem(budget), make, compression)
            except LowRankError as error:
                yield f"{head} refused: {error}"
                continue
            seconds = time.process_time() - start
            cost = measure(case.model, found.model, case.example, case.batch, few, warm_up=3)
            kept = 1 - found.info["achieved_compression"]
            yield f"{head} {shown(cost)} {kept:7.2f} {seconds:8.1f}"


def shown(cost: Comparison) -> str:
    """Return the ratios, dense over compressed, of time, memory and bytes on disk."""
    memory = cost.dense.peak_bytes / cost.compressed.peak_bytes
    files = cost.dense.file_bytes / cost.compressed.file_bytes
    return (
        f"{cost.ratio:6.2f}x {cost.median_ratio:6.2f}x {memory:6.2f}x {files:6.2f}x "
        f"{1e3 * cost.dense.best:9.2f}"
    )


def cases(quick: bool) -> Iterator[tuple[Case, tuple[int, ...]]]:
    """Yield the networks, each with its batches."""
    for name in ("resnet20",) if quick else ("resnet20", "vgg16_bn"):
        yield cnn(name), (16,) if quick else (16, 1)
    for case in bert(2 if quick else 6, (16,) if quick else (16, 128)):
        yield case, (1,) if quick else (1, 32)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one network of each kind")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread"
    )
    print(
        "ratios: dense over compressed, above 1 is faster or smaller; CPU seconds of one thread\n"
    )
    print(
        f"{'network':26s} {'batch':>5s} {'budget':10s} save {'method':31s} {'best':>7s} "
        f"{'median':>7s} {'memory':>7s} {'file':>7s} {'dense ms':>9s} {'params':>7s} {'CPU s':>8s}"
    )
    for case, batches in cases(options.quick):
        for batch in batches if options.only in case.name else ():
            for line in lines(case.at(batch), 10 if options.quick else 30):
                print(line, flush=True)
    if options.only in "embedding":
        print()
        for line in embeddings(options.quick):
            print(line, flush=True)


if __name__ == "__main__":
    main()
