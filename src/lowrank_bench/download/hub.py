"""Files of a hub repository at a pinned revision, retried, with errors that name the mend."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lowrank_bench.errors import LowRankError

ATTEMPTS = 6
Result = TypeVar("Result")


def list_files(repo: str, revision: str, repo_type: str) -> tuple[list[str], str]:
    """Return the files of a repository and the commit that `revision` stands for.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, or has no such repository or revision.
    """

    def _ask() -> tuple[list[str], str]:
        info = HfApi().repo_info(repo, revision=revision, repo_type=repo_type)
        return sorted(entry.rfilename for entry in info.siblings), info.sha

    try:
        return _patiently(_ask, repo, revision)
    except LowRankError:
        cached = _cached_files(repo, revision, repo_type)
        if cached is None:
            raise
        return cached


def _cached_files(repo: str, revision: str, repo_type: str) -> tuple[list[str], str] | None:
    """Return what `list_files` does, from the hub's cache on this machine."""
    try:
        folder = snapshot_download(
            repo, revision=revision, repo_type=repo_type, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return sorted(file.relative_to(folder).as_posix() for file in files), Path(folder).name


def fetch(repo: str, file: str, revision: str, repo_type: str) -> Path:
    """Return the local path of one file, downloaded into the hub's cache where needed.

    Raises
    ------
    LowRankError
        As `list_files`.
    """
    return Path(
        _patiently(
            lambda: hf_hub_download(repo, file, revision=revision, repo_type=repo_type),
            repo,
            revision,
        )
    )


def _patiently(call: Callable[[], Result], repo: str, revision: str) -> Result:
    fault: Exception | None = None
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except RevisionNotFoundError:
            raise LowRankError(
                f"hub repository {repo} has no revision {revision!r} at {constants.ENDPOINT}; "
                "a mirror that keeps only main is used with the override hub.revision=main"
            ) from None
        except RepositoryNotFoundError:
            raise LowRankError(
                f"no hub repository {repo} at {constants.ENDPOINT}; correct its `repo`, or set "
                "HF_TOKEN if it is gated"
            ) from None
        except OfflineModeIsEnabled:
            raise LowRankError(
                f"{repo} is not in the cache and HF_HUB_OFFLINE is set; unset it for the download"
            ) from None
        except LocalEntryNotFoundError as error:
            fault = error
        except EntryNotFoundError as error:
            raise LowRankError(f"hub repository {repo}@{revision}: {_brief(error)}") from None
        except Exception as error:  # the hub's client raises its transport's own errors
            fault = error
        if _refused(fault):
            break
        time.sleep(min(0.2 * 2**attempt, 5))
    raise LowRankError(
        f"cannot download {repo} from {constants.ENDPOINT} ({_brief(fault)}); set HF_ENDPOINT to a "
        "hub that answers, or HF_HOME to a cache that holds it"
    )


def _refused(fault: BaseException | None) -> bool:
    """Tell whether nothing listens there, so that trying again is idle."""
    while fault is not None:
        if isinstance(fault, ConnectionRefusedError) or type(fault).__name__ == "ConnectError":
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _brief(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].rstrip(": ")
