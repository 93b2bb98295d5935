"""Requests to the Hugging Face hub: the commit of a revision, and clear messages for failures.

``huggingface_hub`` and ``datasets`` are imported late because a listing of worlds needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, Literal

from benchmark.errors import FedSafetyError, InputsMissingError, first_line

Kind = Literal["model", "dataset"]
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ROOTS: Final = {"model": "--model-root", "dataset": "--data-root"}
_HUB: Final = "https://huggingface.co/"


def is_commit(revision: str) -> bool:
    """Return whether ``revision`` is a full commit id, which needs no request and never moves."""
    return _COMMIT.fullmatch(revision) is not None


def resolve_commit(kind: Kind, repository: str, revision: str) -> str:
    """Return the current commit of a branch or tag; a full commit id is returned unchanged.

    The commit is cached for the life of the process, so that a process never sees two states of a branch. Offline, the
    commit is read from the hub's cache.

    Raises:
        InputsMissingError: The hub cannot be reached, or has no such repository or revision.
    """
    return revision if is_commit(revision) else _requested_commit(kind, repository, revision)


@lru_cache(maxsize=256)
def check_reachable(kind: Kind, repository: str, commit: str) -> tuple[str, ...]:
    """Return the names of a commit's files, after checking that the hub lets this user read them.

    The check fails at once where a download would retry for half a minute. A process checks each commit once, and again
    after a failure.

    Raises:
        InputsMissingError: The hub cannot be reached (or offline mode is on), has no such repository or revision, or
            requires consent.
    """
    from huggingface_hub import HfApi

    with explained(kind, repository, commit):
        info = HfApi().repo_info(repository, repo_type=kind, revision=commit)
        if getattr(info, "gated", False):
            # The hub lists a gated repository's files to all users, but only users with consent may read them.
            HfApi().auth_check(repository, repo_type=kind)
    return tuple(sibling.rfilename for sibling in getattr(info, "siblings", None) or ())


@contextmanager
def explained(kind: Kind, repository: str, revision: str) -> Iterator[None]:
    """Replace errors of the hub libraries by a message that names the repository and the way out.

    Raises:
        InputsMissingError: An error of the hub, the network or a cache occurred.
    """
    try:
        yield
    except FedSafetyError:
        raise
    except Exception as error:
        reason = _reason(kind, repository, revision, error)
        if reason is None:
            raise
        raise InputsMissingError(reason) from error


@lru_cache(maxsize=256)
def _requested_commit(kind: Kind, repository: str, revision: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with explained(kind, repository, revision):
        try:
            commit = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
        except OfflineModeIsEnabled:
            commit = _cached_commit(kind, repository, revision)
    if not commit or not is_commit(commit):
        raise InputsMissingError(
            f"the hub names no commit for revision {revision!r} of {kind} {repository}; pin a full commit id"
        )
    return commit


def _cached_commit(kind: Kind, repository: str, revision: str) -> str:
    """Return the commit of ``revision`` in the hub's cache."""
    from pathlib import Path

    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository, repo_type=kind, revision=revision, local_files_only=True, allow_patterns=["*.json", "README.md"]
    )
    return Path(str(folder)).name


def _reason(kind: Kind, repository: str, revision: str, error: Exception) -> str | None:
    """Return a message for users about ``error``, or ``None`` if it does not come from the hub."""
    from huggingface_hub import errors

    page = f"{_HUB}{'datasets/' if kind == 'dataset' else ''}{repository}"
    local = f"or put it under a folder named by {_ROOTS[kind]}"
    chain = list(_chain(error))
    if any(isinstance(link, errors.GatedRepoError) or _is_gated(link) for link in chain):
        return (
            f"{kind} {repository} is gated: accept its licence on {page}, then set HF_TOKEN to a token of that "
            f"account; {local}"
        )
    if any(isinstance(link, errors.RevisionNotFoundError) for link in chain):
        return (
            f"{kind} {repository} has no revision {revision!r} (any more); name one of those on {page}/commits/main, "
            f"{local}"
        )
    if any(isinstance(link, errors.RepositoryNotFoundError) or _is_not_found(link) for link in chain):
        return (
            f"the hub knows no {kind} {repository}, or shows it to other accounts only; mend the name, set HF_TOKEN, "
            f"{local}"
        )
    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    if any(isinstance(link, offline) or _is_of_network(link) for link in chain):
        return (
            f"{kind} {repository} at revision {revision!r} is not on this machine and the hub cannot be reached; go "
            f"online, set HF_HUB_OFFLINE=1 if it is in the hub's cache, {local}"
        )
    if any(isinstance(link, errors.HfHubHTTPError) for link in chain):
        return f"the hub refuses {kind} {repository}: {first_line(error)}; see {page}, {local}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _is_gated(error: BaseException) -> bool:
    """Return whether the text of ``error`` names a gated data set: ``datasets`` has no own class for this error."""
    return type(error).__name__ == "DatasetNotFoundError" and "gated" in str(error)


def _is_not_found(error: BaseException) -> bool:
    return type(error).__name__ == "DatasetNotFoundError"


def _is_of_network(error: BaseException) -> bool:
    """Return whether an HTTP library raised ``error`` for lack of a connection, by its class name."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectError", "NetworkError", "ConnectTimeout", "ReadTimeout"})
