"""Local files of every format are read alike, and what is wrong with one is said with its row."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.files import data_digest, open_records

ROWS = [
    {"prompt": "name a fruit, or two", "answer": "apple\nand pear", "id": "1"},
    {"prompt": 'say "moon"', "answer": "moon: Luna, Mönd", "id": "2"},
]


def write_csv(path: Path) -> None:
    quoted = [[field.replace('"', '""') for field in row.values()] for row in ROWS]
    lines = ["prompt,answer,id", *(",".join(f'"{field}"' for field in row) for row in quoted)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def write_columns(path: Path) -> None:
    """As published evaluation files have them: one list a column, and an empty one."""
    path.write_text(json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]} | {"inputs": [""]}))


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.csv": write_csv,
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "columns.json": write_columns,
    "rows.jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, ROWS))),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats_agree(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    records = open_records(tmp_path / name, "instruction")
    assert records.columns == ("prompt", "answer", "id")
    assert list(records.read(("prompt", "answer", "id"))) == ROWS
    assert list(records.read(("id",))) == [{"id": "1"}, {"id": "2"}]


def test_text_has_one_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("first one\n\n  second one \n")
    records = open_records(tmp_path / "prompts.txt", "goal")
    assert list(records.read(("goal",))) == [{"goal": "first one"}, {"goal": "second one"}]


def test_folder_of_shards(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"part-{number}.parquet")
    assert list(open_records(tmp_path, "").read(("prompt", "answer", "id"))) == ROWS
    before = data_digest(tmp_path)
    (tmp_path / "part-1.parquet").rename(tmp_path / "part-2.parquet")
    assert data_digest(tmp_path) != before
    (tmp_path / "more.csv").write_text("prompt\nx\n")
    with pytest.raises(UsageError, match=r"one format .* it holds \.csv \(more\.csv\), \.parquet \(part-2"):
        open_records(tmp_path, "")


def test_long_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"prompt\n{'a' * 200_000}\n")
    (row,) = open_records(tmp_path / "long.csv", "").read(("prompt",))
    assert len(row["prompt"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,id\nx,1\ny\n", r"a\.csv, row 2: 1 fields under 2 columns"),
        ("a.csv", b"prompt\n\xff\xfe\n", r"a\.csv cannot be read as \.csv"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl, row 2: no JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, row 2: a list; every row must be an object"),
        ("a.json", "{", r"a\.json is no JSON"),
        ("a.json", '{"a": 1}', r"a\.json must hold a list of objects"),
        ("a.json", '{"a": ["x"], "id": ["1", "2"]}', r"lists of different lengths \(a 1, id 2\)"),
        ("a.jsonl", '{"a": 1, "a": 2}', r"row 1: no JSON \(the key 'a' stands twice"),
        ("a.csv", "a,id,a\n1,2,3\n", r"several columns called 'a'"),
        ("a.csv", "a;id\n1;2\n", r"are separated by ';'; write it with commas .*; docs/data\.md has"),
        ("a.csv", "a,id\n1,2\n".encode("utf-16"), r"it is text in UTF-16; save it as UTF-8"),
        ("a.csv", "a,id\n1,2\n".encode("utf-16-le"), r"it is text in UTF-16, or no text, because NUL bytes"),
        ("a.json", "[]".encode("utf-32"), r"it is text in UTF-32; save it as UTF-8"),
        ("a.csv", "a\nMönd\n".encode("cp1252"), r"its text is not UTF-8; save it as UTF-8"),
        ("a.csv", "a;id;x,y\n1;2;3,4\n", r"are separated by ';'"),
        ("a.csv", "sep=,\na,id\n", r"begins with the line sep= of a spreadsheet program; write it without"),
        ("a.csv", "a|id\n1|2\n", r"are separated by '\|'"),
        ("a.csv", 'a,id\n"say \\"x\\"",2\n', r"write a quote inside them twice"),
        (
            "a.csv",
            gzip.compress(b"a\n1\n", mtime=0),
            r"it is a gzip file; rename it to \.gz, then unpack it with gunzip",
        ),
        ("a.jsonl", b"PAR1", r"it is a Parquet file; rename it to \.parquet"),
        (
            "a.txt",
            "version https://git-lfs.github.com/spec/v1\n",
            r"a pointer of Git LFS .*; fetch the file with git lfs",
        ),
        ("a.json", "<!DOCTYPE html>", r"it is a web page; download the file"),
        ("a.jsonl", '[{"a": 1}]', r"a\.jsonl begins with a list, as a JSON file does; name it \.json"),
        ("a.jsonl", '[\n{"a": 1}\n]', r"a\.jsonl begins with a list, as a JSON file does; name it \.json"),
        ("a.jsonl", '["a", "b"]\n["x", "y"]', r"a\.jsonl, row 1: a list; every row must be an object"),
        ("a.jsonl", '{"a":' * 9999, r"a\.jsonl, row 1: no JSON \(lists and objects lie too deep"),
        ("a.json", "[" * 9999, r"a\.json is no JSON: lists and objects lie too deep"),
        (
            "a.json",
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            r"lists of objects under train, test; write each list as",
        ),
        ("a.json", '{"a": {"0": "x"}}', r"and it holds an object with a; if it holds one object a line"),
        ("a.tab", "", r"no known format; .*; write it with commas between the fields, as \.csv"),
        (
            "a.tsv",
            "a\tid\n1\n",
            r"a\.tsv, row 1: 1 fields under 2 columns; a tab separates fields, and no field holds one",
        ),
        (
            "a.tsv",
            'a\tid\n"x"\t1\n',
            r'row 1: the field "x" is quoted, which leaves open whether .*; write it with commas',
        ),
        ("a.tsv", "a\ta\n1\t2\n", r"several columns called 'a'"),
        ("a.parquet", "nothing", r"a\.parquet cannot be read as \.parquet"),
        ("a.xlsx", "", r"no known format; a data file ends in \.csv, \.json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FedSafetyError, match=message):
        list(open_records(path, "").read(("a", "prompt", "id")))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    for read in (data_digest, lambda path: open_records(path, "")):
        with pytest.raises(
            UsageError, match=r"a\.jsonl is no file but a pipe or a device; write its content to a file"
        ):
            read(tmp_path / "a.jsonl")


def test_marks_of_byte_order_between_joined_files_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": 1}\n\ufeff{"a": 2}\r\n')
    assert list(open_records(tmp_path / "a.jsonl", "").read(("a",))) == [{"a": 1}, {"a": 2}]


def test_a_file_that_cannot_be_opened_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tasks.hub.files.files_sha256", refuse)
    with pytest.raises(
        FedSafetyError, match=r"a\.csv cannot be read as \.csv: .*Permission denied; mend or replace it"
    ):
        data_digest(tmp_path / "a.csv")


def test_json_lines_in_a_file_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(open_records(tmp_path / "a.json", "").read(("prompt", "answer", "id"))) == ROWS


def test_blanks_around_headings_are_not_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\n,prompt, answer\n0,x, "y"\n')
    assert list(open_records(tmp_path / "a.csv", "").read(("prompt", "answer"))) == [{"prompt": "x", "answer": "y"}]


@pytest.mark.parametrize(
    ("kind", "written", "found"),
    [
        (pa.float32(), [0.1, None], [0.1, None]),
        (pa.float16(), [np.float16(0.1), None], [0.1, None]),
        (pa.list_(pa.float16()), [[np.float16(0.1)], None], [[0.1], None]),
        (pa.list_(pa.float32(), 1), [[0.1], None], [[0.1], None]),
        (pa.struct({"a": pa.list_(pa.float32())}), [{"a": [0.1]}, None], [{"a": [0.1]}, None]),
        (pa.map_(pa.string(), pa.float32()), [[("a", 0.1)], None], [{"a": 0.1}, None]),
    ],
)
def test_short_floats_have_the_shortest_digits(
    tmp_path: Path, kind: pa.DataType, written: list[Any], found: list[Any]
) -> None:
    pq.write_table(pa.table({"a": pa.array(written, kind)}), tmp_path / "a.parquet")
    assert [row["a"] for row in open_records(tmp_path / "a.parquet", "").read(("a",))] == found


@pytest.mark.parametrize(("kind", "limit"), [(pa.float32(), np.float32(2**24)), (pa.float16(), np.float16(2**11))])
def test_short_floats_that_may_have_lost_digits_are_refused(tmp_path: Path, kind: pa.DataType, limit: Any) -> None:
    pq.write_table(pa.table({"a": pa.array([-limit + 1], kind)}), tmp_path / "a.parquet")
    assert [row["a"] for row in open_records(tmp_path / "a.parquet", "").read(("a",))] == [1 - float(limit)]
    pq.write_table(pa.table({"a": pa.array([-limit], kind)}), tmp_path / "a.parquet")
    with pytest.raises(
        FedSafetyError, match=r"the number -\d+\.0 has the type .* lost its last digits; write it as text"
    ):
        list(open_records(tmp_path / "a.parquet", "").read(("a",)))
