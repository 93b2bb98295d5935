"""First file of a new method, with its test; it runs at once and behaves like the simplest method."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmark.errors import UsageError, unknown_name
from benchmark.methods.kinds import ATTACK, DEFENSE, Kind
from benchmark.methods.source import ID_PATTERN
from benchmark.methods.wording import claim_in, holder_of_title
from benchmark.registry import Info
from defenses.base import Stage

LONGEST_ID = Info.longest["title"]
"""Most characters of a new id: its words are the first title."""
STAGES = tuple(stage.value for stage in Stage)
"""The moments at which a defense may act, in their order."""


@dataclass(frozen=True)
class Scaffold:
    """What was written.

    Attributes:
        method: The method's file.
        test: Its test's file.
        in_project: Whether both lie in the project's own folders.
    """

    method: Path
    test: Path
    in_project: bool


def new_defense(name: str, folder: Path, stages: Sequence[str] = ("aggregate",)) -> Scaffold:
    """Write a defense that behaves as FedAvg, and its test.

    Args:
        name: Registry id, which becomes the file's name.
        folder: Where to; made if missing. The project's own ``defenses`` folder takes the defense, and the folder of
            its tests the test.
        stages: When it acts; each gives a hook to fill.

    Raises:
        UsageError: The id cannot be one or is taken, a stage is unknown, or a file is there already.
    """
    for stage in stages:
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
    chosen = tuple(stage for stage in STAGES if stage in stages)
    if not chosen:
        raise UsageError(f"a defense acts at one moment at least; name one of {', '.join(STAGES)}")
    imports = {"Defense", "Knowledge", "Stage", "register"}
    imports |= {"Server"} if {"prepare", "finalize"} & set(chosen) else set()
    imports |= {"Prompt"} if "serve" in chosen else set()
    practice = {"load_defense"}
    practice |= {"one_round"} if "aggregate" in chosen else set()
    practice |= {"practice_server"} if {"prepare", "finalize"} & set(chosen) else set()
    return _write(
        DEFENSE,
        name,
        folder,
        {"stages": chosen, "imports": _import_list(imports), "practice": ", ".join(sorted(practice))},
    )


def new_attack(name: str, folder: Path) -> Scaffold:
    """Write an attack that behaves as ``unaligned_data``, and its test.

    Args:
        name: Registry id, which becomes the file's name.
        folder: Where to; made if missing. The project's own ``attacks`` folder takes the attack, and the folder of its
            tests the test.

    Raises:
        UsageError: The id cannot be one or is taken, or a file is there already.
    """
    return _write(ATTACK, name, folder, {})


def _write(kind: Kind, name: str, folder: Path, values: Mapping[str, object]) -> Scaffold:
    _check_id(kind, name)
    in_project = _is_project_folder(kind, folder)
    tests = folder.resolve().parent / "tests" / kind.package if in_project else folder
    files = Scaffold(folder / f"{name}.py", tests / f"test_{name}.py", in_project)
    words = name.replace("_", " ").strip()
    title = " ".join(words.split()).capitalize()
    _check_title(kind, name, title)
    class_name = "".join(part.capitalize() for part in name.split("_"))
    values = {**values, "id": name, "title": title, "name": class_name, "in_project": in_project}
    _create(
        {
            files.method: _rendered(f"{kind}.py.j2", values),
            files.test: _rendered(f"{kind}_test.py.j2", values),
        }
    )
    return files


def _check_title(kind: Kind, name: str, title: str) -> None:
    """Raise a :class:`UsageError` if a check would refuse the words of an id or the title that it gives."""
    if len(name) > LONGEST_ID:
        raise UsageError(f"{name[:40]!r}… has {len(name)} characters; an id has at most {LONGEST_ID}; shorten it")
    info = Info(id=name, title=title, description="What every new file begins with.")
    if claim := claim_in(info):
        raise UsageError(f"{claim}, which only the benchmark gives to a method; choose an id without it")
    if holder := holder_of_title(title, kind.name, name):
        raise UsageError(f"{name!r} gives the title {title!r}, which is that of {holder}; try 'my_{name}'")


def _check_id(kind: Kind, name: str) -> None:
    """Raise a :class:`UsageError` unless a method may be called ``name``."""
    if not ID_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be an id: ids are made of lower-case letters, digits and underscores and begin with a "
            f"letter{_suggestion(name)}"
        )
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of the Python language and cannot name a module; try 'my_{name}'")
    if name.startswith("test_"):
        raise UsageError(
            f"{name!r} begins with 'test_', by which pytest knows tests; try {name.removeprefix('test_') or 'mine'!r}"
        )
    if name in kind.registry.names():
        _, origin = kind.registry.holder(name)
        raise UsageError(f"{kind} {name!r} is taken: it is {_holder(origin)}; try 'my_{name}'")
    package = kind.package
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        raise UsageError(f"{name!r} is taken by a module of the project, {package}/{name}.py; try 'my_{name}'")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"{name!r} is the name of an installed Python module, which a file {name}.py would hide; try 'my_{name}'"
        )


def _suggestion(name: str) -> str:
    """Return the words that propose an id made from ``name``; none if nothing is left of it."""
    letters = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower())
    proposed = "_".join(filter(None, letters.split("_"))).lstrip("0123456789_")
    return f"; try {proposed!r}" if ID_PATTERN.fullmatch(proposed) and not keyword.iskeyword(proposed) else ""


def _holder(origin: str) -> str:
    return origin if origin == "built-in" or origin.startswith("file ") else f"offered by the package {origin!r}"


def _is_project_folder(kind: Kind, folder: Path) -> bool:
    """Whether ``folder`` is the package of a checkout whose modules are the built-in methods, tests beside it."""
    resolved = folder.resolve()
    return (
        resolved.name == kind.package
        and (resolved / "base.py").is_file()
        and (resolved.parent / "tests" / kind.package).is_dir()
    )


def _import_list(names: set[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: (name.islower(), name)))


def _rendered(template: str, values: Mapping[str, object]) -> str:
    environment = Environment(
        loader=PackageLoader("benchmark.submission"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Python, not HTML; every value is checked to be an identifier or a known word
    )
    return environment.get_template(template).render(values)


def _create(files: Mapping[Path, str]) -> None:
    """Write all files, or none. What exists is never written to."""
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{there[0]} exists and is not overwritten; choose another id or --folder")
    with ExitStack() as undo:
        try:
            for path, text in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x", encoding="utf-8") as stream:
                    undo.callback(path.unlink, missing_ok=True)
                    stream.write(text)
        except OSError as error:
            raise UsageError(
                f"cannot write {error.filename or path}: {error.strerror}; choose another --folder"
            ) from error
        undo.pop_all()
