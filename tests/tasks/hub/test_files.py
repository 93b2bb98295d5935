"""Local files of every format are read alike, and what is wrong with one is said with its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
    with pytest.raises(UsageError, match=r"one format .* it holds \.csv, \.parquet"):
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
        ("a.csv", "a;id\n1;2\n", r"are separated by ';'; write them with commas"),
        ("a.csv", "a,id\n1,2\n".encode("utf-16"), r"its text is UTF-16, not UTF-8; save it as UTF-8"),
        ("a.csv", "a\nMönd\n".encode("cp1252"), r"its text is another coding, not UTF-8"),
        ("a.parquet", "nothing", r"a\.parquet cannot be read as \.parquet"),
        ("a.xlsx", "", r"no known format; a data file ends in \.csv, \.json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FedSafetyError, match=message):
        list(open_records(path, "").read(("a", "prompt", "id")))


def test_json_lines_in_a_file_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(open_records(tmp_path / "a.json", "").read(("prompt", "answer", "id"))) == ROWS


def test_blanks_around_headings_are_not_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",prompt, answer\n0,x,y\n")
    assert list(open_records(tmp_path / "a.csv", "").read(("prompt", "answer"))) == [{"prompt": "x", "answer": "y"}]
