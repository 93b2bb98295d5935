"""The command attack-search: one error for a wrong choice, and a dry run that writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark.attack_search import search as searches
from benchmark.attack_search.trial import Setting, Trial, TrialState
from benchmark.cli import main as cli
from benchmark.cli.attack_search import _summary, _trial_line
from benchmark.suites.suite import Suite
from tests.leaderboard.views.test_tuned import search

CHOICE = "attack-search --defense krum --scenario aligned_start"


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, words: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["fedsafety", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{CHOICE} --budget 0", "error: --budget is 0, but a search has at least one trial"),
        (f"{CHOICE} --budget 3 --seed 11", "error: seed 11 is scored by suite 'micro'"),
        (f"{CHOICE} --budget 3 --attack trigger", "error: attack 'trigger' has no search space"),
        ("attack-search --defense nothing --scenario aligned_start --budget 3", "'nothing'"),
        ("attack-search --defense krum --scenario clean --budget 3", "error: scenario 'clean' has no attack"),
        ("attack-search --defense krum --scenario paper_shape --budget 3", "error: 'krum' is not applicable in"),
    ],
    ids=["budget", "seed", "space", "defense", "twin", "shape"],
)
def test_a_wrong_choice_gives_one_error_and_writes_nothing(
    micro: Suite,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    message: str,
) -> None:
    assert call(monkeypatch, tmp_path, words) == 2
    printed = capsys.readouterr().err
    assert message in " ".join(printed.split())
    assert printed.count("error:") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_space_and_time_of_finished_trials_and_writes_nothing(
    micro: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [Trial(Setting("gap"), TrialState.FEASIBLE, 0.5, seconds=30.0)] * 2
    monkeypatch.setattr(searches.AttackSearch, "finished", lambda self, runs: trials)
    assert call(monkeypatch, tmp_path, f"{CHOICE} --budget 6 --attack boosted_data --dry-run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 trials on development seeds 1, prompts fresh, draw 0, sampler TPE of optuna" in printed
    assert "space of boosted_data: normal_share 0 to 0.9, steps of 0.05; reminder_share" in printed
    assert "boost 0.2 to 20, logarithmic" in printed
    assert "6 trainings of the defense, and 1 of FedAvg without attack" in printed
    assert "about 2 min 00 s on this machine, by the trials that are done" in printed
    assert list(tmp_path.iterdir()) == []


def test_lines_name_the_setting_the_end_and_the_lowest_safety() -> None:
    trial = Trial(Setting("gap", {"radius": 0.5}), TrialState.INFEASIBLE, 0.25, ("utility is low",))
    line = _trial_line(searches.Progress(trial, 3, 0.5), 20)
    assert line == "trial 3 of 20: gap(radius=0.5): safety 25.0, infeasible: utility is low; lowest so far 50.0"
    found = _summary(search("krum"))
    assert (
        "20 trials (2 failed a gate, 0 had no score) found boosted_data(boost=3.5) as the worst: safety 10.0" in found
    )
    assert "found nothing lower than its own attack unaligned_data()" in _summary(search("krum", lower=False))
