"""Files of a hub repository at a pinned revision, with retries and errors that name the remedy."""

import inspect
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lowrank_bench.download.patience import Silence, heard, listener, patiently
from lowrank_bench.errors import LowRankError, TransientError

# Of a hub that fails three in ten requests and cuts three in ten short, six attempts in ten fail:
# so many that all fail once in 30,000 files, and in less time than a silent hub is waited for.
ATTEMPTS = 20
LONGEST_WAIT = 1.5  # seconds between two attempts
TIMEOUT = 10.0  # seconds for a connection, and for each piece of an answer
PATIENCE = 30.0  # seconds without a byte, over all attempts, after which a hub counts as silent
# A client reports what it receives after each piece: small ones, so that a slow hub is heard.
PIECE = 2**18  # bytes
Result = TypeVar("Result")
if "HF_HUB_VERBOSITY" not in os.environ:  # its warnings at each attempt say less than our one line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def list_files(repo: str, revision: str, repo_type: str) -> tuple[list[str], str]:
    """Return the files of a repository, and the commit that `revision` refers to.

    Without a hub, a cached snapshot on this machine is listed instead.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, or has no such repository or revision.
    """

    def _request() -> tuple[list[str], str]:
        info = HfApi().repo_info(repo, revision=revision, repo_type=repo_type, timeout=TIMEOUT)
        files = getattr(info, "siblings", None) or []
        return sorted(file.rfilename for file in files), info.sha or revision

    try:
        return _with_retries(_request, repo, revision)
    except LowRankError:
        cached = _cached_files(repo, revision, repo_type)
        if cached is None:
            raise
        return cached


def _cached_files(repo: str, revision: str, repo_type: str) -> tuple[list[str], str] | None:
    """Return what `list_files` returns, from the cache on this machine; None if it is empty."""
    try:
        folder = snapshot_download(
            repo, revision=revision, repo_type=repo_type, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return sorted(file.relative_to(folder).as_posix() for file in files), Path(folder).name


def fetch(repo: str, file: str, revision: str, repo_type: str) -> Path:
    """Return the local path of one file, downloaded into the hub's cache if necessary.

    Raises
    ------
    LowRankError
        As `list_files`.
    """

    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, PIECE)
    options: dict[str, Any] = {"revision": revision, "repo_type": repo_type}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # not in its first versions
        options["tqdm_class"] = listener()

    def _download() -> Path:
        return Path(hf_hub_download(repo, file, etag_timeout=TIMEOUT, **options))

    return _with_retries(_download, repo, revision)


def fetch_folder(repo: str, revision: str | None, wanted: Callable[[list[str]], list[str]]) -> Path:
    """Return the local folder of a model's files, downloaded into the hub's cache if necessary.

    Parameters
    ----------
    wanted
        Chooses among the names of the repository's files.

    Raises
    ------
    LowRankError
        As `list_files`.
    """
    files, commit = list_files(repo, revision or "main", "model")
    paths = {name: fetch(repo, name, commit, "model") for name in wanted(files)}
    return next(path.parents[name.count("/")] for name, path in paths.items())


def _with_retries(request: Callable[[], Result], repo: str, revision: str) -> Result:
    """Return the result of a request, unless the hub falls silent; repeat it after faults."""
    try:
        return patiently(lambda: _repeated(request, repo, revision), PATIENCE)
    except Silence:
        raise TransientError(
            f"{constants.ENDPOINT} sends nothing: no byte in {PATIENCE:g} s of asking for {repo}; "
            "set HF_ENDPOINT to a hub that answers, or HF_HOME to a cache that contains it"
        ) from None


def _repeated(request: Callable[[], Result], repo: str, revision: str) -> Result:
    """Return the result of a request; repeat it after faults that may be temporary."""
    fault: Exception | None = None
    for attempt in range(ATTEMPTS):
        try:
            return request()
        # Final answers, which a second request would not change. The order of the clauses matters:
        # some of these classes are subclasses of others.
        except RevisionNotFoundError:
            raise LowRankError(
                f"hub repository {repo} has no revision {revision!r} at {constants.ENDPOINT}; for "
                "a mirror that keeps only main, use the override hub.revision=main"
            ) from None
        except RepositoryNotFoundError:
            raise LowRankError(
                f"no hub repository {repo} at {constants.ENDPOINT}; correct its `repo`, or set "
                "HF_TOKEN if it is gated"
            ) from None
        except HFValidationError:
            raise LowRankError(
                f"{repo!r} is no repository of a hub, which is written as owner/name; correct it"
            ) from None
        except OfflineModeIsEnabled:
            raise LowRankError(
                f"{repo} is not in the cache and HF_HUB_OFFLINE is set; unset it for the download"
            ) from None
        # The hub did not answer, and the file is not in the cache: try again.
        except LocalEntryNotFoundError as error:
            fault = error
        except EntryNotFoundError as error:
            raise LowRankError(f"hub repository {repo}@{revision}: {_brief(error)}") from None
        # The client lets through any error of its HTTP library.
        except Exception as error:
            fault = error
            if getattr(error, "response", None) is not None:
                heard()  # a hub that refuses is not silent
        if _is_refused(fault):
            break
        # Wait longer each time, so that a busy hub can recover.
        time.sleep(min(0.2 * 2**attempt, LONGEST_WAIT))
    raise TransientError(
        f"cannot download {repo} from {constants.ENDPOINT} ({_brief(fault)}); set HF_ENDPOINT to a "
        "hub that answers, or HF_HOME to a cache that contains it"
    )


def _is_refused(fault: BaseException | None) -> bool:
    """Return whether no server listens at the endpoint, so that a retry is pointless."""
    while fault is not None:
        # By name: the HTTP library's own class for a refused connection.
        if isinstance(fault, ConnectionRefusedError) or type(fault).__name__ == "ConnectError":
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _brief(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].rstrip(": ")
