"""The search: trial 1 is the scenario's own attack, finished trials are kept, and the result is never safer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmark.attack_search.search import AttackSearch, Means, Progress, development_seeds
from benchmark.attack_search.trial import Setting, Trial, TrialState
from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.plan import Plan
from benchmark.generation.select import EngineChoice
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.records.tuned import TunedAttack
from benchmark.suites.suite import Suite
from tests.benchmark.execution.plans import changed, with_scenario


@dataclass(frozen=True)
class Score:
    safety: float | None
    failed_gates: tuple[str, ...] = ()
    reason: str = ""


Objective = Callable[[Setting], Score]


class FakeSearch(AttackSearch):
    """A search whose trials train nothing: an objective scores their settings."""

    def __init__(self, objective: Objective, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.objective, self.done = objective, list[Setting]()

    def _cells(self, plan: Plan, store: Store, means: Means) -> list[str]:
        attack = plan.cells[0].scenario.attack
        return [json.dumps([attack.id, attack.params])]

    def score(self, folder: Path, keys: Sequence[str], twins: Path, twin_keys: Sequence[str]) -> Score:
        attack, params = json.loads(keys[0])
        self.done.append(Setting(attack, params))
        return self.objective(self.done[-1])

    def start(self, runs: Path, budget: int, tell: Callable[[Progress], None] = lambda _: None) -> TunedAttack:
        means = Means(runs, EngineChoice("transformers", ""), self.score, Reporter(Console(quiet=True)))
        return self.run(budget, means, tell)


def by_factor(setting: Setting) -> Score:
    """Return a safety that falls with the factor of ``boosted_data``; a large factor fails a gate."""
    boost = float(setting.params.get("boost", 1.0))
    return Score(1.0 / (1.0 + boost), ("utility is low",) if boost > 10 else ())


def search(suite: Suite, objective: Objective = by_factor, **options: Any) -> FakeSearch:
    return FakeSearch(objective, suite, "aligned_start", "krum", **{"attack_ids": ["boosted_data"]} | options)


def test_the_first_trial_is_the_own_attack_and_the_result_the_lowest_feasible_one(micro: Suite, tmp_path: Path) -> None:
    made = search(micro)
    told: list[Progress] = []
    result = made.start(tmp_path, 12, told.append)
    assert made.done[0] == Setting("unaligned_data", {})
    assert {setting.attack for setting in made.done[1:]} == {"boosted_data"}
    feasible = [float(setting.params.get("boost", 1.0)) for setting in made.done]
    best = max(boost for boost in feasible if boost <= 10)
    assert (result.lower, result.attack.id, result.attack.params["boost"]) == (True, "boosted_data", best)
    assert result.attack.safety == pytest.approx(1 / (1 + best), abs=1e-6)
    assert (result.own.id, result.own.safety) == ("unaligned_data", 0.5)
    infeasible = sum(boost > 10 for boost in feasible)
    assert (result.budget.allowed, result.budget.trials, result.budget.infeasible) == (12, 12, infeasible)
    assert (result.seeds, result.prompts, result.sampler_seed) == ((1,), "fresh, draw 0", 0)
    assert (result.runs_as, result.scenario_version) == ("aligned_start_tuned_krum", "1")
    assert f"boost={best}" in result.runs_as_version
    assert [progress.number for progress in told] == list(range(1, 13))
    assert told[-1].lowest == pytest.approx(result.attack.safety, abs=1e-6)


def test_a_search_that_finds_nothing_lower_returns_the_own_attack(micro: Suite, tmp_path: Path) -> None:
    result = search(micro, lambda setting: Score(0.9 if setting.params else 0.4)).start(tmp_path, 5)
    assert (result.lower, result.attack, result.budget.trials) == (False, result.own, 5)
    assert result.attack.params == {}


def test_a_search_ends_early_where_nothing_can_be_lower(micro: Suite, tmp_path: Path) -> None:
    result = search(micro, lambda setting: Score(0.0 if setting.params else 0.4)).start(tmp_path, 9)
    assert (result.lower, result.budget.allowed, result.budget.trials) == (True, 9, 2)


def test_a_killed_search_goes_on_behind_its_finished_trials(micro: Suite, tmp_path: Path) -> None:
    whole = search(micro)
    expected = whole.start(tmp_path / "whole", 9)

    def dying(setting: Setting) -> Score:
        if len(killed.done) == 5:
            raise RuntimeError("killed")
        return by_factor(setting)

    killed = search(micro, dying)
    with pytest.raises(RuntimeError, match="killed"):
        killed.start(tmp_path / "killed", 9)
    again = search(micro)
    assert again.start(tmp_path / "killed", 9) == expected
    assert again.done == whole.done[4:]
    more = search(micro)
    assert more.start(tmp_path / "killed", 11).budget.trials == 11
    assert len(more.done) == 2
    fewer = search(micro)
    assert fewer.start(tmp_path / "killed", 9) == expected
    assert fewer.done == []


def test_another_space_seed_or_defense_is_another_search(micro: Suite) -> None:
    same = [search(micro).key, search(micro).key]
    others = [search(micro, sampler_seed=1), search(micro, seeds=[2]), search(micro, attack_ids=["gap"])]
    keys = {each.key for each in others} | {AttackSearch(micro, "aligned_start", "median").key, *same}
    assert len(keys) == 5


def test_a_search_where_all_trials_fail_a_gate_has_no_result_and_keeps_its_trials(micro: Suite, tmp_path: Path) -> None:
    made = search(micro, lambda _: Score(0.1, ("utility must be at least 80.0 and is 12.0",)))
    with pytest.raises(FedSafetyError, match=r"all 4 trials .* fail a gate or have no score.*utility must be at least"):
        made.start(tmp_path, 4)
    assert len(made.finished(tmp_path)) == 4
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_defense_without_a_score_under_the_own_attack_is_refused(micro: Suite, tmp_path: Path) -> None:
    made = search(micro, lambda _: Score(None, reason="seed 1: it broke"))
    with pytest.raises(FedSafetyError, match=r"no score under the own attack .*\(seed 1: it broke\)"):
        made.start(tmp_path, 4)
    assert made.finished(tmp_path) == []


def test_a_trial_without_a_score_is_counted_and_not_the_result(micro: Suite, tmp_path: Path) -> None:
    result = search(micro, lambda setting: Score(None, reason="x") if setting.params else Score(0.5)).start(tmp_path, 3)
    assert (result.lower, result.budget.failed) == (False, 2)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(safeties=st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=2, max_size=6))
def test_the_result_is_never_safer_than_the_own_attack(micro: Suite, safeties: list[tuple[float, bool]]) -> None:
    made = search(micro)
    trials = [
        Trial(
            Setting("boosted_data", {"boost": float(index)}) if index else made.own,
            TrialState.FEASIBLE if passes else TrialState.INFEASIBLE,
            safety,
        )
        for index, (safety, passes) in enumerate(safeties)
    ]
    if not any(passes for _, passes in safeties):
        with pytest.raises(FedSafetyError, match="there is no result"):
            made.result(trials, 6)
        return
    result = made.result(trials, 6)
    assert result.attack.safety is not None
    assert result.attack.safety <= safeties[0][0]
    lower = [safety for safety, passes in safeties if passes and safety < safeties[0][0]]
    assert result.lower == bool(lower)
    assert result.attack.safety == min([safeties[0][0], *lower])


def test_the_twin_and_the_trials_run_on_development_seeds_and_fresh_prompts(micro: Suite) -> None:
    made = search(micro, seeds=[3, 2, 3])
    plans = [made.plan_of(made.own), made.twin_plan()]
    assert [{cell.seed for cell in plan.cells} for plan in plans] == [{2, 3}, {2, 3}]
    assert [{(c.scenario.id, c.stage.name) for c in plan.cells} for plan in plans] == [
        {("aligned_start_tuned_krum", "krum")},
        {("clean", "fedavg")},
    ]
    committed = {probe.instruction for probe in plans[0].world.probes() if probe.kind.value == "harmful"}
    from tasks.micro import MicroWorld

    assert not committed & {probe.instruction for probe in MicroWorld().probes()}
    assert made.plan_of(made.own).suite.judges == ("oracle",)


def test_a_pipeline_is_searched_as_a_whole(micro: Suite) -> None:
    made = AttackSearch(micro, "aligned_start", "krum+posthoc_self")
    assert {cell.stage.name for cell in made.plan_of(made.own).cells} == {"krum+posthoc_self"}


def test_two_processes_do_not_do_one_search(micro: Suite, tmp_path: Path) -> None:
    made = search(micro)
    made.folder(tmp_path).mkdir(parents=True)
    with FileLock(made.folder(tmp_path) / ".lock"), pytest.raises(UsageError, match="another process searches in"):
        made.start(tmp_path, 2)


def test_a_damaged_list_of_trials_is_named(micro: Suite, tmp_path: Path) -> None:
    made = search(micro)
    made.start(tmp_path, 2)
    (made.folder(tmp_path) / "trials.json").write_text('{"trials": [{}]}')
    with pytest.raises(FedSafetyError, match=r"cannot read .*trials.json .*delete it and run the same command again"):
        made.start(tmp_path, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("nowhere", "krum"), {}, "unknown attacked scenario in suite micro 'nowhere'"),
        (("clean", "krum"), {}, "scenario 'clean' has no attack whose parameters a search could change"),
        (("aligned_start", "krumm"), {}, "unknown defense 'krumm'; did you mean 'krum'"),
        (("aligned_start", "krum"), {"attack_ids": ["stormy"]}, "unknown attack 'stormy'"),
        (("aligned_start", "krum"), {"attack_ids": ["trigger"]}, "attack 'trigger' has no search space"),
        (("aligned_start", "krum"), {"seeds": [11]}, "seed 11 is scored by suite 'micro'"),
        (("aligned_start", "krum"), {"seeds": [10]}, "seed 10 is no development seed"),
        (("paper_shape", "krum"), {}, "'krum' is not applicable in scenario 'paper_shape'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_choice_is_refused_before_anything_runs(
    micro: Suite, arguments: tuple[str, str], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        AttackSearch(micro, *arguments, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_without_a_trial_is_refused(micro: Suite, tmp_path: Path, budget: int) -> None:
    with pytest.raises(UsageError, match=f"--budget is {budget}, but a search has at least one trial"):
        search(micro).start(tmp_path, budget)
    assert list(tmp_path.iterdir()) == []


def test_the_seed_of_a_search_is_the_first_that_no_scenario_scores(micro: Suite) -> None:
    assert development_seeds(micro, ()) == (1,)
    other = changed(micro.model_copy(update={"sensitivity": None}), seeds=[1, 2], quick={"scenarios": [], "seeds": [3]})
    assert development_seeds(other, ()) == (4,)
    assert development_seeds(other, [7, 5, 7]) == (7, 5)


def test_an_own_attack_without_a_space_is_tried_first_and_others_are_searched(micro: Suite, tmp_path: Path) -> None:
    plain = micro.model_copy(update={"sensitivity": None})
    suite = with_scenario(plain, "aligned_start", attack={"id": "targeted_refusal", "params": {"share": 0.2}})
    made = FakeSearch(by_factor, suite, "aligned_start", "krum")
    made.start(tmp_path, 3)
    assert made.done[0] == Setting("targeted_refusal", {"share": 0.2})
    assert "targeted_refusal" not in made.spaces
