"""Each misbehaviour ends with its reason, or makes no difference; nothing else happens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from _pytest.mark.structures import ParameterSet

from benchmark.sandbox.visible import visible_files

from .cases import CASES
from .conftest import isolation_called
from .play import METHODS, Case, method, play

AT_ONCE = 3
BACKENDS = ("bubblewrap", "namespaces")
QUICK = ("behaves", "exits")
"""Methods of which one play belongs to the quick tests."""

ELSEWHERE = {
    "counts_prompts",
    "leaves_files",
    "metadata_borrows_title",
    "metadata_claims",
    "metadata_script",
    "opens_sockets",
    "reads_files",
    "reads_parent",
    "remembers_prompts",
    "swallows_errors",
    "waits_in_every_hook",
    "writes_outside",
}
"""Played by the other modules here."""


def plays() -> Iterator[ParameterSet]:
    """Yield every case with its ways of isolating; all but the first plays of ``QUICK`` are exhaustive."""
    played: set[str] = set()
    for case in CASES:
        for backend in BACKENDS if case.both else ("auto",):
            quick = case.method in QUICK and case.method not in played
            marks = [] if quick else [pytest.mark.exhaustive]
            yield pytest.param(case, backend, marks=marks)
            played.add(case.method)


Outcomes = dict[tuple[str, str], Future[str]]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """What became of each chosen case; several are played at a time, because most of their time is waiting."""
    chosen: dict[tuple[str, str], Case] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == test_a_method_is_contained.__name__:
            case, backend = item.callspec.params["case"], item.callspec.params["backend"]
            chosen[str(case), backend] = case
            method(case.method)
    # The sandbox's modules are found here, so that no thread below uses Python's parser while pytest uses it.
    visible_files(method("behaves"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {key: pool.submit(_played, case, key[1]) for key, case in chosen.items()}
        pool.shutdown(cancel_futures=True)


def _played(case: Case, backend: str) -> str:
    return play(case, isolation_called(backend))


@pytest.mark.parametrize(("case", "backend"), list(plays()), ids=lambda value: str(value))
def test_a_method_is_contained(case: Case, backend: str, outcomes: Outcomes) -> None:
    isolation_called(backend)
    reason = outcomes[str(case), backend].result()
    if not case.reason:
        assert reason == ""
    if not reason and case.fine:
        return
    place = 0
    for words in case.reason:
        assert words in reason[place:], reason
        place += reason[place:].index(words)
    assert len(reason) < 4000
    assert reason.isprintable(), reason


def test_every_method_is_played() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
    played = {case.method for case in CASES} | ELSEWHERE
    assert {path.stem for path in METHODS.glob("*/*.py")} == played
