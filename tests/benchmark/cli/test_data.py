"""The report of ``doctor --data`` on terminals of any width, and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from benchmark.cli.data import cut, data_source
from benchmark.cli.main import app
from benchmark.errors import FedSafetyError, UsageError

ROW = {"instruction": "Say \x1b[31mhi\nnow [bold]", "input": "<noinput>", "output": "你好" * 100}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("a[1].jsonl")
    file.write_text(json.dumps(ROW) + "\n")
    return file


def doctor(*arguments: str | Path, width: int = 80) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": str(width)})


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_report_fits_the_terminal(path: Path, width: int) -> None:
    result = doctor("--data", path, "--column", "response=output", width=width)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(cell_len, lines)) <= width
    text = " ".join(result.output.split())
    assert "data a[1].jsonl columns instruction, input, output" in text
    assert "mapping instruction = instruction, response = output" in text
    assert "not read input; add --column input=input where an instruction needs its input" in text
    assert "rows 1 read row 0001 instruction Say \\x1b[31mhi\\nnow" in text
    assert lines[-1].startswith("  response     你好你好")
    assert lines[-1].endswith("…")


def test_the_whole_report(path: Path) -> None:
    rows = [ROW, *({"instruction": text, "output": "N/A"} for text in "xy")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = ("--column", "response=output", "--column", "input=input")
    where = ("--where", "instruction=x", "--where", "instruction=y")
    result = doctor("--data", path, *mapping, "--filter", "with_text", *where, width=200)
    assert result.output.splitlines() == [
        "data      a[1].jsonl",
        "columns   instruction, input, output",
        "mapping   instruction = instruction, response = output, input = input",
        "rows      3 read",
        "          instruction=x|y drops 1 (instruction is say \\x1b[31mhi\\nnow [bold])",
        "          with_text drops 0",
        "          2 stay",
        'doubtful  texts in response that look like placeholders, kept: 2 ("N/A" 2)',
        "",
        "row 0002",
        "  instruction  x",
        "  response     N/A",
        "",
        "row 0003",
        "  instruction  y",
        "  response     N/A",
    ]


def test_several_reasons_are_counted(path: Path) -> None:
    rows = [{"instruction": "a", "output": ""}, {"instruction": "", "output": "b"}, {"instruction": "c", "output": "d"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = doctor("--data", path, "--column", "response=output", "--filter", "with_text")
    assert "          with_text drops 2 (no instruction: 1; no response: 1)\n" in result.output


def test_json_has_the_report_and_the_error(path: Path) -> None:
    result = doctor("--data", path, "--json", width=20)
    assert isinstance(result.exception, FedSafetyError)
    assert result.output.isascii()
    content = json.loads(result.output)
    assert content["columns"] == ["instruction", "input", "output"]
    assert content["error"] == str(result.exception)
    assert content["advice"] == "--column response=output --column input=input"
    whole = json.loads(doctor("--data", path, "--json", "--column", "response=output").output)
    assert whole["error"] == ""
    assert whole["first_rows"][0]["instruction"] == ROW["instruction"]
    assert whole["steps"] == [{"step": "read", "rows": 1}]


def test_a_prompt_and_answers_are_shown_as_a_suite_reads_them(path: Path) -> None:
    rows = [{"sentence": "a gem", "label": 1}, {"sentence": "a bore", "label": 0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--prompt", "Good?\n{sentence}", "--column", "response=label", "--answer", "1=yes", "--answer", "0=no")
    result = doctor("--data", path, *options, width=200)
    assert result.output.splitlines() == [
        "data      a[1].jsonl",
        "columns   sentence, label",
        "mapping   instruction = Good?\\n{sentence}, response = label",
        "rows      2 read",
        "",
        "row 0001",
        "  instruction  Good?\\na gem",
        "  response     yes",
        "",
        "row 0002",
        "  instruction  Good?\\na bore",
        "  response     no",
    ]
    error = doctor("--data", path, *options[:-2]).exception
    assert "is '0', for which no answer is named; answers has 1" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--column", "response"), "--column is 'response'; write a name, an equals sign and a value"),
        (("--format", "chats"), "unknown format 'chats'; did you mean 'chat'?"),
        (("--filter", "inglish"), "unknown filter of rows 'inglish'; did you mean 'english'?"),
        (
            ("--column", "response=output", "--column", "response=input"),
            "--column maps 'response' to 'output' and to 'input'; leave one out",
        ),
        (("--filter", "with_text", "--filter", "with_text"), "the filter 'with_text' is named twice"),
        (("--column", "reply=output"), "unknown name of a column of a[1].jsonl 'reply'"),
        (("--answer", "1=a", "--answer", "1=b"), "--answer maps '1' to 'a' and to 'b'; leave one out"),
        (("--answer", "A=a", "--answer", "a=b"), "make no source of data: two answers are named for the value 'a'"),
        (("--prompt", "Good?"), "make no source of data: prompt 'Good?' names no column; write {column} where"),
    ],
)
def test_wrong_options_are_named(path: Path, options: Sequence[str], message: str) -> None:
    error = doctor("--data", path, *options).exception
    assert isinstance(error, UsageError)
    assert message in str(error)


@pytest.mark.parametrize(
    "options", [("--json",), ("--split", "test"), ("--format", "chat"), ("--prompt", "{x}"), ("--answer", "1=a")]
)
def test_options_of_data_need_data(options: Sequence[str]) -> None:
    error = doctor(*options).exception
    assert isinstance(error, UsageError)
    assert "belong to --data; add --data PATH, or leave them out" in str(error)


@pytest.mark.parametrize(
    ("option", "value"), [("--suite", "small"), ("--engine", "vllm"), ("--data-root", "."), ("--model-root", ".")]
)
def test_data_are_shown_without_other_options(path: Path, option: str, value: str) -> None:
    error = doctor("--data", path, option, value).exception
    assert isinstance(error, UsageError)
    assert f"does not use {option}; leave out {option} or --data" in str(error)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    error = doctor("--data", tmp_path / "a.jsonl").exception
    assert isinstance(error, UsageError)
    assert "is no file but a pipe or a device" in str(error)


def test_values_of_where_are_any_of_those_named() -> None:
    source = data_source("pairs", (), ("language=en", "language=de", "x=a=b"), (), "test", "")
    assert source.where == {"language": ("en", "de"), "x": "a=b"}


@pytest.mark.parametrize(("text", "shown"), [("abcdef", "abcdef"), ("abcdefg", "abcde…"), ("你好你好", "你好…")])
def test_texts_are_cut_by_cells(text: str, shown: str) -> None:
    assert cut(text, 6) == shown


def test_data_are_shown_without_pytorch(path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from benchmark.cli.main import app; "
        f"print(CliRunner().invoke(app, ['doctor', '--data', {str(path)!r}, '--column', 'response=output']).exit_code, "
        "[name for name in ('torch', 'transformers', 'datasets', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "0 []\n"
