"""Trainings that share the local training of their first round.

Rules that start from the same adapter train the same first round. With one round, they share all of their local
training. A job belongs to the group of its ``local_key``; the first job of a group trains the round, and the others
read its remembered result (:mod:`benchmark.training.remembered`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmark.execution.plan import TrainingJob
from benchmark.suites.suite import Suite


def shared_groups(jobs: Sequence[TrainingJob]) -> dict[str, list[TrainingJob]]:
    """Return the groups of two or more jobs that share their first round, by local key."""
    groups: dict[str, list[TrainingJob]] = defaultdict(list)
    for job in jobs:
        if job.local_key:
            groups[job.local_key].append(job)
    return {key: group for key, group in groups.items() if len(group) > 1}


def readers(jobs: Sequence[TrainingJob]) -> frozenset[str]:
    """Return the training keys of the jobs that read their first round from another one."""
    return frozenset(job.training_key for group in shared_groups(jobs).values() for job in group[1:])


def shares_of_work(jobs: Sequence[TrainingJob], suite: Suite, reusing: Collection[str]) -> dict[str, float]:
    """Return the part of each job in the work of all jobs, by training key; counted in rows that are trained on.

    Args:
        jobs: The jobs.
        suite: Their suite.
        reusing: Training keys of the jobs that reuse the first round of another.
    """
    posthoc = suite.posthoc
    rows: dict[str, float] = {}
    for job in jobs:
        training = suite.under(job.scenario).training
        step = job.scenario.participants * training.batch_size
        own = training.rounds - (job.training_key in reusing) if job.local_key else 0
        rounds = own + sum(job.reattacks.values())
        derived = len(job.pipelines.keys() - {job.training_key})
        # Aggregation, canaries and files take some time, too: about that of a step for each adapter.
        rows[job.training_key] = (
            step * (rounds * training.local_steps + 1 + derived) + posthoc.steps * posthoc.batch_size * derived
        )
    return {key: count / sum(rows.values()) for key, count in rows.items()}


@dataclass(frozen=True)
class Sharing:
    """Numbers of trainings by the local training that they need. Each training counts once.

    Attributes:
        whole: Trainings that read all of their local training from another.
        first: Trainings that read the first round from another and train the later ones.
        trained: Trainings that train every round.
        none: Trainings in which no client trains, such as that of a reference that serves the start.
    """

    whole: int
    first: int
    trained: int
    none: int = 0

    @classmethod
    def of(
        cls,
        jobs: Sequence[TrainingJob],
        suite: Suite,
        reusing: Collection[str] | None = None,
        stored: Collection[str] = (),
    ) -> Sharing:
        """Return the numbers of all jobs.

        Args:
            jobs: The jobs, those that share nothing included.
            suite: Their suite.
            reusing: Training keys of the jobs that read the first round from another; those of :func:`readers` by
                default.
            stored: Training keys of jobs that only derive adapters, because their training is stored.
        """
        reusing = readers(jobs) if reusing is None else reusing
        counts: Counter[str] = Counter()
        for job in jobs:
            # A round with the attackers after the repair is trained anew, because it starts from another adapter.
            later = suite.under(job.scenario).training.rounds > 1 or any(job.reattacks.values())
            if job.training_key in stored or not (job.local_key or any(job.reattacks.values())):
                counts["none"] += 1
            elif job.training_key in reusing:
                counts["first" if later else "whole"] += 1
            else:
                counts["trained"] += 1
        return cls(counts["whole"], counts["first"], counts["trained"], counts["none"])

    @property
    def remark(self) -> str:
        """The numbers in words, to follow the number of trainings; empty if clients train every round of each.

        For example ``; clients train in 3 of them, 27 reuse the local training of another, and in 3 no client trains``.
        """
        if not (self.whole or self.first or self.none):
            return ""
        among = f" ({self.first} of these reuse the first round of another)" if self.first else ""
        parts = [f"clients train in {self.trained + self.first} of them{among}"]
        if self.whole:
            parts.append(f"{self.whole} reuse{'s' * (self.whole == 1)} the local training of another")
        if self.none:
            parts.append(f"in {self.none} no client trains")
        *others, last = parts
        return f"; {', '.join(others)}, and {last}" if others else f"; {last}"
