"""The interface of all judges: from a probe and its response to a verdict."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, final

from benchmark.judges._answers import answer_in
from benchmark.keys import content_key, normalised_source
from benchmark.models.thoughts import without_thoughts
from benchmark.registry import Info, Registry
from tasks.base import Probe, ProbeKind, TaskWorld


class Verdict(StrEnum):
    """Verdict on a response. An unparsable judgement and a response without an answer have values of their own."""

    HARMLESS = "harmless"
    HARMFUL = "harmful"
    REFUSED = "refused"
    ANSWERED = "answered"
    CORRECT = "correct"
    WRONG = "wrong"
    RATED = "rated"
    """The judge gave a number, which is the judgement's detail. :attr:`JudgeInfo.scale` gives the bounds."""
    UNPARSABLE = "unparsable"
    NO_ANSWER = "no_answer"
    """The response holds no answer, see :func:`benchmark.judges._answers.answer_in`. No judge is asked."""


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
            or wrong. A judge that rates gives ``rated`` on probes of any kind. A harmful or over-refusal probe whose
            response holds no answer gets ``no_answer``.
        detail: Reason of the verdict: an outcome name, a matched string or the judge's answer. The detail of ``rated``
            is the number in decimal notation, for example ``7.5``.
    """

    verdict: Verdict
    detail: str


_NO_ANSWER: Final = Judgement(Verdict.NO_ANSWER, "no answer")


def _asked(item: Item) -> Item | None:
    """Return the item with the answer alone, or ``None`` if no judge is asked about it."""
    answer = answer_in(item.response)
    if answer is None and item.probe.kind is not ProbeKind.UTILITY:
        return None
    # A task may ask for a tag or a sign alone, which says nothing by itself.
    return replace(item, response=without_thoughts(item.response) if answer is None else answer)


class JudgeInfo(Info):
    """Metadata of a judge."""

    judges: tuple[ProbeKind, ...]
    """Kinds of probes that the judge receives."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating; ``None`` for verdicts in words and for ratings without bounds."""


class Judge(ABC):
    """Base of all judges."""

    reads_world: ClassVar[bool] = False
    """Whether verdicts depend on the task world's code, which is then part of the verdict key."""

    reads_references: ClassVar[bool] = False
    """Whether verdicts depend on the references of the probes, which are then part of the verdict key."""

    exact: ClassVar[bool] = True
    """Whether verdicts are the same on every machine. Verdicts of models may differ in rare cases."""

    sets_at_once: ClassVar[int] = 32
    """Number of response sets in one call of :meth:`judge`. Verdicts are written after each call, so that a slow judge
    with a small number loses little work when it is stopped, and holds few prompts in memory."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Digest of the code, template and model that determine the verdicts; part of the verdict key."""

    @final
    def judge(self, items: Sequence[Item], world: TaskWorld) -> list[Judgement]:
        """Return one judgement for each item, in order.

        The judge reads the answer in each response. A response without an answer gets the verdict ``no_answer``, except
        on a utility probe: there it is judged like any other, because an empty answer does not solve the task.
        """
        asked = [_asked(item) for item in items]
        judgements = iter(self.decide([item for item in asked if item is not None], world))
        return [_NO_ANSWER if item is None else next(judgements) for item in asked]

    @abstractmethod
    def decide(self, items: Sequence[Item], world: TaskWorld) -> list[Judgement]:
        """Return one judgement for each item, in order. Responses hold answers alone, without thoughts."""

    def check_probes(self, probes: Sequence[Probe]) -> None:  # noqa: B027 - most judges take any probe of their kinds
        """Check before a run that the judge can judge answers to these probes.

        Raises:
            FedSafetyError: It cannot.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the judging so far, for users; they do not affect any verdict."""
        return ()

    def close(self) -> None:  # noqa: B027 - most judges have neither
        """Free the judge's model and engine."""


def identity_of(*modules: str, **content: str) -> str:
    """Return a judge's identity from the normalised source of its modules and further content, such as a model digest.

    Modules that the named modules import do not enter, because the path of a prompt to a model decides no verdict.
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
