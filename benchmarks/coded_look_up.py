"""Look-ups of coded tables on the ids of real text, against the floor that their form has.

python benchmarks/coded_look_up.py               # MiniLM and sentences of MRPC from the hub
python benchmarks/coded_look_up.py --threads 2

The floor is what no such code can leave out: the product that its form needs for the distinct ids
(their coefficients times the basis, or their levels times their scales), and one gather of all
tokens. Floor, look-up and forward pass take turns; each time is the least of all rounds. `cold`:
64 MB are written before each call, as the rest of a network does between two look-ups.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from datasets import load_dataset
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from lowrank_bench import compress
from lowrank_bench.latency.clock import Clock, taken_in_turn
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.transform import TransformCodes

NETWORK = "sentence-transformers/all-MiniLM-L6-v2"
TOKENS = 64
CODES = [("half", 0.5), ("rtn", 0.75), ("rtn", 0.85), ("rtn", 0.9), ("pq", 0.97)]
CODES += [("waterfill", 0.92), ("waterfill", 0.97)]
CODES += [("transform_code", saved) for saved in (0.9, 0.95, 0.97, 0.985)]


def sentence_ids(rows: int) -> Tensor:
    """Return the ids of the first sentences of MRPC, rows×64, padded."""
    data = load_dataset("nyu-mll/glue", "mrpc", split=f"train[:{rows}]")
    tokens = AutoTokenizer.from_pretrained(NETWORK)
    options = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
    found: Tensor = tokens(list(data["sentence1"]), return_tensors="pt", **options)["input_ids"]
    return found


def floor(code: Coded, ids: Tensor) -> Callable[[], Tensor]:
    """Return the call of one product for the distinct ids and one gather of all."""
    distinct, places = torch.unique(ids.flatten(), return_inverse=True)
    decoded = code.decode(distinct)
    basis = code.directions if isinstance(code, TransformCodes) else None
    left = torch.randn(len(distinct), 1 if basis is None else len(basis))

    def call() -> Tensor:
        rows = decoded * left if basis is None else left @ basis
        return rows.index_select(0, places)

    return call


def held(code: Coded) -> int:
    """Return the bytes of all tensors of a code, with those that it keeps between look-ups."""
    seen: dict[int, int] = {}
    queue = list(vars(code).values())
    while queue:
        value = queue.pop()
        if isinstance(value, Tensor):
            seen[value.data_ptr()] = value.numel() * value.element_size()
        elif hasattr(value, "__dict__"):
            queue += vars(value).values()
    return sum(seen.values())


def lines(rows: int, rounds: int, threads: int) -> Iterator[str]:
    """Yield a line for each code."""
    model = AutoModel.from_pretrained(NETWORK).eval()
    tokenizer = AutoTokenizer.from_pretrained(NETWORK)
    ids, clock = sentence_ids(rows), Clock(torch.device("cpu"), threads)
    dirt = torch.zeros(1 << 24)
    with torch.inference_mode():
        passes = taken_in_turn([partial(model, input_ids=ids)], clock, 5, 1)
    forward = min(passes[0])
    yield (
        f"{rows} x {TOKENS} tokens, {len(ids.unique())} distinct, {threads} threads; "
        f"{clock.name}; forward pass {1e3 * forward:.1f} ms"
    )
    yield "code             saved  floor us  look-up us   ratio  cold ratio  of forward   MB kept"
    for name, saved in CODES:
        small = compress(model, name, saved_bytes=saved, tokenizer=tokenizer, certificate=False)[0]
        layer: nn.Module = small.get_input_embeddings()
        code = layer.approximation()  # type: ignore[operator]
        with torch.inference_mode():
            calls = [floor(code, ids), partial(layer, ids)]
            least = [min(times) for times in taken_in_turn(calls, clock, rounds, 5)]
            mixed = [call for one in calls for call in (partial(dirt.add_, 1.0), one)]
            cold = [min(times) for times in taken_in_turn(mixed, clock, max(5, rounds // 8), 1)]
        yield (
            f"{name:15s} {saved:6.3f} {1e6 * least[0]:9.0f} {1e6 * least[1]:11.0f} "
            f"{least[1] / least[0]:6.2f}x {cold[3] / cold[1]:10.2f}x {least[1] / forward:11.2%} "
            f"{held(layer.approximation()) / 1e6:9.2f}"  # type: ignore[operator]
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for rows in options.rows:
        for line in lines(rows, 20 if options.quick else 400, options.threads):
            print(line, flush=True)


if __name__ == "__main__":
    main()
