"""An attack in the place of a scenario's own changes that and nothing else."""

from __future__ import annotations

import pytest

from benchmark.errors import UsageError
from benchmark.execution.catalog import catalog_rows
from benchmark.execution.plan import make_plan
from benchmark.suites.attacked import AttackScenario, attacked_id, attacked_suite, parse_params
from benchmark.suites.suite import Suite, find_suite


@pytest.fixture
def micro() -> Suite:
    return find_suite("micro")


def test_only_the_attack_is_another(micro: Suite) -> None:
    suite = attacked_suite(micro, "boosted_data", ["sampled"], {"boost": 3.0})
    made, base = suite.scenario("sampled_boosted_data"), micro.scenario("sampled")
    assert isinstance(made, AttackScenario)
    assert (made.id, made.base, made.twin) == (attacked_id("sampled", "boosted_data"), "sampled", base.twin)
    differing = {name for name in type(base).model_fields if getattr(made, name) != getattr(base, name)}
    assert differing == {"id", "version", "title", "description", "attack"}
    assert made.attack.params == {"boost": 3.0}
    assert suite.points == micro.points


def test_keys_of_other_cells_stay(micro: Suite) -> None:
    suite = attacked_suite(micro, "boosted_data", ["aligned_start"])
    before = make_plan(micro, "transformers", scenarios=["aligned_start"], pipelines=["fedavg"], seeds=[11])
    names = ["aligned_start", "aligned_start_boosted_data"]
    after = make_plan(suite, "transformers", scenarios=names, pipelines=["fedavg"], seeds=[11])
    keys = {cell.scenario.id: cell.cell_key for cell in after.cells}
    assert keys.keys() == {"aligned_start", "clean", "aligned_start_boosted_data"}
    assert {cell.scenario.id: cell.cell_key for cell in before.cells} == {
        name: keys[name] for name in ("aligned_start", "clean")
    }
    assert len(set(keys.values())) == 3


def test_the_catalogue_says_which_scenario_is_the_base(micro: Suite) -> None:
    suite = attacked_suite(micro, "boosted_data", ["aligned_start"])
    plan = make_plan(suite, "transformers", scenarios=["aligned_start_boosted_data"], pipelines=["fedavg"], seeds=[11])
    settings = {row["id"]: row["settings"] for row in catalog_rows(plan) if row["kind"] == "scenario"}
    assert '"base": "aligned_start"' in settings["aligned_start_boosted_data"]
    assert '"base"' not in settings["aligned_start"]


def test_other_parameters_are_another_version(micro: Suite) -> None:
    versions = [
        attacked_suite(micro, "boosted_data", ["sampled"], params).scenario("sampled_boosted_data").version
        for params in (None, {"boost": 2.0}, {"boost": 3.0})
    ]
    assert versions == ["1", "1, boost=2.0", "1, boost=3.0"]


@pytest.mark.parametrize(
    ("attack", "bases", "params", "said"),
    [
        ("boosted_dta", ["sampled"], {}, "unknown attack 'boosted_dta'; did you mean 'boosted_data'"),
        ("boosted_data", ["smpled"], {}, "unknown scenario in suite micro 'smpled'; did you mean 'sampled'"),
        ("boosted_data", ["clean"], {}, "'clean' is an un-attacked twin; name an attacked one with --base"),
        ("boosted_data", [], {}, "name one with --base"),
        ("boosted_data", ["sampled"], {"boost": float("nan")}, "cannot take the attack 'boosted_data'"),
    ],
)
def test_what_cannot_be_is_refused(micro: Suite, attack: str, bases: list[str], params: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        attacked_suite(micro, attack, bases, params)


def test_a_taken_id_is_refused(micro: Suite) -> None:
    suite = attacked_suite(micro, "boosted_data", ["sampled"])
    with pytest.raises(UsageError, match="scenario ids repeat"):
        attacked_suite(suite, "boosted_data", ["sampled"])


def test_parameters_are_read_as_what_they_are() -> None:
    given = ["boost=1e1", "count=3", "fast=true", "name= much ", "list=[1]"]
    assert parse_params(given) == {"boost": 10.0, "count": 3, "fast": True, "name": "much", "list": "[1]"}


@pytest.mark.parametrize(
    ("texts", "said"), [(["boost"], "write it as name=value"), (["=3"], "name=value"), (["a=1", "a=2"], "set twice")]
)
def test_misspelt_parameters_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_params(texts)
