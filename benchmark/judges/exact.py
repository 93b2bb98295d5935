"""Exact answers: the beginning of an answer is the reference, after case and punctuation are left out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from benchmark.errors import FedSafetyError
from benchmark.judges.base import Item, Judge, Judgement, Verdict, identity_of, register
from tasks.base import Probe, ProbeKind, TaskWorld

LONGEST_DETAIL: Final = 8
"""Words of an answer that the detail of a verdict shows."""

_WORD: Final = re.compile(r"(?<!\w)-?[0-9]+(?:[.,][0-9]+)*(?!\w)|[^\W_]+")
"""A number with its sign and decimals, or a run of letters and digits."""


@register(
    title="Exact answer",
    description="The answer is correct if its first words are the words of the reference answer, ignoring case, "
    "punctuation and white space: for the reference 'positive', 'Positive.' and 'positive, because it is warm' are "
    "correct, 'positively' and 'The answer is positive' are wrong. An answer in the wrong form is wrong, because the "
    "form is part of what the clients' data teach.",
    judges=(ProbeKind.UTILITY,),
)
class Exact(Judge):
    """Comparison with the probe's reference."""

    reads_references = True

    @property
    def identity(self) -> str:
        """Digest of this comparison."""
        return identity_of("benchmark.judges.exact")

    def check_probes(self, probes: Sequence[Probe]) -> None:
        """Check that every utility probe has a reference.

        Raises:
            FedSafetyError: A probe has none.
        """
        for probe in probes:
            if probe.kind is ProbeKind.UTILITY:
                _reference(probe)

    def decide(self, items: Sequence[Item], world: TaskWorld) -> list[Judgement]:
        """Return one judgement for each item, in order. The detail is the first words of the answer.

        Raises:
            FedSafetyError: A probe has no reference.
        """
        del world
        return [_judgement(item) for item in items]


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, without regard to case, punctuation and full-width spellings.

    A number is one word, with its sign and decimals and without commas.

    >>> words("Positive. (It's -1,234.5 degrees)")
    ('positive', 'it', 's', '-1234.5', 'degrees')
    """
    found: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return tuple(word.replace(",", "") for word in found)


def _reference(probe: Probe) -> tuple[str, ...]:
    reference = words(probe.reference)
    if not reference:
        raise FedSafetyError(
            f"the utility probe {probe.id!r} has no reference answer, with which the judge 'exact' compares; map a "
            f"column of its data to the reference, or leave the judge out"
        )
    return reference


def _judgement(item: Item) -> Judgement:
    reference, answer = _reference(item.probe), words(item.response)
    correct = answer[: len(reference)] == reference
    return Judgement(Verdict.CORRECT if correct else Verdict.WRONG, " ".join(answer[:LONGEST_DETAIL]))
