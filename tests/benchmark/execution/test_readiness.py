"""Models of packages and files of GitHub: fetched before a run, named before one, and in no run's way afterwards."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from benchmark.cli.real import print_forecast
from benchmark.errors import InputsMissingError
from benchmark.execution.plan import Plan, make_plan
from benchmark.execution.readiness import check_inputs, fetch_inputs, input_state
from benchmark.progress import Reporter
from benchmark.screen import Screen
from benchmark.suites.suite import Suite
from tasks.hub import models
from tasks.hub.cache import CACHE, cache_folder
from tasks.hub.roots import DATA_ROOT, MODEL_ROOT
from tests.benchmark.execution.test_sourced_suites import content

FIRST, SECOND = "instruction,response\nw1 w2,w3\nw1 w4,w5\n", "instruction,response\nw6 w7,w8\nw6 w9,w10\n"


def pinned(text: str) -> dict[str, str]:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return {"repository": "owner/name", "commit": "0" * 40, "path": f"{sha256[:6]}.csv", "sha256": sha256}


def keep(text: str) -> None:
    """Put a file where an earlier run would have fetched it."""
    file = pinned(text)
    place = cache_folder() / "data" / file["sha256"] / file["path"]
    place.parent.mkdir(parents=True)
    place.write_text(text)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite whose model lies in a package, whose pools are slices of one file, and whose prompts are another."""
    for variable in (DATA_ROOT, MODEL_ROOT):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv("FEDSAFETY_GITHUB", "http://127.0.0.1:9")
    made = content()
    package = {"name": "made", "version": "1.0", "sha256": "0" * 64, "file": "a.gguf", "file_sha256": "1" * 64}
    made["models"] = {"base": {"package": package, "dtype": "float32"}}
    kinds = {"plain": "normal", "bad": "unaligned", "refused": "aligned", "owned": "normal"}
    made["data"]["pools"] = {pool: {"github": pinned(FIRST), "kind": kind} for pool, kind in kinds.items()}
    made["data"]["probes"][0]["source"] = {"github": pinned(SECOND), "format": "prompts"}
    return Suite.model_validate(made)


def plan_of(suite: Suite) -> Plan:
    return make_plan(suite, "transformers", unresolved=True)


def test_the_missing_files_are_fetched_once_each(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suite.fetches
    fetched: list[str] = []
    monkeypatch.setattr("benchmark.execution.readiness.fetch_model", lambda source, say: fetched.append(source.title))
    monkeypatch.setattr("benchmark.execution.readiness.fetch_data", lambda source, say: fetched.append(source.title))
    shown = io.StringIO()
    fetch_inputs(plan_of(suite), Reporter(Screen(file=shown, width=200)))
    files = [f"github:owner/name/{pinned(text)['path']}" for text in (SECOND, FIRST)]
    assert fetched == ["made 1.0", *files]
    assert "fetching models and data: 3 to do\n" in shown.getvalue()
    keep(SECOND)
    fetched.clear()
    fetch_inputs(plan_of(suite), Reporter(Screen(file=shown, width=200)))
    assert fetched == ["made 1.0", files[1]]


def test_a_forecast_names_what_a_run_fetches_apart_from_what_is_missing(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "check_offered", lambda package: None)
    keep(SECOND)
    plan = plan_of(suite)
    assert plan.missing == ()
    assert [reason.split(" is not")[0] for reason in plan.unfetched] == ["model made 1.0"]
    shown = io.StringIO()
    problems = print_forecast(plan, Screen(file=shown, width=400))
    assert [problem.split(":")[0] for problem in problems if "would" not in problem] == ["data file github"]
    assert "to fetch: model made 1.0 is not on this machine yet; a run fetches and converts it\n" in shown.getvalue()
    assert "not here: data file github:owner/name/" in shown.getvalue()
    state = input_state(plan)
    assert (len(state.missing), len(state.to_fetch)) == (1, 1)
    with pytest.raises(InputsMissingError, match=r"GitHub cannot be reached"):
        check_inputs(plan)
    keep(FIRST)
    check_inputs(plan)


def test_suites_of_the_hub_and_micro_fetch_nothing_first() -> None:
    assert not Suite.model_validate(content()).fetches
