"""What methods reach for: files, processes, networks, what they left before, and tools beyond their use."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.sandbox.defense import sandboxed_defense
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.proxy import created
from benchmark.submission.practice import practice_server
from defenses.base import Prompt

from .conftest import isolation_called
from .play import TIGHT, Case, method, one_round, play
from .traces import ROOT

pytestmark = pytest.mark.slow

PREFIXES = {*(sys.prefix, sys.base_prefix), *map(os.path.realpath, (sys.prefix, sys.base_prefix))}


@pytest.fixture(params=["bubblewrap", "namespaces"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Each way of isolating processes in turn."""
    return isolation_called(request.param)


def failure(name: str, hook: str, params: Mapping[str, Any], isolation: Isolation) -> str:
    """Return why a hook failed."""
    return play(Case(name, hook, ("",), params), isolation)


def open_ways(reason: str) -> list[str]:
    """Return what a method that tries many ways says it got through; it must have tried some."""
    found = re.search(r"RuntimeError: (\d+) (?:ways tried, open|things looked for, found): \[(.*)\]", reason)
    assert found is not None, reason
    assert int(found.group(1)) > 0
    return found.group(2).split(", ") if found.group(2) else []


def test_nothing_of_probes_labels_results_and_other_methods_is_readable(tmp_path: Path, isolation: Isolation) -> None:
    other = tmp_path / "somebody_elses_method.py"
    other.write_text("SECRET = 1\n")
    paths = [ROOT / part for part in ("tasks/micro", "benchmark/judges", "results", "tests", "leaderboard", ".git")]
    paths += [ROOT / "pyproject.toml", tmp_path, other, Path("/etc/passwd"), Path("/etc/shadow")]
    folders = map(Path, ("/home", "/mnt", "/media", "/srv", "/opt", "/boot", "/var", "/root", "/sys/fs"))
    # The way to the interpreter is there, with nothing beside it.
    paths += [folder for folder in folders if not any(Path(prefix).is_relative_to(folder) for prefix in PREFIXES)]
    params = {
        "paths": ":".join(str(path) for path in paths),
        "words": f"{other.stem}:{tmp_path.name}:judges:results:micro",
        "names": f"{other.name}:micro_judge.py:probes.py:words.py:micro.yaml:responses.parquet:{Path(__file__).name}",
        "packages": "somebody_elses_method:leaderboard:tests",
    }
    assert open_ways(failure("reads_files", "aggregate", params, isolation)) == []


def test_no_process_is_readable(monkeypatch: pytest.MonkeyPatch, isolation: Isolation) -> None:
    word = "only-the-parent-knows-this"
    monkeypatch.setenv("FEDSAFETY_HOSTILE_SECRET", word)
    assert open_ways(failure("reads_parent", "aggregate", {"word": word[::-1]}, isolation)) == []


@contextmanager
def somebody_listens(name: str) -> Iterator[tuple[int, list[socket.socket]]]:
    """Listen on a port of the machine and at an abstract address."""
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as neighbour,
    ):
        neighbour.bind(f"\0{name}")
        neighbour.listen()
        yield port.getsockname()[1], [port, neighbour]


def test_nobody_is_reachable_by_sockets(isolation: Isolation) -> None:
    name = f"hostile-{os.getpid()}"
    with somebody_listens(name) as (port, listeners):
        reason = failure("opens_sockets", "aggregate", {"port": port, "name": name}, isolation)
        assert open_ways(reason) == []
        for listener in listeners:
            listener.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_nothing_outside_the_scratch_folder_is_written(tmp_path: Path, isolation: Isolation) -> None:
    folders = [tmp_path, ROOT, ROOT / "defenses", ROOT / ".git" / "hooks", Path.home(), Path(sys.prefix)]
    params = {"paths": ":".join(map(str, [*folders, method("behaves").files[0][1].parent]))}
    before = {folder: sorted(folder.iterdir()) for folder in folders if folder.is_dir()}
    ways = open_ways(failure("writes_outside", "aggregate", params, isolation))
    # Its /tmp is its own scratch folder. A checkout below the real one shares the name and nothing else.
    assert [way for way in ways if " /tmp/" not in way] == []
    assert {folder: sorted(folder.iterdir()) for folder in before} == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_for_the_next_process(isolation: Isolation) -> None:
    for _ in range(2):
        reason = failure("leaves_files", "aggregate", {}, isolation)
        assert "found from before: []; left now: True" in reason


def test_prompts_are_remembered_within_one_process_only(isolation: Isolation) -> None:
    entry = sandboxed_defense(method("remembers_prompts"), TIGHT, isolation)
    for _ in range(2):
        with created(entry) as defense:
            served = defense.serve_all([Prompt(f"Say {i}.") for i in range(3)])  # type: ignore[attr-defined]
        assert [prompt.answer for prompt in served] == [
            f"{i + 1} in this process, 0 notes from earlier ones" for i in range(3)
        ]


def test_an_honest_method_gives_the_same_bits(isolation: Isolation) -> None:
    with created(sandboxed_defense(method("behaves"), TIGHT, isolation)) as defense:
        updates, context = one_round()
        assert torch.equal(defense.aggregate(updates, context).update, updates.matrix.mean(dim=0))


def test_refused_questions_count_as_little_as_they_cost() -> None:
    server = practice_server()
    entry = sandboxed_defense(method("swallows_errors"), TIGHT, isolation_called("auto"))
    adapter = torch.zeros(server.layout.dimension)
    with created(entry) as defense:
        assert torch.equal(defense.finalize(adapter, server), adapter)
    assert server.usage.owned_normal == 3
    assert server.usage.owned_aligned == 0
