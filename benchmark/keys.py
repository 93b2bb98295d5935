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
from functools import lru_cache
from pathlib import Path
from typing import Any


def content_key(content: Any) -> str:
    """Return the key (32 hexadecimal digits) of JSON-like ``content``; the order of mappings does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=64)
def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=256)
def source_digest(module: str) -> str:
    """Return the digest of ``module``'s normalised source, with all it imports from its own top-level package."""
    trees = {name: normalised_source(_text(name)) for name in sorted(_closure(module))}
    return content_key(trees)


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
    called = decorator.func if isinstance(decorator, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name == "register"


def _closure(module: str) -> set[str]:
    package = module.partition(".")[0]
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(_text(name))):
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom):
                source = _absolute(node, name)
                targets = [source, *(f"{source}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            waiting += [t for t in targets if t.partition(".")[0] == package and _is_module(t)]
    return found


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """Return the full name of what ``node`` imports from, inside ``module``."""
    here = module if _path(module).name == "__init__.py" else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), here)


def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None


def _text(module: str) -> str:
    return _path(module).read_text(encoding="utf-8")


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)
