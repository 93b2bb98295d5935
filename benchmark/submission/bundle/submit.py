"""Submission of a method: a bundle of the source and of the rows that the author's runs made."""

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
    """Write a bundle of a method's source and of the method's rows in a suite, and return the bundle.

    Args:
        submission: The method. This process imports the method's code, because the author runs that code anyway.
        suite: The suite.
        store: Rows of the author's runs.
        out: Zip archive to write.
        check_report: JSON report of ``fedsafety check``.
        author: Name of the author, or empty.
        licence: Licence of the source, or empty.

    Raises:
        UsageError: The method is built in or has no finished rows. The rows or the report are of another version of
            the method. The author or the licence is too long or not printable.
        FedSafetyError: The archive cannot be written.
    """
    if submission.origin == BUILT_IN:
        raise UsageError(
            f"{submission.kind} {submission.id!r} is built in, and the project publishes its rows; submit a method of "
            f"your own"
        )
    for name, value, longest in (("author", author, LONGEST_AUTHOR), ("licence", licence, LONGEST_LICENCE)):
        try:
            check_shown(value, longest)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from error
    check = _report_of(submission, check_report) if check_report else None
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
    """Raise a :class:`UsageError` if a verifier would refuse the words of the metadata."""
    if claim := claim_in(info):
        raise UsageError(f"{claim}, which only the benchmark gives to a method; describe the method in other words")
    if holder := holder_of_title(info.title, submission.kind.name, submission.id):
        raise UsageError(f"{holder} has the title {info.title!r}; give the method another title")


def _report_of(submission: MethodSource, path: Path) -> bytes:
    """Return the bytes of the report ``path``, after a check that the report is about the method's present source."""
    report = read_report(path)
    if (report.kind, report.id, report.source_digest) != (submission.kind.name, submission.id, submission.digest):
        raise UsageError(
            f"the report {path} of {report.kind} {report.id!r} is not about the present source of {submission.kind} "
            f"{submission.id!r}; run `fedsafety check` again"
        )
    return path.read_bytes()
