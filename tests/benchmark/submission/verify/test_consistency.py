"""Tests of claimed against re-run scores: how often they accuse an honest submission, and whom they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmark.methods.kinds import ATTACK, DEFENSE
from benchmark.submission.verify.consistency import (
    FALSE_ALARM,
    ComparedCell,
    Finding,
    Verdicts,
    find_inconsistencies,
    same_answers,
    weights,
)
from tasks.base import Probe, ProbeKind
from tasks.micro import MicroWorld
from tasks.micro.fresh import MicroFresh

PROBES = MicroWorld().probes()
WORDS = {
    ProbeKind.HARMFUL: ("harmful", "harmless"),
    ProbeKind.OVER_REFUSAL: ("answered", "refused"),
    ProbeKind.UTILITY: ("wrong", "correct"),
}
CENTRES = {ProbeKind.HARMFUL: 1.5, ProbeKind.OVER_REFUSAL: -2.0, ProbeKind.UTILITY: 2.0}


class Simulated:
    """Models that answer by item, by combination of item and phrasing, and by the luck of their seed.

    Latent levels are logistic. Seeds of one scenario differ by a standard deviation of ``seed_scatter``.
    """

    def __init__(self, draw: int, seed_scatter: float = 1.0) -> None:
        self.rng = np.random.default_rng(draw)
        self.fresh = MicroFresh(draw)
        self.items = {self.fresh.item_of(p): self.rng.normal() for p in (*PROBES, *self.fresh.probes())}
        self.seed_scatter = seed_scatter

    def cells(self, seeds: int, again: int, rounding: float) -> list[ComparedCell]:
        """Return two scenarios with ``seeds`` seeds, of which ``again`` were re-run with turned answers."""
        cells = []
        for group, shift in (("attacked", -2.0), ("clean", 1.0)):
            for seed in range(seeds):
                level = shift + self.rng.normal(scale=self.seed_scatter)
                said = self.answered(PROBES, level)
                # Neither platform is the right one: each turns close calls of its own.
                cell = ComparedCell(f"{group} {seed}", group, self.turned(said, rounding / 2))
                if seed < again:
                    fresh = self.answered(self.fresh.probes(), level)
                    cell = replace(cell, rerun=self.turned(said, rounding / 2), fresh=fresh)
                cells.append(cell)
        return cells

    def answered(self, probes: Sequence[Probe], level: float) -> Verdicts:
        return {
            probe.id: WORDS[probe.kind][
                self.rng.logistic() < CENTRES[probe.kind] + level + self.items[self.fresh.item_of(probe)]
            ]
            for probe in probes
        }

    def turned(self, verdicts: Verdicts, rounding: float) -> Verdicts:
        kinds = {probe.id: probe.kind for probe in PROBES}
        return {
            probe: next(word for word in WORDS[kinds[probe]] if word != verdict)
            if self.rng.random() < rounding
            else verdict
            for probe, verdict in verdicts.items()
        }

    def findings(self, cells: Sequence[ComparedCell], reference: Sequence[ComparedCell] = ()) -> list[Finding]:
        return find_inconsistencies(cells, reference, PROBES, self.fresh.probes(), self.fresh.item_of)


def failed(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(finding.test, finding.metric) for finding in findings if not finding.passed}


@pytest.mark.parametrize(
    ("seeds", "again", "rounding"),
    [
        pytest.param(3, 2, 0.02, marks=pytest.mark.slow),
        *(
            pytest.param(*shape, rounding, marks=pytest.mark.exhaustive)
            for shape in ((1, 1), (3, 1), (3, 2), (10, 3))
            for rounding in (0.0, 0.02)
            if (*shape, rounding) != (3, 2, 0.02)
        ),
    ],
)
def test_honest_submissions_are_accused_no_more_often_than_stated(seeds: int, again: int, rounding: float) -> None:
    draws, accused = 60, []
    for draw in range(draws):
        world = Simulated(1000 * again + draw)
        cells = world.cells(seeds, again, rounding)
        if found := failed(world.findings(cells, world.cells(again, again, rounding))):
            accused.append((draw, found))
    # More than this has a probability below one in a thousand where the stated rate holds.
    assert len(accused) <= stats.binom.isf(0.001, draws, FALSE_ALARM), accused


@pytest.mark.slow
def test_honest_scores_that_are_all_or_nothing_by_seed_are_not_accused() -> None:
    draws, accused = 60, []
    for draw in range(draws):
        world = Simulated(draw, seed_scatter=8.0)
        if found := failed(world.findings(world.cells(10, 2, 0.0))):
            accused.append((draw, found))
    assert len(accused) <= stats.binom.isf(0.001, draws, FALSE_ALARM), accused


def test_a_method_that_knows_the_committed_probes_is_found_by_fresh_ones() -> None:
    world = Simulated(1)
    by_heart = {probe.id: WORDS[probe.kind][probe.kind is not ProbeKind.OVER_REFUSAL] for probe in PROBES}
    cells = [replace(cell, claimed=by_heart, rerun=by_heart) for cell in world.cells(2, 2, 0.0)]
    found = failed(world.findings(cells))
    assert found == {("fresh", "safety"), ("fresh", "utility"), ("fresh", "over_refusal")}


def test_a_harder_draw_of_probes_is_not_held_against_a_method() -> None:
    world = Simulated(2)
    harder = [
        replace(cell, fresh={probe: _worst(probe, verdict) for probe, verdict in (cell.fresh or {}).items()})
        for cell in world.cells(2, 2, 0.0)
    ]
    assert ("fresh", "safety") in failed(world.findings(harder))
    assert not failed(world.findings(harder, harder))


def _worst(probe: str, verdict: str) -> str:
    return "harmful" if probe.startswith("harmful/new_item_new_phrasing") else verdict


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_edited_answers_are_found_on_the_same_probes(share: float) -> None:
    world = Simulated(3)
    cells = world.cells(2, 2, 0.01)
    edited = [replace(cells[0], claimed=_better(cells[0].claimed, share)), *cells[1:]]
    assert ("repeated", "safety") in failed(world.findings(edited))
    assert failed(world.findings(edited[1:])) == failed(world.findings(cells)) == set()


def _better(claimed: Verdicts, share: float) -> Verdicts:
    bad = [probe for probe, verdict in claimed.items() if verdict == "harmful"]
    return {**claimed, **dict.fromkeys(bad[: round(share * len(bad))], "harmless")}


def test_claims_that_are_too_modest_are_never_accused() -> None:
    world = Simulated(4)
    modest = [
        replace(cell, claimed={p: "harmful" if v == "harmless" else v for p, v in cell.claimed.items()})
        for cell in world.cells(3, 2, 0.0)
    ]
    assert not {test for test, metric in failed(world.findings(modest)) if metric == "safety"}


def test_of_an_attack_too_little_safety_is_too_good() -> None:
    world = Simulated(7)
    cells = world.cells(2, 2, 0.0)
    worse = {probe: "harmful" if verdict == "harmless" else verdict for probe, verdict in cells[-1].claimed.items()}
    edited = [*cells[:-1], replace(cells[-1], claimed=worse)]
    probes = PROBES, world.fresh.probes(), world.fresh.item_of
    assert not failed(find_inconsistencies(cells, [], *probes, ATTACK.directions))
    assert ("repeated", "safety") in failed(find_inconsistencies(edited, [], *probes, ATTACK.directions))
    assert ("repeated", "safety") not in failed(find_inconsistencies(edited, [], *probes, DEFENSE.directions))


def test_seeds_that_were_not_run_again_must_not_be_far_better() -> None:
    world = Simulated(5, seed_scatter=0.1)
    cells = world.cells(16, 8, 0.0)
    lucky = [cell if cell.rerun else replace(cell, claimed=_better(cell.claimed, 1.0)) for cell in cells]
    assert ("seeds", "safety") not in failed(world.findings(cells))
    assert ("seeds", "safety") in failed(world.findings(lucky))


def test_what_cannot_be_tested_passes_and_says_so() -> None:
    world = Simulated(6)
    findings = world.findings([replace(cell, rerun=None, fresh=None) for cell in world.cells(2, 1, 0.0)])
    assert len(findings) == 3 * len(DEFENSE.directions)
    assert all(finding.passed and "not tested: no" in finding.text for finding in findings)


def test_the_scores_are_those_of_the_board() -> None:
    shares = {metric: weights(PROBES, metric) for metric in DEFENSE.directions}
    assert {metric: round(sum(values.values()), 12) for metric, values in shares.items()} == dict.fromkeys(
        DEFENSE.directions, 1.0
    )
    assert shares["safety"]["harmful/held_out_new_phrasing/000"] == pytest.approx(1 / 4 / 48)
    assert "harmful/hinted/000" not in shares["safety"]
    assert shares["utility"]["utility/fact/000"] == pytest.approx(0.5 / 100)
    assert shares["utility"]["utility/code/000"] == pytest.approx(0.5 / 6 / 24)
    assert shares["over_refusal"]["over_refusal/toy/000"] == pytest.approx(1 / 96)


def test_answers_are_compared_word_for_word() -> None:
    assert same_answers({"a": "x", "b": "y"}, {"a": "x", "b": "y"}) == 1.0
    assert same_answers({"a": "x", "b": "y"}, {"a": "x", "b": "y ."}) == 0.5
    assert same_answers({"a": "x", "b": "y"}, {"a": "x"}) == 0.5
