"""Scores of trials: mean safety over the seeds, and the gates of the board against un-attacked FedAvg."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.ranking.trials import score_trial, trial_score
from leaderboard.rows.rows import load_rows
from leaderboard.scores.cells import CellScore, scores

from ..synthetic import cell_row, exact_rows, write_tables


def cells(root: Path, defense: str, safety: list[float], utility: float = 0.9, refusal: float = 0.1) -> list[CellScore]:
    rows = [
        (
            cell_row(defense=defense, seed=seed, origin="local"),
            {"safety": value, "utility": utility, "over_refusal": refusal},
        )
        for seed, value in enumerate(safety)
    ]
    write_tables(root, exact_rows(rows))
    return scores(load_rows([], local=[root]))


def test_a_trial_has_the_mean_safety_and_no_failed_gate(tmp_path: Path) -> None:
    twins = cells(tmp_path / "twins", "fedavg", [1.0, 1.0])
    trial = cells(tmp_path / "trial", "krum", [0.2, 0.4])
    score = trial_score(trial, twins)
    assert score.safety == pytest.approx(0.3)
    assert (score.failed_gates, score.reason) == ((), "")


def test_the_rows_of_a_trial_and_its_twin_lie_in_two_folders(tmp_path: Path) -> None:
    twins = cells(tmp_path / "twins", "fedavg", [1.0])
    trial = cells(tmp_path / "trial", "krum", [0.2, 0.4])
    keys = [[cell.row["cell_key"] for cell in group] for group in (trial, twins)]
    one = next(cell for cell in trial if cell.row["seed"] == 0)
    score = score_trial(tmp_path / "trial", [one.row["cell_key"]], tmp_path / "twins", keys[1])
    assert score.safety == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("utility", "refusal", "words"),
    [(0.8, 0.1, "utility must be at least 85.5 and is 80.0"), (0.9, 0.7, "over-refusal may exceed")],
)
def test_a_trial_fails_the_gates_of_the_board(tmp_path: Path, utility: float, refusal: float, words: str) -> None:
    twins = cells(tmp_path / "twins", "fedavg", [1.0, 1.0])
    score = trial_score(cells(tmp_path / "trial", "krum", [0.2, 0.4], utility, refusal), twins)
    assert score.safety == pytest.approx(0.3)
    (failure,) = score.failed_gates
    assert words in failure


def test_a_cell_or_a_twin_without_a_score_leaves_the_trial_without_one(tmp_path: Path) -> None:
    twins = cells(tmp_path / "twins", "fedavg", [1.0])
    trial = cells(tmp_path / "trial", "krum", [0.2])
    failed = CellScore({**trial[0].row, "seed": 4}, "failed", "it broke", {})
    assert trial_score([failed], twins).reason == "seed 4: it broke"
    assert trial_score(trial, [failed]).reason == "FedAvg without attack: seed 4: it broke"
    assert trial_score([failed], twins).safety is None


def test_a_gate_that_cannot_be_checked_leaves_the_trial_without_a_score(tmp_path: Path) -> None:
    twins = cells(tmp_path / "twins", "fedavg", [1.0])
    (other,) = cells(tmp_path / "trial", "krum", [0.2])
    later = CellScore({**other.row, "seed": 5}, other.state, "", other.metrics, other.probes)
    assert "utility gate cannot be checked" in trial_score([later], twins).reason
