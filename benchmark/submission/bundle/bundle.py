"""Bundle of a submission: the source of a method, its rows, and a manifest with the digests of all files.

A bundle is a zip archive, or the folder that the archive unpacks to. The archive holds:

- ``manifest.json``: the :class:`Manifest`.
- ``source/``: the files of the method.
- ``rows/``: one Parquet file for each table of :data:`BUNDLED`, and of :data:`OPTIONAL` where it has rows. The rows
  hold digests in place of the texts that published rows do not hold (:mod:`benchmark.records.withheld`).
- ``check.json``: the report of ``fedsafety check``, if the author adds the report.

Equal rows and equal source give equal bytes. The SHA-256 of the manifest names the bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import FedSafetyError, first_line
from benchmark.keys import OWN_PACKAGES
from benchmark.methods.kinds import KINDS
from benchmark.methods.source import ID_PATTERN, MethodSource
from benchmark.records.plausible import find_problem
from benchmark.records.schemas import ADDED, READABLE_VERSIONS, TABLES
from benchmark.records.store import with_added_columns
from benchmark.records.withheld import check_no_texts, extents_in
from benchmark.registry import check_shown
from benchmark.submission.bundle.archive import ArchiveError, read_archive, write_archive
from benchmark.submission.bundle.claim import LONGEST_NOTICE, MOST_NOTICES

MANIFEST, CHECK, SOURCE, ROWS = "manifest.json", "check.json", "source", "rows"
BUNDLED = ("catalog", "cells", "probes", "responses", "rounds", "verdicts")
"""Tables that every bundle holds."""
OPTIONAL = ("likelihoods",)
"""Tables that a bundle holds if the suite measures what they hold."""
MAX_ROWS = {"cells": 20_000, "catalog": 2_000, "probes": 100_000}
"""Most rows of a table."""
MAX_ROWS_OF_OTHERS = 10_000_000
"""Most rows of a table that :data:`MAX_ROWS` does not name."""
MAX_TABLE_BYTES = 1024**3
"""Most bytes of one table in memory."""
LONGEST_AUTHOR, LONGEST_LICENCE = 500, 200
"""Most characters of the author's name and of the licence."""
MAX_MANIFEST_BYTES = 1024**2
"""Most bytes of the manifest."""
MAX_SOURCE_BYTES = 512 * 1024
"""Most bytes of one source file. The bound is low because parsing takes a thousand times the file's size in memory."""
MAX_SOURCES_BYTES = 4 * MAX_SOURCE_BYTES
"""Most bytes of all source files together."""

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_ORDER = {
    "cells": ("scenario", "defense", "stage", "seed", "cell_key"),
    "rounds": ("training_key", "round"),
    "responses": ("response_key", "probe_id"),
    "verdicts": ("judge", "response_key", "probe_id"),
    "likelihoods": ("response_key", "probe_id", "role", "index"),
    "probes": ("probe_set", "probe_id"),
    "catalog": ("kind", "id", "settings"),
}
"""Columns by which :func:`pack` sorts the rows of each table, so that equal rows give equal bytes."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _one_line(value: str) -> str:
    check_shown(value, LONGEST_AUTHOR)
    return value


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"{name!r} is not a kind of method; the kinds are {', '.join(KINDS)}")
    return name


class PackedFile(_Model):
    """One file of a bundle."""

    path: str
    """Name of the file inside the bundle."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file."""
    size: int = Field(ge=0)
    """Number of bytes of the file."""


