"""Check of a bundle's names: neither built in, nor installed here, nor with rows of another bundle."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmark.errors import FedSafetyError
from benchmark.keys import OWN_PACKAGES
from benchmark.methods.kinds import KINDS
from benchmark.methods.source import BUILT_IN, find_method
from benchmark.records.store import read_table
from benchmark.submission.bundle.bundle import Bundle

BUNDLED = "bundle "
"""Prefix of the origin of a method that came in a bundle."""

SUBMITTED = "submitted"
"""Folder below the results that has one folder for each submission."""


class IdentityError(FedSafetyError):
    """A bundle claims a name that is taken."""


def check_identity(bundle: Bundle, results: Path, *, replaces: bool) -> str:
    """Return a sentence that a bundle's id and module are free, or its own.

    Args:
        bundle: The bundle.
        results: Folder of committed rows, with those of submissions below.
        replaces: Whether a maintainer lets it replace an earlier bundle of the same id.

    Raises:
        IdentityError: The id or the module is taken; the message names the holder.
    """
    manifest = bundle.manifest
    for kind, registry in ((kind.name, kind.registry) for kind in KINDS.values()):
        if manifest.id in registry.names() and (registry.holder(manifest.id)[1] == BUILT_IN or kind != manifest.kind):
            origin = registry.holder(manifest.id)[1]
            raise IdentityError(f"the id {manifest.id!r} is that of the {kind} {manifest.id!r}, which is {origin}")
    registry = KINDS[manifest.kind].registry
    # The stand-in of a bundle that this process verified before does not count: the next one replaces it.
    installed = manifest.id in registry.names() and not registry.holder(manifest.id)[1].startswith(BUNDLED)
    if installed:
        _check_installed(bundle)
    else:
        _check_module(manifest.module)
    _check_committed(manifest.id, results)
    earlier = _earlier(bundle, results)
    if earlier and not replaces:
        raise IdentityError(
            f"the id {manifest.id!r} has rows of another bundle ({earlier}); a maintainer decides with --replaces "
            f"whether this one takes its place"
        )
    return f"{manifest.kind} {manifest.id!r} is {'the installed one' if installed else 'a free name'}" + (
        ", and replaces an earlier bundle" if earlier else ""
    )


def _check_installed(bundle: Bundle) -> None:
    manifest = bundle.manifest
    module, origin = KINDS[manifest.kind].registry.holder(manifest.id)
    installed = find_method(manifest.id, KINDS[manifest.kind])
    bundled = {module: bundle.content[path] for module, path in manifest.modules.items()}
    if module != manifest.module or {name: path.read_bytes() for name, path in installed.files} != bundled:
        raise IdentityError(
            f"the id {manifest.id!r} is that of {origin!r}, which is installed here with other source; verify where it "
            f"is not installed, or in the version that was submitted"
        )


def _check_module(module: str) -> None:
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in sys.builtin_module_names:
        raise IdentityError(f"the module {module!r} would hide Python's own {package!r}")
    if package in OWN_PACKAGES:
        if importlib.util.find_spec(module) is not None:
            raise IdentityError(f"the module {module!r} is one of the benchmark's own")
    elif importlib.util.find_spec(package) is not None:
        raise IdentityError(
            f"the module {module!r} would hide the package {package!r}, which is installed here; verify where it is not"
        )


def _check_committed(name: str, results: Path) -> None:
    for path in sorted(results.glob("*/cells/*.parquet")):
        if path.relative_to(results).parts[0] == SUBMITTED:
            continue
        rows = read_table(path, "cells")
        defenses = pc.unique(rows["defense"].cast("string")).to_pylist()
        attacks = pc.unique(rows["attack"].cast("string")).to_pylist()
        if name in attacks or any(name in defense.split("+") for defense in defenses):
            raise IdentityError(f"the id {name!r} has committed rows in {path.parent.parent.name!r}")


def _earlier(bundle: Bundle, results: Path) -> str:
    """Return the other bundle of the same id that has rows among the submissions; empty if there is none."""
    folder = results / SUBMITTED
    for path in sorted(folder.glob("*/verifications/*.parquet")):
        rows = pq.read_table(path, columns=["id", "bundle"], partitioning=None).to_pylist()
        others = {row["bundle"] for row in rows if row["id"] == bundle.manifest.id} - {bundle.digest}
        if others:
            return f"{sorted(others)[0][:12]} in {path.parent.parent.name!r}"
    place = folder / bundle.manifest.id
    if any(place.rglob("*.parquet")) and not any(place.glob("verifications/*.parquet")):
        return f"without a verification in {place.name!r}"
    return ""
