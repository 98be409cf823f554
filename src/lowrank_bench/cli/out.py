"""The output folder of `lowrank compress`: checked before the work, and what it does not hold."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_bench.errors import LowRankError

if TYPE_CHECKING:
    from lowrank_bench.compression.report import CompressionReport

MODULES = "modules.json"  # where sentence-transformers lists what runs after the transformer
MOST_KINDS = 3
MANY_TOKENS = 100_000  # vocabularies of one language have fewer


def check_out(out: Path) -> None:
    """Check that a network can be written to a folder, without leaving anything there.

    A network that `lowrank compress` wrote there before may be replaced; `artifact.save` does so.

    Raises
    ------
    LowRankError
        When the folder has other files in it, or cannot be made or written.
    """
    if out.exists() and not _may_be_replaced(out):
        raise LowRankError(f"OUT {out} holds other files; choose a new or an empty folder")
    parent = next(place for place in out.absolute().parents if place.exists())
    try:  # permissions do not show that a disk is read-only
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=parent):
            pass
    except OSError as error:
        raise LowRankError(
            f"OUT {out} cannot be written: {parent} takes no new folder "
            f"({error.strerror or error}); choose another place"
        ) from None


def _may_be_replaced(out: Path) -> bool:
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    from lowrank_bench.artifact import MANIFEST

    return (out / MANIFEST).is_file()


def left_out(report: "CompressionReport") -> str:
    """Return one line on the modules that the target left out; nothing where there are none."""
    if not report.skipped:
        return ""
    sizes: Counter[str] = Counter()
    for module in report.skipped:
        sizes[module["kind"]] += module["parameters"]
    whole = max(1, report.parameters_dense + sum(sizes.values()) + report.other_parameters)
    largest = [f"{kind} {size / whole:.1%}" for kind, size in sizes.most_common(MOST_KINDS)]
    more = ", …" if len(sizes) > MOST_KINDS else ""
    count = len(report.skipped)
    return (
        f"left out by target {report.target}: {count} module{'s' * (count > 1)} with "
        f"{report.skipped_share:.1%} of the network's parameters ({', '.join(largest)}{more}); "
        "the report lists them"
    )


def advice(report: "CompressionReport") -> str:
    """Return one line that advises to count a text; nothing where the vocabulary is a small one.

    The order of a vocabulary of a hundred languages says little about the use of one.
    """
    rows = max((layer["shape"][0] for layer in report.layers), default=0)
    prior = report.params.get("weights") == "vocabulary" and report.target == "embedding"
    if not prior or rows < MANY_TOKENS:
        return ""
    return (
        f"a vocabulary of {rows:,} tokens covers many languages, and its order weighted them: a "
        "few thousand lines of text such as the network will read usually keep more; count them "
        "with --set weights=counts --text FILE"
    )


def not_written(source: Path) -> str:
    """Return one line on the parts of a sentence-transformers folder that OUT does not hold.

    Parameters
    ----------
    source
        Folder of the dense network.

    Returns
    -------
    str
        Nothing for other folders.
    """
    file = source / MODULES
    if not file.is_file():
        return ""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        parts = [_part(entry) for entry in entries[1:]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        parts = [f"whatever {MODULES} lists, which cannot be read"]
    return (
        f"OUT holds the transformer alone, without {', '.join(parts) or MODULES}: open it with "
        "lowrank_bench.load, not with sentence-transformers, and apply the rest yourself"
    )


def _part(entry: dict[str, Any]) -> str:
    """Return the class of a module of sentence-transformers, and its folder where it has one."""
    kind = str(entry["type"]).rpartition(".")[2]
    return f"{kind} ({entry['path']})" if entry.get("path") else kind
