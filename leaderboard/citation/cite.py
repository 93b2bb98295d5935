"""Citations of scores: a sentence, BibTeX, and the command that computes the score again.

A sentence holds what the board shows. A defense without a rank is cited with the reason in its place. The date is that
of the newest row behind the two scores, not that of the citation.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import UsageError, unknown_name
from benchmark.records.schemas import (
    ORIGIN_LOCAL,
    ORIGIN_SUBMITTED,
    RUNG_CHECKED,
    RUNG_CLAIMED,
    RUNG_REPRODUCED,
    RUNG_SAMPLED,
)
from benchmark.suite_names import no_rows
from leaderboard.citation.bibtex import benchmark_entry, method_entries
from leaderboard.ranking.board import BELOW_GATE, DEGENERATE, NOT_REPRODUCED, REFERENCE, Board, Standing
from leaderboard.ranking.boards import boards
from leaderboard.ranking.grid import BASELINE
from leaderboard.rows.rows import Rows
from leaderboard.scores.stats import ALPHA, EXACT, Estimate
from leaderboard.scores.summaries import OVERALL, Entry

DIGEST_SHOWN = 16
"""Hexadecimal digits of the rows digest in sentences and commands; 64 bits do not meet by chance."""
NO_SCORE = "none"
"""Score or rank, in commands, of a defense that has none."""
_TIED_NAMED = 4
_KNOWLEDGE = {
    "none": "told nothing of the attackers",
    "declared_bound": "told the declared bound on the number of attackers",
    "truth": "told who the attackers are",
}

_RUNGS = {
    RUNG_CLAIMED: "not re-run",
    RUNG_CHECKED: "checked but not re-run",
    RUNG_SAMPLED: "re-run by sample",
    RUNG_REPRODUCED: "reproduced: every row was run again",
}


@dataclass(frozen=True)
class Citation:
    """One citable score.

    Attributes:
        sentence: For running text.
        bibtex: Entries of the benchmark and of the method's sources.
        command: Computes the score again from the rows and compares.
        defense: Registry id or pipeline; empty for the suite itself.
        scenario: Scenario id; empty for the mean over the compared scenarios.
        score: Safety in percent with one decimal, as in the sentence; ``none`` without one.
        rank: Rank; ``none`` without one.
        safety: Safety in 0..1 with its interval.
        baseline: FedAvg's in the same view; ``None`` for FedAvg itself and where it has no score.
        p: p value of the difference to FedAvg after Holm's correction; ``None`` without a test.
        knowledge: What the defense is told of the attackers.
        rung: How far it was verified, if it was submitted; else empty.
        bundles: SHA-256 (hex) of the manifests of its verified bundles.
        rows: SHA-256 (hex) over the rows.
        date: Day of the newest row behind the score.
        suite: Suite id.
        suite_version: Its version.
        protocol: Protocol version.
    """

    sentence: str
    bibtex: str
    command: str
    defense: str
    scenario: str
    score: str
    rank: str
    safety: Estimate | None
    baseline: Estimate | None
    p: float | None
    knowledge: str
    rung: str
    bundles: tuple[str, ...]
    rows: str
    date: str
    suite: str
    suite_version: str
    protocol: str

    def as_dict(self) -> dict[str, Any]:
        """Return all fields by name, as JSON can hold them: an undefined number is ``None``."""

        def defined(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: defined(inner) for name, inner in value.items()}
            return None if isinstance(value, float) and math.isnan(value) else value

        return {name: defined(value) for name, value in asdict(self).items()}


def cite_score(board: Board, rows: Rows, defense: str = "", scenario: str = "") -> Citation:
    """Return :func:`cite` of a score of ``board``, which was made from ``rows``, with the digest that covers it."""
    return cite(board, cited_digest(board, rows, defense), defense, scenario)


def cited_digest(board: Board, rows: Rows, defense: str) -> str:
    """Return SHA-256 (hex) over the rows behind a score of ``defense``; see :class:`leaderboard.rows.rows.Rows`."""
    return rows.cited_digest(pending=any(entry.id == defense and entry.pending for entry in board.entries))


def cite(board: Board, rows_digest: str, defense: str = "", scenario: str = "") -> Citation:
    """Return the citation of a defense's safety, in one attacked scenario or as the mean over the compared ones.

    Args:
        board: The board of one suite.
        rows_digest: SHA-256 (hex) over the rows that the score rests on, see :func:`cited_digest`.
        defense: Registry id or pipeline; empty to cite the suite as a whole.
        scenario: An attacked scenario; empty for the mean.

    Raises:
        UsageError: The board has no such defense or attacked scenario (names the nearest one).
    """
    if not defense:
        return _cite_suite(board, rows_digest)
    view = find_view(board, scenario)
    standing = find_standing(board, view, defense)
    entries = [standing.entry, *(other for other in board.entries if other.id == BASELINE and defense != BASELINE)]
    date = _newest(board, view, entries)
    source = _source(board, rows_digest, date)
    safety, base = standing.metrics.get("safety"), _baseline(board, view, standing)
    p = board.adjusted_p(view, defense, BASELINE)
    score, rank = shown_score(standing), str(standing.rank or NO_SCORE)
    if safety is None:
        claim = f"{defense} has no score {_place(board, view)}: {_notes(standing)}"
    else:
        parts = [
            f"{defense} keeps a safety of {_estimate(safety)} {_place(board, view)}",
            _beside(defense, safety, base, p) if defense != BASELINE else "",
            _rank(board, view, standing),
            _best_known(standing),
        ]
        claim = "; ".join(filter(None, parts))
    rung = standing.entry.rung
    knowledge = _KNOWLEDGE.get(standing.entry.knowledge, f"knowledge level {standing.entry.knowledge}")
    return Citation(
        sentence=_plain(f"In {source}, {claim}. {defense} is {knowledge}{_origin(standing.entry)}."),
        bibtex="\n\n".join([benchmark_entry(source), *method_entries(defense, standing.entry.info["paper"])]),
        command=_command(board, rows_digest, defense, scenario, score, rank),
        defense=defense,
        scenario=scenario,
        score=score,
        rank=rank,
        safety=safety,
        baseline=base,
        p=None if p is None or math.isnan(p) else p,
        knowledge=standing.entry.knowledge,
        rung=rung.name if rung else "",
        bundles=rung.bundles if rung else (),
        rows=rows_digest,
        date=date,
        suite=board.suite,
        suite_version=board.version,
        protocol=board.protocol,
    )


def find_board(rows: Rows, suite: str) -> Board:
    """Return the board of ``suite``.

    Raises:
        UsageError: There are no rows of that suite, or no such suite (names the nearest one).
    """
    return of_suite(boards(rows), suite)


def of_suite(
    found: Iterable[Board], suite: str, *, way_out: str = "name a folder that has some with --results"
) -> Board:
    """Return the board of ``suite`` among ``found``.

    Args:
        found: Boards of the rows that were read.
        suite: Suite id.
        way_out: How the user gets rows of the suite.

    Raises:
        UsageError: There are no rows of that suite, or no such suite (names the nearest one).
    """
    by_suite = {board.suite: board for board in found}
    if suite not in by_suite:
        raise no_rows(suite, by_suite, "the folders that were read", way_out)
    return by_suite[suite]


def find_view(board: Board, scenario: str) -> str:
    """Return the view of an attacked scenario, or of the mean where it is empty.

    Raises:
        UsageError: It is an un-attacked twin, a point of a sensitivity set, or unknown (names the nearest one).
    """
    if not scenario:
        return OVERALL
    if scenario in board.by_scenario:
        return scenario
    if any(entry.id == scenario for entry in board.scenarios):
        of = ", ".join(entry.id for entry in board.scenarios if entry.attacked and entry.twin == scenario)
        raise UsageError(f"scenario {scenario!r} is the un-attacked twin of {of}; name an attacked one")
    if any(cell.row["scenario"] == scenario for cell in board.cells):
        raise UsageError(
            f"scenario {scenario!r} is a point of a sensitivity set, which has no ranking; name one of "
            f"{', '.join(board.by_scenario)}"
        )
    raise unknown_name("attacked scenario with rows", scenario, board.by_scenario)


def find_standing(board: Board, view: str, defense: str) -> Standing:
    """Return the line of a defense in a view.

    Raises:
        UsageError: The board has no such defense (names the nearest one).
    """
    for standing in board.standings(view):
        if standing.entry.id == defense:
            return standing
    raise unknown_name("defense with rows", defense, [entry.id for entry in board.entries])


def shown_score(standing: Standing) -> str:
    """Return the safety in percent with one decimal, or :data:`NO_SCORE`."""
    safety = standing.metrics.get("safety")
    return NO_SCORE if safety is None or math.isnan(safety.mean) else _percent(safety.mean)


def is_own(board: Board, entry: Entry) -> bool:
    """Return whether only this machine holds the rows of a defense, so that no reader can check its scores."""
    return board.local_only or set(entry.origins) == {ORIGIN_LOCAL}


def _ranked(board: Board, view: str) -> int:
    """Return the number of defenses with a rank; own ones are no part of what is published."""
    lines = board.standings(view)
    return sum(line.rank is not None and (board.local_only or not is_own(board, line.entry)) for line in lines)


def _cite_suite(board: Board, rows_digest: str) -> Citation:
    counted = [entry for entry in board.entries if not entry.pending and (board.local_only or not is_own(board, entry))]
    date = _newest(board, OVERALL, counted)
    source = _source(board, rows_digest, date)
    ranked = _ranked(board, OVERALL)
    sentence = f"{source} ranks {ranked} defenses over {len(board.compared)} attack scenarios."
    return Citation(
        sentence=_plain(sentence),
        bibtex=benchmark_entry(source),
        command=f"fedsafety leaderboard{_suite_option(board)}",
        defense="",
        scenario="",
        score=NO_SCORE,
        rank=NO_SCORE,
        safety=None,
        baseline=None,
        p=None,
        knowledge="",
        rung="",
        bundles=(),
        rows=rows_digest,
        date=date,
        suite=board.suite,
        suite_version=board.version,
        protocol=board.protocol,
    )


def _source(board: Board, rows_digest: str, date: str) -> str:
    """Return suite, versions and rows, for the sentence and for the note of the benchmark's entry."""
    return (
        f"FedSafetyBench (suite {board.suite} {board.version}, protocol {board.protocol}, "
        f"rows sha256:{rows_digest[:DIGEST_SHOWN]} of {date})"
    )


