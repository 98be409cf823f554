"""Where a result comes from: versions, commit, time."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lowrank_bench.store.digest import canonical

PACKAGES = ("lowrank-bench", "torch", "transformers", "tokenizers", "numpy", "scipy")


def provenance() -> dict[str, str]:
    """Return versions (canonical JSON), git commit and the time now (UTC, ISO 8601)."""
    return {
        "versions": versions(),
        "git_commit": git_commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def versions() -> str:
    """Return the versions of Python and of the packages that decide numbers, canonical JSON."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return canonical(found)


@cache
def git_commit() -> str:
    """Return the commit of the project's work tree, with `-dirty` if sources differ from it."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
