"""Formats that are not read, each with the way to convert it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tasks.stand_ins import stand_in

_AS_TABLE: Final = "write its rows as Parquet or JSON Lines"
_ARROW: Final = f"{_AS_TABLE}; docs/data.md has a command"
AS_COMMAS: Final = "write it with commas between the fields, as .csv; docs/data.md has a command"
WAYS: Final[dict[str, str]] = {
    ".001": "join its parts with cat, then unpack the file",
    ".7z": "unpack it with 7z x",
    ".arrow": _ARROW,
    ".arrows": _ARROW,
    ".avro": _AS_TABLE,
    ".br": "unpack it with brotli -d",
    ".bz2": "unpack it with bunzip2",
    ".db": _AS_TABLE,
    ".dta": _AS_TABLE,
    ".feather": _ARROW,
    ".gz": "unpack it with gunzip",
    ".h5": _AS_TABLE,
    ".hdf5": _AS_TABLE,
    ".ipc": _ARROW,
    ".jl": "rename it to .jsonl",
    ".json5": "write its rows as JSON Lines",
    ".jsonlines": "rename it to .jsonl",
    ".lz4": "unpack it with unlz4",
    ".lzma": "unpack it with unlzma",
    ".msgpack": _AS_TABLE,
    ".ndjson": "rename it to .jsonl",
    ".npy": _AS_TABLE,
    ".npz": _AS_TABLE,
    ".ods": "save it as CSV in UTF-8",
    ".orc": _AS_TABLE,
    ".pickle": _AS_TABLE,
    ".pkl": _AS_TABLE,
    ".rar": "unpack it with unrar x",
    ".sqlite": _AS_TABLE,
    ".sqlite3": _AS_TABLE,
    ".tab": AS_COMMAS,
    ".tar": "unpack it with tar -xf",
    ".tfrecord": _AS_TABLE,
    ".tgz": "unpack it with tar -xf",
    ".xls": "save it as CSV in UTF-8",
    ".xlsb": "save it as CSV in UTF-8",
    ".xlsm": "save it as CSV in UTF-8",
    ".xlsx": "save it as CSV in UTF-8",
    ".xz": "unpack it with unxz",
    ".yaml": "write its rows as JSON Lines",
    ".yml": "write its rows as JSON Lines",
    ".z": "unpack it with gunzip",
    ".z01": "join its parts with zip -s 0, then unpack the file",
    ".zip": "unpack it with unzip",
    ".zst": "unpack it with unzstd",
}
"""Ending of a table or compressed file, which may hold rows that would be missed → way to convert it."""

_STARTS: Final = (
    (rb"\x1f\x8b", "a gzip file", ".gz"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", ".bz2"),
    (rb"\xfd7zXZ\x00", "an xz file", ".xz"),
    (rb"\x28\xb5\x2f\xfd", "a zstd file", ".zst"),
    (rb"PK\x03\x04", "a zip file or a spreadsheet", ".zip"),
    (rb"PAR1", "a Parquet file", ".parquet"),
    (rb"ARROW1\x00\x00", "an Arrow file", ".arrow"),
    (rb"\xff\xff\xff\xff", "an Arrow stream", ".arrow"),
)
"""Pattern of the first bytes of a file, its format, and the ending of that format."""
_TEXTS: Final = (
    (b"\xff\xfe\x00\x00", "text in UTF-32; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32; save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
)
"""First bytes of a file, and what the file is instead of data, with the way out."""
_HEAD: Final = 4096
"""Number of leading bytes that are searched for NUL, which text in UTF-8 does not hold."""


def foreign_content(path: Path) -> str:
    """Return what a file holds in place of the format that its ending names, and the way out; empty if it may fit.

    Raises:
        OSError: The file cannot be read.
    """
    if found := stand_in(path):
        return str(found)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    suffix = path.suffix.lower()
    for start, content, ending in _STARTS:
        if re.match(start, head) and ending != suffix:
            return f"{content}; rename it to {ending}" + (f", then {WAYS[ending]}" if ending in WAYS else "")
    for start, content in _TEXTS:
        if head.startswith(start):
            return content
    if b"\0" in head and suffix != ".parquet":
        return "text in UTF-16, or no text, because NUL bytes stand in it; save it as UTF-8"
    return ""
