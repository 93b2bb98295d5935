"""Texts and tables on terminals of any width: names remain, brackets are no markup, JSON is ASCII."""

from __future__ import annotations

import io
import json

import pytest
from rich.table import Table

from benchmark.screen import LEAST_WIDTH, Fitted, Screen, printable

NAME = "a_rule_with_a_name_of_thirty_x"


def shown(width: int, monkeypatch: pytest.MonkeyPatch, **choices: object) -> str:
    """Return a table with rank, name and two numbers as a terminal of that width shows it."""
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table()
    for heading in ("#", "defense", "safety", "utility"):
        table.add_column(heading, no_wrap=heading in ("safety", "utility"))
    table.add_row("12", NAME, "99.7 [98,100]x", "97.4")
    screen = Screen()
    screen.file = io.StringIO()
    screen.print(Fitted(table, names=2, **choices))  # type: ignore[arg-type]
    return screen.file.getvalue()


def cells(text: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if "12" in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_wide_terminal_shows_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(100, monkeypatch)
    assert cells(text) == ["12", NAME, "99.7 [98,100]x", "97.4"]
    assert "Not shown" not in text


def test_numbers_are_left_out_before_names_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(60, monkeypatch)
    assert cells(text) == ["12", NAME, "99.7 [98,100]x"]
    assert "Not shown: utility. COLUMNS=66 before the command shows all columns." in " ".join(text.split())
    assert cells(shown(66, monkeypatch)) == ["12", NAME, "99.7 [98,100]x", "97.4"]
    assert cells(shown(65, monkeypatch)) == ["12", NAME, "99.7 [98,100]x"]
    assert cells(shown(60, monkeypatch, first_out=["safety"])) == ["12", NAME, "97.4"]
    assert cells(shown(40, monkeypatch)) == ["12", NAME]


@pytest.mark.parametrize("width", [30, 20, 1, 0])
def test_names_fold_where_they_alone_are_too_wide(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(width, monkeypatch)
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    assert "".join(line[1].strip() for line in lines) == NAME
    assert lines[0][0].strip() == "12"
    assert max(map(len, text.splitlines())) <= max(LEAST_WIDTH, width)


def test_brackets_and_colons_in_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "runs[bold]/[/red]: a :smiley: [x]"
    Screen().say(text)
    table = Table()
    table.add_column("[bold]id[/bold]")
    table.add_row("[/]")
    Screen().print(Fitted(table))
    out = capsys.readouterr().out
    assert out.startswith(f"{text}\n")
    assert "[bold]id[/bold]" in out
    assert "[/] " in out


def test_a_text_is_one_line_however_narrow_the_terminal_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    Screen(stderr=True).say("a command that is copied as one line")
    assert capsys.readouterr().err == "a command that is copied as one line\n"


def test_characters_that_act_on_a_terminal_become_blanks() -> None:
    assert printable("a\x1b[31mb\rc\x07\u202ed\x9b\ne") == "a [31mb c  d \ne"
    assert printable("שלום 漢字 é \u200d") == "שלום 漢字 é \u200d"


def test_json_is_plain_ascii_even_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "5")
    content = {"title": "[bold]ö …\x1b[31m " + "long " * 50, "path": "\udcff"}
    Screen().say_json(content)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == content
    with pytest.raises(ValueError, match="not JSON compliant"):
        Screen().say_json(float("nan"))
