"""Time of a plan's trainings in several processes, in the order in which a run starts them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.execution.queue import TaskQueue


@dataclass(frozen=True)
class Task:
    """A training with its predicted time.

    Attributes:
        name: Name, unique among the tasks.
        seconds: Its own work.
        data: Name of the client data that it reads; a process keeps the last data that it made.
        making: Time of making these data.
    """

    name: str
    seconds: float
    data: str = ""
    making: float = 0.0


def makespan(tasks: Sequence[Task], groups: Mapping[str, str], processes: int, opening: float = 0.0) -> float:
    """Return the seconds from the start of the first task to the end of the last one.

    Args:
        tasks: The trainings, in the order of the plan.
        groups: Task → group of trainings that share their first round; the first of a group runs before the others.
        processes: Training processes, which :class:`benchmark.execution.queue.TaskQueue` gives tasks.
        opening: Time before a process can start its first task.
    """
    if not tasks:
        return 0.0
    queue, named = TaskQueue([task.name for task in tasks], groups), {task.name: task for task in tasks}
    idle = [(opening, number) for number in range(min(processes, len(tasks)))]
    running: list[tuple[float, int]] = []
    last: dict[int, str] = {}
    end = now = opening
    while idle or running:
        waiting = []
        for since, number in sorted(idle):
            name = queue.take(last.get(number, ""))
            if name is None:
                waiting.append((since, number))
                continue
            before = named.get(last.get(number, ""))
            task = named[name]
            making = 0.0 if before is not None and before.data == task.data else task.making
            last[number] = name
            heapq.heappush(running, (max(now, since) + making + task.seconds, number))
        idle = waiting
        if not running:
            break
        now, number = heapq.heappop(running)
        queue.end(last[number])
        end = max(end, now)
        idle.append((now, number))
    return end
