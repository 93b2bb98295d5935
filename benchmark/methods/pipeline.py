"""Compositions of defenses, such as ``krum+posthoc_self``: parsed, checked, and divided into scored stages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from benchmark.errors import UsageError
from benchmark.keys import definition_digest
from benchmark.registry import Entry
from defenses.base import Defense, DefenseInfo, Knowledge, Stage, defenses

_KNOWLEDGE_ORDER = (Knowledge.NONE, Knowledge.DECLARED_BOUND, Knowledge.TRUTH)


@dataclass(frozen=True)
class Pipeline:
    """Registered defenses applied in turn.

    At most one member may act in ``prepare`` or ``aggregate``; where none does, aggregation is FedAvg.
    """

    entries: tuple[Entry[DefenseInfo, Defense], ...]

    @property
    def name(self) -> str:
        """The pipeline as submitted, for example ``krum+posthoc_self``."""
        return "+".join(entry.info.id for entry in self.entries)

    @property
    def ranked(self) -> bool:
        """Whether every member may be ranked."""
        return all(entry.info.ranked for entry in self.entries)

    @property
    def knowledge(self) -> Knowledge:
        """The highest knowledge level of the members."""
        return max((entry.info.knowledge for entry in self.entries), key=_KNOWLEDGE_ORDER.index)

    @cached_property
    def aggregator(self) -> Entry[DefenseInfo, Defense] | None:
        """The member that acts during federated training, if any."""
        return next((e for e in self.entries if _acts_in_training(e)), None)

    @property
    def trains(self) -> bool:
        """Whether clients train: not for a reference row that ignores their updates."""
        # Without an aggregator the first member's defaults aggregate, which are FedAvg.
        return bool(getattr((self.aggregator or self.entries[0]).target, "uses_updates", True))

    @property
    def prepares(self) -> bool:
        """Whether the aggregator acts before the first round, where it may change what clients start from."""
        return self.aggregator is not None and self.aggregator.target.prepare is not Defense.prepare

    @property
    def finalizers(self) -> tuple[Entry[DefenseInfo, Defense], ...]:
        """The members that change the adapter after the last round, in order."""
        return tuple(e for e in self.entries if e.target.finalize is not Defense.finalize)

    @property
    def servers(self) -> tuple[Entry[DefenseInfo, Defense], ...]:
        """The members that change how the model is served, in order."""
        return tuple(e for e in self.entries if e.target.serve is not Defense.serve)

    @property
    def stages(self) -> tuple[Pipeline, ...]:
        """The pipeline after each member, in order; the last one is the pipeline itself."""
        return tuple(Pipeline(self.entries[: i + 1]) for i in range(len(self.entries)))


def parse_pipeline(text: str) -> Pipeline:
    """Return the pipeline written as names joined by ``+``.

    Raises:
        UsageError: A name is unknown or repeated, or two members would both aggregate.
    """
    entries = tuple(defenses.resolve(name) for name in members(text))
    names = [entry.info.id for entry in entries]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise UsageError(f"pipeline {text!r} names {sorted(repeated)[0]!r} twice; name each defense once")
    privileged = [e.info.id for e in entries if e.info.knowledge is Knowledge.TRUTH and e.info.ranked]
    if privileged:
        raise UsageError(
            f"defense {privileged[0]!r} asks for the truth and for a rank; only reference rows are told it. "
            f"Register it with ranked=False, or with knowledge=Knowledge.DECLARED_BOUND or NONE"
        )
    # FedAvg overrides no hook, but declares that it aggregates.
    training = {Stage.PREPARE, Stage.AGGREGATE}
    aggregators = [e.info.id for e in entries if _acts_in_training(e) or training & set(e.info.stages)]
    if len(aggregators) > 1:
        raise UsageError(
            f"pipeline {text!r} aggregates twice, by {' and by '.join(aggregators)}; compose one of them with defenses "
            f"of later stages"
        )
    if aggregators and entries[0].info.id != aggregators[0]:
        raise UsageError(
            f"pipeline {text!r} acts after the last round before it aggregates; write the aggregator first"
        )
    return Pipeline(entries)


def members(text: str) -> list[str]:
    """Return the names that a pipeline joins by ``+``; a plus inside parentheses joins nothing."""
    return [name.strip() for name in _JOINT.split(text)]


_JOINT = re.compile(r"\+(?![^(]*\))")


def method_digest(entries: Sequence[Entry[DefenseInfo, Defense]]) -> list[list[str]]:
    """Return what identifies the behaviour of ``entries``: id, normalised source and knowledge level of each."""
    return [[e.info.id, e.source_digest, e.info.knowledge] for e in entries]


@cache
def default_aggregate_digest() -> str:
    """Return the digest of FedAvg, by which a pipeline aggregates if no member does and which any member may call."""
    return definition_digest(Defense.__module__, Defense.aggregate.__qualname__)


def _acts_in_training(entry: Entry[DefenseInfo, Defense]) -> bool:
    target = entry.target
    return target.prepare is not Defense.prepare or target.aggregate is not Defense.aggregate
