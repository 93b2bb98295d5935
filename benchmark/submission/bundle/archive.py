"""Reading files that a stranger packed, and packing one's own so that equal content gives equal bytes.

Reading guarantees that every name is relative, plain and inside the archive, that links, devices and repeated names are
refused, and that nothing larger than the stated bounds is held in memory. It does not read the contents of the files.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmark.errors import FedSafetyError, UsageError

MEBIBYTE = 1024 * 1024
MAX_FILES = 512
"""Files in an archive."""
MAX_FILE_BYTES = 128 * MEBIBYTE
"""Bytes of one file, unpacked."""
MAX_BYTES = 512 * MEBIBYTE
"""Bytes of all files, unpacked."""
MAX_PACKED_BYTES = 64 * MEBIBYTE
"""Bytes of the archive itself."""
MAX_RATIO = 200
"""Unpacked bytes of a file for each packed one; small files are free to be more regular."""
_RATIO_FROM = MEBIBYTE

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


class ArchiveError(FedSafetyError):
    """An archive holds what no archive of this benchmark holds."""


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the content of every file of a zip archive, or of an unpacked folder, by its name inside.

    Raises:
        UsageError: The file or folder does not exist.
        ArchiveError: It is not an archive, or a file breaks a bound or a rule for names; the text names both.
    """
    if path.is_dir():
        try:
            return _read_folder(path)
        except OSError as error:
            raise ArchiveError(f"{path.name} cannot be read: {error}") from error
    if not path.is_file():
        raise UsageError(
            f"there is no bundle {str(path)!r}; give the file that `fedsafety submit` wrote, or its folder"
        )
    if path.stat().st_size > MAX_PACKED_BYTES:
        raise ArchiveError(f"{path.name} has {_size(path.stat().st_size)}; {_size(MAX_PACKED_BYTES)} are allowed")
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        raise ArchiveError(f"{path.name} is no zip archive that can be read: {error}") from error


def write_archive(path: Path, content: Mapping[str, bytes]) -> None:
    """Write files into a zip archive, in one step; the same content gives the same bytes.

    Raises:
        FedSafetyError: The file cannot be written.
    """
    beside = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in sorted(content):
                entry = zipfile.ZipInfo(name, _EARLIEST)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # of Unix, on every platform
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, content[name])
        beside.replace(path)
    except OSError as error:
        raise FedSafetyError(f"cannot write {path}: {error.strerror}; name another file with --out") from error
    finally:
        beside.unlink(missing_ok=True)


def _check_directory(path: Path) -> None:
    """Refuse a zip archive whose table of contents is too large, before it is read as a whole.

    Reference: PKWARE, APPNOTE.TXT 6.3, section 4.3.16: the end record holds the size of the table.
    """
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, _END_RECORD + 0xFFFF), os.SEEK_END)
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at >= 0 and len(tail) >= at + _END_RECORD:
        size = int.from_bytes(tail[at + 12 : at + 16], "little")
        if size > MAX_FILES * _MAX_ENTRY:
            raise ArchiveError(f"its table of contents has {size} bytes, more than {MAX_FILES} files need")


_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError, OSError, RuntimeError, ValueError,
)  # fmt: skip
_END_RECORD = 22
_MAX_ENTRY = 1024


def _read_zip(archive: zipfile.ZipFile) -> dict[str, bytes]:
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    _check_count(len(archive.infolist()))
    for entry in archive.infolist():
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{entry.filename!r} is a link or a device; a bundle holds plain files only")
        _check_name(entry.filename.removesuffix("/"))
        if entry.flag_bits & 0x1:
            raise ArchiveError(f"{entry.filename!r} is encrypted; a bundle can be read by everybody")
        if entry.file_size > MAX_FILE_BYTES:
            raise ArchiveError(
                f"{entry.filename!r} unpacks to {_size(entry.file_size)}; {_size(MAX_FILE_BYTES)} allowed"
            )
        if entry.file_size > _RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise ArchiveError(
                f"{entry.filename!r} unpacks to {entry.file_size // max(1, entry.compress_size)} times its size; "
                f"{MAX_RATIO} times is allowed"
            )
    _check_total(sum(entry.file_size for entry in entries))
    content: dict[str, bytes] = {}
    for entry in entries:
        _check_new(entry.filename, content)
        with archive.open(entry) as stream:
            # A header may state a false size: at most that many bytes are read.
            content[entry.filename] = stream.read(entry.file_size + 1)
        if len(content[entry.filename]) != entry.file_size:
            raise ArchiveError(f"{entry.filename!r} does not have the size that the archive says")
    return content


def _read_folder(root: Path) -> dict[str, bytes]:
    files = []
    total = 0
    for number, (path, info) in enumerate(_walk(root)):
        name = path.relative_to(root).as_posix()
        _check_name(name)
        _check_count(number // 2)  # with folders, of which there are no more than files
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            raise ArchiveError(f"{name!r} is a link or a device; a bundle holds plain files only")
        if info.st_size > MAX_FILE_BYTES:
            raise ArchiveError(f"{name!r} has {_size(info.st_size)}; {_size(MAX_FILE_BYTES)} are allowed")
        files.append((name, path, info.st_size))
        total += info.st_size
        _check_count(len(files))
        _check_total(total)
    content: dict[str, bytes] = {}
    for name, path, size in sorted(files):
        _check_new(name, content)
        # Not followed and not waited for, should it have become a link or a pipe by now.
        with open(path, "rb", opener=_plainly) as stream:
            content[name] = stream.read(size + 1) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
        if len(content[name]) != size:
            raise ArchiveError(f"{name!r} changed while it was read; verify a folder that nothing writes to")
    return content


def _plainly(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            yield Path(entry.path), info
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(Path(entry.path))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name.split("/") or len(name) > 200:
        raise ArchiveError(
            f"the name {name[:80]!r} is not allowed: names are relative, without '..', of letters, digits, '_', '-' "
            f"and '.', up to 200 characters"
        )


def _check_new(name: str, content: Mapping[str, bytes]) -> None:
    # Two names that differ in case only are one file on some platforms.
    if name.lower() in {known.lower() for known in content}:
        raise ArchiveError(f"{name!r} is there twice; every file has a name of its own")


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise ArchiveError(f"it holds more than {MAX_FILES} files")


def _check_total(size: int) -> None:
    if size > MAX_BYTES:
        raise ArchiveError(f"it unpacks to {_size(size)}; {_size(MAX_BYTES)} are allowed")


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:.0f} MiB"
