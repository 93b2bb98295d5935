"""Suites: what is valid, and what is said of what is not."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import UsageError
from benchmark.suites.suite import Suite, _Loader, find_suite, read_suite, scenarios, suites

MICRO: dict[str, Any] = yaml.safe_load(Path(suites._source("micro")[0]).read_text(encoding="utf-8"))
UNIT = "^suite .*suite.yaml is not valid: "


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Return the message for the micro suite with one value set at a path of keys; ``None`` removes the key."""

    def message(value: Any, *where: Any) -> str:
        content: Any = copy.deepcopy(MICRO)
        target = content
        for step in where[:-1]:
            target = target[step]
        if value is None:
            del target[where[-1]]
        else:
            target[where[-1]] = value
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(UsageError, match=UNIT) as raised:
            read_suite(path)
        return str(raised.value)

    return message


def test_the_bundled_suite_is_valid_and_complete() -> None:
    suite = find_suite("micro")
    assert [s.id for s in suite.scenarios if s.attacked] == [
        "aligned_start",
        "reminder_aware",
        "unaligned",
        "generated",
        "blended",
        "sampled",
        "paper_shape",
    ]
    for scenario in (s for s in suite.scenarios if s.attacked):
        assert suite.scenario(scenario.twin).attack.id == "none"
        if "mis-declared bound" not in "".join(scenario.flags):
            assert scenario.declared_malicious >= min(scenario.malicious, scenario.participants)
    assert set(suite.quick.seeds) <= set(suite.seeds)
    assert min(suite.seeds) >= 10, "seeds below 10 were used in development"


def test_every_setting_is_documented() -> None:
    from benchmark.suites import suite as module

    models = (module.Suite, module.Scenario, module.TrainingSettings, module.PosthocSettings, module.Partition)
    lacking = [(m.__name__, n) for m in models for n, field in m.model_fields.items() if not field.description]
    assert lacking == []


