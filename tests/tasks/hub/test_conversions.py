"""Every format that is refused has a way out, and the page on data files has all of them."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather

from benchmark.errors import FedSafetyError
from tasks.hub.conversations import ASSISTANTS, USERS
from tasks.hub.conversions import WAYS, foreign_content
from tasks.hub.files import SUFFIXES, open_records

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_lists_every_ending_and_role() -> None:
    words = {*re.findall(r"`([\w.]+)`", PAGE)}
    assert words >= {*SUFFIXES, *WAYS, *USERS, *ASSISTANTS}


def command(comment: str) -> str:
    """Return the Python source of the command of the page that follows a comment."""
    found = re.search(rf"# {re.escape(comment)}.*?-c '(.*?)'\n", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a\tb\n1,2\t"3\t4"\n', ""),
        ("a\tb\n1\t2\t3\n", "row 1: 3 fields under 2 columns"),
        ("a\tb\n1\n", "row 1: 1 fields under 2 columns"),
        ('a\tb\n"1\t2\n3\t4\n', "unexpected end of data"),
    ],
)
def test_the_command_for_tables_changes_nothing_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.tsv").write_text(rows, encoding="utf-8-sig")

    def convert() -> list[dict[str, Any]]:
        exec(command("A table with another separator"), {})
        return list(open_records(tmp_path / "new.csv", "").read(("a", "b")))

    if message:
        with pytest.raises((FedSafetyError, csv.Error), match=message):
            convert()
    else:
        assert convert() == [{"a": "1,2", "b": "3\t4"}]


@pytest.mark.parametrize("form", ["datasets", "file", "feather"])
def test_the_command_for_arrow_reads_streams_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"q": "ü", "r": "a\nb"}, {"q": "", "r": None}]
    table = pa.Table.from_pylist(rows)
    if form == "feather":
        feather.write_feather(table, "old.arrow")
    else:
        new = pa.ipc.new_stream if form == "datasets" else pa.ipc.new_file
        with new("old.arrow", table.schema) as writer:
            writer.write_table(table)
    exec(command("A file in the format Arrow or Feather"), {})
    assert list(open_records(tmp_path / "new.parquet", "").read(("q", "r"))) == rows


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl", b"\x1f\x8b", "a gzip file; rename it to .gz, then unpack it with gunzip"),
        ("a.csv", b"PK\x03\x04", "a zip file or a spreadsheet; rename it to .zip, then unpack it with unzip"),
        ("a.parquet", b"PAR1", ""),
        ("a.txt", b"BZh is no bzip2", ""),
        ("a.csv", b"BZh91AY&SY", "a bzip2 file; rename it to .bz2, then unpack it with bunzip2"),
        ("a.parquet", b"\x00", ""),
        (
            "a.jsonl",
            b"\xff\xff\xff\xff\x10\x00",
            f"an Arrow stream; rename it to .arrow, then {WAYS['.arrow']}",
        ),
        ("a.txt", b"a\x00", "text in UTF-16, or no text, because NUL bytes stand in it; save it as UTF-8"),
        ("a.json", b"\xff\xfe\x00\x00[", "text in UTF-32; save it as UTF-8"),
        ("a.json", "[“".encode(), ""),
        ("a.json", b"", ""),
    ],
)
def test_the_first_bytes_give_the_format(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert foreign_content(tmp_path / name) == found


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("An object for each column", {"q": {"1": "a", "2": "b"}, "r": {"2": "d", "1": "c"}}),
        ("An object for each row", {"1": {"q": "a", "r": "c"}, "2": {"q": "b", "r": "d"}}),
    ],
)
def test_commands_for_tables_of_pandas_keep_rows_together(tmp_path: Path, title: str, table: object) -> None:
    assert run_command(tmp_path, title, table) == 0
    assert json.loads((tmp_path / "new.json").read_text()) == [{"q": "a", "r": "c"}, {"q": "b", "r": "d"}]


def test_columns_with_other_keys_are_not_cut(tmp_path: Path) -> None:
    assert run_command(tmp_path, "An object for each column", {"q": {"1": "a"}, "r": {"1": "c", "2": "d"}}) == 1
    assert not (tmp_path / "new.json").exists()


def run_command(folder: Path, title: str, table: object) -> int:
    """Run the command of the page under ``title`` on ``table`` and return its status."""
    match = re.search(rf"# {title}.*\n\.venv/bin/python -c '([^']*)'\n", PAGE)
    assert match
    (folder / "old.json").write_text(json.dumps(table))
    return subprocess.run([sys.executable, "-c", match[1]], cwd=folder, check=False, capture_output=True).returncode
