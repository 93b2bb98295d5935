"""The commands ``fedsafety reading draw | add | report``: answers for readers, their labels, and their agreement."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from benchmark.cli.shared import Program, RunsOption, console
from benchmark.errors import UsageError
from benchmark.screen import Fitted, printable
from benchmark.suite_names import no_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from leaderboard.scores.stats import Estimate

app = Program(no_args_is_help=True, help="Check a judge by reading: draw answers, add two readers' labels, report.")

SuiteOption = Annotated[str, typer.Option("--suite", help="Suite id, as it stands in the rows.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of committed rows.")]

_KINDS = {"": "all", "harmful": "harmful", "over_refusal": "over-refusal"}


def register(program: typer.Typer) -> None:
    """Add the group of commands to ``program``."""
    program.add_typer(app, name="reading")


@app.command("draw")
def draw_command(
    suite: SuiteOption,
    runs: RunsOption = Path("runs"),
    size: Annotated[int, typer.Option("--size", help="Number of answers.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 1,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Scenario; repeatable. Default: all that are stored.")
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option("--defense", help="Defense; repeatable. Default: all that are stored.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Sheet to write, ending in .jsonl. Default: <runs>/readings/<suite>-<seed>.jsonl."),
    ] = None,
) -> None:
    """Draw answers for two readers, evenly over kinds of request, scenarios and defenses.

    Writes a blind sheet (number, question, answer), its key, and an empty form for labels. The key holds the origin of
    each answer. Readers must not see it.
    """
    from benchmark.readings.draw import check_size, draw, stored_answers
    from benchmark.readings.sheet import check_place, form_file, key_file, write_sheet
    from benchmark.records.schemas import LABELS
    from benchmark.records.store import Store

    check_size(size)
    sheet = out or runs / "readings" / f"{suite}-{seed}.jsonl"
    check_place(sheet)
    drawn = draw(stored_answers(Store(runs), suite, scenario or (), defense or ()), size, seed)
    key = write_sheet(drawn, sheet, suite, seed)
    defenses, scenarios = ({getattr(answer, name) for answer in drawn} for name in ("defense", "scenario"))
    kinds = {kind: sum(answer.kind == kind for answer in drawn) for kind in sorted({each.kind for each in drawn})}
    console.say(
        f"sheet {key.sheet}: {len(drawn)} answers ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}) of "
        f"{len(defenses)} defenses in {len(scenarios)} scenarios"
    )
    console.say(f"for the readers: {sheet}; each fills in a copy of {form_file(sheet)} with {', '.join(LABELS)}")
    console.say(f"not for the readers: {key_file(sheet)}")
    console.say("The sheet holds answers to harmful requests: keep it out of git and of any publication.", "yellow")


@app.command("add")
def add_command(
    key: Annotated[Path, typer.Argument(help="Key of the sheet, <name>.key.json.")],
    labels: Annotated[
        list[Path] | None, typer.Option("--labels", help="Form that a reader filled in; once for each of two readers.")
    ] = None,
    reader: Annotated[
        list[str] | None, typer.Option("--reader", help="Name of the reader, in the order of --labels.")
    ] = None,
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("results"),
    date: Annotated[str, typer.Option("--date", help="Date of the labels, YYYY-MM-DD. Default: today.")] = "",
) -> None:
    """Add the labels of two readers to the committed rows, with the judges' verdicts and without any text.

    Writes one file below <results>/<suite>/readings/ and prints the agreement. Wrong input writes nothing.
    """
    from benchmark.readings.labels import Reader, add_readings, read_labels, reading_rows
    from benchmark.readings.sheet import read_key
    from benchmark.records.store import Store

    forms, names = labels or [], reader or []
    if len(forms) != 2 or len(names) != 2:
        raise UsageError(
            f"--labels is given {_times(forms)} and --reader {_times(names)}, but the rows need exactly two readers; "
            f"give each option twice: the form of each reader, and the names in the same order"
        )
    if forms[0].resolve() == forms[1].resolve():
        raise UsageError(
            f"{forms[1]} is given for both readers, but each reader fills in a form without the other's labels; name "
            f"two different files with --labels"
        )
    day = _day(date)
    sheet = read_key(key)
    readers = [Reader(name, read_labels(form, sheet)) for form, name in zip(forms, names, strict=True)]
    rows = reading_rows(Store(runs), sheet, readers, day)
    path = add_readings(results, rows)
    console.say(f"{len(rows)} readings added as {path}")
    _print(rows)


@app.command("report")
def report_command(
    suite: SuiteOption,
    results: ResultsOption = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Print how far the readers agree, and the errors of each judge, from the committed readings of a suite."""
    from benchmark.records.store import Store

    rows = Store(results / suite).read_all("readings")
    if not len(rows):
        way_out = "add some with `fedsafety reading add`, or name the folder of committed rows with --results"
        # The folder of a suite of the user's own shows that the suite exists.
        if (results / suite).is_dir():
            raise UsageError(f"{results / suite} holds no readings; {way_out}")
        held = [folder.parent.name for folder in results.glob("*/readings")]
        raise no_rows(suite, held, str(results), way_out, rows="readings")
    if as_json:
        console.say_json(_numbers(rows))
    else:
        _print(rows)