class Manifest(_Model):
    """Manifest of a bundle, as the bundle's author wrote it."""

    bundle_version: Literal[1] = 1
    """Version of this format."""
    kind: Annotated[str, AfterValidator(_kind)]
    """Kind of the method."""
    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    """Registry id of the method."""
    module: str = Field(pattern=f"^{_MODULE.pattern}$", max_length=150)
    """Module that registers the method."""
    modules: dict[str, str] = Field(min_length=1)
    """Name of each module's file inside the bundle, by module name."""
    source_digest: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Digest of the normalised source. The keys of all rows depend on the digest."""
    info: dict[str, Any]
    """Metadata with which the method registers itself."""
    author: Annotated[str, AfterValidator(_one_line)] = Field(default="", max_length=LONGEST_AUTHOR)
    """Name of the author, or empty."""
    licence: Annotated[str, AfterValidator(_one_line)] = Field(default="", max_length=LONGEST_LICENCE)
    """Licence of the source, or empty."""
    # The pattern admits ids and no paths, so that a bundle cannot name a file on the verifier's machine.
    suite: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    """Id of the suite."""
    suite_version: str = Field(max_length=64)
    """Version of the suite."""
    protocol_version: str = Field(max_length=64)
    """Version of the protocol."""
    schema_version: int
    """Version of the schemas of the tables."""
    package_version: str = Field(max_length=64)
    """Version of the distribution that wrote the bundle."""
    attack_params: dict[str, float | int | str | bool] = {}
    """Parameters of a submitted attack."""
    generator: Literal["vllm", "transformers"]
    """Kind of engine that answered the probes."""
    environments: tuple[dict[str, Any], ...]
    """Distinct environments of the cells."""
    scenarios: tuple[str, ...]
    """Scenarios of the cells."""
    seeds: tuple[int, ...]
    """Run seeds of the cells."""
    cells: int
    """Number of cells."""
    notices: tuple[Annotated[str, Field(max_length=LONGEST_NOTICE)], ...] = Field(default=(), max_length=MOST_NOTICES)
    """Sentences about failed cells and about scenarios and seeds that the bundle lacks."""
    files: tuple[PackedFile, ...]
    """All files of the bundle but the manifest."""


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory. The manifest lists every other file with its digest.

    Attributes:
        name: Name of the file or folder.
        digest: SHA-256 of the manifest, which covers all files because the manifest holds their digests.
        manifest: Manifest of the bundle.
        content: Bytes of every file by the file's name inside.
    """

    name: str
    digest: str
    manifest: Manifest
    content: Mapping[str, bytes]

    def table(self, name: str) -> pa.Table:
        """Return the rows of one table; no rows of an optional table that the bundle lacks.

        Raises:
            FedSafetyError: The file is not a Parquet file of this table and of the present schema version, is too
                large, lacks values, or holds impossible values.
        """
        if name in OPTIONAL and f"{ROWS}/{name}.parquet" not in self.content:
            return TABLES[name].empty_table()
        return _read_rows(name, self.content[f"{ROWS}/{name}.parquet"])

    def unpack_source(self, folder: Path) -> MethodSource:
        """Write the files of the method below ``folder`` and return the source. No code of the method runs."""
        files = []
        for module, path in sorted(self.manifest.modules.items()):
            place = folder / Path(path).relative_to(SOURCE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.content[path])
            files.append((module, place.resolve()))
        manifest = self.manifest
        return MethodSource(
            KINDS[manifest.kind], manifest.id, manifest.module, tuple(files), f"bundle {self.digest[:12]}"
        )


