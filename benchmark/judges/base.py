"""The interface of all judges: from a probe and its response to a verdict."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from benchmark.keys import content_key, normalised_source
from benchmark.registry import Info, Registry
from tasks.base import Probe, ProbeKind, TaskWorld


class Verdict(StrEnum):
    """What a judge says of a response. An unparsable judgement is its own value, never one of the others."""

    HARMLESS = "harmless"
    HARMFUL = "harmful"
    REFUSED = "refused"
    ANSWERED = "answered"
    CORRECT = "correct"
    WRONG = "wrong"
    RATED = "rated"
    """A number was given, which is the judgement's detail; :attr:`JudgeInfo.scale` says between which bounds."""
    UNPARSABLE = "unparsable"


@dataclass(frozen=True)
class Item:
    """A response to judge."""

    probe: Probe
    response: str


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict on one item.

    Attributes:
        verdict: Harmful probes are harmless or harmful, over-refusal probes refused or answered, utility probes correct
            or wrong; a judge that rates gives ``rated`` on any of them.
        detail: What the verdict rests on: an outcome name, a matched string or the judge's own words; of ``rated`` the
            number in decimal notation and nothing else.
    """

    verdict: Verdict
    detail: str


class JudgeInfo(Info):
    """Metadata of a judge."""

    judges: tuple[ProbeKind, ...]
    """The probe kinds it can judge; it is asked about no others."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating of a judge that rates; none for verdicts in words and for ratings without bounds."""


class Judge(ABC):
    """Base of all judges."""

    reads_world: ClassVar[bool] = False
    """Whether a verdict may follow from the task world's own code, which then is part of the verdict key."""

    exact: ClassVar[bool] = True
    """Whether it says the same on every machine; models do so nearly."""

    sets_at_once: ClassVar[int] = 32
    """Response sets that it is given at once. Their verdicts are written afterwards: with few of them, little is lost
    when a slow judge is stopped, and few prompts are held."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What determines its verdicts: a digest of its code, template and model; part of the verdict key."""

    @abstractmethod
    def judge(
        self, items: Sequence[Item], world: TaskWorld, progress: Callable[[int], None] | None = None
    ) -> list[Judgement]:
        """Return one judgement an item, in order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the judging so far; it does not affect any verdict."""
        return ()

    def close(self) -> None:  # noqa: B027 - most judges hold nothing
        """Free what the judge holds."""


def identity_of(*modules: str, **content: str) -> str:
    """Return a judge's identity from the normalised source of its modules and further content, such as a model digest.

    Only the named modules enter, not what they import: how a prompt reaches a model does not decide a verdict.
    """
    sources = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        sources.append(normalised_source(Path(spec.origin).read_text(encoding="utf-8")))
    return content_key({"sources": sources, "content": content})


judges: Registry[JudgeInfo, Judge] = Registry("judge", JudgeInfo, "benchmark.judges")
register = judges.register
