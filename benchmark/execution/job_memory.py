"""Remembered rounds of the jobs of a run: which jobs use them, and how long an entry stays."""

from __future__ import annotations

from dataclasses import replace

from benchmark.execution.job import JobReport, training_is_stored
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.sharing import shared_groups
from benchmark.records.remembered import RememberedRounds
from benchmark.records.store import Store


class JobMemory:
    """Gives each job of a run its memory, and removes an entry once no open job needs it.

    A round is remembered where two jobs of the run share it. A job that shares its round with finished jobs only reads:
    a run that was stopped may have left the entry.

    Args:
        plan: Plan of the run.
        jobs: Its open jobs.
        store: Store of the run.
        limit: Bytes that the entries may take; 0 to train each round anew.

    Attributes:
        sharers: The open jobs that share their first round with another open job, in order.
    """

    def __init__(self, plan: Plan, jobs: list[TrainingJob], store: Store, limit: int) -> None:
        self._store = store
        self._memory = RememberedRounds.of(store.root, limit)
        training = [job for job in jobs if limit and not training_is_stored(store, job.training_key)]
        groups = shared_groups(training)
        self.sharers = [job for group in groups.values() for job in group]
        self._writing = groups.keys()
        self._reading = shared_groups(plan.jobs).keys() if limit else frozenset[str]()
        self._local_keys = {job.training_key: job.local_key for job in training}
        self._entries: dict[str, set[str]] = {}
        """Keys of the entries that the jobs of a local key have used."""

    def of(self, job: TrainingJob) -> RememberedRounds | None:
        """Return the memory of a job, or ``None`` if the job trains every round."""
        if job.local_key in self._writing:
            return self._memory
        return replace(self._memory, limit=0, used=set()) if job.local_key in self._reading else None

    def settle(self, report: JobReport) -> None:
        """Take note of the end of a job. A job without a stored training stays open: the next run repeats it."""
        group = self._local_keys.get(report.training_key)
        if group is None:
            return
        self._entries.setdefault(group, set()).update(report.remembered)
        if training_is_stored(self._store, report.training_key):
            del self._local_keys[report.training_key]
        if group not in self._local_keys.values():
            self._memory.remove(self._entries.pop(group))

    def close(self) -> None:
        """Remove all entries but those of open jobs."""
        self._memory.clear(keep=set().union(*self._entries.values()))
