"""The option ``--tuned`` of ``fedsafety run``: results of attack searches, and the cells in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.execution.plan import Plan
    from benchmark.records.tuned import TunedAttack
    from benchmark.suites.suite import Suite


def no_others_with_tuned(options: Mapping[str, object]) -> None:
    """Refuse options that choose other cells than those of tuned attacks."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} does not go with --tuned, which runs the results of searches; leave one out")


def tuned_attacks(
    suite: Suite, runs: Path, scenarios: Sequence[str], defenses: Sequence[str]
) -> tuple[tuple[TunedAttack, ...], str]:
    """Return the attacks that searches found, own results before committed ones, and a remark on the other searches.

    Args:
        suite: The suite.
        runs: Folder of the user's runs.
        scenarios: Scenarios whose attack was searched; empty for all.
        defenses: Defenses; empty for all.

    Raises:
        UsageError: There is no result of these scenarios and defenses, or a result is of another version of its
            scenario.
        FedSafetyError: A file of results is not valid.
    """
    from benchmark.records.tuned import committed_file, runs_file, tuned_of
    from leaderboard.commands import results_folder

    results = results_folder(None)
    entries = tuned_of(committed_file(results, suite.id), suite.id) if results else {}
    entries |= tuned_of(runs_file(runs, suite.id), suite.id)
    chosen = [
        entry
        for (scenario, defense), entry in sorted(entries.items())
        if scenario in (scenarios or [scenario]) and defense in (defenses or [defense])
    ]
    for scenario in scenarios:
        suite.scenario(scenario)
    if not chosen:
        held = ", ".join(f"{defense} in {scenario}" for scenario, defense in sorted(entries)) or "none"
        raise UsageError(
            f"no search has a result of these defenses and scenarios of suite {suite.id!r} (results: {held}); search "
            f"with `fedsafety attack-search --suite {suite.id} --defense D --scenario S --budget N`"
        )
    for entry in chosen:
        version = suite.scenario(entry.scenario).version
        if version != entry.scenario_version:
            raise UsageError(
                f"the search against {entry.defense!r} in {entry.scenario!r} is of version {entry.scenario_version!r} "
                f"of the scenario, and the suite has version {version!r}; search again"
            )
    lower = tuple(entry for entry in chosen if entry.lower)
    others = [f"{entry.defense} in {entry.scenario}" for entry in chosen if not entry.lower]
    remark = f"nothing lower than the scenario's own attack was found: {', '.join(others)}" if others else ""
    return lower, remark


def cells_of_tuned(planned: Callable[[str], Plan], engine: str) -> Plan:
    """Return the cells of a plan in which a tuned attack meets the defense that it was tuned against."""
    from benchmark.suites.tuned import TunedScenario

    plan = planned(engine)
    cells = (
        cell
        for cell in plan.cells
        if isinstance(cell.scenario, TunedScenario) and cell.stage.name == cell.pipeline.name == cell.scenario.tuned_for
    )
    return replace(plan, cells=tuple(cells))
