"""``fedsafety reading``: from stored answers to committed labels, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboard.rows.rows import load_rows
from tests.benchmark.cli.test_main import run
from tests.leaderboard.synthetic import LOCAL, write_rows

__all__ = ["run"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sheet(run: Command, tmp_path: Path) -> Path:
    """A sheet of 20 answers, with a form of each of two readers who differ on the first number."""
    write_rows(tmp_path / "runs", LOCAL)
    status, output, _ = run("reading", "draw", "--suite", "micro", "--size", "20")
    path = Path("runs/readings/micro-1.jsonl")
    assert status == 0
    assert "20 answers (10 harmful, 10 over_refusal) of 5 defenses in 2 scenarios" in output
    assert "keep it out of git" in output
    heading = Path("runs/readings/micro-1.labels.csv").read_text().splitlines()[:2]
    for name, first in (("a", "neither"), ("b", "refusal")):
        lines = [*heading, f"1,{first}", *(f"{number},refusal" for number in range(2, 21))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    return path


def added(run: Command, *more: str, labels: tuple[str, ...] = ("a.csv", "b.csv")) -> tuple[int, str, str]:
    forms = [word for name in labels for word in ("--labels", name)]
    names = ["--reader", "reader A", "--reader", "reader B"]
    return run("reading", "add", "runs/readings/micro-1.key.json", *forms, *names, "--date", "2030-01-31", *more)


def test_labels_are_added_and_reported(run: Command, sheet: Path, tmp_path: Path) -> None:
    status, output, errors = added(run)
    assert (status, errors) == (0, "")
    assert "20 readings added as results/micro/readings/" in output
    assert "95.0 [76.4, 99.1]" in output
    assert sorted(os.listdir(tmp_path / "results" / "micro")) == ["readings"]
    rows = load_rows([tmp_path / "results"]).published.readings.to_pylist()
    assert {row["sheet"] for row in rows} == {output_digest(sheet)}
    status, output, _ = run("reading", "report", "--suite", "micro", "--json")
    numbers = json.loads(output)
    assert (status, numbers["readers"][0]["answers"], numbers["readers"][0]["agreement"][0]) == (0, 20, 0.95)
    assert {line["judge"] for line in numbers["judges"]} == {"oracle", "rule", "micro_judge"}
    assert "reader A" not in output
    status, _, errors = added(run)
    assert (status, "already, and each sheet is added once; remove that file to replace its labels" in errors) == (
        2,
        True,
    )


def output_digest(sheet: Path) -> str:
    return str(json.loads(sheet.with_name("micro-1.key.json").read_text())["sheet"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("2,refusal", "2,yes"), "unknown label 'yes'"),
        (("\n2,refusal\n", "\n"), "has no label for number 2 (1 of 20 numbers are missing)"),
        (("# sheet ", "# sheet 0"), "holds labels of sheet '0"),
    ],
)
def test_wrong_labels_give_one_error_and_write_nothing(
    change: tuple[str, str], message: str, run: Command, sheet: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.csv"
    path.write_text(path.read_text().replace(*change))
    status, output, errors = added(run)
    assert (status, output) == (2, "")
    assert errors.count("error:") == 1
    assert message in errors
    assert not (tmp_path / "results").exists()


def test_one_reader_twice_and_a_wrong_date_are_refused(run: Command, sheet: Path) -> None:
    status, output, errors = added(run, labels=("a.csv", "./a.csv"))
    assert (status, output) == (2, "")
    assert errors == (
        "error: a.csv is given for both readers, but each reader fills in a form without the other's labels; name two "
        "different files with --labels\n"
    )
    rule = "but the rows need exactly two readers; give each option twice"
    assert f"--labels is given once and --reader 2 times, {rule}" in added(run, labels=("a.csv",))[2]
    assert f"--labels is given 0 times and --reader 2 times, {rule}" in added(run, labels=())[2]
    assert "'soon' is not a date" in added(run, "--date", "soon")[2]


def test_a_sheet_is_not_drawn_over_another(run: Command, sheet: Path) -> None:
    before = sheet.read_bytes()
    status, _, errors = run("reading", "draw", "--suite", "micro", "--size", "20")
    assert (status, "micro-1.jsonl exists" in errors) == (2, True)
    assert sheet.read_bytes() == before


@pytest.mark.parametrize("size", ["0", "-3"])
def test_a_draw_of_none_is_refused_before_anything_is_read(run: Command, size: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    (tmp_path / "runs" / "cells" / "damaged.parquet").write_bytes(b"damaged")
    status, output, errors = run("reading", "draw", "--suite", "mikro", "--size", size, "--out", "sheet.txt")
    assert (status, output) == (2, "")
    assert errors == f"error: {size} answers cannot be drawn; draw at least 1 (--size)\n"


def test_a_folder_without_readings_is_named(run: Command, tmp_path: Path) -> None:
    (tmp_path / "results" / "mine").mkdir(parents=True)
    status, _, errors = run("reading", "report", "--suite", "mine")
    assert (status, "results/mine holds no readings; add some with" in errors) == (2, True)
    status, _, errors = run("reading", "report", "--suite", "micro")
    assert (status, "suite 'micro' exists, but there are no readings of it in results; add" in errors) == (2, True)


def test_a_report_on_a_misspelt_suite_is_refused(run: Command, sheet: Path) -> None:
    assert added(run)[0] == 0
    status, output, errors = run("reading", "report", "--suite", "mikro")
    assert (status, output, errors) == (2, "", "error: unknown suite 'mikro'; did you mean 'micro'?\n")
    assert "no readings of it in results, only of micro" in run("reading", "report", "--suite", "pocket")[2]
