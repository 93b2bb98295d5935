"""Archives of strangers: names, links, bombs, sizes; and archives of one's own, byte for byte."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.submission.bundle import archive
from benchmark.submission.bundle.archive import MAX_FILES, ArchiveError, read_archive, write_archive


def zipped(path: Path, content: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, data in content.items():
            made.writestr(zipfile.ZipInfo(name), data, method)
    return path


def test_what_was_written_is_read_again_and_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    content = {"b/c.py": b"x = 1\n", "a.json": b"{}", "b/__init__.py": b""}
    write_archive(tmp_path / "one.zip", content)
    write_archive(tmp_path / "two.zip", dict(reversed(content.items())))
    assert read_archive(tmp_path / "one.zip") == content
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as made:
        made.extractall(tmp_path / "folder")
    assert read_archive(tmp_path / "folder") == content
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "name", ["../outside.py", "/etc/cron.d/job", "a/../../b", "a//b", "C:\\x", "a\\b", ".hidden", "a/.git", "ä.py", ""]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="not allowed"):
        read_archive(zipped(tmp_path / "x.zip", {"good.py": b"", name: b"x"}))
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("source/link.py")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr(entry, "/etc/passwd")
    with pytest.raises(ArchiveError, match="link or a device"):
        read_archive(tmp_path / "x.zip")


def test_links_in_a_folder_are_refused_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    for target in ("secret", "secret/key"):
        folder = tmp_path / f"bundle-{len(target)}"
        folder.mkdir()
        (folder / "link").symlink_to(tmp_path / target)
        with pytest.raises(ArchiveError, match="link or a device"):
            read_archive(folder)
    pipe = tmp_path / "piped"
    pipe.mkdir()
    os.mkfifo(pipe / "pipe")
    with pytest.raises(ArchiveError, match="link or a device"):
        read_archive(pipe)


def test_a_file_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "x.zip", {"rows/cells.parquet": bytes(50 * 1024 * 1024)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="times its packed size"):
        read_archive(bomb)


def test_a_header_that_lies_about_the_size_is_found(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.bin": bytes(10_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(signature) + offset
        data[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match=r"CRC|size"):
        read_archive(path)


def test_bounds_on_files_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError, match=f"more than {MAX_FILES} files"):
        read_archive(zipped(tmp_path / "many.zip", {f"f{i}": b"" for i in range(MAX_FILES + 1)}))
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(bytes(1000))
    packed = zipped(tmp_path / "large.zip", {name: bytes(1000) for name in ("a", "b", "c")})
    for bound, size in (("MAX_BYTES", 2500), ("MAX_FILE_BYTES", 900)):
        with monkeypatch.context() as patched:
            patched.setattr(archive, bound, size)
            for place in (folder, packed):
                with pytest.raises(ArchiveError, match="allowed"):
                    read_archive(place)
    monkeypatch.setattr(archive, "MAX_PACKED_BYTES", 1000)
    with pytest.raises(ArchiveError, match="allowed"):
        read_archive(packed)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.py", "a.py"), ("a.py", "A.py")])
def test_one_name_for_two_files_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        for name in names:
            made.writestr(name, name)
    with pytest.raises(ArchiveError, match="occurs twice"):
        read_archive(tmp_path / "x.zip")


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ArchiveError, match="not a readable zip archive"):
        read_archive(tmp_path / "text.zip")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        made.writestr("a", bytes(1000))
    (tmp_path / "cut.zip").write_bytes(whole.getvalue()[:-40])
    with pytest.raises(ArchiveError, match="not a readable zip archive"):
        read_archive(tmp_path / "cut.zip")
    with pytest.raises(UsageError, match="there is no bundle"):
        read_archive(tmp_path / "none.zip")


def test_a_name_that_is_not_the_text_it_claims_to_be_is_one_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"\u00e4.py": b""})  # sets the flag of the entry for UTF-8
    path.write_bytes(path.read_bytes().replace("\u00e4".encode(), b"\xff\xfe"))
    with pytest.raises(ArchiveError, match="is not a readable zip archive"):
        read_archive(path)
