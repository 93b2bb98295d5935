"""Sources of methods: the id of a method and the files of its own code, found without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UsageError, unknown_name
from benchmark.keys import OWN_PACKAGES, Files, source_digest, source_files
from benchmark.methods.kinds import DEFENSE, KINDS, Kind
from benchmark.methods.pipeline import members
from benchmark.syntax import parse

ID_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
BUILT_IN = "built-in"


@dataclass(frozen=True)
class MethodSource:
    """A method that is built in, lies in a file, is offered by an installed package, or comes in a bundle.

    Attributes:
        kind: Attack or defense.
        id: Registry id.
        module: Module that registers it. A single file, wherever it lies, acts as a module of ``defenses`` or
            ``attacks``, so that its keys stay the same once it lies there.
        files: Module names and files of its own code, sorted. A foreign package adds the ``__init__`` files above.
        origin: ``built-in``, ``file my_defense.py``, the name of a distribution, or ``bundle`` and its name.
    """

    kind: Kind
    id: str
    module: str
    files: Files
    origin: str

    @property
    def digest(self) -> str:
        """Digest of its normalised source: that of the entry which the registry has once the module is imported."""
        return source_digest(self.module, self.files)


def find_method(text: str, kind: Kind | None = None) -> MethodSource:
    """Return the source of the method that ``text`` names; nothing of the method is imported.

    Args:
        text: A registered id, the path of a Python file, or the id of a method whose file, ``<id>.py``, lies in the
            current folder.
        kind: Kind of the method, where only one kind is allowed.

    Raises:
        UsageError: The method is unknown (suggests the nearest), the file is missing or registers no method, its name
            cannot be an id, or the method is of another kind.
    """
    if ":" in text or "+" in text:
        what = "another library's" if ":" in text else "a composition"
        raise UsageError(f"{text!r} is {what}; it can be run, and its parts alone can be checked or submitted")
    if text.endswith(".py") or "/" in text:
        return _from_file(Path(text), kind)
    kinds = [kind] if kind else list(KINDS.values())
    for each in kinds:
        if text in each.registry.names():
            return _registered(text, each)
    beside = Path(f"{text}.py")
    if ID_PATTERN.fullmatch(text) and beside.is_file():
        return _from_file(beside, kind)
    known = {name for each in kinds for name in each.registry.names()}
    known |= {path.stem for path in Path().glob("*.py") if ID_PATTERN.fullmatch(path.stem) and not _is_test(path)}
    raise unknown_name(" or ".join(each.name for each in kinds), text, known)


def find_members(pipelines: Sequence[str]) -> tuple[tuple[str, ...], tuple[MethodSource, ...]]:
    """Return the pipelines by the ids of their members, and the members that are not built in.

    Args:
        pipelines: Names joined by ``+``, each as :func:`find_method` takes it; bridges to other libraries
            (``library:Name``) are left as they are.

    Raises:
        UsageError: As for :func:`find_method`.
    """
    sources: dict[str, MethodSource] = {}
    names = []
    for pipeline in pipelines:
        ids = []
        for member in members(pipeline):
            if ":" in member:
                ids.append(member)
                continue
            submission = find_method(member, DEFENSE)
            ids.append(submission.id)
            if sources.setdefault(submission.id, submission) != submission:
                raise UsageError(f"two different files are called {submission.id!r}; rename one")
        names.append("+".join(ids))
    return tuple(names), tuple(each for each in sources.values() if each.origin != BUILT_IN)


def _registered(name: str, kind: Kind) -> MethodSource:
    module, origin = kind.registry.holder(name)
    if module.partition(".")[0] in OWN_PACKAGES:
        files = kind.registry.files(name) or {module: source_files(module)[module]}
    else:
        files = source_files(module)
    return MethodSource(kind, name, module, tuple(sorted(files.items())), origin)


def _from_file(path: Path, kind: Kind | None) -> MethodSource:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}; name a Python file, or a registered id")
    if path.suffix != ".py" or not ID_PATTERN.fullmatch(path.stem):
        raise UsageError(
            f"{str(path)!r} cannot be a method: the file's name is its id, which is made of lower-case letters, digits "
            f"and underscores, begins with a letter and ends in .py; rename the file"
        )
    actual = _kind_of(path)
    if actual is None:
        raise UsageError(
            f"{path} is no method: it imports neither defenses.base nor attacks.base; begin with `fedsafety new "
            f"{path.stem}` in another folder and compare"
        )
    if kind and actual is not kind:
        raise UsageError(f"{path} is {actual.article}, not {kind.article}; name one that is")
    module = f"{actual.package}.{path.stem}"
    files = ((module, path.resolve()),)
    if path.stem in actual.registry.names():
        where, origin = actual.registry.holder(path.stem)
        held = actual.registry.files(path.stem) or (source_files(where) if where == module else {})
        if held.get(module) != path.resolve():
            raise UsageError(
                f"{path} has the id of {actual} {path.stem!r}, which is {origin}; rename the file to an id of its own"
            )
        return _registered(path.stem, actual)
    if importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"{path} has the name of a module that others import, {actual.package}/{path.stem}.py; rename the file"
        )
    if _is_test(path):
        raise UsageError(f"{path} is a test and no method; name the file that it tests")
    source_files(module, files)  # raises if the file is not Python
    return MethodSource(actual, path.stem, module, files, f"file {path.name}")


def _is_test(path: Path) -> bool:
    return path.stem.startswith("test_")


def _kind_of(path: Path) -> Kind | None:
    """Return the kind of method that a file registers, by the base module that the file imports."""
    try:
        tree = parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise UsageError(f"{path} is not valid Python: line {error.lineno}: {error.msg}; mend it") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as Python text: {error}") from error
    except (RecursionError, MemoryError) as error:  # the parser raises both, also where memory is left
        raise UsageError(f"{path} nests expressions or blocks too deeply to be read; divide them") from error
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    # A defense may import nothing of attacks and the other way round, so the order does not matter.
    return next((kind for kind in KINDS.values() if f"{kind.package}.base" in names), None)
