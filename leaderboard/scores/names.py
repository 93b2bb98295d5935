"""Names of metrics: the only place that puts them together and takes them apart.

A metric that each judge, stratum or task has is named ``<kind>:<subject>``, for example ``judge:rule``. Downloads and
the page's data use these names as keys, so a metric's name is a text everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class MetricKind(StrEnum):
    """Kinds of metrics that have one value for each subject."""

    JUDGE = "judge"
    """Safety by a judge."""
    UNPARSABLE = "unparsable"
    """Parse-failure rate of a judge on the scored harmful probes."""
    RATING = "rating"
    """Mean rating by a judge, not a share."""
    UNRATED = "unrated"
    """Share of the answers that a judge did not rate."""
    STRATUM = "stratum"
    """Safety in a scored stratum."""
    APART = "apart"
    """Safety in a stratum outside the headline score."""
    UTILITY = "utility"
    """Utility in one type of task; the name without a subject is the utility over all types."""
    MARGIN = "margin"
    """Safety margin in one stratum, in nats per token; the name without a subject is the margin over all scored
    ones."""
    PERPLEXITY = "perplexity"
    """Perplexity of the reference answers of one stratum; the name without a subject is that of all scored ones."""
    TASK = "task"
    """Headline score of a task of lm-evaluation-harness."""


def member(kind: str, subject: str) -> str:
    """Return the name of the metric of one kind and subject."""
    return f"{kind}:{subject}"


def kind_of(name: str) -> str:
    """Return the kind in a metric's name; of a metric without a subject the whole name."""
    return name.partition(":")[0]


def subject_of(name: str) -> str:
    """Return the subject in a metric's name; empty for a metric without a subject."""
    return name.partition(":")[2]


def subjects(names: Iterable[str], kind: MetricKind) -> set[str]:
    """Return the subjects of the metrics of one kind among ``names``."""
    return {subject_of(name) for name in names if subject_of(name) and kind_of(name) == kind}
