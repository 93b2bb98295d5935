"""Order of tasks that share work."""

from __future__ import annotations

from benchmark.execution.queue import TaskQueue

GROUPS = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}


def test_the_first_task_of_a_group_runs_alone_and_its_process_goes_on_with_the_group() -> None:
    queue = TaskQueue(["a1", "a2", "a3", "b1", "b2"], GROUPS)
    assert [queue.take(), queue.take(), queue.take()] == ["a1", "b1", None]
    queue.end("b1")
    assert queue.take("b1") == "b2"
    queue.end("b2")
    assert queue.take("b2") is None  # the first task of the other group has not ended
    queue.end("a1")
    # Where nothing else is left, a process helps with the group of another.
    assert [queue.take("a1"), queue.take("b2"), queue.take("a2")] == ["a2", "a3", None]


def test_a_new_group_comes_before_the_group_of_another_process() -> None:
    queue = TaskQueue(["a1", "a2", "b1", "b2", "free"], GROUPS)
    assert queue.take() == "a1"
    queue.end("a1")
    assert [queue.take(), queue.take("a1"), queue.take("b1"), queue.take("free")] == ["b1", "a2", "free", None]


def test_tasks_without_a_group_keep_their_order() -> None:
    queue = TaskQueue("abc", {})
    assert [queue.take(), queue.take("a"), queue.take("b"), queue.take("c")] == ["a", "b", "c", None]
