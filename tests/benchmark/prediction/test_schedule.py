"""The time of trainings in several processes, against schedules worked by hand."""

from __future__ import annotations

from benchmark.prediction.schedule import Task, makespan


def test_tasks_run_side_by_side_after_the_processes_open() -> None:
    tasks = [Task("a", 10.0), Task("b", 10.0), Task("c", 4.0)]
    assert makespan(tasks, {}, 1) == 24.0
    assert makespan(tasks, {}, 2, opening=5.0) == 19.0
    assert makespan(tasks, {}, 9) == 10.0
    assert makespan([], {}, 2, opening=5.0) == 0.0


def test_the_first_of_a_group_runs_before_the_others() -> None:
    """The second process trains ``alone`` until 30 and waits until 100; then both take what is left of the group."""
    tasks = [Task("first", 100.0), *(Task(name, 1.0) for name in ("second", "third", "fourth")), Task("alone", 30.0)]
    groups = dict.fromkeys(["first", "second", "third", "fourth"], "group")
    assert makespan(tasks, groups, 2) == 102.0
    assert makespan(tasks, groups, 1) == 133.0


def test_a_process_makes_data_once_while_its_tasks_read_the_same() -> None:
    tasks = [Task(name, 1.0, data="11", making=20.0) for name in "ab"]
    assert makespan(tasks, {}, 1) == 22.0
    assert makespan(tasks, {}, 2) == 21.0
    other = Task("c", 1.0, data="12", making=20.0)
    assert makespan([tasks[0], other, tasks[1]], {}, 1) == 63.0
