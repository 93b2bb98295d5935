"""Folder of a verified submission, written in one step: rows of origin submitted, verifications, source, report.

Where every cell was run again, the rows are the verifier's own. Elsewhere they are the submitter's, with the verifier's
verdicts and descriptions. The submitter's verdicts stay on answers of which the bundle holds digests alone.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.plan import CellPlan
from benchmark.records.schemas import ORIGIN_SUBMITTED, STATUS_DONE, TABLES
from benchmark.records.store import Store
from benchmark.records.withheld import Extents, without_texts
from benchmark.submission.bundle.bundle import BUNDLED, MANIFEST, OPTIONAL, SOURCE, Bundle
from benchmark.submission.verify.identity import SUBMITTED
from benchmark.submission.verify.report import RerunCell, VerifyReport

REPORT = "report.json"
_NAMES = {"scenario", "defense", "stage", "seed"}


def claimed_tables(bundle_tables: Mapping[str, pa.Table], verdicts: pa.Table, catalog: pa.Table) -> dict[str, pa.Table]:
    """Return the submitter's rows, with verdicts and descriptions replaced by ``verdicts`` and ``catalog``."""
    return {**bundle_tables, "verdicts": verdicts, "catalog": catalog}


def rerun_tables(store: Store, cells: Sequence[CellPlan], probe_set: str, catalog: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of cells that the verifier has run."""
    rows = [store.read("cells", cell.cell_key) for cell in cells]
    done = [cell for cell, row in zip(cells, rows, strict=True) if row["status"][0].as_py() == STATUS_DONE]
    responses = {cell.response_key for cell in done}
    measured = sorted({cell.response_key for cell in done if cell.likelihoods})
    verdicts = [key for key in sorted(store.keys("verdicts")) if key.partition("-")[0] in responses]
    return {
        "cells": _joined("cells", rows),
        "rounds": _joined("rounds", [store.read("rounds", key) for key in sorted({c.training_key for c in done})]),
        "responses": _joined("responses", [store.read("responses", key) for key in sorted(responses)]),
        "verdicts": _joined("verdicts", [store.read("verdicts", key) for key in verdicts]),
        "likelihoods": _joined("likelihoods", [store.read("likelihoods", key) for key in measured]),
        "probes": store.read("probes", probe_set),
        "catalog": catalog,
    }


def verification_rows(
    report: VerifyReport, cells: Sequence[CellPlan], noted: Mapping[str, RerunCell]
) -> list[dict[str, Any]]:
    """Return one row of table ``verifications`` for each cell.

    Args:
        report: The finished report.
        cells: The verified cells.
        noted: The re-run of each cell that was run again, by cell key.
    """
    verifier = {
        "package_version": report.package_version,
        "protocol_version": report.protocol_version,
        "isolation": report.isolation,
        "environment": report.environment,
    }
    shared = {
        "bundle": report.bundle,
        "kind": report.kind,
        "id": report.id,
        "suite": report.suite,
        "rung": report.rung,
        "source_digest": report.source_digest,
        "verified_at": datetime.datetime.fromisoformat(report.created_at),
        "verifier": json.dumps(verifier, sort_keys=True),
        "fresh_seed": report.fresh_seed,
        "reason": report.reason,
    }
    found = {key: {"run_again": True, **cell.model_dump(mode="json", exclude=_NAMES)} for key, cell in noted.items()}
    none: dict[str, Any] = {"run_again": False}
    return [
        shared | {"cell_key": cell.cell_key, "detail": json.dumps(found.get(cell.cell_key, none), sort_keys=True)}
        for cell in cells
    ]


def check_place(out: Path, id_: str) -> None:
    """Refuse a folder that holds anything but an earlier verification of the same id, or that belongs to another id.

    Raises:
        UsageError: The folder holds other files, or belongs to another id.
    """
    if out.resolve().parent.name == SUBMITTED and out.name != id_:
        raise UsageError(
            f"{out} would hold the rows of {out.name!r}, but the bundle is of {id_!r}; name {out.with_name(id_)}"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        held = json.loads((out / REPORT).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        held = None
    if held != id_:
        raise UsageError(
            f"{out} exists and is not an earlier verification of {id_!r}; name a new folder with --out, such as "
            f"results/submitted/{id_}"
        )


def write_output(
    out: Path,
    bundle: Bundle,
    tables: Mapping[str, pa.Table],
    verifications: Sequence[dict[str, Any]],
    report: VerifyReport,
    extents: Extents,
) -> None:
    """Write the folder in one step, in place of an earlier verification.

    Args:
        out: The folder.
        bundle: The verified bundle.
        tables: Rows by table.
        verifications: Rows of table ``verifications``.
        report: The report.
        extents: What is published of each set of probes; digests replace the other texts.

    Raises:
        FedSafetyError: It cannot be written; an earlier verification is still there.
    """
    staged = out.with_name(f".writing-{os.getpid()}-{out.name}")
    former = out.with_name(f".former-{os.getpid()}-{out.name}")
    try:
        store = Store(staged)
        for name in (*BUNDLED, *OPTIONAL):
            rows = _submitted(tables[name]) if name == "cells" else without_texts(name, tables[name], extents)
            if len(rows):
                store.write(name, bundle.digest[:32], rows)
        store.write("verifications", bundle.digest[:32], verifications)
        for path, content in bundle.content.items():
            if path.startswith(f"{SOURCE}/") or path == MANIFEST:
                place = staged / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        report.write(staged / REPORT)
        if out.exists():
            out.rename(former)
        staged.rename(out)
    except OSError as error:
        if former.exists() and not out.exists():
            former.rename(out)
        raise FedSafetyError(f"cannot write {out}: {error.strerror}; name another folder with --out") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _submitted(cells: pa.Table) -> pa.Table:
    field = TABLES["cells"].field("origin")
    origin = pa.array([ORIGIN_SUBMITTED] * len(cells)).dictionary_encode().cast(field.type)
    return cells.set_column(cells.schema.get_field_index("origin"), field, origin)


def _joined(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries() if tables else TABLES[name].empty_table()
