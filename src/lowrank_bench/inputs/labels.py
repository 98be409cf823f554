"""Check that a published checkpoint's outputs mean what the task's labels mean."""

import re
from collections.abc import Sequence
from typing import Any

from lowrank_bench.errors import LowRankError


def output_order(
    config: Any, labels: Sequence[str], declared: Sequence[str], title: str
) -> list[int]:
    """Return, for each label of the task, the number of the checkpoint's output for it.

    A checkpoint whose labels are in another order than the task's would score far below chance,
    so outputs and labels are matched by name, never by position.

    Parameters
    ----------
    config
        The checkpoint's transformers configuration, with `id2label`.
    labels
        The task's labels in the order of their ids; empty for a regression.
    declared
        Names of the outputs in the experiment's configuration, for checkpoints that call them
        LABEL_0, LABEL_1, …; empty to use the checkpoint's names.

    Raises
    ------
    LowRankError
        When the number or the names of the outputs do not match the task's labels.
    """
    outputs = [str(config.id2label[number]) for number in range(len(config.id2label))]
    if len(outputs) != max(1, len(labels)):
        raise LowRankError(
            f"{title}: the published checkpoint has {len(outputs)} outputs, the task "
            f"{len(labels)} labels; use a checkpoint of this task"
        )
    if not labels:
        return [0]
    generic = all(re.fullmatch(r"LABEL_\d+", name) for name in outputs)
    if generic and not declared:
        raise LowRankError(
            f"{title}: the published checkpoint calls its outputs only {', '.join(outputs)}; say "
            "what they mean, in order, in model.<name>.published.<task>.labels"
        )
    names = [_plain(name) for name in (declared or outputs)]
    plain_labels = [_plain(label) for label in labels]
    if sorted(names) != sorted(plain_labels):
        raise LowRankError(
            f"{title}: the checkpoint's labels ({', '.join(declared or outputs)}) are "
            f"not the task's ({', '.join(labels)}); declare them in "
            "model.<name>.published.<task>.labels"
        )
    if declared and not generic and [_plain(name) for name in outputs] != names:
        raise LowRankError(
            f"{title}: declared labels ({', '.join(declared)}) contradict those in the "
            f"checkpoint's config.json ({', '.join(outputs)}); remove the declaration"
        )
    return [names.index(label) for label in plain_labels]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())