def _place(board: Board, view: str) -> str:
    if view != OVERALL:
        return f"under attack in scenario {view}"
    names = f" ({', '.join(board.compared)})" if board.compared else ""
    count = len(board.compared)
    return f"under attack as the mean over {count} scenario{'s' if count != 1 else ''}{names}"


def _estimate(value: Estimate) -> str:
    """Return a share with its interval and number of seeds."""
    seeds = f"{value.count} seed{'s' if value.count != 1 else ''}"
    if math.isnan(value.low):
        return f"{_percent(value.mean)} % ({seeds}, no interval)"
    kind = ", exact over probes because the seeds do not vary" if value.method == EXACT else ""
    return f"{_percent(value.mean)} % (95 % interval {_percent(value.low)} to {_percent(value.high)}, {seeds}{kind})"


def _baseline(board: Board, view: str, standing: Standing) -> Estimate | None:
    if standing.entry.id == BASELINE:
        return None
    return next((other.metrics.get("safety") for other in board.standings(view) if other.entry.id == BASELINE), None)


def _beside(defense: str, safety: Estimate, base: Estimate | None, p: float | None) -> str:
    """Return what FedAvg scores there and whether the difference is significant."""
    if base is None:
        return f"{BASELINE} has no score there"
    text = f"{BASELINE} keeps {_estimate(base)}"
    if p is None or math.isnan(p):
        return f"{text}, without a test of the difference"
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    words = f"significantly {'safer' if safety.mean > base.mean else 'less safe'} after Holm's correction"
    if p >= ALPHA:
        words = "not separated from it after Holm's correction"
    return f"{text}, and {defense} is {words} ({shown}, paired by seed)"


