"""One file that holds a submission: its source, its rows, what they were made from, and digests of all of it.

A bundle is a zip archive, or the folder that one unpacks to, with ``manifest.json``, the method's own files under
``source/``, tables of rows under ``rows/`` and, where there is one, the report of ``fedsafety check`` as
``check.json``. The same rows and the same source give the same bytes. The manifest's SHA-256 names the bundle.
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
from benchmark.records.schemas import SCHEMA_VERSION, TABLES
from benchmark.registry import check_shown
from benchmark.submission.bundle.archive import ArchiveError, read_archive, write_archive
from benchmark.submission.bundle.claim import LONGEST_NOTICE, MOST_NOTICES

MANIFEST, CHECK, SOURCE, ROWS = "manifest.json", "check.json", "source", "rows"
BUNDLED = ("catalog", "cells", "probes", "responses", "rounds", "verdicts")
"""Tables that a bundle holds."""
MAX_ROWS = {"cells": 20_000, "catalog": 2_000, "probes": 100_000}
MAX_ROWS_OF_OTHERS = 10_000_000
MAX_TABLE_BYTES = 1024**3
"""Bytes of one table in memory."""
LONGEST_AUTHOR, LONGEST_LICENCE = 500, 200
"""Most characters of the author's name and of the licence."""
MAX_MANIFEST_BYTES = 1024**2
MAX_SOURCE_BYTES = 512 * 1024
"""Bytes of one source file. Reading a program takes a thousand times its size in memory."""
MAX_SOURCES_BYTES = 4 * MAX_SOURCE_BYTES
"""Bytes of all source files."""

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_ORDER = {
    "cells": ("scenario", "defense", "stage", "seed", "cell_key"),
    "rounds": ("training_key", "round"),
    "responses": ("response_key", "probe_id"),
    "verdicts": ("judge", "response_key", "probe_id"),
    "probes": ("probe_set", "probe_id"),
    "catalog": ("kind", "id", "settings"),
}


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
    """Name inside the bundle."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of its bytes."""
    size: int = Field(ge=0)
    """Bytes."""


