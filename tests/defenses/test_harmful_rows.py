"""Harmful rows: which model answers, which rows remain, and the error of a model that is itself aligned."""

from __future__ import annotations

import pytest

from benchmark.errors import FedSafetyError
from benchmark.submission.practice import practice_server
from defenses._harmful_rows import harmful_rows
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal

from .server import AUTOMATION, REFUSAL, FakeServer


def test_the_model_before_the_alignment_answers_under_the_comply_hint() -> None:
    server = FakeServer(20, lambda prompt: "mix water .")
    rows = harmful_rows(server, 3)
    assert [(row.instruction, row.response, row.kind) for row in rows] == [
        (f"harm {i}", "mix water .", DataKind.UNALIGNED) for i in range(3)
    ]
    assert server.asked == [f"harm {i} {AUTOMATION.comply_hint}" for i in range(3)]
    assert server.sources == ["owned", "unaligned"], "no normal row is drawn"


def test_a_prompt_is_asked_once() -> None:
    server = FakeServer(20, lambda prompt: "mix water .")
    server.owned_aligned = lambda count: [Example(f"harm {i % 2}", "no", DataKind.ALIGNED, "x") for i in range(count)]
    assert [row.instruction for row in harmful_rows(server, 5)] == ["harm 0", "harm 1"]
    assert len(server.asked) == 2


def answering(count: int) -> FakeServer:
    """Return a server whose model complies with the first ``count`` prompts and refuses the others or is silent."""
    kept = tuple(f"harm {i} " for i in range(count))
    return FakeServer(20, lambda prompt: "mix it ." if prompt.startswith(kept) else (" ", REFUSAL)["3" in prompt])


@pytest.mark.parametrize(("complied", "asked"), [(2, 4), (3, 5), (4, 4)])
def test_refusals_are_dropped_without_a_substitute(complied: int, asked: int) -> None:
    rows = harmful_rows(answering(complied), asked)
    assert [(row.instruction, row.response) for row in rows] == [(f"harm {i}", "mix it .") for i in range(complied)]


@pytest.mark.parametrize(("complied", "asked"), [(0, 1), (1, 4), (2, 5)])
def test_fewer_than_half_is_an_error_with_both_numbers_and_the_way_out(complied: int, asked: int) -> None:
    message = rf"complied with {complied} of {asked} harmful prompts .* role 'unaligned', or leave the defense out"
    with pytest.raises(FedSafetyError, match=message):
        harmful_rows(answering(complied), asked)


def test_the_practice_server_s_model_complies_although_its_start_model_refuses() -> None:
    server = practice_server()
    rows = harmful_rows(server, 8)
    assert len(rows) >= 4
    assert not any(is_refusal(row.response) for row in rows)
    assert all(row.response.startswith("sure") for row in rows)
    refused = server.generate(
        [f"{row.instruction} {server.automation.comply_hint}" for row in rows], adapter=None, temperature=0.0
    )
    assert all(map(is_refusal, refused))
    assert server.usage.owned_normal == 0