def _origin(entry: Entry) -> str:
    """Return, in brackets, the origin of rows that are not the project's own."""
    if ORIGIN_LOCAL in entry.origins:
        return " (own rows, not published)"
    if ORIGIN_SUBMITTED not in entry.origins:
        return ""
    bundles = entry.rung.bundles if entry.rung else ()
    named = "".join(f", bundle sha256:{bundle[:DIGEST_SHOWN]}" for bundle in bundles)
    return f" (submitted, {_RUNGS[entry.rung.name if entry.rung else RUNG_CLAIMED]}{named})"


def _best_known(standing: Standing) -> str:
    """Return the submitted attack under which the defense is less safe than its score; empty if there is none."""
    known = standing.best_known
    if known is None or not known.attack:
        return ""
    return (
        f"under the best-known attack, {known.attack} on {known.scenario}, it keeps a safety of "
        f"{_estimate(known.safety)}"
    )


def _rank(board: Board, view: str, standing: Standing) -> str:
    if standing.rank is not None:
        # An own defense is placed among the published ones as if it were one of them.
        ranked = _ranked(board, view) + (is_own(board, standing.entry) and not board.local_only)
        return f"rank {standing.rank} of {ranked}, {_tied(standing)}"
    if standing.group == REFERENCE:
        return "it is a reference row and never ranked"
    if standing.group == DEGENERATE:
        return f"it is not ranked, because it is a degenerate setting: {_notes(standing)}"
    if standing.group == NOT_REPRODUCED:
        return "it is not ranked, because it was submitted and is not reproduced"
    if standing.group == BELOW_GATE:
        return f"it is not ranked: {_notes(standing)}"
    return f"it is not ranked: {_notes(standing) if standing.notes else 'too few seeds to separate defenses'}"


