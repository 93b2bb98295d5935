"""Trainings that share the local training of their first round.

Rules that start from the same adapter train the same first round. With one round, they share all of their local
training. A job belongs to the group of its ``local_key``; the first job of a group trains the round, and the others
read its remembered result (:mod:`benchmark.training.remembered`).
"""

from __future__ import annotations

from collections import defaultdict
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
    """Numbers of trainings that share their first round.

    Attributes:
        whole: Trainings of one round that read it from another.
        first: Trainings of several rounds that read the first one from another.
        trained: Trainings that train their first round.
        none: Trainings in which no client trains, such as that of a reference that serves the start.
    """

    whole: int
    first: int
    trained: int
    none: int = 0

    @classmethod
    def of(cls, jobs: Sequence[TrainingJob], suite: Suite) -> Sharing:
        """Return the numbers of a suite's jobs."""
        reusing = readers(jobs)
        rounds = [suite.under(job.scenario).training.rounds for job in jobs if job.training_key in reusing]
        whole = sum(count == 1 for count in rounds)
        training = sum(bool(job.local_key) for job in jobs)
        return cls(whole, len(rounds) - whole, training - len(rounds), len(jobs) - training)

    @property
    def remark(self) -> str:
        """The numbers in words, to follow the number of trainings; empty if nothing is shared.

        For example ``; 24 of them reuse the local training of another, so clients train 2 times``.
        """
        if self.whole and self.first:
            return f"; {self.whole} of them reuse the local training of another, and {self.first} its first round"
        if self.first:
            return f"; {self.first} of them reuse the first round of another"
        if not self.whole:
            return ""
        times = "once" if self.trained == 1 else f"{self.trained} times"
        none = f", and {self.none} train no client" if self.none else ""
        return f"; {self.whole} of them reuse the local training of another{none}, so clients train {times}"
