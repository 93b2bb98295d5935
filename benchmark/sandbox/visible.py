"""Files that a submission's process may read: the methods' side of this library, and nothing of evaluation."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from benchmark.errors import SubmissionError
from benchmark.methods.kinds import KINDS
from benchmark.methods.source import MethodSource
from benchmark.sandbox.layout import LIBRARY, SUBMISSION, is_hidden
from benchmark.syntax import parse

LIBRARY_MODULES = (
    "attacks",
    "attacks.base",
    "benchmark",
    "benchmark.automation",
    "benchmark.errors",
    "benchmark.moved",
    "benchmark.registry",
    "benchmark.server",
    "benchmark.updates",
    "defenses",
    "defenses.base",
    "tasks",
    "tasks.base",
    "tasks.refusals",
)
"""Modules that methods may import. They hold no world, judge, suite, result or page."""
_PACKAGE = "benchmark.sandbox"
_CHILD = f"{_PACKAGE}.child"
_LIBRARY_PACKAGES = {"benchmark", "leaderboard", "tasks"}
_METHODS = frozenset(kind.package for kind in KINDS.values())
"""Packages of methods."""
_OF_INTERPRETERS = {"__main__", "sitecustomize", "usercustomize"}
"""Modules that an interpreter imports or makes by itself, whether they are installed or not."""


def visible_files(submission: MethodSource) -> dict[str, Path]:
    """Return path inside the sandbox → host file for a submission: its own code and the library's visible files.

    The two lie in separate folders, so that the interpreter and libraries import nothing of the submission before the
    process is filtered. The library includes the built-in methods of the submission's kind, because a method may build
    on another method.

    Raises:
        SubmissionError: It brings a module whose name is taken, or a file is missing.
    """
    library = {module: _file_of(module) for module in (*LIBRARY_MODULES, *_child_side())}
    library.update(_modules_of(submission.kind.package))
    modules = dict(submission.files)
    for module, path in modules.items():
        if not path.is_file():
            raise SubmissionError(f"{submission.id!r} lacks the file {path.name} of module {module!r}")
        if not (library[module].samefile(path) if module in library else is_free(module, modules)):
            raise SubmissionError(
                f"{submission.id!r} brings a module {module!r}, but Python, this library or an installed package has "
                f"that name; rename it"
            )
    files = {_inside(LIBRARY, module, path): path for module, path in library.items()}
    files |= {_inside(SUBMISSION, module, path): path for module, path in modules.items() if module not in library}
    return dict(sorted(files.items()))


def is_free(module: str, own: Mapping[str, Path]) -> bool:
    """Return whether a submission may bring ``module``, because no other code has that name.

    Any submission may add modules to the packages of methods. Installed plug-ins take no names, because a sandbox
    hides them.

    Args:
        module: Its name.
        own: Names and files of the submission's own modules; an installed submission may bring itself.
    """
    top = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")) or top in _OF_INTERPRETERS:
        return False
    if top in _METHODS:
        return module not in _METHODS
    if top in sys.stdlib_module_names or top in _LIBRARY_PACKAGES:
        return False
    spec = importlib.util.find_spec(top)
    if spec is None:
        return True
    if spec.origin is None:  # a package that several distributions share, without a file of its own
        shared = [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
        paths = [path.resolve() for path in own.values()]
        return all(is_hidden(folder) or any(path.is_relative_to(folder) for path in paths) for folder in shared)
    origin = Path(spec.origin)
    return is_hidden(origin) or any(origin.samefile(path) for path in own.values())


@lru_cache(maxsize=1)  # called at each start of a process
def _child_side() -> frozenset[str]:
    """Return the sandbox's modules that its inner half imports, itself and their package included."""
    modules = {_PACKAGE}
    waiting = [_CHILD]
    while waiting:
        module = waiting.pop()
        modules.add(module)
        for node in ast.walk(parse(_file_of(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [alias.name for alias in node.names] if node.module == _PACKAGE else [""]
                targets = {f"{node.module}.{name}".rstrip(".") for name in names}
                waiting += [name for name in targets if name.startswith(f"{_PACKAGE}.") and name not in modules]
    return frozenset(modules)


def _modules_of(package: str) -> Iterator[tuple[str, Path]]:
    folder = _file_of(package).parent
    for path in sorted(folder.glob("*.py")):
        yield (package if path.name == "__init__.py" else f"{package}.{path.stem}"), path


def _file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _inside(folder: str, module: str, path: Path) -> str:
    place = f"{folder}/{module.replace('.', '/')}"
    return f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py"