def _times(values: Sequence[object]) -> str:
    return "once" if len(values) == 1 else f"{len(values)} times"


def _day(text: str) -> datetime.date:
    """Return the date of a text; today for an empty one."""
    if not text:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC).date()
    except ValueError:
        raise UsageError(f"{text!r} is not a date; write it as 2030-01-31 (--date)") from None


def _numbers(rows: pa.Table) -> dict[str, Any]:
    """Return the statistics of readings as JSON-like data; an undefined number is ``None``."""
    from benchmark.records.schemas import LABELS, READ_KINDS
    from leaderboard.scores.reader_agreement import (
        AGREED,
        FIRST,
        SECOND,
        judge_check,
        judges_of,
        reader_agreement,
        readings_of,
    )

    readings = readings_of(rows)
    kinds = [kind for kind in READ_KINDS if any(reading.kind == kind for reading in readings)]
    agreements = [reader_agreement(readings, kind) for kind in ("", *kinds)]
    checks = [
        judge_check(readings, judge, kind, reference)
        for judge in judges_of(readings, "")
        for kind in kinds
        for reference in (AGREED, FIRST, SECOND)
    ]
    return {
        "labels": list(LABELS),
        "readers": [
            {
                "kind": line.kind,
                "answers": line.answers,
                "table": [list(row) for row in line.table],
                "agreement": _plain(line.agreement),
                "kappa": _plain(line.kappa),
            }
            for line in agreements
        ],
        "judges": [
            {
                "judge": check.judge,
                "kind": check.kind,
                "reference": check.reference,
                "verdicts": list(check.verdicts),
                "table": [list(row) for row in check.table],
                "decided": check.decided,
                "too_high": check.too_high,
                "too_low": check.too_low,
                "error": _plain(check.error),
            }
            for check in checks
            if check.answers
        ],
    }


def _plain(value: Estimate) -> list[float | None]:
    """Return mean, low and high, with ``None`` in place of nan."""
    return [None if math.isnan(number) else number for number in (value.mean, value.low, value.high)]


def _print(rows: pa.Table) -> None:
    """Print the statistics of readings as two tables, of the judges against the labels on which both readers agree."""
    from leaderboard.scores.reader_agreement import AGREED

    numbers = _numbers(rows)
    readers = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    readers.add_column("readers, on")
    for heading in ("answers", "equal labels, %", "kappa"):
        readers.add_column(heading, justify="right", no_wrap=True)
    for line in numbers["readers"]:
        agreement, kappa = _shown(line["agreement"], 100, 1), _shown(line["kappa"], 1, 2)
        readers.add_row(_KINDS[line["kind"]], str(line["answers"]), Text(agreement), Text(kappa))
    judges = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("judge", "on"):
        judges.add_column(heading)
    for heading in ("answers", "errors, %", "too high", "too low"):
        judges.add_column(heading, justify="right", no_wrap=True)
    for line in (line for line in numbers["judges"] if line["reference"] == AGREED):
        counts = (str(line[name]) for name in ("too_high", "too_low"))
        judges.add_row(
            printable(line["judge"]),
            _KINDS[line["kind"]],
            str(line["decided"]),
            Text(_shown(line["error"], 100, 1)),
            *counts,
        )
    console.print(Fitted(readers))
    console.print(Fitted(judges))
    console.say(
        "Errors of each judge against the labels on which both readers agree, with 95 % intervals. too high: errors "
        "that raise the score that the judge reports. --json of `fedsafety reading report` has each reader."
    )


def _shown(value: list[float | None], factor: float, digits: int) -> str:
    """Return an estimate as ``0.40 [0.15, 0.65]``; a dash where it is undefined."""
    mean, low, high = (None if number is None else f"{factor * number:.{digits}f}" for number in value)
    return "\N{EN DASH}" if mean is None else mean if low is None else f"{mean} [{low}, {high}]"
