"""Order in which worker processes take tasks, some of which share work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class TaskQueue:
    """Tasks that wait for a process.

    The first task of a group runs alone, because the others read a result of it. A free process goes on with the group
    of its last task, whose models and data it holds. Otherwise it takes the first task that begins a group or belongs
    to none, and at last the first one of a group that another process has begun.

    Args:
        tasks: Names of the tasks, in order.
        groups: Group of each task that shares work.
    """

    def __init__(self, tasks: Iterable[str], groups: Mapping[str, str]) -> None:
        self._waiting = dict.fromkeys(tasks)
        self._groups = groups
        self._begun: set[str] = set()
        self._open: set[str] = set()
        """Groups whose first task has ended."""

    def take(self, last: str = "") -> str | None:
        """Remove and return the next task for a process, or ``None`` if none can start now.

        Args:
            last: The last task of the process; empty if it had none.
        """
        own = self._groups.get(last, "")
        ranks: dict[int, str] = {}
        for task in self._waiting:
            group = self._groups.get(task, "")
            if group in self._begun and group not in self._open:
                continue
            ranks.setdefault(0 if group and group == own else 2 if group in self._begun else 1, task)
        if not ranks:
            return None
        task = ranks[min(ranks)]
        del self._waiting[task]
        if group := self._groups.get(task, ""):
            self._begun.add(group)
        return task

    def end(self, task: str) -> None:
        """Report that a task has ended, so that the others of its group can start."""
        if group := self._groups.get(task, ""):
            self._open.add(group)
