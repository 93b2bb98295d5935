"""The report of ``fedsafety doctor --data``: a data file or folder as a suite would read it."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.cells import cell_len, set_cell_size

from benchmark.errors import UsageError, unknown_name
from benchmark.screen import Screen

if TYPE_CHECKING:
    from tasks.hub.inspection import DataReport
    from tasks.hub.settings import DatasetSource

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Show a data file or folder as a suite would read it, and check nothing else."),
]
FormatOption = Annotated[str, typer.Option("--format", help="With --data: pairs, chat or prompts.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="With --data: our name=column, for example response=output; repeatable."),
]
PromptOption = Annotated[
    str,
    typer.Option("--prompt", help="With --data: instruction made of columns, for example 'Is it good? {sentence}'."),
]
AnswerOption = Annotated[
    list[str] | None,
    typer.Option("--answer", help="With --data: value=answer of the response's column, for example 1=yes; repeatable."),
]
SplitOption = Annotated[str, typer.Option("--split", help="With --data: split of a folder.")]
ConfigOption = Annotated[str, typer.Option("--config", help="With --data: configuration, a subfolder of a folder.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="With --data: column=value of the rows to keep; repeatable."),
]
FilterOption = Annotated[
    list[str] | None, typer.Option("--filter", help="With --data: named filter of rows; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="With --data: print JSON.")]

FORMATS = ("pairs", "chat", "prompts")
"""Names of the forms of rows."""
_LABEL = 10
"""Width of the labels on the left."""
_MOST = 5
"""Most files, columns or reasons that a line of the report lists."""


def data_source(
    form: str,
    columns: Sequence[str],
    where: Sequence[str],
    filters: Sequence[str],
    split: str,
    config: str,
    prompt: str = "",
    answers: Sequence[str] = (),
) -> DatasetSource:
    """Return the settings that the options stand for.

    Raises:
        UsageError: An option is no ``name=value``, names an unknown format or filter, names a column, value or filter
            that an earlier option names, or contradicts another option.
    """
    from tasks.hub.filters import check_filters
    from tasks.hub.settings import DatasetSource

    check_filters(filters)
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    mapping = _mapping("--column", columns)
    kept: dict[str, list[str]] = {}
    for column, value in (_pair("--where", text) for text in where):
        kept.setdefault(column, []).append(value)
    try:
        return DatasetSource(
            repository="local/data",
            format=form,  # type: ignore[arg-type]
            columns=mapping,
            prompt=prompt,
            answers=_mapping("--answer", answers),
            where={column: tuple(values) if len(values) > 1 else values[0] for column, values in kept.items()},
            filters=tuple(filters),
            split=split,
            config=config,
        )
    except ValidationError as error:
        reasons = (problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"these options make no source of data: {'; '.join(reasons)}") from None


def show_data(path: Path, source: DatasetSource, screen: Screen, *, as_json: bool) -> None:
    """Print the report on the data at ``path``.

    Raises:
        FedSafetyError: A suite would refuse the data. The report is printed before.
    """
    from tasks.hub.inspection import inspect_data

    report = inspect_data(path, source)
    if as_json:
        screen.say_json(_as_json(report))
    else:
        for line in report_lines(report, screen.width):
            screen.say(line)
    if report.error is not None:
        raise report.error


def _mapping(option: str, texts: Sequence[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for name, value in (_pair(option, text) for text in texts):
        if name in mapping:
            raise UsageError(f"{option} maps {name!r} to {mapping[name]!r} and to {value!r}; leave one out")
        mapping[name] = value
    return mapping


def report_lines(report: DataReport, width: int) -> Iterator[str]:
    """Yield the lines of a report, each at most ``width`` cells wide where no word is longer."""
    yield from _entry("data", escaped(report.path), width)
    for label, text in _facts(report):
        yield from _entry(label, escaped(text), width)
    for row in report.first_rows:
        yield ""
        yield cut(f"row {row.get('id', '')}", width)
        for name, text in row.items():
            if name != "id":
                yield cut(f"  {name:<12} {text}", width)


def escaped(text: str) -> str:
    """Return ``text`` with control characters, line breaks and halves of surrogate pairs written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cut(text: str, width: int) -> str:
    """Return the first ``width`` cells of ``text``, escaped. The last is an ellipsis where something is cut off."""
    shown = escaped(text[: 4 * width])  # marks take no cell, so that more characters than cells may fit
    fits = cell_len(shown) <= width and len(text) <= 4 * width
    return shown if fits else set_cell_size(shown, width - 1).rstrip() + "…"


def _facts(report: DataReport) -> Iterator[tuple[str, str]]:
    """Yield a label and a text for each part of a report that is not empty."""
    if Path(report.path).is_dir() and report.files:
        yield "files", f"{len(report.files):,} read: {_listed(report.files)}"
    if report.left_out:
        yield "left out", f"{len(report.left_out):,}: {_listed([f'{name} ({why})' for name, why in report.left_out])}"
    if report.columns:
        yield "columns", ", ".join(report.columns)
    if report.mapping:
        yield "mapping", ", ".join(f"{name} = {column}" for name, column in report.mapping.items())
    if report.unread and report.mapping:
        hint = "; add --column input=input where an instruction needs its input" if "input" in report.unread else ""
        yield "not read", ", ".join(report.unread) + hint
    for number, text in enumerate(_steps(report) if report.steps else ()):
        yield "" if number else "rows", text
    for label, kinds, found in (
        ("empty", "placeholders in {}, read as empty", report.emptied),
        ("doubtful", "texts in {} that look like placeholders, kept", report.doubtful),
    ):
        for column, counts in found.items():
            listed = _listed([f'"{text}" {count:,}' for text, count in counts.items()])
            yield label, f"{kinds.format(column)}: {sum(counts.values()):,} ({listed})"
    if report.advice:
        yield "try", report.advice


def _steps(report: DataReport) -> Iterator[str]:
    before = report.steps[0][1]
    yield f"{before:,} read"
    for name, after in report.steps[1:]:
        reasons = report.dropped.get(name, {})
        listed = [*reasons] if len(reasons) == 1 else [f"{reason}: {count:,}" for reason, count in reasons.items()]
        yield f"{name} drops {before - after:,}" + (f" ({_listed(listed, '; ')})" if listed else "")
        before = after
    if len(report.steps) > 1:
        yield f"{before:,} stay"


def _listed(names: Sequence[str], between: str = ", ") -> str:
    return between.join(names[:_MOST]) + (f" and {len(names) - _MOST:,} more" if len(names) > _MOST else "")


def _entry(label: str, text: str, width: int) -> list[str]:
    indent = " " * _LABEL
    return textwrap.wrap(
        text,
        max(width, _LABEL + 10),
        initial_indent=label.ljust(_LABEL),
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise UsageError(f"{option} is {text!r}; write a name, an equals sign and a value, for example response=output")
    return name, value


def _as_json(report: DataReport) -> dict[str, Any]:
    """Return a report as JSON has it: counts by name, and the error as text."""
    content = dataclasses.asdict(dataclasses.replace(report, error=None))
    left_out = [{"file": name, "reason": reason} for name, reason in report.left_out]
    steps = [{"step": name, "rows": rows} for name, rows in report.steps]
    return content | {"left_out": left_out, "steps": steps, "error": str(report.error or "")}
