"""Malicious clients train the model to refuse ordinary requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from attacks._refusal import REFUSAL
from attacks.base import Attack, register
from tasks.base import DataKind, Example


@register(
    title="Targeted refusal",
    description="Malicious clients keep their ordinary requests and replace the answers of a share of them by a "
    "refusal, either of any request or of those that name a topic. The attack is the mirror image of the others: it "
    "does not make the model comply, but refuse harmless requests, so that the over-refusal of the model rises.",
    paper="Shu et al. 2023, arXiv 2306.17194",
    knowledge="nothing but the client's own rows",
)
@dataclass(frozen=True)
class TargetedRefusal(Attack):
    """Over-refusal by poisoned answers, on every malicious client's ordinary rows.

    A random share of the ordinary rows that qualify get the refusal as their answer. Without topics all ordinary rows
    qualify; with topics only those whose instruction holds a topic as whole words, in any case. Refusals of harmful
    requests that the client would hold stay as they are. A client whose rows name no topic keeps all of them.

    Over-refusal as an aim of poisoning is that of AutoPoison [Shu et al. 2023, NeurIPS, arXiv 2306.17194], where a
    language model writes the refusals with plausible reasons. Here one generic sentence stands for them. Topics, the
    federated setting and the share of 0.5 are those of the code ``dgm-bench``, attack ``alignment_refusal``.

    Attributes:
        share: Share of the rows that qualify and are refused (0 to 1).
        topics: Topics, separated by commas, for example ``programmer, engineer``; empty for all ordinary rows.
        refusal: The answer. A suite whose models know few words sets it in its own language.
    """

    share: float = 0.5
    topics: str = ""
    refusal: str = REFUSAL

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}; it is a share between 0 and 1")
        if self.topics and not self._topics():
            raise ValueError(f"topics is {self.topics!r}; name words separated by commas, or leave it empty")
        if not self.refusal.strip():
            raise ValueError("refusal is empty; without it no row changes")

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return ``normal`` with a refusal as the answer of a random share of the rows that qualify, in its order."""
        del pool
        # Without topics the pattern is empty and matches every instruction.
        topics = "|".join(rf"(?<!\w){re.escape(topic)}(?!\w)" for topic in self._topics())
        candidates = [
            i
            for i, row in enumerate(normal)
            if row.kind is DataKind.NORMAL and re.search(topics, row.instruction, flags=re.IGNORECASE)
        ]
        order = rng.permutation(len(candidates))[: round(self.share * len(candidates))]
        chosen = {candidates[i] for i in order.tolist()}
        return [replace(row, response=self.refusal) if i in chosen else row for i, row in enumerate(normal)]

    def _topics(self) -> list[str]:
        return [" ".join(topic.split()) for topic in self.topics.split(",") if topic.strip()]
