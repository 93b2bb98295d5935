"""A sheet is blind, its key joins it with the rows, and no sheet lands where git would track it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from benchmark.errors import StorageError, UsageError
from benchmark.readings.draw import draw, stored_answers
from benchmark.readings.sheet import check_place, form_file, key_file, read_key, write_sheet
from benchmark.records.store import Store


def test_the_sheet_is_blind_and_the_key_has_the_origins(store: Store, tmp_path: Path) -> None:
    drawn = draw(stored_answers(store, "micro"), 40, 1)
    sheet = tmp_path / "new" / "a.jsonl"
    key = write_sheet(drawn, sheet, "micro", 1)
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"number", "question", "answer"}] * 40
    assert [(line["number"], line["answer"]) for line in lines] == list(enumerate((each.text for each in drawn), 1))
    text = sheet.read_text()
    assert not any(each.response_key in text or f'"{each.defense}"' in text for each in drawn)
    assert read_key(key_file(sheet)) == key
    for number, (entry, each) in enumerate(zip(key.answers, drawn, strict=True), 1):
        assert entry.model_dump(exclude={"answer"}) == each.model_dump(exclude={"question", "text"}) | {
            "number": number
        }
        assert entry.answer == hashlib.sha256(each.text.encode()).hexdigest()
    assert not any(each.text in key_file(sheet).read_text() for each in drawn)
    assert form_file(sheet).read_text().splitlines()[:3] == [f"# sheet {key.sheet}", "number,label", "1,"]


def test_an_answer_of_several_lines_and_letters_is_one_line_of_the_sheet(store: Store, tmp_path: Path) -> None:
    (one,) = draw(stored_answers(store, "micro"), 1, 1)
    text = 'é\n\u2028"no", \u6f22'
    write_sheet([one.model_copy(update={"text": text})], tmp_path / "a.jsonl", "micro", 1)
    (line,) = (tmp_path / "a.jsonl").read_text(encoding="utf-8").strip("\n").split("\n")
    assert json.loads(line)["answer"] == text
    assert "\u6f22" in line


def test_a_sheet_is_not_overwritten_and_has_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.key.json").write_text("")
    with pytest.raises(UsageError, match=r"a\.key\.json exists; move it away"):
        check_place(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match=r"does not end in \.jsonl"):
        check_place(tmp_path / "a.csv")


def test_a_place_that_git_tracks_is_refused_and_an_ignored_one_is_not(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("/runs/\n")
    check_place(tmp_path / "runs" / "readings" / "a.jsonl")
    with pytest.raises(UsageError, match=r"git would track .*such as runs/readings/a\.jsonl"):
        check_place(tmp_path / "results" / "a.jsonl")


def test_nothing_is_half_written(store: Store, tmp_path: Path) -> None:
    drawn = draw(stored_answers(store, "micro"), 2, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the sheet"):
        write_sheet(drawn, tmp_path / "file" / "a.jsonl", "micro", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the key of a sheet"),
        ('{"sheet": "a", "suite": "b", "draw_seed": 1, "answers": []}', "does not number its answers from 1"),
        ('{"sheet": "a", "suite": "b", "draw_seed": 1, "answers": [], "x": 1}', "is not the key of a sheet"),
    ],
)
def test_a_file_that_is_no_key_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.key.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_key(tmp_path / "a.key.json")
    with pytest.raises(UsageError, match=r"cannot read .*name the \.key\.json file"):
        read_key(tmp_path / "b.key.json")
