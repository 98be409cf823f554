"""The warning that calibration data are too few for a compression."""

import warnings
from collections.abc import Sequence

from lowrank_bench.errors import LowRankWarning

MOST_NAMED = 3  # layers that the warning names


def warn_of_shortage(names: Sequence[str]) -> None:
    """Warn that the data reach fewer directions of these layers than fit the budget, if any."""
    if not names:
        return
    named = ", ".join(names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    warnings.warn(
        "the calibration data are too few for this compression: they reach fewer directions than "
        f"fit the budget in {named}{more}, and the others are kept unranked; give more examples",
        LowRankWarning,
        stacklevel=4,
    )
