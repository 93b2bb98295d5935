"""The errors a user sees: each names the value, the rule it broke and the way out."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class FedSafetyError(Exception):
    """Something failed while doing valid work. The command line exits with status 1."""

    exit_status = 1


class UsageError(FedSafetyError):
    """What the user asked for is not valid. The command line exits with status 2."""

    exit_status = 2


class InputsMissingError(FedSafetyError):
    """A model or data set is not here and cannot be had now; the text names it and how to get it."""


class NotFetchedError(InputsMissingError):
    """A model or data set can be had and is not on this machine yet; a run fetches it before it starts."""


class MemoryShortageError(FedSafetyError):
    """A model does not fit into memory with its settings; on a larger machine, or with smaller ones, it would."""


class NotApplicableError(FedSafetyError):
    """A rule's condition does not hold in the given shape, so the cell is not scored."""


class SubmissionError(FedSafetyError):
    """A submitted method broke its contract or its limits; the text is the reason that rows, reports and pages show."""


class SandboxUnavailableError(FedSafetyError):
    """This platform offers no isolation, so that foreign code cannot be run."""


class StorageError(FedSafetyError):
    """A file cannot be written. Going on would fail every later cell for the same reason, so a run stops here."""


def unwritable(thing: str, error: OSError) -> StorageError:
    """Return the error for a ``thing`` below ``--out`` that cannot be written; only a full disk needs more space."""
    reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
    space = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StorageError(f"cannot write {thing}: {reason}; {space}name another folder with --out")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class where the text is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a misspelt ``name``, with the nearest valid one.

    Args:
        kind: What the name should have been, for example ``"defense"``.
        name: The name that was given.
        known: All valid names.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
