"""The option --tuned: which results run, and which choices exclude it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.cli.run import RunRequest
from benchmark.cli.tuned import no_others_with_tuned, tuned_attacks
from benchmark.errors import UsageError
from benchmark.records.tuned import add_tuned, committed_file, record_tuned
from benchmark.suites.suite import Suite
from tests.leaderboard.views.test_tuned import search


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs in a working folder whose results hold a search against Krum."""
    monkeypatch.chdir(tmp_path)
    add_tuned(committed_file(Path("results"), "micro"), "micro", [search("krum"), search("median", lower=False)])
    return tmp_path / "runs"


def test_own_results_stand_before_committed_ones(micro: Suite, runs: Path) -> None:
    (krum,), remark = tuned_attacks(micro, runs, (), ())
    assert krum == search("krum")
    assert remark == "nothing lower than the scenario's own attack was found: median in aligned_start"
    own = search("krum", sampler_seed=5)
    record_tuned(runs, "micro", own)
    assert tuned_attacks(micro, runs, ["aligned_start"], ["krum"]) == ((own,), "")
    assert tuned_attacks(micro, runs, (), ["median"])[0] == ()


def test_results_that_do_not_exist_or_are_of_another_version_are_refused(micro: Suite, runs: Path) -> None:
    with pytest.raises(UsageError, match=r"no search has a result .*\(results: krum in aligned_start, median in"):
        tuned_attacks(micro, runs, (), ["dnc"])
    with pytest.raises(UsageError, match="unknown scenario in suite micro 'alined_start'; did you mean"):
        tuned_attacks(micro, runs, ["alined_start"], ())
    record_tuned(runs, "micro", search("krum", scenario_version="0"))
    with pytest.raises(UsageError, match=r"is of version '0' of the scenario, and the suite has version '1'"):
        tuned_attacks(micro, runs, (), ())


def test_the_plan_holds_each_tuned_attack_with_its_own_defense_on_the_scored_seeds(micro: Suite, runs: Path) -> None:
    results = (search("krum"), search("krum+posthoc_self", runs_as="aligned_start_tuned_krum_posthoc_self"))
    request = RunRequest(suite="micro", engine="transformers", runs=runs, tuned=results)
    cells = request.prepare(unresolved=False).plan.cells
    assert {(cell.scenario.id, cell.stage.name) for cell in cells} == {
        ("aligned_start_tuned_krum", "krum"),
        ("aligned_start_tuned_krum_posthoc_self", "krum+posthoc_self"),
    }
    assert {cell.seed for cell in cells} == set(micro.seeds)
    assert {cell.scenario.version for cell in cells} == {results[0].runs_as_version}
    few = RunRequest(suite="micro", engine="transformers", runs=runs, tuned=results[:1], seeds=(12,))
    assert [cell.seed for cell in few.prepare(unresolved=False).plan.cells] == [12]


def test_other_choices_of_cells_do_not_go_with_it() -> None:
    no_others_with_tuned({"--attack": "", "--quick": False})
    with pytest.raises(UsageError, match="--quick does not go with --tuned"):
        no_others_with_tuned({"--attack": "", "--quick": True})
