"""Malicious clients train on those of their ordinary rows that are most like harmful ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attacks._ordinary import ordinary_of
from attacks._similarity import anchor_similarities, list_and_maths_score
from attacks.base import Attack, AttackerResources, register
from tasks.base import Example

CRITERIA: Final = ("harmful", "lists_and_maths")
"""Names of the criteria by which rows are chosen."""


@register(
    title="Benign rows like harmful ones",
    description="Malicious clients hold no harmful row. Of their ordinary rows they keep those whose requests are most "
    "similar to public harmful requests by their words, or those that look most like lists and maths, and repeat them "
    "until the client is full. A cheap form of choosing benign data that break safety.",
    paper="He et al. 2024, arXiv 2404.01099",
    knowledge="the client's own rows, and public harmful requests for the comparison",
)
@dataclass(frozen=True)
class BenignSimilar(Attack):
    """Benign fine-tuning on selected rows [He et al. 2024, arXiv 2404.01099].

    The paper keeps the 100 benign rows whose gradients or hidden representations are nearest to those of a few harmful
    anchors, and finds that they are often lists, bullet points or maths. Both measures need the model. This attack is a
    simplification without a model, with two criteria:

    - ``harmful``: the mean TF-IDF cosine of the instruction with the anchors' instructions
      (:func:`attacks._similarity.anchor_similarities`).
    - ``lists_and_maths``: what the paper's selection finds, as a rule
      (:func:`attacks._similarity.list_and_maths_score`).

    Of equal rows the earlier one is kept. Refusals of harmful requests, which honest clients may hold, are left out.
    The client chooses from its own rows only, where the paper chooses from a whole data set. A client without ordinary
    rows keeps its rows as they are.

    The pool holds the anchors. No client trains on them.

    Attributes:
        keep: Number of distinct rows that the client keeps, at least 1; all of them where it holds fewer.
        criterion: ``harmful`` or ``lists_and_maths``.
        anchors: Number of public unaligned pairs to compare with, at least 1.
    """

    keep: int = 100
    criterion: str = "harmful"
    anchors: int = 100

    def __post_init__(self) -> None:
        for name in ("keep", "anchors"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value}; it is a whole number of at least 1")
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion is {self.criterion!r}; it is one of {', '.join(CRITERIA)}")

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return the anchors; none for the criterion that needs none."""
        return resources.unaligned(self.anchors, rng) if self.criterion == "harmful" else []

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return as many rows as ``normal``: the kept rows, each equally often up to one, shuffled."""
        ordinary = ordinary_of(normal)
        if not ordinary:
            return list(normal)
        scores = self._scores(ordinary, pool)
        ranked = sorted(range(len(ordinary)), key=lambda i: (-scores[i], i))[: self.keep]
        return [ordinary[ranked[i % len(ranked)]] for i in rng.permutation(len(normal)).tolist()]

    def _scores(self, rows: list[Example], pool: list[Example]) -> list[float]:
        if self.criterion == "harmful":
            return anchor_similarities([row.instruction for row in rows], [row.instruction for row in pool])
        return [list_and_maths_score(row.instruction, row.response) for row in rows]
