"""Names of the suites that exist, and the error for a suite of which a folder holds no rows.

Code that reads rows only needs the names. It does not load the suites, whose settings import torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import yaml

from benchmark.errors import UsageError, unknown_name
from benchmark.registry import NameIndex

GROUP = "fedsafety.suites"
"""Entry-point group by which outside packages add suites."""


def bundled_files() -> dict[str, str]:
    """Return the YAML file of each bundled suite by its id."""
    folder = resources.files("benchmark.suites")
    return {Path(file.name).stem: str(file) for file in folder.iterdir() if file.name.endswith(".yaml")}


def suite_file(where: str) -> Path:
    """Return the YAML file of a suite.

    Args:
        where: The file itself, or the package that holds it, as an outside package's entry point names the package.

    Raises:
        Exception: The package cannot be imported; it may fail in any way.
    """
    path = Path(where)
    return path if path.suffix == ".yaml" else Path(str(resources.files(where) / f"{where.rpartition('.')[2]}.yaml"))


class _SuiteFiles(NameIndex[Path]):
    """The YAML files of the registered suites."""

    def get(self, name: str) -> Path:
        where, _ = self._source(name)
        return suite_file(where)

    def _built_in(self) -> dict[str, str]:
        return bundled_files()


def suite_exists(name: str) -> bool:
    """Return whether a registered suite, or a tier of one such as ``paper_lite``, has this id."""
    files = _SuiteFiles("suite", GROUP)
    if name in files.names():
        return True
    whole, _, tier = name.rpartition("_")
    return whole in files.names() and tier in _tiers(files, whole)


def no_rows(suite: str, held: Iterable[str], place: str, way_out: str, *, rows: str = "rows") -> UsageError:
    """Return the error for a suite without rows: that it has none there, or that no such suite exists.

    Args:
        suite: Id that the user gave.
        held: Suites of which the place holds rows.
        place: The searched folder, or its description.
        way_out: How to get such rows, or which other place to name.
        rows: The missing rows in words, such as ``finished cells``.
    """
    present = sorted(set(held))
    if suite_exists(suite):
        others = f", only of {', '.join(present)}" if present else ""
        return UsageError(f"suite {suite!r} exists, but there are no {rows} of it in {place}{others}; {way_out}")
    return unknown_name("suite", suite, {*present, *_SuiteFiles("suite", GROUP).names()})


def _tiers(files: _SuiteFiles, suite: str) -> Iterable[str]:
    """Return the tiers of a suite; none where its file cannot be read."""
    try:
        content = yaml.safe_load(files.get(suite).read_text(encoding="utf-8"))
        return list(content.get("tiers") or ())
    except Exception:  # an outside package may fail in any way
        return []
