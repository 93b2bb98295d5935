"""Claimed verdicts against those that the judges give now.

No judge reads a digest. Verdicts on answers of which a bundle holds digests alone are therefore compared where a second
run gives an answer with the same digest (:func:`compare_withheld`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import FedSafetyError
from benchmark.execution.judging import Judging, judge_identity, judge_responses
from benchmark.execution.plan import Plan
from benchmark.generation.select import EngineChoice
from benchmark.judges.base import judges
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.records.withheld import same_text, withheld_answers
from benchmark.suites.suite import Suite

SAME_VERDICTS = 0.995
"""Share of a language model's verdicts that come out again on any machine; exact judges' all do."""

_Verdicts = Mapping[tuple[str, ...], tuple[str, ...]]
"""Judge, response key and probe id → identity of the judge, verdict and detail."""


def judge_again(
    plan: Plan, claimed: Mapping[str, pa.Table], judged: Store, choice: EngineChoice, reporter: Reporter
) -> tuple[pa.Table, str]:
    """Judge all claimed answers that the bundle holds as texts again.

    Args:
        plan: The claimed cells.
        claimed: The claimed rows.
        judged: Takes the answers, and the verdicts that the judges give.
        choice: Engine for judges that are models.
        reporter: Shows progress.

    Returns:
        The verdicts, as claimed where the bundle holds digests in place of the answers and the verifier's elsewhere;
        and in words how far they agree.

    Raises:
        FedSafetyError: A verdict differs, or a verdict on a digest is by another version of the judge; the text names
            it.
    """
    responses = claimed["responses"]
    keys = responses.column("response_key").cast(pa.string())
    for key in sorted(set(keys.to_pylist())):
        if not judged.has("responses", key):
            judged.write("responses", key, responses.filter(pc.equal(keys, key)))
    hidden = withheld_answers(responses)
    suite = plan.suite
    judging = Judging(plan.world, judged, choice, reporter, suite.compute, leaves_out_withheld=bool(hidden))
    judge_responses(judging, judged.keys("responses"), suite.judges)
    verdicts = judged.read_all("verdicts")
    own, theirs = _verdicts(verdicts), _verdicts(claimed["verdicts"])
    _compare(own, theirs, suite)
    found = f"{len(own)} verdicts come out again"
    if not hidden:
        return verdicts, found
    of_digests = [name for name in theirs if name[1:] in hidden]
    _check_identities(of_digests, theirs, judging, suite)
    places = zip(*(claimed["verdicts"][name].to_pylist() for name in ("response_key", "probe_id")), strict=True)
    kept = claimed["verdicts"].filter(pa.array([place in hidden for place in places], pa.bool_()))
    found += (
        f"; {len(of_digests)} verdicts are on answers of which the bundle holds digests, and only a second run can "
        f"check them"
    )
    return pa.concat_tables([verdicts, kept]).unify_dictionaries(), found


def compare_withheld(plan: Plan, claimed: Mapping[str, pa.Table], runs: Store) -> str:
    """Compare claimed digests of answers, and the verdicts on these answers, with those of a second run.

    Args:
        plan: The cells that were run again.
        claimed: The claimed rows.
        runs: Holds answers and verdicts of the second run.

    Returns:
        The end of a sentence with the numbers of compared digests and verdicts; empty if the bundle holds no digests.

    Raises:
        FedSafetyError: A verdict on the same answer differs; the text names it.
    """
    keys = {cell.response_key for cell in plan.cells}
    hidden = {place for place in withheld_answers(claimed["responses"]) if place[0] in keys}
    if not hidden:
        return ""
    again = {
        (key, probe): answer
        for key in sorted(keys)
        for probe, answer in zip(*_columns(runs.read("responses", key), "probe_id", "response"), strict=True)
    }
    answers = zip(*_columns(claimed["responses"], "response_key", "probe_id", "response"), strict=True)
    digests = {(key, probe): text for key, probe, text in answers if (key, probe) in hidden}
    same = {place for place, text in digests.items() if same_text(text, again[place])}
    stored = [name for name in sorted(runs.keys("verdicts")) if name.partition("-")[0] in keys]
    tables = [_verdicts(runs.read("verdicts", name)) for name in stored]
    own = {name: verdict for table in tables for name, verdict in table.items() if name[1:] in same}
    theirs = _verdicts(claimed["verdicts"])
    own = {name: verdict for name, verdict in own.items() if name in theirs}
    _compare(own, theirs, plan.suite)
    return (
        f"; {len(same)} of {len(hidden)} digests of answers came out again, and so did the {len(own)} verdicts on "
        f"these answers"
    )


def _compare(own: _Verdicts, theirs: _Verdicts, suite: Suite) -> None:
    """Raise a :class:`FedSafetyError` if a verdict of the verifier is not the claimed one."""
    wrong: dict[str, list[tuple[str, ...]]] = {}
    for name, said in own.items():
        if theirs[name] != said:
            wrong.setdefault(name[0], []).append(name)
    for judge, names in sorted(wrong.items()):
        total = sum(name[0] == judge for name in own)
        identity = own[names[0]][0] == theirs[names[0]][0]
        if judge in _exact(suite) or not identity or len(names) > (1 - SAME_VERDICTS) * total:
            first = names[0]
            raise FedSafetyError(
                f"{len(names)} of {total} verdicts of judge {judge!r} are others; of {first[1]!r} to {first[2]!r} it "
                f"says {own[first][1:]!r}, the bundle {theirs[first][1:]!r}"
            )


def _check_identities(names: list[tuple[str, ...]], theirs: _Verdicts, judging: Judging, suite: Suite) -> None:
    """Raise a :class:`FedSafetyError` if a claimed verdict is by another version of its judge."""
    identities = {judge: judge_identity(judging, judge) for judge in suite.judges}
    for name in names:
        judge, key, probe = name
        if theirs[name][0] != identities[judge]:
            raise FedSafetyError(
                f"the verdict of judge {judge!r} on {key!r} to {probe!r} is by another version of the judge; run "
                f"`fedsafety judge` and `fedsafety submit` again with this release"
            )


def _verdicts(table: pa.Table) -> dict[tuple[str, ...], tuple[str, ...]]:
    names = ("judge", "response_key", "probe_id", "judge_identity", "verdict", "detail")
    return {row[:3]: row[3:] for row in zip(*_columns(table, *names), strict=True)}


def _columns(table: pa.Table, *names: str) -> list[list[str]]:
    return [table.column(name).to_pylist() for name in names]


def _exact(suite: Suite) -> set[str]:
    """Return the judges that are not models: their verdicts are the same on every machine."""
    targets = {name: judges.get(name).target for name in suite.judges}
    return {name for name, t in targets.items() if t.exact and "engine" not in inspect.signature(t).parameters}
