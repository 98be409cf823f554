"""Check that a published checkpoint's outputs mean what the task's labels mean."""

import re
from collections.abc import Sequence
from typing import Any

from lowrank_bench.errors import LowRankError


def output_order(
    config: Any, labels: Sequence[str], declared: Sequence[str], title: str
) -> list[int]:
    """Return, for each label of the task, the number of the checkpoint's output that means it.

    A checkpoint whose labels are in another order than the task's scores far below chance when
    its outputs are taken as they come; names decide, never positions.

    Parameters
    ----------
    config
        The checkpoint's transformers configuration, with `id2label`.
    labels
        The task's labels in the order of their ids; empty for a regression.
    declared
        Names of the outputs as the experiment's configuration declares them, for checkpoints
        that only say LABEL_0, LABEL_1, …; empty to go by the checkpoint's own names.

    Raises
    ------
    LowRankError
        When the number or the names of the outputs do not match the task's labels.
    """
    own = [str(config.id2label[number]) for number in range(len(config.id2label))]
    if len(own) != max(1, len(labels)):
        raise LowRankError(
            f"{title}: the published checkpoint has {len(own)} outputs, the task {len(labels)} "
            "labels; take the checkpoint of this task"
        )
    if not labels:
        return [0]
    generic = all(re.fullmatch(r"LABEL_\d+", name) for name in own)
    if generic and not declared:
        raise LowRankError(
            f"{title}: the published checkpoint names its outputs {', '.join(own)} only; say what "
            "they mean in model.<name>.published.<task>.labels, in order"
        )
    names = [_plain(name) for name in (declared or own)]
    wanted = [_plain(label) for label in labels]
    if sorted(names) != sorted(wanted):
        raise LowRankError(
            f"{title}: the checkpoint's labels ({', '.join(declared or own)}) are "
            f"not the task's ({', '.join(labels)}); declare them in "
            "model.<name>.published.<task>.labels"
        )
    if declared and not generic and [_plain(name) for name in own] != names:
        raise LowRankError(
            f"{title}: declared labels ({', '.join(declared)}) contradict those in the "
            f"checkpoint's config.json ({', '.join(own)}); remove the declaration"
        )
    return [names.index(name) for name in wanted]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())
