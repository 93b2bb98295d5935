"""First file of a new method and first file of its tests.

The new method runs without an edit. A new defense behaves like ``fedavg``, a new attack like ``unaligned_data``.
"""

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
from benchmark.methods.source import BUILT_IN, ID_PATTERN
from benchmark.methods.wording import claim_in, holder_of_title
from benchmark.registry import Info
from defenses.base import Stage

LONGEST_ID = Info.longest["title"]
"""Most characters of a new id. The bound is that of titles because the words of the id become the first title."""
WITH_SERVER = "aggregate-with-server"
"""Name of the hook ``aggregate`` of a rule that asks for the server's tools in each round."""
HOOKS = ("prepare", "aggregate", WITH_SERVER, "finalize", "serve")
"""Names of the hooks of a new defense, in the order of a run."""


@dataclass(frozen=True)
class Scaffold:
    """Files of a new method.

    Attributes:
        method: File of the method.
        test: File of the method's tests.
        in_project: Whether the files lie in the folders of a checkout of the project.
    """

    method: Path
    test: Path
    in_project: bool


def new_defense(name: str, folder: Path, hooks: Sequence[str] = ("aggregate",)) -> Scaffold:
    """Write a defense that behaves like FedAvg, and its tests.

    With the hook :data:`WITH_SERVER` the defense averages the updates that agree with a gradient of the server.

    Args:
        name: Registry id, which is also the name of the file.
        folder: Folder of both files. The function makes a missing folder. For the folder ``defenses`` of a checkout,
            the file of tests goes to ``tests/defenses`` instead.
        hooks: Hooks that the file gets; one or more of :data:`HOOKS`. Both names of ``aggregate`` together give the
            one with the server.

    Raises:
        UsageError: The id is invalid or taken, a hook is unknown, or one of the files exists.
    """
    for hook in hooks:
        if hook not in HOOKS:
            raise unknown_name("hook", hook, HOOKS)
    if not hooks:
        raise UsageError(f"the defense has no hook, but a defense acts at least once; name one of {', '.join(HOOKS)}")
    with_server = WITH_SERVER in hooks
    acting = {hook.removesuffix("-with-server") for hook in hooks}
    stages = tuple(stage.value for stage in Stage if stage.value in acting)
    given_server = bool({"prepare", "finalize"} & acting)
    imports = {"Defense", "Knowledge", "Stage", "register"}
    imports |= {"Server"} if given_server else set()
    imports |= {"Prompt"} if "serve" in acting else set()
    fixtures = {"load_defense"}
    fixtures |= {"one_round"} if "aggregate" in acting else set()
    fixtures |= {"practice_server"} if given_server or with_server else set()
    values = {
        "stages": stages,
        "with_server": with_server,
        "imports": _import_list(imports),
        "fixtures": ", ".join(sorted(fixtures)),
    }
    return _write(DEFENSE, name, folder, values)


def new_attack(name: str, folder: Path) -> Scaffold:
    """Write an attack that behaves like ``unaligned_data``, and its tests.

    Args:
        name: Registry id, which is also the name of the file.
        folder: Folder of both files. The function makes a missing folder. For the folder ``attacks`` of a checkout, the
            file of tests goes to ``tests/attacks`` instead.

    Raises:
        UsageError: The id is invalid or taken, or one of the files exists.
    """
    return _write(ATTACK, name, folder, {})


def _write(kind: Kind, name: str, folder: Path, values: Mapping[str, object]) -> Scaffold:
    _check_id(kind, name)
    in_project = _is_project_folder(kind, folder)
    tests = folder.resolve().parent / "tests" / kind.package if in_project else folder
    files = Scaffold(folder / f"{name}.py", tests / f"test_{name}.py", in_project)
    title = " ".join(name.replace("_", " ").split()).capitalize()
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
    """Raise a :class:`UsageError` if ``fedsafety check`` would refuse the id or the title."""
    if len(name) > LONGEST_ID:
        raise UsageError(f"{name[:40]!r}… has {len(name)} characters; an id has at most {LONGEST_ID}; shorten it")
    info = Info(id=name, title=title, description="Description of a new method.")
    if claim := claim_in(info):
        raise UsageError(f"{claim}, which only the benchmark gives to a method; choose an id without this word")
    if holder := holder_of_title(title, kind.name, name):
        raise UsageError(f"the id {name!r} gives the title {title!r}, which {holder} has; try 'my_{name}'")


def _check_id(kind: Kind, name: str) -> None:
    """Raise a :class:`UsageError` unless ``name`` may be the id of a new method."""
    if not ID_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be an id: an id consists of lower-case letters, digits and underscores and begins with a "
            f"letter{_suggestion(name)}"
        )
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a keyword of Python and cannot name a module; try 'my_{name}'")
    if name.startswith("test_"):
        raise UsageError(
            f"{name!r} begins with 'test_', by which pytest finds tests; try {name.removeprefix('test_') or 'mine'!r}"
        )
    if name in kind.registry.names():
        _, origin = kind.registry.holder(name)
        raise UsageError(f"{kind} {name!r} exists and is {_provenance(origin)}; try 'my_{name}'")
    package = kind.package
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        raise UsageError(f"{name!r} is taken by a module of the project, {package}/{name}.py; try 'my_{name}'")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"{name!r} is the name of an installed Python module, which a file {name}.py would hide; try 'my_{name}'"
        )


def _suggestion(name: str) -> str:
    """Return the part of a message that proposes an id, or an empty text if ``name`` gives no valid id."""
    letters = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower())
    proposal = "_".join(filter(None, letters.split("_"))).lstrip("0123456789_")
    return f"; try {proposal!r}" if ID_PATTERN.fullmatch(proposal) and not keyword.iskeyword(proposal) else ""


def _provenance(origin: str) -> str:
    if origin == BUILT_IN:
        return origin
    return f"defined in {origin}" if origin.startswith("file ") else f"offered by the package {origin!r}"


def _is_project_folder(kind: Kind, folder: Path) -> bool:
    """Return whether ``folder`` is the package of the built-in methods in a checkout that has tests of them."""
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
        autoescape=False,  # noqa: S701 - the text is Python and not HTML, and every value consists of checked names
    )
    return environment.get_template(template).render(values)


def _create(files: Mapping[Path, str]) -> None:
    """Write all files, or none if a file exists or cannot be written."""
    existing = [path for path in files if path.exists() or path.is_symlink()]
    if existing:
        raise UsageError(f"{existing[0]} exists and is not overwritten; choose another id or --folder")
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
