"""Reserve the GPUs of one machine for jobs, each GPU for one job at a time.

Torch uses the first GPU that it sees, so jobs that run side by side would share it and leave the
others idle. On a cluster the scheduler sets CUDA_VISIBLE_DEVICES for each job, and nothing is left
to do here.
"""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from lowrank_bench.errors import LowRankError

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT = 1.0  # seconds between two looks for a free card

_held: list[IO[str]] = []  # a lock lasts as long as its file is open: until the process ends


def take_cards(wanted: int) -> None:
    """Reserve cards for this process, wait until they are free, and hide the others from torch.

    Call it before torch is imported. Cards are held by locks of the operating system on files in a
    folder of this user; a lock ends with its process, however that ends.

    Raises
    ------
    LowRankError
        When the machine has fewer cards.
    """
    cards = visible_cards()
    if wanted <= 0 or not cards:
        return  # without cards torch computes on the processor
    if wanted > len(cards):
        raise LowRankError(
            f"the job asks for gpu={wanted}, this machine shows {len(cards)} ({', '.join(cards)}); "
            f"lower the resource gpu, or correct {VISIBLE}"
        )
    if wanted == len(cards) and VISIBLE in os.environ:
        return
    os.environ[VISIBLE] = ",".join(_reserved(cards, wanted))


def visible_cards() -> list[str]:
    """Return the names of the cards that this process may use."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [card for card in named.split(",") if card.strip()]
    numbers = [file.name.removeprefix("nvidia") for file in Path("/dev").glob("nvidia*")]
    return sorted((number for number in numbers if number.isdecimal()), key=int)


def _reserved(cards: list[str], wanted: int) -> list[str]:
    """Return cards that no other process of this user holds, and hold them."""
    folder = Path(tempfile.gettempdir()) / f"lowrank-bench-cards-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    announced = False
    while not (taken := _try(folder, cards, wanted)):
        if not announced:
            print(f"[gpu] waiting for {wanted} of {len(cards)} cards", file=sys.stderr, flush=True)
            announced = True
        time.sleep(WAIT)
    _held.extend(taken.values())
    return list(taken)


def _try(folder: Path, cards: list[str], wanted: int) -> dict[str, IO[str]]:
    """Return `wanted` free cards with their locks, or none."""
    with (folder / "all").open("w") as gate:  # one process at a time: none holds a part and waits
        fcntl.flock(gate, fcntl.LOCK_EX)
        locks = {card: file for card in cards if (file := _lock(folder / f"card-{card}"))}
        enough = len(locks) >= wanted
        for card in list(locks)[wanted if enough else 0 :]:
            locks.pop(card).close()
    return locks


def _lock(place: Path) -> IO[str] | None:
    file = place.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