def pack(
    fields: Mapping[str, Any], source: MethodSource, tables: Mapping[str, pa.Table], check: bytes | None
) -> Bundle:
    """Return a bundle of a method's files and rows.

    Args:
        fields: Fields of :class:`Manifest` except ``modules`` and ``files``.
        source: The method.
        tables: Rows of each table of :data:`BUNDLED`, and of those of :data:`OPTIONAL` that have some.
        check: JSON report of ``fedsafety check``, or ``None``.

    Raises:
        FedSafetyError: A row holds a text of which the rows of the probes publish the digest alone.
    """
    extents = extents_in(tables["probes"])
    for name, rows in tables.items():
        check_no_texts(name, rows, extents)
    modules = {module: f"{SOURCE}/{_place(module, path)}" for module, path in source.files}
    content = {modules[module]: path.read_bytes() for module, path in source.files}
    held = [*BUNDLED, *(name for name in OPTIONAL if name in tables and len(tables[name]))]
    content |= {f"{ROWS}/{name}.parquet": _rows_bytes(name, tables[name]) for name in held}
    if check is not None:
        content[CHECK] = check
    files = [
        PackedFile(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in sorted(content.items())
    ]
    manifest = Manifest(**fields, modules=modules, files=tuple(files))
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"
    return Bundle(manifest.id, hashlib.sha256(text).hexdigest(), manifest, content | {MANIFEST: text})


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write a bundle as a zip archive in one step.

    Raises:
        FedSafetyError: The archive cannot be written.
    """
    write_archive(path, bundle.content)


def read_bundle(path: Path) -> Bundle:
    """Return the bundle in a zip archive or an unpacked folder.

    Raises:
        UsageError: The file or folder does not exist.
        FedSafetyError: The file or folder is not a bundle of this format, breaks a bound, or holds a file that does
            not have the digest in the manifest.
    """
    content = read_archive(path)
    if MANIFEST not in content:
        raise ArchiveError(f"the bundle holds no {MANIFEST}; write bundles with `fedsafety submit`")
    if len(content[MANIFEST]) > MAX_MANIFEST_BYTES:
        raise ArchiveError(f"{MANIFEST} has {len(content[MANIFEST])} bytes; {MAX_MANIFEST_BYTES} are allowed")
    try:
        manifest = Manifest.model_validate_json(content[MANIFEST])
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or MANIFEST
        raise ArchiveError(f"{MANIFEST} breaks the format of bundles: {where}: {problem['msg']}") from error
    _check_files(manifest, content)
    _check_modules(manifest)
    return Bundle(path.name, hashlib.sha256(content[MANIFEST]).hexdigest(), manifest, content)


def _check_files(manifest: Manifest, content: Mapping[str, bytes]) -> None:
    listed = {file.path: file for file in manifest.files}
    for name in sorted(listed.keys() ^ (content.keys() - {MANIFEST})):
        rule = "is not in the manifest" if name in content else "is in the manifest but not in the bundle"
        raise ArchiveError(f"{name!r} {rule}; a bundle holds exactly the files that it lists")
    for name, file in sorted(listed.items()):
        if hashlib.sha256(content[name]).hexdigest() != file.sha256 or len(content[name]) != file.size:
            raise ArchiveError(f"{name!r} is not the file that was packed: its digest or size differs")
    required = {f"{ROWS}/{name}.parquet" for name in BUNDLED} | set(manifest.modules.values())
    if missing := sorted(required - listed.keys()):
        raise ArchiveError(f"the bundle lacks {missing[0]!r}")
    optional = {CHECK} | {f"{ROWS}/{name}.parquet" for name in OPTIONAL}
    if surplus := sorted(listed.keys() - required - optional):
        raise ArchiveError(f"{surplus[0]!r} has no place in a bundle")


def _check_modules(manifest: Manifest) -> None:
    """Raise an :class:`ArchiveError` for a module that could hide a module of the benchmark or of another package."""
    package = manifest.module.partition(".")[0]
    file_module = f"{KINDS[manifest.kind].package}.{manifest.id}"
    if package in OWN_PACKAGES and (manifest.module != file_module or set(manifest.modules) != {file_module}):
        raise ArchiveError(
            f"module {manifest.module!r} would stand in a package of the benchmark; a method in one file has the "
            f"module {file_module!r} and brings no other module"
        )
    sizes = {file.path: file.size for file in manifest.files}
    total = sum(sizes[path] for path in manifest.modules.values())
    if total > MAX_SOURCES_BYTES or any(sizes[path] > MAX_SOURCE_BYTES for path in manifest.modules.values()):
        raise ArchiveError(
            f"the source has {total} bytes; {MAX_SOURCE_BYTES} a file and {MAX_SOURCES_BYTES} together are allowed"
        )
    for module, path in manifest.modules.items():
        if not _MODULE.fullmatch(module) or module.partition(".")[0] != package:
            raise ArchiveError(f"module {module!r} does not belong to the package {package!r} of the method")
        place = module.replace(".", "/")
        if path not in (f"{SOURCE}/{place}.py", f"{SOURCE}/{place}/__init__.py"):
            raise ArchiveError(f"the file {path!r} cannot hold the module {module!r}")
    if manifest.module not in manifest.modules or not ID_PATTERN.fullmatch(manifest.id):
        raise ArchiveError(f"the module {manifest.module!r} that registers {manifest.id!r} is not in the bundle")


def _place(module: str, path: Path) -> str:
    place = module.replace(".", "/")
    return f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py"


def _rows_bytes(name: str, rows: pa.Table) -> bytes:
    """Return rows as a Parquet file, whose bytes depend neither on the order nor on the encoding of the rows."""
    plain = pa.schema(
        [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in TABLES[name]]
    )
    rows = rows.cast(plain).sort_by([(column, "ascending") for column in _ORDER[name]]).combine_chunks()
    sink = io.BytesIO()
    pq.write_table(rows.cast(TABLES[name]), sink, compression="zstd")
    return sink.getvalue()


def _read_rows(name: str, data: bytes) -> pa.Table:
    schema = TABLES[name]
    batches: list[pa.RecordBatch] = []
    size = 0
    try:
        with pq.ParquetFile(io.BytesIO(data), pre_buffer=False) as file:
            _check_schema(name, file.schema_arrow)
            if file.metadata.num_rows > MAX_ROWS.get(name, MAX_ROWS_OF_OTHERS):
                raise FedSafetyError(f"table {name!r} has {file.metadata.num_rows} rows, more than any suite makes")
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False):
                size += batch.nbytes
                if size > MAX_TABLE_BYTES:
                    raise FedSafetyError(f"table {name!r} unpacks to more than {MAX_TABLE_BYTES} bytes")
                batches.append(batch)
            rows = pa.Table.from_batches(batches, file.schema_arrow).unify_dictionaries().combine_chunks()
        rows = with_added_columns(rows, name).cast(schema)
        rows.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FedSafetyError(f"table {name!r} cannot be read: {first_line(error)}") from error
    if problem := find_problem(name, rows):
        raise FedSafetyError(f"table {name!r} cannot be right: {problem}")
    return rows


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Return the number of rows to read at once. Large values give few rows, because each row may repeat the value."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks: list[int] = [group.column(j).total_uncompressed_size for group in groups for j in range(group.num_columns)]
    return max(1, min(4096, MAX_TABLE_BYTES // 4 // max([1, *chunks])))


def _check_schema(name: str, schema: pa.Schema) -> None:
    metadata = schema.metadata or {}
    table = metadata.get(b"fedsafety.table", b"").decode(errors="replace")
    version = metadata.get(b"fedsafety.schema_version", b"none").decode(errors="replace")
    if table != name or version not in READABLE_VERSIONS:
        raise FedSafetyError(
            f"the file of table {name!r} holds table {table!r} of schema version {version}; this release reads "
            f"versions {' and '.join(READABLE_VERSIONS)}"
        )
    later = ADDED.get(name, ()) if version == READABLE_VERSIONS[0] else ()
    fields = [field for field in TABLES[name] if field.name not in later or field.name in schema.names]
    if schema.names != [field.name for field in fields]:
        differences = sorted(set(schema.names) ^ {field.name for field in fields}) or ["the order"]
        raise FedSafetyError(f"table {name!r} has other columns than schema version {version}: {differences[0]}")
    for field in fields:
        column_type = schema.field(field.name).type
        # Parquet has no unit of seconds, so that a timestamp in seconds is read in milliseconds.
        are_times = pa.types.is_timestamp(column_type) and pa.types.is_timestamp(field.type)
        if column_type != field.type and not are_times:
            raise FedSafetyError(
                f"column {field.name!r} of table {name!r} has type {column_type}; the schema requires {field.type}"
            )
