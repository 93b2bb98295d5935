"""Making a bundle of a method and of the rows that its author has run."""

from __future__ import annotations

from pathlib import Path

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import UsageError
from benchmark.methods.source import BUILT_IN, MethodSource
from benchmark.methods.wording import claim_in, holder_of_title
from benchmark.records.schemas import SCHEMA_VERSION
from benchmark.records.store import Store
from benchmark.registry import Info, check_shown
from benchmark.sandbox.adopt import adopt
from benchmark.submission.bundle.bundle import LONGEST_AUTHOR, LONGEST_LICENCE, Bundle, pack, write_bundle
from benchmark.submission.bundle.claim import collect, environments
from benchmark.submission.contract.report import read_report
from benchmark.suites.suite import Suite


def submit(
    submission: MethodSource,
    suite: Suite,
    store: Store,
    out: Path,
    *,
    check_report: Path | None = None,
    author: str = "",
    licence: str = "",
) -> Bundle:
    """Write one bundle of a method's source and its rows of a suite, and return it.

    Args:
        submission: The method; its code is imported here, where its author runs it anyway.
        suite: The suite.
        store: The author's own runs.
        out: The zip archive to write.
        check_report: JSON file of ``fedsafety check``.
        author: Who made it.
        licence: Under what licence the source may be used.

    Raises:
        UsageError: The method is built in, has no finished rows, has rows of another version of itself, or the report
            is of another version.
        FedSafetyError: The file cannot be written.
    """
    if submission.origin == BUILT_IN:
        raise UsageError(
            f"{submission.kind} {submission.id!r} is built in, and its rows are the project's own; submit a method of "
            f"yours"
        )
    for name, value, longest in (("author", author, LONGEST_AUTHOR), ("licence", licence, LONGEST_LICENCE)):
        try:
            check_shown(value, longest)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from error
    check = _checked(check_report, submission) if check_report else None
    adopt([submission], isolated=False)
    claim = collect(submission, suite, store)
    info = submission.kind.registry.get(submission.id).info
    _check_words(info, submission)
    cells = claim.tables["cells"]
    manifest = {
        "kind": submission.kind.name,
        "id": submission.id,
        "module": submission.module,
        "source_digest": submission.digest,
        "info": info.model_dump(mode="json"),
        "author": author,
        "licence": licence,
        "suite": suite.id,
        "suite_version": suite.version,
        "protocol_version": PROTOCOL_VERSION,
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "attack_params": claim.params,
        "generator": claim.plan.generator,
        "environments": environments(cells),
        "scenarios": tuple(dict.fromkeys(cell.scenario.id for cell in claim.plan.cells)),
        "seeds": tuple(sorted({cell.seed for cell in claim.plan.cells})),
        "cells": len(cells),
        "notices": claim.notices,
    }
    bundle = pack(manifest, submission, claim.tables, check)
    write_bundle(bundle, out)
    return bundle


def _check_words(info: Info, submission: MethodSource) -> None:
    """Raise a :class:`UsageError` for words of the metadata that no verifier accepts."""
    if claim := claim_in(info):
        raise UsageError(
            f"{claim}, which only the benchmark gives to a method; say what the method does, in other words"
        )
    if holder := holder_of_title(info.title, submission.kind.name, submission.id):
        raise UsageError(f"the title {info.title!r} is that of {holder}; give the method a title of its own")


def _checked(path: Path, submission: MethodSource) -> bytes:
    report = read_report(path)
    if (report.kind, report.id, report.source_digest) != (submission.kind.name, submission.id, submission.digest):
        raise UsageError(
            f"the report {path} is of {report.kind} {report.id!r} in another version than its source has now; run "
            f"`fedsafety check` again"
        )
    return path.read_bytes()