def _tied(standing: Standing) -> str:
    count = len(standing.tied)
    names = ", ".join(standing.tied) if 0 < count <= _TIED_NAMED else f"{count} others" if count else "none"
    return f"tied with {names}"


def _notes(standing: Standing) -> str:
    """Return the reason of a missing rank; the remedy after its semicolon is cut, because readers cannot act on it."""
    short = [re.sub(r";.*?(?P<seeds>( \(seed [\d, ]+\))?)$", r"\g<seeds>", note) for note in standing.notes]
    return "; ".join(short) or "it was not run completely"


def _newest(board: Board, view: str, entries: Iterable[Entry]) -> str:
    """Return the day of the newest row of the entries in a view; of a defense without rows there, of the board."""
    names = board.compared if view == OVERALL else (view,)
    found = [
        cell.row["created_at"] for entry in entries for name in names for cell in entry.scenarios[name].cells.values()
    ]
    cells = board.settled_cells or board.cells
    every = (cell for cell in cells if board.local_only or cell.row["origin"] != ORIGIN_LOCAL)
    newest = max(found or [cell.row["created_at"] for cell in every])
    return str(newest.date().isoformat())


def _command(board: Board, digest: str, defense: str, scenario: str, score: str, rank: str) -> str:
    where = f" --scenario {shlex.quote(scenario)}" if scenario else ""
    return (
        f"fedsafety reproduce --defense {shlex.quote(defense)}{where}{_suite_option(board)} --score {score} "
        f"--rank {rank} --rows sha256:{digest[:DIGEST_SHOWN]}"
    )


def _suite_option(board: Board) -> str:
    return "" if board.suite == "micro" else f" --suite {shlex.quote(board.suite)}"


def _percent(share: float) -> str:
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text


def _plain(text: str) -> str:
    """Return ``text`` on one line without control characters: ids and reasons come from rows."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
