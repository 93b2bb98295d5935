"""Zip archives: safe reading of a stranger's archive, and writing in which equal content gives equal bytes.

The reader accepts only relative names that stay inside the archive, refuses links, devices and repeated names, and
holds no more bytes in memory than the bounds below allow. The reader does not interpret the files.
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
"""Most files of an archive."""
MAX_FILE_BYTES = 128 * MEBIBYTE
"""Most bytes of one unpacked file."""
MAX_BYTES = 512 * MEBIBYTE
"""Most bytes of all unpacked files together."""
MAX_PACKED_BYTES = 64 * MEBIBYTE
"""Most bytes of the archive itself."""
MAX_RATIO = 200
"""Most unpacked bytes of a file for each packed byte."""
_RATIO_FROM = MEBIBYTE
"""Largest unpacked size at which a file may exceed the ratio, because small files may be very regular."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Earliest date that a zip archive can hold. Every entry has this date, so that equal content gives equal bytes."""


class ArchiveError(FedSafetyError):
    """An archive or a bundle breaks a rule of its format."""


_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""Errors of a damaged archive. A name that is not UTF-8 raises a ValueError."""


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the content of every file of a zip archive or of an unpacked folder, by the file's name inside.

    Raises:
        UsageError: The archive or folder does not exist.
        ArchiveError: The archive cannot be read, or a file breaks a bound or a rule for names. The message names the
            file and the rule.
    """
    if path.is_dir():
        try:
            return _read_folder(path)
        except OSError as error:
            raise ArchiveError(f"the folder {path.name} cannot be read: {error}") from error
    if not path.is_file():
        raise UsageError(
            f"there is no bundle {str(path)!r}; give the file that `fedsafety submit` wrote, or its folder"
        )
    if path.stat().st_size > MAX_PACKED_BYTES:
        raise ArchiveError(
            f"{path.name} has {_size(path.stat().st_size)}; at most {_size(MAX_PACKED_BYTES)} are allowed"
        )
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive)
    except _UNREADABLE as error:
        raise ArchiveError(f"{path.name} is not a readable zip archive: {error}") from error


def write_archive(path: Path, content: Mapping[str, bytes]) -> None:
    """Write files into a zip archive in one step. Equal content gives equal bytes.

    Args:
        path: The archive to write.
        content: Bytes of every file by its name inside.

    Raises:
        FedSafetyError: The archive cannot be written.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in sorted(content):
                entry = zipfile.ZipInfo(name, _EARLIEST)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix on every platform, so that the platform does not change the bytes
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, content[name])
        temporary.replace(path)
    except OSError as error:
        raise FedSafetyError(f"cannot write {path}: {error.strerror}; name another file with --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_directory(path: Path) -> None:
    """Raise an :class:`ArchiveError` if the table of contents of a zip archive is too large to be read.

    The size of the table stands in the end record (PKWARE, APPNOTE.TXT 6.3, section 4.3.16).
    """
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, _END_RECORD + 0xFFFF), os.SEEK_END)
        tail = stream.read()
    start = tail.rfind(b"PK\x05\x06")
    if start >= 0 and len(tail) >= start + _END_RECORD:
        size = int.from_bytes(tail[start + 12 : start + 16], "little")
        if size > MAX_FILES * _MAX_ENTRY:
            raise ArchiveError(f"the table of contents has {size} bytes, more than {MAX_FILES} files need")


_END_RECORD = 22
"""Bytes of the end record of a zip archive, without the comment of the archive."""
_MAX_ENTRY = 1024
"""Most bytes of the table of contents for each file."""


def _read_zip(archive: zipfile.ZipFile) -> dict[str, bytes]:
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    _check_count(len(archive.infolist()))
    for entry in archive.infolist():
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{entry.filename!r} is a link or a device; a bundle holds plain files only")
        _check_name(entry.filename.removesuffix("/"))
        if entry.flag_bits & 0x1:
            raise ArchiveError(f"{entry.filename!r} is encrypted; a bundle holds no encrypted files")
        if entry.file_size > MAX_FILE_BYTES:
            raise ArchiveError(
                f"{entry.filename!r} unpacks to {_size(entry.file_size)}; at most {_size(MAX_FILE_BYTES)} are allowed"
            )
        if entry.file_size > _RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise ArchiveError(
                f"{entry.filename!r} unpacks to {entry.file_size // max(1, entry.compress_size)} times its packed "
                f"size; at most {MAX_RATIO} times are allowed"
            )
    _check_total(sum(entry.file_size for entry in entries))
    content: dict[str, bytes] = {}
    for entry in entries:
        _check_new(entry.filename, content)
        with archive.open(entry) as stream:
            # The header may state a false size, so read at most one byte more than that size.
            content[entry.filename] = stream.read(entry.file_size + 1)
        if len(content[entry.filename]) != entry.file_size:
            raise ArchiveError(f"{entry.filename!r} does not have the size that the archive states")
    return content


def _read_folder(root: Path) -> dict[str, bytes]:
    files = []
    total = 0
    for number, (path, info) in enumerate(_walk(root)):
        name = path.relative_to(root).as_posix()
        _check_name(name)
        _check_count(number // 2)  # the walk counts folders too, so allow as many folders as files
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            raise ArchiveError(f"{name!r} is a link or a device; a bundle holds plain files only")
        if info.st_size > MAX_FILE_BYTES:
            raise ArchiveError(f"{name!r} has {_size(info.st_size)}; at most {_size(MAX_FILE_BYTES)} are allowed")
        files.append((name, path, info.st_size))
        total += info.st_size
        _check_count(len(files))
        _check_total(total)
    content: dict[str, bytes] = {}
    for name, path, size in sorted(files):
        _check_new(name, content)
        # The file may have become a link or a pipe since the walk, so do not follow a link or wait for a pipe.
        with open(path, "rb", opener=_opened_as_file) as stream:
            content[name] = stream.read(size + 1) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
        if len(content[name]) != size:
            raise ArchiveError(f"{name!r} changed while it was read; verify a folder that nothing writes to")
    return content


def _opened_as_file(path: str, flags: int) -> int:
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
            f"the name {name[:80]!r} is not allowed: a name is relative, has no '..', consists of letters, digits, "
            f"'_', '-' and '.', and has at most 200 characters"
        )


def _check_new(name: str, content: Mapping[str, bytes]) -> None:
    # Ignore case, because names that differ only in case are the same file on some platforms.
    if name.lower() in {earlier.lower() for earlier in content}:
        raise ArchiveError(f"{name!r} occurs twice; two files of a bundle cannot have the same name")


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise ArchiveError(f"the bundle holds more than {MAX_FILES} files")


def _check_total(size: int) -> None:
    if size > MAX_BYTES:
        raise ArchiveError(f"the bundle unpacks to {_size(size)}; at most {_size(MAX_BYTES)} are allowed")


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:.0f} MiB"
