"""Results of attack searches in files: written as they are read, and refused where they contradict themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import FedSafetyError
from benchmark.records.tuned import (
    Budget,
    add_tuned,
    committed_file,
    read_tuned,
    record_tuned,
    runs_file,
    tuned_of,
    tuned_scenarios,
)

from ...leaderboard.synthetic import catalog_row
from ...leaderboard.views.test_tuned import search


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    krum, median = search("krum"), search("median", lower=False)
    path = committed_file(tmp_path, "micro")
    assert add_tuned(path, "micro", [median, krum]) == 2
    assert read_tuned(path) == ("micro", (krum, median))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_later_result_takes_the_place_of_a_former_one_of_its_place(tmp_path: Path) -> None:
    path = record_tuned(tmp_path, "micro", search("krum"))
    assert path == runs_file(tmp_path, "micro")
    record_tuned(tmp_path, "micro", search("median"))
    later = search("krum", sampler_seed=3)
    record_tuned(tmp_path, "micro", later)
    assert tuned_of(path, "micro")["aligned_start", "krum"] == later
    assert len(tuned_of(path, "micro")) == 2
    before = path.stat().st_mtime_ns
    assert add_tuned(path, "micro", [later]) == 0
    assert path.stat().st_mtime_ns == before


def test_a_file_that_is_missing_holds_nothing(tmp_path: Path) -> None:
    assert tuned_of(tmp_path / "none.yaml", "micro") == {}


def content(**changes: Any) -> dict[str, Any]:
    return {"suite": "micro", "tuned_attacks": [search("krum").model_dump(mode="json") | changes]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read"),
        ("[]", "is not valid"),
        (yaml.safe_dump(content(lower=False)), "lower is false and the attack differs from the scenario's own"),
        (yaml.safe_dump(content(budget={"allowed": 5, "trials": 9, "infeasible": 0, "failed": 0})), "9 trials exceed"),
        (yaml.safe_dump(content(nothing=1)), "tuned_attacks.0.nothing: Extra inputs are not permitted"),
        (
            yaml.safe_dump({"suite": "micro", "tuned_attacks": content()["tuned_attacks"] * 2}),
            "has two results of 'krum' in 'aligned_start'",
        ),
        (yaml.safe_dump({"suite": "other", "tuned_attacks": []}), "holds results of suite 'other', not of 'micro'"),
    ],
    ids=["yaml", "form", "lower", "budget", "key", "twice", "suite"],
)
def test_a_file_that_is_not_valid_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tuned_attacks.yaml"
    path.write_text(text)
    with pytest.raises(FedSafetyError) as caught:
        tuned_of(path, "micro")
    assert words in str(caught.value)


def test_a_result_has_a_feasible_trial() -> None:
    with pytest.raises(ValueError, match="a result has at least one feasible trial"):
        Budget(allowed=4, trials=4, infeasible=3, failed=1)


def test_scenarios_with_a_tuned_attack_are_found_by_their_settings() -> None:
    rows = [
        catalog_row("scenario", "a", settings=json.dumps({"tuned_for": "krum"})),
        catalog_row("scenario", "b", settings=json.dumps({"base": "a"})),
        catalog_row("scenario", "c", settings='{"tuned_for"'),
        catalog_row("suite", "d", settings=json.dumps({"tuned_for": "krum"})),
    ]
    assert tuned_scenarios(rows) == {"a"}
