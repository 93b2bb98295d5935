"""Content-derived keys: an old result never stands for changed settings, data, models or method code.

What the key of a method covers:

- *Covered*, so that a change gives another key: the normal form (:mod:`benchmark.syntax`) of the method's module and of
  each module of its room that it imports. A room is ``attacks``, ``defenses``, ``benchmark.judges``, a package below
  ``tasks``, or the top-level package of a plug-in. A changed constant, call, default, condition or loop changes the
  key; so does a renamed parameter, attribute or module-level name.
- *Not covered*, so that a change keeps the key: comments, docstrings, layout, registration metadata, names of local
  variables, the order of imports, and from which module of this project an imported name comes. A helper that moves
  from one file of a room to another, whole and alone, keeps the key. A file that moves keeps it too.
- *Covered by the protocol version instead*: the engine and the interfaces (``attacks.base``, ``defenses.base``,
  ``tasks.base``, ``benchmark.judges.base``). One part of an interface is behaviour of every method: the default
  aggregate, FedAvg. :func:`definition_digest` gives its digest, and the plan puts it into every training's key.

A module that names a way to look at its own text (``__doc__``, ``inspect``, ``open``, …) enters as it is written.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import tokenize
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.syntax import mentions, normal_form, parse


def content_key(content: Any) -> str:
    """Return the key (32 hexadecimal digits) of JSON-like ``content``; the order of mappings does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=64)
def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


Files = tuple[tuple[str, Path], ...]
"""Modules that are read from files of their own instead of being looked up, as (module name, file)."""

OWN_PACKAGES = frozenset({"attacks", "benchmark", "defenses", "leaderboard", "tasks"})
"""Top-level packages of this distribution."""
_ENGINE = OWN_PACKAGES - {"attacks", "defenses"}
"""Packages that hold no submissions. Their modules may look for files of their own."""
_INTERFACES = frozenset({"attacks.base", "benchmark.judges.base", "defenses.base", "tasks.base"})
"""Modules that define what a method is. The protocol version covers them."""


@lru_cache(maxsize=256)
def source_digest(module: str, files: Files = ()) -> str:
    """Return the digest of a method's code; the docstring of this module states what the digest covers.

    Args:
        module: Name of the method's module; it is not imported.
        files: Modules that are read from these files.

    Raises:
        UsageError: As for :func:`source_files`.
    """
    sources = source_files(module, files)
    digests = _Digests(sources)
    # The faces of a plug-in's packages run whenever one of its modules is imported, although none of them names them.
    faces = [digests.of(name) for name, path in sources.items() if path.name == "__init__.py" and name != module]
    return content_key([digests.of(module), sorted(faces)])


def source_files(module: str, files: Files = ()) -> dict[str, Path]:
    """Return the file of ``module`` and of each module of its room that it imports, by module name.

    Of a package that is not this distribution's, the ``__init__`` files above these modules belong to them, too: they
    run whenever the modules are imported.

    Args:
        module: Name of the module; nothing of a foreign package is imported.
        files: Modules that are read from these files.

    Raises:
        UsageError: There is no such module, or one of the files is not Python.
    """
    given = dict(files)
    room = _room(module)
    package = module.partition(".")[0]
    sources: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _path(name, given)
        if path is None:
            raise UsageError(f"there is no module {name!r} to read; install its package or mend the entry point")
        sources[name] = path
        targets = _imported(name, path)
        if package not in OWN_PACKAGES:
            parents = name.split(".")[:-1]
            targets += [".".join(parents[: i + 1]) for i in range(len(parents))]
        waiting += [t for t in targets if _inside(t, room) and t not in _INTERFACES and _path(t, given) is not None]
    return sources


def definition_digest(module: str, name: str) -> str:
    """Return the digest of one function of a module, for example ``Defense.aggregate`` of ``defenses.base``.

    Raises:
        UsageError: The module holds no such definition.
    """
    path = _path(module, {})
    found: ast.AST | None = _parsed(path) if path else None
    for part in name.split("."):
        inner = [n for n in getattr(found, "body", []) if getattr(n, "name", "") == part]
        found = inner[0] if inner else None
    if found is None:
        raise UsageError(f"module {module!r} defines no {name!r}; name a function or a method by its dotted name")
    return content_key(normal_form(found, _without_place))


