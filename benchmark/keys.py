"""Content-derived keys: an old result can never stand for changed settings, data, models or method code.

A method enters by the syntax tree of its module and of the modules of its own package that it imports, without
comments, docstrings and registration metadata: rewording changes nothing, changing behaviour changes the key.
The engine's own code enters through the protocol version.
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
"""Those that hold no methods. They may look for their own files; what they do is in the protocol version."""


@lru_cache(maxsize=256)
def source_digest(module: str, files: Files = ()) -> str:
    """Return the digest of ``module``'s normalised source, with all it imports from its own top-level package.

    The source of a method that names a way to look at its own text (``__doc__``, ``inspect``, ``open``, …) counts as it
    is written, comments and all.

    Args:
        module: Name of the module; it is not imported.
        files: Modules that are read from these files.

    Raises:
        UsageError: As for :func:`source_files`.
    """
    sources = source_files(module, files)
    return content_key({name: _normalised(name, sources[name]) for name in sorted(sources)})


def source_files(module: str, files: Files = ()) -> dict[str, Path]:
    """Return the file of ``module`` and of each module of its own top-level package that it imports, by module name.

    Of a package that is not this distribution's, the ``__init__`` files above these modules belong to them, too: they
    run whenever the modules are imported.

    Args:
        module: Name of the module; nothing of a foreign package is imported.
        files: Modules that are read from these files.

    Raises:
        UsageError: There is no such module, or one of the files is not Python.
    """
    given = dict(files)
    package = module.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _path(name, given)
        if path is None:
            raise UsageError(f"there is no module {name!r} to read; install its package or mend the entry point")
        found[name] = path
        targets = _imported(name, path)
        if package not in OWN_PACKAGES:
            parents = name.split(".")[:-1]
            targets += [".".join(parents[: i + 1]) for i in range(len(parents))]
        waiting += [t for t in targets if t.partition(".")[0] == package and _path(t, given) is not None]
    return found


def normalised_source(text: str) -> str:
    """Return a dump of the syntax tree of ``text`` without docstrings and ``@register(...)`` decorators.

    A string that stands alone documents wherever it stands: attributes and constants have their docstrings below them.
    """
    return ast.dump(_Normaliser().visit(ast.parse(text)))


class _Normaliser(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        documents = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if documents else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        # A body that holds nothing but a docstring does the same as one that passes.
        del node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [d for d in node.decorator_list if not _is_registration(d)]
        return self.generic_visit(node)


def _is_registration(decorator: ast.expr) -> bool:
    """Whether a decorator does nothing but hand over metadata: what it is given is written down and not computed."""
    if not isinstance(decorator, ast.Call):
        return False
    called = decorator.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    values = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
    return name == "register" and all(isinstance(node, _WRITTEN) for value in values for node in ast.walk(value))


_WRITTEN = (ast.Constant, ast.Tuple, ast.List, ast.Name, ast.Attribute, ast.BinOp, ast.Add, ast.Load)


def _reads_itself(text: str) -> bool:
    """Whether code names what looks at its own text, so that even comments may be part of what it does."""
    return any(
        (isinstance(node, ast.Name) and node.id in _MIRRORS)
        or (isinstance(node, ast.Attribute) and node.attr in _MIRRORS)
        or (isinstance(node, ast.alias) and node.name.partition(".")[0] in _MIRRORS)
        or (isinstance(node, ast.Constant) and node.value in _MIRRORS)
        for node in ast.walk(ast.parse(text))
    )


_MIRRORS = frozenset(
    {"__doc__", "__file__", "__loader__", "__spec__", "ast", "eval", "exec", "getdoc", "getsource", "inspect"}
    | {"linecache", "open", "pkgutil", "tokenize"}
)


def _imported(name: str, path: Path) -> list[str]:
    """Return the full names of what a module imports; names of attributes are among them."""
    targets: list[str] = []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom):
            here = name if path.name == "__init__.py" else name.rpartition(".")[0]
            try:
                source = importlib.util.resolve_name("." * node.level + (node.module or ""), here)
            except ImportError as error:
                raise UsageError(f"{path} imports from above its package in line {node.lineno}; mend it") from error
            targets += [source, *(f"{source}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
    return targets


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
        return ast.parse(_text(path), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path} is not a Python file that can be read: {error}") from error
    except (RecursionError, MemoryError) as error:  # what the parser raises, whatever memory there is
        raise _too_deep(path) from error


def _normalised(name: str, path: Path) -> str:
    try:
        text = _text(path)
        if name.partition(".")[0] not in _ENGINE and _reads_itself(text):
            return text
        return normalised_source(text)
    except (RecursionError, MemoryError) as error:
        raise _too_deep(path) from error


def _too_deep(path: Path) -> UsageError:
    return UsageError(f"{path} nests expressions or blocks too deeply to be read; divide them")