class Manifest(_Model):
    """Manifest of a bundle, written by its author."""

    bundle_version: Literal[1] = 1
    """Version of this format."""
    kind: Annotated[str, AfterValidator(_kind)]
    """What is submitted."""
    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    """Registry id."""
    module: str = Field(pattern=f"^{_MODULE.pattern}$", max_length=150)
    """Module that registers it."""
    modules: dict[str, str] = Field(min_length=1)
    """File inside the bundle by the name of the module it is."""
    source_digest: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Digest of the normalised source; part of the keys of all rows."""
    info: dict[str, Any]
    """Metadata of the method as it registered itself."""
    author: Annotated[str, AfterValidator(_one_line)] = Field(default="", max_length=LONGEST_AUTHOR)
    """Name of the author; may be empty."""
    licence: Annotated[str, AfterValidator(_one_line)] = Field(default="", max_length=LONGEST_LICENCE)
    """Licence of the source; may be empty."""
    # An id and never a path, so that a bundle cannot name a file of the verifier.
    suite: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    """Suite id."""
    suite_version: str = Field(max_length=64)
    """Suite version."""
    protocol_version: str = Field(max_length=64)
    """Protocol version."""
    schema_version: int
    """Version of the rows' columns."""
    package_version: str = Field(max_length=64)
    """Version of this package."""
    attack_params: dict[str, float | int | str | bool] = {}
    """Parameters of a submitted attack."""
    generator: Literal["vllm", "transformers"]
    """Kind of engine that answered the probes."""
    environments: tuple[dict[str, Any], ...]
    """Where rows were made: the environments that occur in the cells."""
    scenarios: tuple[str, ...]
    """Scenarios of the cells."""
    seeds: tuple[int, ...]
    """Run seeds of the cells."""
    cells: int
    """Number of cells."""
    notices: tuple[Annotated[str, Field(max_length=LONGEST_NOTICE)], ...] = Field(default=(), max_length=MOST_NOTICES)
    """What is missing or failed, in words."""
    files: tuple[PackedFile, ...]
    """Every file but this one."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: every file is known and has its digest.

    Attributes:
        name: File or folder name.
        digest: SHA-256 of the manifest; it covers everything, since that has the digests of all files.
        manifest: What the bundle says of itself.
        content: Bytes of every file by its name inside.
    """

    name: str
    digest: str
    manifest: Manifest
    content: Mapping[str, bytes]

    def table(self, name: str) -> pa.Table:
        """Return the rows of one table.

        Raises:
            FedSafetyError: The file is not Parquet of that table and schema version, is too large, lacks values,
                or holds values that cannot be right.
        """
        return _read_rows(name, self.content[f"{ROWS}/{name}.parquet"])

    def unpack_source(self, folder: Path) -> MethodSource:
        """Write the method's files below ``folder`` and return the source; nothing of the method is imported."""
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
    manifest: Mapping[str, Any], source: MethodSource, tables: Mapping[str, pa.Table], check: bytes | None
) -> Bundle:
    """Return a bundle of a method's files and rows.

    Args:
        manifest: The fields of :class:`Manifest` but those about files.
        source: The method.
        tables: Rows of each table of :data:`BUNDLED`.
        check: Report of ``fedsafety check``.
    """
    modules = {module: f"{SOURCE}/{_place(module, path)}" for module, path in source.files}
    content = {modules[module]: path.read_bytes() for module, path in source.files}
    content |= {f"{ROWS}/{name}.parquet": _rows_bytes(name, tables[name]) for name in BUNDLED}
    if check is not None:
        content[CHECK] = check
    files = [
        PackedFile(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in sorted(content.items())
    ]
    made = Manifest(**manifest, modules=modules, files=tuple(files))
    text = json.dumps(made.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"
    return Bundle(made.id, hashlib.sha256(text).hexdigest(), made, content | {MANIFEST: text})


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write a bundle as a zip archive, in one step."""
    write_archive(path, bundle.content)


def read_bundle(path: Path) -> Bundle:
    """Return the bundle in a zip archive or an unpacked folder.

    Raises:
        UsageError: The file or folder does not exist.
        FedSafetyError: It is not a bundle of this format, breaks a bound, or a file does not have its digest.
    """
    content = read_archive(path)
    if MANIFEST not in content:
        raise ArchiveError(f"it holds no {MANIFEST}; make bundles with `fedsafety submit`")
    if len(content[MANIFEST]) > MAX_MANIFEST_BYTES:
        raise ArchiveError(f"its {MANIFEST} has {len(content[MANIFEST])} bytes; {MAX_MANIFEST_BYTES} are allowed")
    try:
        manifest = Manifest.model_validate_json(content[MANIFEST])
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or MANIFEST
        raise ArchiveError(f"its {MANIFEST} is not one of this format: {where}: {problem['msg']}") from error
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
            raise ArchiveError(f"{name!r} is not the file that was packed: its digest is another")
    known = {f"{ROWS}/{name}.parquet" for name in BUNDLED} | set(manifest.modules.values())
    if missing := sorted(known - listed.keys()):
        raise ArchiveError(f"it lacks {missing[0]!r}")
    if foreign := sorted(listed.keys() - known - {CHECK}):
        raise ArchiveError(f"{foreign[0]!r} has no place in a bundle")


def _check_modules(manifest: Manifest) -> None:
    """Refuse modules that are another's, or that could hide another's: only the method's own code is brought."""
    package = manifest.module.partition(".")[0]
    own = f"{KINDS[manifest.kind].package}.{manifest.id}"
    if package in OWN_PACKAGES and (manifest.module != own or set(manifest.modules) != {own}):
        raise ArchiveError(
            f"module {manifest.module!r} would stand in a package of the benchmark; a {manifest.kind} in one file is "
            f"{own!r} and brings no other module"
        )
    sizes = {file.path: file.size for file in manifest.files}
    total = sum(sizes[path] for path in manifest.modules.values())
    if total > MAX_SOURCES_BYTES or any(sizes[path] > MAX_SOURCE_BYTES for path in manifest.modules.values()):
        raise ArchiveError(
            f"its source has {total} bytes; {MAX_SOURCE_BYTES} a file and {MAX_SOURCES_BYTES} together are allowed"
        )
    for module, path in manifest.modules.items():
        if not _MODULE.fullmatch(module) or module.partition(".")[0] != package:
            raise ArchiveError(f"module {module!r} does not belong to the package {package!r} that is submitted")
        place = module.replace(".", "/")
        if path not in (f"{SOURCE}/{place}.py", f"{SOURCE}/{place}/__init__.py"):
            raise ArchiveError(f"module {module!r} cannot be the file {path!r}")
    if manifest.module not in manifest.modules or not ID_PATTERN.fullmatch(manifest.id):
        raise ArchiveError(f"the module {manifest.module!r} that registers {manifest.id!r} is not in the bundle")


def _place(module: str, path: Path) -> str:
    place = module.replace(".", "/")
    return f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py"


def _rows_bytes(name: str, rows: pa.Table) -> bytes:
    """Return rows as a Parquet file whose bytes depend on nothing but the rows."""
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
    held = 0
    try:
        with pq.ParquetFile(io.BytesIO(data), pre_buffer=False) as file:
            _check_schema(name, file.schema_arrow)
            if file.metadata.num_rows > MAX_ROWS.get(name, MAX_ROWS_OF_OTHERS):
                raise FedSafetyError(f"table {name!r} has {file.metadata.num_rows} rows, more than any suite makes")
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False):
                held += batch.nbytes
                if held > MAX_TABLE_BYTES:
                    raise FedSafetyError(f"table {name!r} unpacks to more than {MAX_TABLE_BYTES} bytes")
                batches.append(batch)
            rows = pa.Table.from_batches(batches, file.schema_arrow).unify_dictionaries().combine_chunks()
        rows = rows.cast(schema)
        rows.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FedSafetyError(f"table {name!r} cannot be read: {first_line(error)}") from error
    if problem := find_problem(name, rows):
        raise FedSafetyError(f"table {name!r} cannot be right: {problem}")
    return rows


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Return how many rows to read at once: few where a single value may be large, since each row may repeat it."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks: list[int] = [group.column(j).total_uncompressed_size for group in groups for j in range(group.num_columns)]
    return max(1, min(4096, MAX_TABLE_BYTES // 4 // max([1, *chunks])))


def _check_schema(name: str, schema: pa.Schema) -> None:
    metadata = schema.metadata or {}
    found = metadata.get(b"fedsafety.table", b"").decode(errors="replace")
    version = metadata.get(b"fedsafety.schema_version", b"none").decode(errors="replace")
    if found != name or version != str(SCHEMA_VERSION):
        raise FedSafetyError(
            f"the rows of table {name!r} call themselves {found!r} of schema version {version}; this release reads "
            f"version {SCHEMA_VERSION}"
        )
    if schema.names != TABLES[name].names:
        odd = sorted(set(schema.names) ^ set(TABLES[name].names)) or ["the order"]
        raise FedSafetyError(f"table {name!r} has other columns than schema version {SCHEMA_VERSION}: {odd[0]}")
    for field in TABLES[name]:
        found_type = schema.field(field.name).type
        # Parquet has no seconds: a timestamp comes back in milliseconds.
        both_times = pa.types.is_timestamp(found_type) and pa.types.is_timestamp(field.type)
        if found_type != field.type and not both_times:
            raise FedSafetyError(f"column {field.name!r} of table {name!r} is {found_type}, must be {field.type}")
