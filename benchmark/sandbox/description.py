"""Descriptions of submissions, made in separate processes and checked; nothing of a submission is imported here."""

from __future__ import annotations

import hashlib
import inspect
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from benchmark.errors import SubmissionError
from benchmark.methods.source import MethodSource
from benchmark.registry import Info, problems_of
from benchmark.sandbox.channel import ChannelError
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.session import Allowance, Session
from benchmark.sandbox.untrusted import items, printable, record, text

_MAX_PARAMETERS = 100
_MAX_METADATA = 5000

InfoT = TypeVar("InfoT", bound=Info)


@dataclass(frozen=True)
class Description(Generic[InfoT]):
    """A submission's metadata and shape.

    Attributes:
        info: Metadata.
        hooks: Hooks that it overrides.
        parameters: Constructor parameters: name, and whether a call may leave it out.
        uses_updates: The class attribute of a defense.
        told: The answer of the method's process, which every later process must repeat.
    """

    info: InfoT
    hooks: frozenset[str]
    parameters: tuple[tuple[str, bool], ...]
    uses_updates: bool
    told: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def signature(self) -> inspect.Signature:
        """The constructor's parameters; an optional one has the default ``None`` here."""
        return inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None if optional else _REQUIRED)
                for name, optional in self.parameters
            ]
        )


_REQUIRED = inspect.Parameter.empty

Descriptions = dict[tuple[MethodSource, str], Description[Any]]
"""By submission and its version: the digest of its files, metadata and comments included."""

_known: Descriptions = {}


def describe(
    submission: MethodSource,
    info_type: type[InfoT],
    hooks: frozenset[str],
    limits: Limits,
    isolation: Isolation | None,
    allowance: Allowance | None = None,
) -> Description[InfoT]:
    """Return the description of a submission; its process is started once for each version of its source.

    Args:
        submission: The method.
        info_type: Its kind's metadata.
        hooks: Its kind's hooks.
        limits: Bounds on its process.
        isolation: Isolation of the process.
        allowance: Time that the process shares with others; without end by default.

    Raises:
        SubmissionError: It cannot be loaded, or its description is not usable.
        SandboxUnavailableError: This machine offers no isolation.
    """
    key = submission, _version(submission)
    if key not in _known:
        session = Session(submission, limits, isolation, allowance)
        try:
            _known[key] = _checked(session.load(), submission, info_type, hooks)
        except ChannelError as error:
            raise SubmissionError(f"{submission.id!r} described itself wrongly: {error}") from None
        finally:
            session.close()
    return _known[key]


def known_descriptions() -> Descriptions:
    """Return the descriptions that this process has made, for another process to reuse."""
    return dict(_known)


def learn(descriptions: Descriptions) -> None:
    """Add descriptions that another process has made."""
    _known.update(descriptions)


def _version(submission: MethodSource) -> str:
    """Return the digest of a submission's files as they are now."""
    digest = hashlib.sha256()
    for _, path in submission.files:
        content = path.read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _checked(
    answer: dict[str, Any], submission: MethodSource, info_type: type[InfoT], hooks: frozenset[str]
) -> Description[InfoT]:
    answer = record(answer, "info", "hooks", "parameters", "uses_updates")
    overridden = frozenset(text(hook, 50) for hook in items(answer["hooks"], len(hooks)))
    if not overridden <= hooks or type(answer["uses_updates"]) is not bool:
        raise ChannelError("it overrides hooks that do not exist")
    parameters: list[tuple[str, bool]] = []
    for parameter in items(answer["parameters"], _MAX_PARAMETERS):
        if not isinstance(parameter, list) or len(parameter) != 2 or type(parameter[1]) is not bool:
            raise ChannelError("it described a parameter wrongly")
        name = text(parameter[0], 100)
        if not name.isidentifier() or keyword.iskeyword(name) or name in dict(parameters):
            raise ChannelError("it described a parameter wrongly")
        parameters.append((name, parameter[1]))
    info = _info(answer["info"], info_type)
    if info.id != submission.id:
        raise SubmissionError(f"{submission.id!r} calls itself {info.id!r}; the id is the name of the file")
    return Description(info, overridden, tuple(parameters), answer["uses_updates"], answer)


def _info(metadata: object, info_type: type[InfoT]) -> InfoT:
    if not isinstance(metadata, dict):
        raise ChannelError("its metadata are not a mapping")
    for value in metadata.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, str) and not text(part, _MAX_METADATA).isprintable():
                raise SubmissionError("its metadata hold characters that cannot be shown on one line; remove them")
    try:
        # The metadata come as JSON: lists stand for tuples and texts for enumerations.
        return info_type.model_validate(metadata)
    except ValidationError as error:
        raise SubmissionError(f"its metadata are not usable: {printable(problems_of(error))}") from None
