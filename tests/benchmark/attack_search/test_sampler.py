"""The sampler: suggestions depend on spaces, trials and seed alone, and get better on a simple objective."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from benchmark.attack_search import sampler
from benchmark.attack_search.sampler import sampler_version, suggest
from benchmark.attack_search.spaces import SPACES, Choice, Number, Space
from benchmark.attack_search.trial import Setting, Trial, TrialState
from benchmark.errors import UsageError

SPACE: dict[str, Space] = {
    "one": {"x": Number(0.0, 1.0, step=0.05), "factor": Number(0.1, 10.0, log=True)},
    "two": {"kind": Choice(("a", "b"))},
}


def objective(setting: Setting) -> float:
    return 0.9 if setting.attack == "two" else abs(float(setting.params["x"]) - 0.7)


def history(count: int, seed: int = 0, given: list[Trial] | None = None) -> list[Trial]:
    trials = list(given or [])
    while len(trials) < count:
        setting = suggest(SPACE, trials, seed)
        trials.append(Trial(setting, TrialState.FEASIBLE, objective(setting)))
    return trials


def test_a_search_that_goes_on_suggests_what_an_undisturbed_one_suggests() -> None:
    whole = history(12)
    assert history(12, given=whole[:7]) == whole
    assert history(12, seed=1) != whole


def test_suggestions_get_better_and_do_not_repeat_while_the_space_lasts() -> None:
    trials = history(40)
    assert min(trial.loss for trial in trials) <= 0.05
    late = [trial.loss for trial in trials[20:]]
    assert sum(late) / len(late) < sum(trial.loss for trial in trials[:10]) / 10
    names = [str(trial.setting) for trial in trials]
    assert len(set(names)) == len(names)


def test_a_space_that_is_used_up_is_suggested_again() -> None:
    small: dict[str, Space] = {"two": SPACE["two"]}
    trials = [Trial(Setting("two", {"kind": kind}), TrialState.FEASIBLE, 0.5) for kind in "ab"]
    assert suggest(small, trials, 0).params["kind"] in "ab"


def test_numbers_are_short_and_lie_in_their_range() -> None:
    for trial in history(15):
        for name, value in trial.setting.params.items():
            domain = SPACE[trial.setting.attack][name]
            assert domain.holds(value)
            assert len(str(value).replace(".", "").lstrip("0")) <= 3 or isinstance(domain, Choice)


def test_a_trial_outside_the_space_does_not_disturb() -> None:
    own = Trial(Setting("unknown", {"y": 3}), TrialState.FEASIBLE, 0.5)
    assert suggest(SPACE, [own], 0).attack in SPACE


def test_trials_that_fail_a_gate_stand_behind_all_that_pass() -> None:
    setting = Setting("two", {"kind": "a"})
    losses = [
        Trial(setting, TrialState.FEASIBLE, 1.0).loss,
        Trial(setting, TrialState.INFEASIBLE, 0.01).loss,
        Trial(setting, TrialState.FAILED).loss,
    ]
    assert losses == sorted(losses)
    assert len(set(losses)) == 3


def test_without_optuna_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs Optuna, but 'optuna' is not installed; run pip install 'fedsafety"):
        sampler_version()


def test_the_version_names_sampler_and_package() -> None:
    assert sampler_version().startswith(f"{sampler.NAME} of optuna ")
    assert SPACES