def test_scenarios_are_found_by_name_without_their_suite() -> None:
    points = [s.id for s in find_suite("micro").points]
    of_micro = {s["id"] for s in MICRO["scenarios"]} | {*points}
    assert of_micro <= set(scenarios.names())
    assert scenarios.names() == sorted(s.id for suite in suites.entries() for s in suite.every_scenario)
    assert scenarios.get("share_40").malicious == 4
    assert scenarios.get("sampled").participants == 7
    with pytest.raises(UsageError, match="unknown scenario 'sampeld'; did you mean 'sampled'"):
        scenarios.get("sampeld")
    with pytest.raises(UsageError, match="unknown scenario in suite micro 'blend'; did you mean 'blended'"):
        find_suite("micro").scenario("blend")
    with pytest.raises(UsageError, match="unknown suite 'mikro'; did you mean 'micro'"):
        find_suite("mikro")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: [micro", "is not valid YAML: while parsing a flow sequence"),
        ("- micro", "holds list; it must be a mapping"),
        ("", "holds NoneType; it must be a mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        find_suite(str(path))


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read suite .*none\.yaml: No such file or directory; give the path"):
        find_suite(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"suite .*binary\.yaml is not valid YAML"):
        find_suite(str(tmp_path / "binary.yaml"))


SCENARIO = ("scenarios", 0)


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        (1, ("sedes",), "sedes: unknown key 'sedes'; did you mean 'seeds'?"),
        (1, ("training", "local_step"), "training.local_step: unknown key 'local_step'; did you mean 'local_steps'?"),
        (1, (*SCENARIO, "partcipants"), "did you mean 'participants'?"),
        (1, (*SCENARIO, "attack", "parms"), "did you mean 'params'?"),
        (1, ("lora", "rnk"), "did you mean 'rank'?"),
        (None, (*SCENARIO, "id"), "scenarios.0.id: Field required"),
        (7, (*SCENARIO, "id"), "scenarios.0.id: Input should be a valid string (got 7)"),
        ("Clean", (*SCENARIO, "id"), "scenarios.Clean.id: String should match pattern"),
        ("clean", SCENARIO, "scenarios.0: Input should be a valid dictionary"),
        (None, ("training", "rounds"), "training.rounds: Field required"),
        (None, (*SCENARIO, "twin"), "scenarios.aligned_start.twin: Field required"),
        ("forty", ("training", "rounds"), "training.rounds: Input should be a valid integer"),
        ("forty", ("training", "rounds"), "(got 'forty')"),
        (0, ("training", "rounds"), "training.rounds: Input should be greater than or equal to 1 (got 0)"),
        (1.0, ("version",), "version: Input should be a valid string (got 1.0)"),
        (1.5, (*SCENARIO, "refusal_share"), "less than or equal to 1 (got 1.5)"),
        (float("inf"), ("training", "learning_rate"), "learning_rate: Input should be a finite number (got inf)"),
        ("parallel", ("training", "mode"), "training.mode: Input should be 'stacked' or 'sequential' (got 'parallel')"),
        ("Main Suite", ("id",), "id: String should match pattern"),
        (1.0, ("training", "learning_rate_floor"), "floor 1.0 exceeds learning_rate 0.004"),
        (63, ("training", "local_steps"), "draws 504 rows without replacement, but a client holds 500; lower"),
        (
            11,
            (*SCENARIO, "participants"),
            "scenarios.aligned_start: participants 11 exceed clients 10; draw at most all clients",
        ),
        (11, (*SCENARIO, "malicious"), "malicious 11 exceed clients 10"),
        (10, (*SCENARIO, "declared_malicious"), "declared_malicious 10 must be below participants 10; lower"),
        ({"kind": "dirichlet"}, (*SCENARIO, "partition"), "partition 'dirichlet' needs alpha; give it"),
        ({"kind": "iid", "alpha": 0.3}, (*SCENARIO, "partition"), "partition 'iid' takes no alpha; leave it out"),
        ({"kind": "dirichlet", "alpha": 0}, (*SCENARIO, "partition"), "alpha: Input should be greater than 0"),
        ("sampled", (*SCENARIO, "twin"), "names the twin 'sampled', which is attacked by 'unaligned_data'; name"),
        ("clean_raw", (*SCENARIO, "twin"), "and its twin 'clean_raw' differ in start: 'chat' and 'raw'; make them"),
        ("clean_sampled", (*SCENARIO, "twin"), "differ in participants: 10 and 7"),
        (["krum_one_neighbour"], (*SCENARIO, "variants"), "differ in variants: ('krum_one_neighbour',) and ()"),
        ("claen", (*SCENARIO, "twin"), "names the twin 'claen', which the suite lacks; add it or name one of"),
        ("clean", (*SCENARIO, "id"), "scenario ids repeat: ['clean']; rename all but one"),
        (["nothing"], ("quick", "scenarios"), "quick names scenario 'nothing', which the suite lacks; known:"),
        (
            ["krum+median"],
            ("quick", "defenses"),
            "unknown defense of quick, which is not among the suite's 'krum+median'; known: krum+posthoc_self",
        ),
        ("stranger", ("primary_judge",), "primary_judge 'stranger' is not among the judges"),
        ([], ("seeds",), "seeds: Tuple should have at least 1 item"),
        ([], ("scenarios",), "scenarios: Tuple should have at least 1 item"),
        ({"adapters": "merge"}, ("decoding",), "decoding.adapters: Input should be 'lora' or 'merged' (got 'merge')"),
    ],
)
def test_a_broken_rule_is_named_with_the_value_and_a_way_out(
    refused: Callable[..., str], value: Any, where: tuple[Any, ...], message: str
) -> None:
    assert message in refused(value, *where)


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        ("al", ("defenses",), "defenses: must be a list of defense ids, or 'all' (got 'al')"),
        ([1], ("defenses",), "defenses: must be a list of defense ids, or 'all' (got [1])"),
        (
            {"a": [1]},
            (*SCENARIO, "attack", "params"),
            "scenarios.aligned_start.attack.params.a: must be a finite number, a text, true or false (got [1])",
        ),
    ],
)
def test_a_choice_of_types_gives_one_message(
    refused: Callable[..., str], value: Any, where: tuple[Any, ...], message: str
) -> None:
    assert refused(value, *where).endswith(f"is not valid: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id: a\nseeds: [1]\n'id': b",
            "not valid YAML: the key 'id' is on line 1 and again on line 3; keep one",
        ),
        ("training: {rounds: 1, rounds: 2}", "the key 'rounds' is on line 1 and again on line 1"),
        ("scenarios:\n- id: a\n  twin: a\n  twin: b", "the key 'twin' is on line 3 and again on line 4"),
    ],
)
def test_a_repeated_key_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_suite(path)


def test_words_are_those_of_yaml_1_2() -> None:
    text = "[no, On, 0123, 12:30, 2024-01-01, true, 7, -1, 0.5, 1.0e-3, 0x1f, null]"
    words = ["no", "On", "0123", "12:30", "2024-01-01", True, 7, -1, 0.5, 0.001, 31, None]
    assert yaml.load(text, _Loader) == words


