"""Bundles: what was packed is what is read, and everything else is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import MethodSource
from benchmark.records.schemas import TABLES
from benchmark.records.withheld import withheld, without_texts
from benchmark.submission.bundle.archive import ArchiveError, write_archive
from benchmark.submission.bundle.bundle import BUNDLED, MANIFEST, Bundle, pack, read_bundle, write_bundle

FIELDS: dict[str, Any] = {
    "kind": "defense",
    "id": "my_rule",
    "module": "defenses.my_rule",
    "source_digest": "0" * 32,
    "info": {"title": "My rule"},
    "suite": "micro",
    "suite_version": "1",
    "protocol_version": "1.0",
    "schema_version": 1,
    "package_version": "1.0",
    "generator": "transformers",
    "environments": (),
    "scenarios": ("clean",),
    "seeds": (1,),
    "cells": 0,
}
PROBE = {
    "probe_set": "s",
    "kind": "utility",
    "stratum": "code",
    "scored": True,
    "instruction": "i",
    "reference": "r",
}


def made(tmp_path: Path, tables: dict[str, pa.Table] | None = None, **fields: Any) -> Bundle:
    file = tmp_path / "my_rule.py"
    file.write_text("x = 1\n")
    source = MethodSource(DEFENSE, "my_rule", "defenses.my_rule", (("defenses.my_rule", file),), "file")
    every = {name: TABLES[name].empty_table() for name in BUNDLED} | (tables or {})
    return pack(FIELDS | fields, source, every, None)


def probes(*ids: str) -> pa.Table:
    return pa.Table.from_pylist([PROBE | {"probe_id": name} for name in ids], schema=TABLES["probes"])


def rewritten(tmp_path: Path, bundle: Bundle, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """Write a bundle after ``change`` of manifest and files, with the digests that the changed files have."""
    content = {name: data for name, data in bundle.content.items() if name != MANIFEST}
    manifest = json.loads(bundle.content[MANIFEST])
    change(manifest, content)
    manifest["files"] = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(content.items())
    ]
    write_archive(tmp_path / "changed.zip", content | {MANIFEST: json.dumps(manifest).encode()})
    return tmp_path / "changed.zip"


def test_a_bundle_comes_back_as_it_was_packed(tmp_path: Path) -> None:
    bundle = made(tmp_path, {"probes": probes("b", "a")}, author="A. Nobody", licence="MIT")
    write_bundle(bundle, tmp_path / "x.zip")
    back = read_bundle(tmp_path / "x.zip")
    assert (back.manifest, back.content, back.digest) == (bundle.manifest, bundle.content, bundle.digest)
    assert back.table("probes")["probe_id"].to_pylist() == ["a", "b"]
    submission = back.unpack_source(tmp_path / "source")
    assert (submission.id, submission.module) == ("my_rule", "defenses.my_rule")
    assert dict(submission.files)["defenses.my_rule"].read_text() == "x = 1\n"
    assert dict(submission.files)["defenses.my_rule"] == tmp_path / "source" / "defenses" / "my_rule.py"


def test_the_order_and_coding_of_rows_leave_no_trace(tmp_path: Path) -> None:
    one, other = probes("a", "b", "c"), pa.concat_tables([probes("c"), probes("b", "a")])
    assert made(tmp_path, {"probes": one}).digest == made(tmp_path, {"probes": other}).digest
    assert made(tmp_path, {"probes": probes("a", "b")}).digest != made(tmp_path, {"probes": one}).digest


def test_a_text_that_the_probes_do_not_publish_is_not_packed(tmp_path: Path) -> None:
    asked = pa.Table.from_pylist([PROBE | {"probe_id": "bad/0", "publish": "hash"}], schema=TABLES["probes"])
    with pytest.raises(FedSafetyError, match=r"the instruction of probe 'bad/0' is a text, .*publish: hash"):
        made(tmp_path, {"probes": asked})
    digests = without_texts("probes", asked, {"bad": "hash"})
    answer = {"response_key": "r", "probe_set": "s", "generator": "transformers 1", "probe_id": "bad/0", "tokens": 1}
    answer |= {"finished": True, "response": "step 1: mix"}
    answers = pa.Table.from_pylist([answer], schema=TABLES["responses"])
    with pytest.raises(FedSafetyError, match=r"the response of probe 'bad/0' is a text, .*publish: hash"):
        made(tmp_path, {"probes": digests, "responses": answers})
    packed = made(tmp_path, {"probes": digests, "responses": without_texts("responses", answers, {"bad": "hash"})})
    assert packed.table("responses")["response"].to_pylist() == [withheld("step 1: mix")]


@pytest.mark.parametrize("name", ["rows/probes.parquet", "source/defenses/my_rule.py"])
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    bundle = made(tmp_path)
    write_archive(tmp_path / "x.zip", bundle.content | {name: bundle.content[name] + b" "})
    with pytest.raises(ArchiveError, match=f"'{name}' is not the file that was packed"):
        read_bundle(tmp_path / "x.zip")


def test_files_that_are_too_many_or_missing_are_named(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    write_archive(tmp_path / "x.zip", bundle.content | {"source/more.py": b""})
    with pytest.raises(ArchiveError, match=r"'source/more\.py' is not in the manifest"):
        read_bundle(tmp_path / "x.zip")
    write_archive(tmp_path / "y.zip", {k: v for k, v in bundle.content.items() if "cells" not in k})
    with pytest.raises(ArchiveError, match=r"'rows/cells\.parquet' is in the manifest but not in the bundle"):
        read_bundle(tmp_path / "y.zip")
    write_archive(tmp_path / "z.zip", {"readme.txt": b""})
    with pytest.raises(ArchiveError, match=r"no manifest\.json"):
        read_bundle(tmp_path / "z.zip")
    path = rewritten(tmp_path, bundle, lambda _, content: content.update({"rows/verifications.parquet": b""}))
    with pytest.raises(ArchiveError, match=r"'rows/verifications\.parquet' has no place"):
        read_bundle(path)
    path = rewritten(tmp_path, bundle, lambda _, content: content.pop("rows/cells.parquet"))
    with pytest.raises(ArchiveError, match=r"lacks 'rows/cells\.parquet'"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "judge"}, "kind"),
        ({"id": "../krum"}, "id"),
        ({"bundle_version": 2}, "bundle_version"),
        ({"unknown": 1}, "unknown"),
        ({"module": "defenses.krum", "modules": {"defenses.krum": "source/defenses/krum.py"}}, "lacks"),
        ({"module": "benchmark.judges.oracle"}, "would stand in a package of the benchmark"),
        ({"module": "defenses.other"}, "would stand in a package of the benchmark"),
        ({"id": "other"}, "would stand in a package of the benchmark"),
        ({"modules": {"defenses.my_rule": "source/../../x.py"}}, "lacks"),
    ],
)
def test_manifests_that_are_not_right_are_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = rewritten(tmp_path, made(tmp_path), lambda manifest, _: manifest.update(change))
    with pytest.raises(ArchiveError, match=problem):
        read_bundle(path)


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        (("defenses.my_rule", "defenses.krum"), "brings no other module"),
        (("my_package.rule", "benchmark.judges.oracle"), "does not belong to the package"),
        (("my_package.rule", "torch"), "does not belong to the package"),
        (("my_package.other",), "is not in the bundle"),
    ],
)
def test_only_modules_of_its_own_package_come_along(tmp_path: Path, modules: tuple[str, ...], problem: str) -> None:
    def change(manifest: dict[str, Any], content: dict[str, bytes]) -> None:
        manifest["module"] = "defenses.my_rule" if modules[0].startswith("defenses") else "my_package.rule"
        manifest["modules"] = {name: f"source/{name.replace('.', '/')}.py" for name in modules}
        content.pop("source/defenses/my_rule.py")
        content.update(dict.fromkeys(manifest["modules"].values(), b""))

    with pytest.raises(ArchiveError, match=problem):
        read_bundle(rewritten(tmp_path, made(tmp_path), change))


def parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


def changed_probes(tmp_path: Path, data: bytes) -> Bundle:
    def change(_: dict[str, Any], content: dict[str, bytes]) -> None:
        content["rows/probes.parquet"] = data

    return read_bundle(rewritten(tmp_path, made(tmp_path), change))


def test_rows_that_are_not_of_the_schema_are_refused(tmp_path: Path) -> None:
    rows = probes("a")
    metadata = dict(rows.schema.metadata)
    later = rows.replace_schema_metadata({**metadata, b"fedsafety.schema_version": b"3"})
    label = TABLES["probes"].field("kind")
    odd = rows.set_column(2, label, pa.array(["poetry"]).cast(label.type))
    text = rows.set_column(2, "kind", pa.array(["utility"]))
    nothing = pa.array([None], pa.string())
    cases = [
        (b"no parquet", "cannot be read"),
        (parquet(later), "schema version 3"),
        (parquet(rows.replace_schema_metadata({**metadata, b"fedsafety.table": b"cells"})), "holds table 'cells'"),
        (parquet(rows.drop_columns(["reference"])), "other columns"),
        (parquet(odd), "kind is 'poetry'"),
        (parquet(text), "column 'kind' of table 'probes' has type string"),
        (parquet(rows.set_column(5, "instruction", nothing)), "null values to non-nullable"),
    ]
    for data, problem in cases:
        with pytest.raises(FedSafetyError, match=problem):
            changed_probes(tmp_path, data).table("probes")


def test_a_small_table_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    field = TABLES["probes"].field("instruction")
    rows = probes(*["a"] * 15_000).set_column(5, field, pa.array(["x" * 100_000]).take(pa.array([0] * 15_000)))
    data = parquet(rows)
    assert len(data) < 1_000_000
    with pytest.raises(FedSafetyError, match="unpacks to more than"):
        changed_probes(tmp_path, data).table("probes")
    with pytest.raises(FedSafetyError, match="more than any suite makes"):
        changed_probes(tmp_path, parquet(probes(*["a"] * 100_001))).table("probes")
