"""Claimed verdicts against those that the judges give now."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import FedSafetyError
from benchmark.execution.judging import Judging, judge_responses
from benchmark.execution.plan import Plan
from benchmark.generation.select import EngineChoice
from benchmark.judges.base import judges
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.suites.suite import Suite

SAME_VERDICTS = 0.995
"""Share of a language model's verdicts that come out again on any machine; exact judges' all do."""


def judge_again(
    plan: Plan, claimed: Mapping[str, pa.Table], judged: Store, choice: EngineChoice, reporter: Reporter
) -> str:
    """Judge all claimed answers again; return in words how far the verdicts agree.

    Args:
        plan: The claimed cells.
        claimed: The claimed rows.
        judged: Takes the answers, and the verdicts that the judges give.
        choice: Engine for judges that are models.
        reporter: Shows progress.

    Raises:
        FedSafetyError: A verdict differs; the text names it.
    """
    responses = claimed["responses"]
    keys = responses.column("response_key").cast(pa.string())
    for key in sorted(set(keys.to_pylist())):
        if not judged.has("responses", key):
            judged.write("responses", key, responses.filter(pc.equal(keys, key)))
    judging = Judging(plan.world, judged, choice, reporter, plan.suite.compute)
    judge_responses(judging, judged.keys("responses"), plan.suite.judges)
    columns = ("judge", "response_key", "probe_id", "judge_identity", "verdict", "detail")
    own, theirs = (_verdicts(table, columns) for table in (judged.read_all("verdicts"), claimed["verdicts"]))
    wrong: dict[str, list[tuple[str, ...]]] = {}
    for name, said in own.items():
        if theirs[name] != said:
            wrong.setdefault(name[0], []).append(name)
    for judge, names in sorted(wrong.items()):
        total = sum(name[0] == judge for name in own)
        identity = own[names[0]][0] == theirs[names[0]][0]
        if judge in _exact(plan.suite) or not identity or len(names) > (1 - SAME_VERDICTS) * total:
            first = names[0]
            raise FedSafetyError(
                f"{len(names)} of {total} verdicts of judge {judge!r} are others; of {first[1]!r} to {first[2]!r} it "
                f"says {own[first][1:]!r}, the bundle {theirs[first][1:]!r}"
            )
    return f"{len(own)} verdicts come out again"


def _verdicts(table: pa.Table, columns: tuple[str, ...]) -> dict[tuple[str, ...], tuple[str, ...]]:
    rows = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
    return {row[:3]: row[3:] for row in rows}


def _exact(suite: Suite) -> set[str]:
    """Return the judges that are not models: their verdicts are the same on every machine."""
    targets = {name: judges.get(name).target for name in suite.judges}
    return {name for name, t in targets.items() if t.exact and "engine" not in inspect.signature(t).parameters}