class _Digests:
    """Digests of modules, in which an import from the same room stands for the digest of the imported module."""

    def __init__(self, sources: Mapping[str, Path]) -> None:
        self._sources = sources
        self._digests: dict[str, str] = {}
        self._begun: set[str] = set()

    def of(self, name: str) -> str:
        """Return the digest of one module; within a circle of imports a fixed word stands for it."""
        if name in self._begun and name not in self._digests:
            return "circle"
        if name not in self._digests:
            self._begun.add(name)
            try:
                self._digests[name] = content_key(self._form(name, self._sources[name]))
            except (RecursionError, MemoryError) as error:
                raise _too_deep(self._sources[name]) from error
        return self._digests[name]

    def _form(self, name: str, path: Path) -> Any:
        tree = _parsed(path)
        if name.partition(".")[0] not in _ENGINE and mentions(tree, _MIRRORS):
            return [_text(path), [self.of(target) for target in _imported(name, path) if target in self._sources]]
        return normal_form(tree, self._resolve, lambda level, text: _absolute(name, path, level, text))

    def _resolve(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}" if name else module
        if whole in self._sources:
            return ["module", self.of(whole)]
        if module in self._sources:
            return ["of", self.of(module), name]
        return _without_place(module, name)


def _without_place(module: str, name: str) -> Any:
    """Return what stands for an imported name: of this project the name alone, of others the module too."""
    return ["project", name] if module.partition(".")[0] in OWN_PACKAGES else ["foreign", module, name]


def _room(module: str) -> str:
    """Return the package whose modules are part of a method's code."""
    package, *rest = module.split(".")
    if package == "benchmark" or (package == "tasks" and len(rest) > 1):
        return ".".join([package, *rest[:1]])
    return package


def _inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def normalised_source(text: str) -> str:
    """Return the normal form of a text as JSON; imports stand for names alone."""
    return json.dumps(normal_form(parse(text), _without_place))


_MIRRORS = frozenset(
    {"__doc__", "__file__", "__loader__", "__spec__", "ast", "eval", "exec", "getdoc", "getsource", "inspect"}
    | {"linecache", "open", "pkgutil", "tokenize"}
)


def _imported(name: str, path: Path) -> list[str]:
    """Return the full names of what a module imports; names of attributes are among them."""
    targets: list[str] = []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom):
            source = _absolute(name, path, node.level, node.module or "", node.lineno)
            targets += [source, *(f"{source}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
    return targets


def _absolute(name: str, path: Path, level: int, module: str, line: int = 0) -> str:
    """Return the full name of the module that ``from <level dots><module> import`` in module ``name`` names.

    Raises:
        UsageError: The dots lead above the package.
    """
    here = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        return importlib.util.resolve_name("." * level + module, here)
    except ImportError as error:
        raise UsageError(f"{path} imports from above its package in line {line}; mend it") from error


def _path(name: str, given: Mapping[str, Path]) -> Path | None:
    """Return the file of a module, or ``None`` if there is no such module."""
    if name in given:
        return given[name]
    package = name.partition(".")[0]
    if package in OWN_PACKAGES:
        return _found(name)
    # Whoever brings files of a foreign package brings all of it: what is installed here may be another version.
    return None if any(module.partition(".")[0] == package for module in given) else _located(name)


def _found(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _located(name: str) -> Path | None:
    """Return the file of a foreign module without importing the packages above it, which would run their code."""
    package, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):
        return None
    if spec is None or (not parts and spec.origin is None):
        return None
    if not parts:
        return Path(str(spec.origin))
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *parts)
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return path
    return None


def _text(path: Path) -> str:
    """Return a module's text as Python reads it.

    Raises:
        UsageError: It is not UTF-8 throughout. A declared coding could make code of what readers take for comments.
    """
    try:
        with path.open("rb") as stream:
            encoding, _ = tokenize.detect_encoding(stream.readline)
        if encoding != "utf-8":
            raise UsageError(f"{path} declares the coding {encoding!r}; write it in UTF-8 and without a declaration")
        return path.read_text(encoding="utf-8")
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a Python file that can be read: {error}") from error


def _parsed(path: Path) -> ast.Module:
    try:
        return parse(_text(path), str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path} is not a Python file that can be read: {error}") from error
    except (RecursionError, MemoryError) as error:  # the parser raises both, also where memory is left
        raise _too_deep(path) from error


def _too_deep(path: Path) -> UsageError:
    return UsageError(f"{path} nests expressions or blocks too deeply to be read; divide them")