def test_a_file_may_have_a_colon_or_capitals(tmp_path: Path) -> None:
    text = yaml.safe_dump(MICRO | {"id": "mine"})
    for name in ("col:on.yaml", "UP.YAML"):
        (tmp_path / name).write_text(text)
        assert find_suite(str(tmp_path / name)).id == "mine"
    tier = next(iter(MICRO.get("tiers", {})), None)
    if tier:
        assert find_suite(f"{tmp_path / 'col:on.yaml'}:{tier}").id == f"mine_{tier}"


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    content = copy.deepcopy(MICRO)
    clean = next(s for s in content["scenarios"] if s["id"] == "clean")
    content |= {"scenarios": [], "quick": {"scenarios": ["again"], "seeds": [1]}, "sensitivity": None}
    again = "- &again\n  <<: *clean\n  id: again\n  twin: again\n- {<<: *again, id: third, twin: third}\n"
    first = "".join(f"  {line}\n" for line in yaml.safe_dump(clean).splitlines())
    text = yaml.safe_dump(content).replace("scenarios: []\n", "") + f"scenarios:\n- &clean\n{first}{again}"
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    assert [(s.id, s.twin, s.clients) for s in read_suite(path).scenarios] == [
        ("clean", "clean", 10),
        ("again", "again", 10),
        ("third", "third", 10),
    ]


def test_a_twin_must_be_its_own_twin(tmp_path: Path) -> None:
    content = copy.deepcopy(MICRO)
    other = next(s for s in content["scenarios"] if s["id"] == "clean")
    content["scenarios"].append(other | {"id": "clean_too"})
    other["twin"] = "clean_too"
    content["scenarios"][-1]["twin"] = "clean_too"
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="names the twin 'clean', which names 'clean_too' as its own"):
        read_suite(path)


def _with_training(tmp_path: Path, *changes: dict[str, object]) -> Path:
    """Return a suite file whose clean scenario, and then its first attacked one, have the training changes."""
    content = copy.deepcopy(MICRO)
    clean = next(s for s in content["scenarios"] if s["id"] == "clean")
    attacked = next(s for s in content["scenarios"] if s["twin"] == "clean" and s["id"] != "clean")
    for scenario, change in zip((clean, attacked), changes, strict=False):
        scenario["training"] = change
    content["scenarios"] = [clean, attacked]
    content |= {"sensitivity": None, "quick": {"scenarios": [attacked["id"]], "seeds": [11]}}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_scenario_changes_settings_of_local_training(tmp_path: Path) -> None:
    change = {"rounds": 1, "learning_rate": 0.25}
    suite = read_suite(_with_training(tmp_path, change, change))
    clean = suite.scenario("clean")
    assert suite.under(clean).training == suite.training.model_copy(update=change)
    assert clean.model_dump()["training"] == change
    other = find_suite("micro")
    assert other.under(other.scenarios[0]) is other
    assert "training" not in other.scenarios[0].model_dump()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (({"rounds": 1},), "differ in training"),
        (({"rounds": 0},) * 2, "training.rounds: Input should be greater than or equal to 1"),
        (({"mode": "sequential"},) * 2, "unknown key 'mode'"),
        (({"learning_rate": 1e-9},) * 2, "training of scenario 'clean': learning_rate_floor"),
        (({"local_steps": 10**6},) * 2, "scenario 'clean': a round draws"),
    ],
)
def test_changes_of_local_training_are_checked(
    tmp_path: Path, changes: tuple[dict[str, object], ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_suite(_with_training(tmp_path, *changes))


def test_json_escapes_of_one_character_are_one_character(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps(MICRO | {"title": "\U0001f600"}))
    assert "\\ud83d\\ude00" in path.read_text()
    assert read_suite(path).title == "\U0001f600"
    path.write_text(json.dumps(MICRO | {"title": "half \ud83d"}))
    with pytest.raises(UsageError, match=r"the text 'half \\ud83d' on line 1 holds half a character"):
        read_suite(path)


def test_params_keep_their_types(tmp_path: Path) -> None:
    content = copy.deepcopy(MICRO)
    content["scenarios"][0]["attack"]["params"] = {"a": 1, "b": 0.5, "c": True, "d": "text"}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content))
    params = read_suite(path).scenarios[0].attack.params
    assert [(key, type(value)) for key, value in params.items()] == [("a", int), ("b", float), ("c", bool), ("d", str)]


ASK = """
import json
from benchmark.errors import UsageError
from benchmark.suites.suite import find_suite, scenarios, suites
try:
    found = [suites.names(), scenarios.names(), scenarios.get("their_attack").title, find_suite("theirs").title]
    print(json.dumps(found))
except UsageError as error:
    print(json.dumps(str(error)))
"""


