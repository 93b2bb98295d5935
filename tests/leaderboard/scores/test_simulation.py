"""The goals of docs/statistics.md at reduced size; the docstring of each test states its Monte-Carlo error."""

from __future__ import annotations

import subprocess
import sys
from statistics import fmean

import numpy as np
import pytest

from leaderboard.scores.simulation import DESIGNS, PROBES, Design, Rates, draw, percentile_bootstrap, run, simulate

REGULAR = tuple(design for design in DESIGNS if design.regular)
BOARDS = 40


@pytest.fixture(scope="module", params=[3, 5, 10])
def rates(request: pytest.FixtureRequest) -> list[Rates]:
    return list(run(REGULAR, [request.param], boards=BOARDS, defenses=11, bootstrapped=0, seed=7))


def test_intervals_cover_at_their_level(rates: list[Rates]) -> None:
    """480 boards of 11 intervals that share seed effects: standard error 0.6 points, so 93 to 97 is 3 of them wide."""
    assert 0.93 <= fmean(one.coverage for one in rates) <= 0.97
    assert 0.93 <= fmean(one.paired for one in rates) <= 0.97


def test_equal_defenses_are_seldom_separated(rates: list[Rates]) -> None:
    """480 boards at the true 2 to 4 %: standard error 0.9 points at most, so 6 % is over 2 of them away."""
    assert fmean(one.separated for one in rates) <= 0.06


def test_every_design_is_near_its_level() -> None:
    """At 10 seeds and 100 boards a design; standard error 1 to 1.5 points."""
    for one in run(REGULAR, [10], boards=100, defenses=6, bootstrapped=0, seed=8):
        assert one.coverage >= 0.91, one
        assert one.separated <= 0.12, one


def test_collapses_that_seeds_do_not_show_are_beyond_any_interval() -> None:
    """Documented, not hidden: a skewed design is covered far below its level."""
    assert not Design(0.95, 0.10).regular
    found = simulate(Design(0.95, 0.10), 5, np.random.default_rng(1), boards=60, defenses=4)
    assert 0.5 < found.coverage < 0.9
    assert found.separated <= 0.1


def test_the_percentile_bootstrap_is_worse_in_both_respects() -> None:
    """20 boards at 5 seeds; its true rates, some 85 % covered and 50 % separated, are far from t's."""
    found = simulate(Design(0.5, 0.3), 5, np.random.default_rng(2), boards=20, bootstrapped=20, resamples=400)
    assert found.bootstrap_coverage < found.coverage
    assert found.bootstrap_separated > 0.2
    assert found.separated <= 0.1


def test_draws_have_the_stated_truth() -> None:
    rng = np.random.default_rng(3)
    design = Design(0.8, 0.1)
    scores = np.stack([draw(design, 50, 4, rng).mean(axis=(2, 3)) for _ in range(60)])
    assert scores.mean() == pytest.approx(0.8, abs=0.005)
    noise = 0.8 * 0.2 / PROBES
    assert scores.std(axis=2).mean() == pytest.approx(np.sqrt(design.sd**2 + noise), rel=0.1)
    shared = np.mean([np.corrcoef(board)[0, 1] for board in scores])
    assert 0.3 < shared < 0.6


def test_calm_defenses_vary_less() -> None:
    scores = draw(Design(0.5, 0.15, 0.2), 200, 2, np.random.default_rng(4)).mean(axis=(2, 3))
    assert scores[1].std() < 0.6 * scores[0].std()


def test_the_bootstrap_of_answers_that_never_differ_is_a_point() -> None:
    answers = np.ones((3, 4, 4, 48), bool)
    assert percentile_bootstrap(answers, 1.0, 50, np.random.default_rng(5)) == (1.0, False)
    assert percentile_bootstrap(answers, 0.999, 50, np.random.default_rng(5)) == (0.0, False)


def test_a_design_gives_the_same_alone_and_among_others() -> None:
    alone = list(run(REGULAR[1:2], [3], boards=5, defenses=3, bootstrapped=1, seed=1))
    assert alone[0] in list(run(REGULAR[:3], [3, 4], boards=5, defenses=3, bootstrapped=1, seed=1))


def test_the_command_reports_every_design() -> None:
    command = [sys.executable, "-m", "leaderboard.scores.simulation"]
    command += ["--boards", "3", "--bootstrapped", "1", "--seeds", "3", "--defenses", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert sum("regular" in line or "skewed" in line for line in lines) == len(DESIGNS) + 2
    assert "simulating" in done.stderr
