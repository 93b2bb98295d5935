"""Readings of a board: answers that two readers labelled, compared with the shown rows and with the judges' verdicts.

A reading counts if the shown rows hold its answer: the response set of a shown cell, and in it an answer with the same
SHA-256. Otherwise the cell was run again since, or is withdrawn, and the label belongs to an answer that no score
rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.records.schemas import READ_KINDS
from benchmark.records.withheld import text_digest
from leaderboard.rows.rows import Rows, Tables
from leaderboard.scores.cells import STATUS_RETRACTED, CellScore
from leaderboard.scores.reader_agreement import (
    AGREED,
    FIRST,
    SECOND,
    JudgeCheck,
    ReaderAgreement,
    judge_check,
    judges_of,
    reader_agreement,
    readings_of,
)


@dataclass(frozen=True)
class ReadingsView:
    """Agreement of the readers of a suite, and errors of its judges.

    Attributes:
        stored: Number of stored readings of the suite.
        missing: How many of them label an answer that the shown rows do not hold; these count nowhere.
        changed: How many of the others have a recorded verdict that differs from that of the shown rows.
        readers: Pairs of readers, sorted.
        dates: Dates of the labels, sorted.
        scenarios: Scenarios of the counted answers, sorted.
        defenses: Defenses of the counted answers, sorted.
        agreement: Agreement of the readers: over all kinds, then by kind.
        checks: Verdicts of each judge beside each reference, by kind; those of the primary judge first.
        scorers: The judge that gives the scores, by kind of the counted answers.
    """

    stored: int
    missing: int
    changed: int
    readers: tuple[tuple[str, str], ...]
    dates: tuple[str, ...]
    scenarios: tuple[str, ...]
    defenses: tuple[str, ...]
    agreement: tuple[ReaderAgreement, ...]
    checks: tuple[JudgeCheck, ...]
    scorers: Mapping[str, str]

    @property
    def counted(self) -> int:
        """Number of readings that count."""
        return self.stored - self.missing


def readings(rows: Rows, suite: str, cells: Iterable[CellScore], primary: str) -> ReadingsView | None:
    """Return the readings of a suite; ``None`` where none is stored.

    Args:
        rows: The rows that hold the readings, and the responses and verdicts of the cells.
        suite: Suite id.
        cells: The shown cells; retracted ones are skipped.
        primary: The primary judge.
    """
    stored = rows.published.readings
    stored = stored.filter(pc.equal(stored["suite"].cast(pa.string()), suite))
    if not stored.num_rows:
        return None
    present = [cell for cell in cells if cell.state != STATUS_RETRACTED]
    keys = {cell.row["response_key"] for cell in present}
    judge_of = {score: judge for cell in present for score, judge in cell.judge_of.items()}
    shown = [_Shown.of(tables, stored, keys) for tables in (rows.published, rows.local)]
    places = list(zip(*(stored[name].to_pylist() for name in ("response_key", "probe_id", "answer")), strict=True))
    matches = [any(part.answers.get((key, probe)) == answer for part in shown) for key, probe, answer in places]
    counted = stored.filter(pa.array(matches, pa.bool_()))
    found = readings_of(counted)
    read_places = [place[:2] for place, is_shown in zip(places, matches, strict=True) if is_shown]
    changed = sum(
        any(part.verdicts.get((*place, judge), verdict) != verdict for part in shown)
        for place, reading in zip(read_places, found, strict=True)
        for judge, verdict in reading.verdicts.items()
    )
    kinds = [kind for kind in READ_KINDS if any(reading.kind == kind for reading in found)]
    checks = (
        judge_check(found, judge, kind, reference)
        for judge in judges_of(found, primary)
        for kind in kinds
        for reference in (AGREED, FIRST, SECOND)
    )
    return ReadingsView(
        stored=stored.num_rows,
        missing=stored.num_rows - len(found),
        changed=changed,
        readers=tuple(
            sorted(set(zip(*(_texts(counted, name) for name in ("first_reader", "second_reader")), strict=True)))
        ),
        dates=tuple(sorted(set(_texts(counted, "read_on")))),
        scenarios=tuple(sorted({reading.scenario for reading in found})),
        defenses=tuple(sorted({reading.defense for reading in found})),
        agreement=tuple(reader_agreement(found, kind) for kind in ("", *kinds)) if found else (),
        checks=tuple(check for check in checks if check.answers),
        scorers={kind: judge_of.get(_SCORES[kind], primary) for kind in kinds},
    )


_SCORES = {"harmful": "safety", "over_refusal": "over_refusal"}
"""The score that rests on answers to probes of a kind."""


@dataclass(frozen=True)
class _Shown:
    """SHA-256 of the answers, and verdicts, of read places: by response key and probe, and judge."""

    answers: dict[tuple[str, str], str]
    verdicts: dict[tuple[str, str, str], str]

    @classmethod
    def of(cls, tables: Tables, stored: pa.Table, keys: set[str]) -> _Shown:
        wanted = sorted(set(_texts(stored, "response_key")) & keys)
        probes = sorted(set(_texts(stored, "probe_id")))
        responses = _with(_with(tables.responses, "response_key", wanted), "probe_id", probes)
        verdicts = _with(_with(tables.verdicts, "response_key", wanted), "probe_id", probes)
        answers = zip(*(_texts(responses, name) for name in ("response_key", "probe_id", "response")), strict=True)
        judged = zip(
            *(_texts(verdicts, name) for name in ("response_key", "probe_id", "judge", "verdict")), strict=True
        )
        return cls(
            {(key, probe): text_digest(text) for key, probe, text in answers},
            {(key, probe, judge): verdict for key, probe, judge, verdict in judged},
        )


def _with(table: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table[column].cast(pa.string()), pa.array(values, pa.string())))


def _texts(table: pa.Table, column: str) -> list[str]:
    return list(table[column].to_pylist())
