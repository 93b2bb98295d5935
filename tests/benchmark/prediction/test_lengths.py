"""Lengths of rows and prompts: steps from samples, and what is read from a plan's data."""

from __future__ import annotations

import io

import pytest

from benchmark.execution.likelihoods import continuations
from benchmark.execution.plan import make_plan
from benchmark.execution.worlds import open_chat
from benchmark.models.rows import TokenRow
from benchmark.prediction.lengths import Lengths, RowSample, measure_lengths
from benchmark.prediction.step import Step
from benchmark.progress import Reporter
from benchmark.screen import Screen
from benchmark.suites.suite import find_suite


def test_a_sample_counts_tokens_and_those_with_loss() -> None:
    """The first token of a row is never predicted."""
    assert RowSample.of([TokenRow((5, 8, 9, 2), 2), TokenRow((5, 8), 0)]) == RowSample((4, 2), (2, 1))


def test_equal_rows_need_no_padding() -> None:
    assert RowSample((50, 50), (20, 20)).step(3, 4) == Step(3, 4, 50, 80, 240)


def test_the_width_is_the_expected_length_of_the_longest_row() -> None:
    """Of two rows that have 10 or 20 tokens, one has 20 in three of four draws: 17.5 tokens; of forty, always."""
    sample = RowSample((10, 20), (5, 5))
    assert sample.step(10, 4).width == 20
    assert sample.step(1, 1).width == pytest.approx(15, abs=2)
    assert sample.step(1, 2).width == pytest.approx(17.5, abs=1.5)
    # Clients that are trained one after the other are padded apart.
    assert sample.step(10, 2, stacked=False).width == pytest.approx(17.5, abs=0.6)
    assert sample.step(10, 2).width == 20


def test_long_rows_are_divided_as_in_training() -> None:
    """Two rows of 30 or 500 tokens take 60, 530 or 1,000, as they are passes of their own: 265 a row on average.

    Padded together they would take 60 or 1,000, which is 382.5 a row.
    """
    assert RowSample((30, 500), (5, 5)).step(1, 2).width == pytest.approx(265, rel=0.15)


def test_the_lengths_of_a_world_that_makes_its_rows_are_read() -> None:
    plan = make_plan(find_suite("micro"), "vllm", scenarios=["aligned_start"], pipelines=["fedavg"], seeds=[11])
    lengths, (job, _) = measure_lengths(plan), plan.jobs
    chat = open_chat(plan.world, job.scenario.start)
    probes = plan.world.probes()
    sets = lengths.probes[job.scenario.start]
    assert sum(each.count for each in sets) == len(probes)
    prompts = [len(chat.prompt_ids(probe.instruction)) for probe in probes]
    assert all(min(prompts) <= each.prompt <= max(prompts) for each in sets)
    assert sum(each.count * each.measured for each in sets) == sum(len(continuations(probe, ())) for probe in probes)
    rows = lengths.rows[job.scenario.id]
    assert len(rows.tokens) == len(rows.losses) == 64
    assert all(0 < losses < tokens for tokens, losses in zip(rows.tokens, rows.losses, strict=True))
    assert lengths.server.keys() == lengths.rows.keys()
    assert 0 < lengths.asking[job.scenario.start] < 200


@pytest.mark.parametrize(("suite", "missing"), [("micro", False), ("paper", True)])
def test_progress_reaches_the_end_with_and_without_data(
    suite: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FEDSAFETY_DATA_ROOT", "FEDSAFETY_MODEL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = find_suite(suite)
    names = [scenario.id for scenario in chosen.scenarios[:2]]
    plan = make_plan(chosen, "vllm", scenarios=names, pipelines=["fedavg"], seeds=chosen.seeds[:1], unresolved=True)
    count = len({job.scenario.start for job in plan.jobs}) + len({job.scenario.id for job in plan.jobs})
    shown = io.StringIO()
    lengths = measure_lengths(plan, Reporter(Screen(file=shown, width=200)))
    assert (lengths == Lengths()) == missing
    first, *_, last = shown.getvalue().splitlines()
    assert first == f"reading samples of the data: {count} to do"
    assert last.startswith(f"reading samples of the data: {count}/{count} after ")


def test_data_that_are_not_here_leave_the_assumptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDSAFETY_DATA_ROOT", "FEDSAFETY_MODEL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = make_plan(find_suite("paper"), "vllm", pipelines=["fedavg"], seeds=[2023], unresolved=True)
    assert measure_lengths(plan) == Lengths()