def ask_with_outside_suite(
    site: Path, names: tuple[str, ...], package: str = "outside.their_file", **changes: Any
) -> Any:
    """Install a suite as another distribution and return what a fresh process finds."""
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fedsafety.suites]\ntheirs = {package}\n")
    folder = site / "outside" / "their_file"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    clean = next(s for s in MICRO["scenarios"] if s["id"] == "clean")
    own = [clean | {"id": name, "twin": name, "title": f"Title of {name}"} for name in names]
    content = MICRO | {"id": "theirs", "title": "Their suite", "scenarios": own}
    content |= {"quick": {"scenarios": names[:1], "seeds": [1]}, "sensitivity": None} | changes
    (folder / "their_file.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content))), encoding="utf-8")
    script = f"import sys; sys.path.append({str(site)!r})\n{ASK}"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_another_installed_package_adds_a_suite_with_its_scenarios(tmp_path: Path) -> None:
    names, all_scenarios, scenario, suite = ask_with_outside_suite(tmp_path, ("their_attack", "their_clean"))
    assert names == sorted([*suites.names(), "theirs"])
    assert all_scenarios == sorted(["their_attack", "their_clean", *scenarios.names()])
    assert [scenario, suite] == ["Title of their_attack", "Their suite"]


def test_a_scenario_id_in_two_suites_is_refused_with_both(tmp_path: Path) -> None:
    assert ask_with_outside_suite(tmp_path, ("their_attack", "clean")) == (
        "scenario 'clean' is in suite 'micro' and in suite 'theirs'; rename one, because an id names one scenario only"
    )


def test_an_outside_suite_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    lacking = ask_with_outside_suite(tmp_path / "a", ("their_attack",), package="not_installed")
    assert lacking.startswith("suite 'theirs' of 'theirs' cannot be read from package 'not_installed': ModuleNotFound")
    other = ask_with_outside_suite(tmp_path / "b", ("their_attack",), id="micro")
    assert other.startswith("suite 'theirs' of 'theirs' calls itself 'micro'; its id must be the name of its file or,")


def _uneven(changes: dict[str, dict[str, Any]], **suite: Any) -> Any:
    """Return the micro suite with changed scenarios and settings."""
    content = copy.deepcopy(MICRO) | suite
    for scenario in content["scenarios"]:
        scenario.update(changes.get(scenario["id"], {}))
    return content


def test_own_seeds_and_defenses_are_written_only_where_they_are_set() -> None:
    plain, own = Suite.model_validate(MICRO), Suite.model_validate(_uneven({"blended": {"seeds": [12, 11]}}))
    assert not {"seeds", "defenses"} & plain.scenario("blended").model_dump().keys()
    assert own.scenario("blended").model_dump()["seeds"] == (12, 11)
    assert own.seeds_of(own.scenario("blended")) == (12, 11)
    assert own.seeds_of(own.scenario("clean")) == plain.seeds


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"blended": {"seeds": [11, 11]}}, {}, r"scenario 'blended' repeats a seed of \[11, 11\]; name each once"),
        ({"clean": {"defenses": "all"}}, {}, "must be a list of defense ids or compositions"),
        ({"clean": {"defenses": ["all", "krum"]}}, {}, "lists 'all' among its defenses .* leave defenses out for all"),
        (
            {"clean": {"defenses": ["fedavg", "medain"]}},
            {"defenses": ["fedavg", "median"]},
            "defense of scenario clean, which is not among the suite's 'medain'; did you mean 'median'",
        ),
        ({"clean": {"defenses": ["fedavg", "dnc+posthoc_self"]}}, {}, "not among the suite's 'dnc\\+posthoc_self'"),
        ({"clean": {"defenses": ["krum"]}}, {}, r"\['krum'\] of scenario 'clean' lack 'fedavg', .*; add it"),
        (
            {"clean_blended": {"seeds": [11, 12]}, "blended": {"seeds": [11, 13, 14]}},
            {},
            "'blended' runs on seeds that its twin 'clean_blended' lacks: 13, 14; give the twin all seeds",
        ),
    ],
)
def test_own_seeds_and_defenses_are_checked(
    changes: dict[str, dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Suite.model_validate(_uneven(changes, **settings, sensitivity=None))


def test_a_tier_keeps_those_of_a_scenarios_own_that_it_has() -> None:
    tier = {"title": "Lite", "description": "A smaller form of the suite, for this test.", "scenarios": ["blended"]}
    own = {"blended": {"seeds": [11, 12, 13]}, "clean_blended": {"defenses": ["fedavg", "krum+posthoc_self"]}}
    tiers = {
        "few": {**tier, "seeds": [12, 13, 20], "defenses": ["fedavg", "krum"], "pipelines": []},
        "other": {**tier, "seeds": [20]},
        "plain": tier,
    }
    suite = Suite.model_validate(_uneven(own, tiers=tiers))
    few = suite.tier("few")
    assert (few.scenario("blended").seeds, few.scenario("clean_blended").seeds) == ((12, 13), ())
    assert few.scenario("clean_blended").defenses == ("fedavg",)
    assert suite.tier("plain").scenario("blended").seeds == (11, 12, 13)
    with pytest.raises(UsageError, match=r"tier 'other' .* leaves scenario 'blended' without seeds: its own"):
        suite.tier("other")
