"""Evaluation on GLUE against transformers' Trainer: CPU seconds, predictions, bfloat16.

    python benchmarks/evaluation.py [--rows N] [--checkpoint TASK=FOLDER ...]

The plain recipe is run_glue's: every row padded to 128 tokens, batches of 8 and of 32 rows, the
faster of the two; it needs `pip install accelerate`. Both sides tokenise and predict on one thread,
in float32; ours then runs again in bfloat16. Without a checkpoint the classifier is randomly
initialized, and only the logits are compared.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

from lowrank_bench.device import in_precision
from lowrank_bench.inputs.text.encode import encode
from lowrank_bench.inputs.text.predict import predict
from lowrank_bench.score.metrics import compute, predict_labels

NETWORK = "sentence-transformers/all-MiniLM-L6-v2"
TASKS = {
    "cola": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
}
METRIC = {"cola": "matthews_correlation", "mrpc": "f1", "qnli": "accuracy"}
LENGTH, MAX_TOKENS, BATCHES = 128, 2048, (8, 32)


@dataclass
class Times:
    """CPU seconds of one task: the plain recipe's, ours, and ours in bfloat16."""

    plain: float
    ours: float
    rough: float


def main() -> None:
    """Print one row per task, and the total."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, help="of every task's validation split; default all")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="TASK=FOLDER")
    options = parser.parse_args()
    folders = dict(pair.split("=", 1) for pair in options.checkpoint)
    torch.set_num_threads(1)
    print(f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread")
    print(
        f"{'task':6}{'rows':>6}{'tokens':>7}{'plain s':>9}{'ours s':>8}{'ratio':>7}{'logits':>9}"
        f"{'bf16 s':>8}{'ratio':>7}{'labels':>8}  metric fp32 and bf16"
    )
    times = [_task(task, folders.get(task), options.rows) for task in TASKS]
    plain, ours, rough = (
        sum(getattr(t, name) for t in times) for name in ("plain", "ours", "rough")
    )
    print(f"ratio: plain recipe over ours, CPU seconds: {plain / ours:.2f}x")
    print(f"ratio: float32 over bfloat16, CPU seconds: {ours / rough:.2f}x")
    print(f"{'all':19}{plain:9.1f}{ours:8.1f}{plain / ours:6.2f}x", end="")
    print(f"{'':9}{rough:8.1f}{ours / rough:6.2f}x")


def _task(task: str, folder: str | None, rows: int | None) -> Times:
    data = load_dataset("nyu-mll/glue", task, split="validation")
    data = data.select(range(min(rows or len(data), len(data))))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder or NETWORK).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder or NETWORK)
    found = [_timed(_plain(model, tokenizer, data, task, size)) for size in BATCHES]
    plain, wanted = min(found, key=lambda pair: pair[0])
    text = {"columns": TASKS[task], "label": "label", "labels": ["0", "1"], "max_length": LENGTH}
    frame = data.to_pandas()

    def ours(precision: str = "fp32") -> np.ndarray:
        network = in_precision(model, precision)
        return predict(network, tokenizer, encode(frame, tokenizer, text), MAX_TOKENS)

    exact_seconds, exact = _timed(ours)
    rough_seconds, rough = _timed(lambda: ours("bf16"))
    times = Times(plain, exact_seconds, rough_seconds)
    tokens = encode(frame, tokenizer, text).lengths.mean()
    changed = (exact.argmax(1) != rough.argmax(1)).sum()
    print(
        f"{task:6}{len(data):6d}{tokens:7.1f}{plain:9.1f}{exact_seconds:8.1f}"
        f"{plain / exact_seconds:6.2f}x{abs(exact - wanted).max():9.1e}{rough_seconds:8.1f}"
        f"{exact_seconds / rough_seconds:6.2f}x{changed:8d}"
        + (
            "  " + _metrics(task, frame["label"].to_numpy(), exact, rough)
            if folder
            else "  untrained"
        ),
        flush=True,
    )
    return times


def _plain(model: Any, tokenizer: Any, data: Dataset, task: str, size: int) -> Callable:
    """Return a function that tokenises and predicts as run_glue does."""

    def tokenised(rows: dict[str, list]) -> dict[str, list]:
        texts = (rows[column] for column in TASKS[task])
        return tokenizer(*texts, padding="max_length", max_length=LENGTH, truncation=True)

    def run() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_eval_batch_size=size,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            )
            prepared = data.map(tokenised, batched=True, load_from_cache_file=False)
            return Trainer(model=model, args=arguments).predict(prepared).predictions

    return run


def _metrics(task: str, labels: np.ndarray, exact: np.ndarray, rough: np.ndarray) -> str:
    name = METRIC[task]
    values = [
        100 * compute([name], predict_labels(logits, "classification"), labels)[name]
        for logits in (exact, rough)
    ]
    return f"{name} {values[0]:.2f}, {values[1]:.2f}"


def _timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
