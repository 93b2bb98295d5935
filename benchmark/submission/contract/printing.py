"""The report of a check, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.methods.kinds import KINDS
from benchmark.progress import duration
from benchmark.submission.contract.report import CheckReport, Finding, Part, ShapeCost, SmokeScore, Verdict

_MARKS = {
    Verdict.PASSED: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.FAILED: ("FAILED", "bold red"),
    Verdict.NOT_APPLICABLE: ("n/a", "dim"),
    Verdict.NOT_RUN: ("left out", "dim"),
}
_TITLES = {
    Part.METADATA: "Metadata",
    Part.CONTRACT: "Contract",
    Part.ROBUSTNESS: "Robustness, time and memory",
    Part.SMOKE: "Smoke run",
}


def print_report(report: CheckReport, console: Console) -> None:
    """Print what was checked, what was found and how to mend it, time and memory, and the smoke run's scores."""
    title = f" ({report.title})" if report.title else ""
    _line(console, f"\n{report.kind} {report.id}{title}, {report.origin}", "bold")
    isolated = f"isolated by {report.isolation.name} {report.isolation.version}"
    _line(console, f"its code ran {'without isolation' if report.isolation.name == 'none' else isolated}", "dim")
    for warning in report.warnings:
        _line(console, f"warning: {warning}", "yellow")
    for part in Part:
        findings = [finding for finding in report.findings if finding.part is part]
        if findings:
            _line(console, f"\n{_TITLES[part]}", "bold")
            for finding in findings:
                _print_finding(finding, console)
    if report.shapes:
        console.print(_shape_table(report))
    if any(report.metered.values()):
        used = ", ".join(f"{value:,.3g} {name.replace('_', ' ')}" for name, value in report.metered.items() if value)
        _line(console, f"\nserver tools used by one call on a small server: {used}")
    if report.smoke:
        console.print(_smoke_table(report))
        _line(console, "One development seed is no score: differences of this size come and go with the seed.", "dim")
    _print_end(report, console)


def _print_finding(finding: Finding, console: Console) -> None:
    mark, style = _MARKS[finding.verdict]
    row = Table.grid(padding=(0, 1), expand=False)
    row.add_column(width=8, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(mark, style), Text(finding.checked))
    if finding.found:
        row.add_row("", Text(finding.found, "dim" if finding.verdict is Verdict.PASSED else ""))
    if finding.remedy:
        row.add_row("", Text(f"To mend: {finding.remedy}", "cyan"))
    console.print(row)


def _shape_table(report: CheckReport) -> Table:
    shape_names = KINDS[report.kind].shape
    table = Table(title="\nTime and memory", title_justify="left", title_style="bold", expand=False)
    for column in (*shape_names, "d", "updates", "time", "peak memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for shape in report.shapes:
        numbers = (shape.participants, shape.declared_malicious)
        table.add_row(
            *(str(number) for number in numbers[: len(shape_names)]),
            f"{shape.dimension:,}",
            _size(shape.updates_bytes),
            _time(shape),
            _peak(shape),
        )
    return table


def _time(shape: ShapeCost) -> str:
    if shape.seconds is None:
        return _MARKS[shape.verdict][0]
    return f"{shape.seconds * 1000:,.1f} ms" if shape.seconds < 1 else f"{shape.seconds:,.2f} s"


def _peak(shape: ShapeCost) -> str:
    return "not known" if shape.peak_memory_bytes is None else _size(shape.peak_memory_bytes)


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.2f} GiB"


def _smoke_table(report: CheckReport) -> Table:
    table = Table(title="\nSmoke run", title_justify="left", title_style="bold", expand=False)
    for column in ("scenario", "defense"):
        table.add_column(column, overflow="fold")
    for column in ("safety", "utility", "over-refusal"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("used")
    for score in report.smoke:
        shown = [_share(value) for value in (score.safety, score.utility, score.over_refusal)]
        style = "bold" if score.own else ""
        table.add_row(Text(score.scenario), Text(score.defense), *shown, _costs(score), style=style)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _costs(score: SmokeScore) -> str:
    if score.status != "done":
        return score.status.replace("_", " ")
    counted = [f"{value:,.0f} {name.replace('_', ' ')}" for name, value in score.costs.items() if value >= 1]
    seconds = score.costs.get("server_seconds", 0.0)
    return ", ".join([*(text for text in counted if "seconds" not in text), f"{seconds:.2g} s"])


def _print_end(report: CheckReport, console: Console) -> None:
    counts = {verdict: sum(f.verdict is verdict for f in report.findings) for verdict in Verdict}
    said = ", ".join(
        f"{count} {words}"
        for verdict, words in (
            (Verdict.PASSED, "passed"),
            (Verdict.WARNING, "with a warning"),
            (Verdict.FAILED, "failed"),
            (Verdict.NOT_APPLICABLE, "not applicable"),
            (Verdict.NOT_RUN, "left out"),
        )
        if (count := counts[verdict])
    )
    outcome, style = ("passed", "bold green") if report.passed else ("FAILED", "bold red")
    _line(console, f"\n{report.id}: {outcome} after {duration(report.seconds)} ({said})", style)


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)
