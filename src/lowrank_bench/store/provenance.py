"""Provenance of a result: versions, commit, time."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lowrank_bench.store.digest import canonical

PACKAGES = ("lowrank-bench", "torch", "transformers", "tokenizers", "numpy", "scipy")


def provenance() -> dict[str, str]:
    """Return the versions (canonical JSON), the git commit and the current time (UTC, ISO 8601)."""
    return {
        "versions": versions(),
        "git_commit": git_commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def versions() -> str:
    """Return the versions of Python and of all packages that influence numbers, canonical JSON."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return canonical(installed)


@cache
def git_commit() -> str:
    """Return the commit of the working tree, with `-dirty` if tracked files have changed."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
