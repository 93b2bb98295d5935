"""Suites that name their models and data: settings, tiers, keys, chat formats, what is recorded, what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.cli.real import examine_suite, print_forecast
from benchmark.errors import InputsMissingError, UsageError
from benchmark.execution import stages
from benchmark.execution.answering import answer
from benchmark.execution.bench import Bench
from benchmark.execution.job import run_job
from benchmark.execution.outcome import State
from benchmark.execution.plan import CellPlan, Plan, make_plan
from benchmark.execution.readiness import data_notes, input_state
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan, settle
from benchmark.execution.worlds import generation_limit, open_chat, open_world
from benchmark.generation.base import Answer, Request
from benchmark.generation.select import EngineChoice
from benchmark.generation.transformers_engine import TransformersEngine
from benchmark.models.chat import ChatFormat, cut
from benchmark.models.rows import TokenRow
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.records.withheld import extents_of
from benchmark.screen import Screen
from benchmark.suites.scenario import PosthocSettings, TrainingSettings
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Suite, find_suite, read_suite
from benchmark.training.server import MeteredServer
from benchmark.training.stacked import LocalTraining
from defenses.base import Prompt
from defenses.refuse_all import RefuseAll
from tasks.hub import HubWorld

WORDS = [f"w{i}" for i in range(34)]


def source(name: str, kind: str = "normal", **more: Any) -> dict[str, Any]:
    return {"repository": f"made/{name}", "revision": "0" * 40, "kind": kind, "local": f"{name}.jsonl", **more}


def content() -> dict[str, Any]:
    prompts = {"repository": "made/asked", "revision": "0" * 40, "format": "prompts", "local": "asked.jsonl"}
    scenario = {
        "version": "1",
        "title": "Made",
        "description": "A scenario that is made for a test.",
        "start": "base",
        "clients": 4,
        "participants": 4,
        "declared_malicious": 1,
        "refusal_share": 0.0,
        "twin": "clean_made",
        "data": {"benign": "plain", "unaligned": "bad", "aligned": "refused", "normal": "owned"},
    }
    attacked = {"id": "made", "malicious": 1, "attack": {"id": "unaligned_data"}}
    clean = {"id": "clean_made", "malicious": 0, "attack": {"id": "none"}}
    return {
        "id": "made",
        "version": "1",
        "title": "Made",
        "description": "A suite that is made for a test of suites.",
        "world": "hub",
        "models": {"base": {"repository": "made/base", "revision": "1" * 40, "dtype": "float32", "local": "raw"}},
        "data": {
            "pools": {
                "plain": source("plain"),
                "bad": source("bad", "unaligned"),
                "refused": source("refused", "aligned"),
                "owned": source("owned"),
            },
            "probes": [
                {"id": "asked", "kind": "harmful", "stratum": "asked", "source": prompts, "max_new_tokens": 4},
            ],
            "data_max_new_tokens": 7,
        },
        "lora": {"rank": 2, "alpha": 4},
        "training": {
            "rounds": 2,
            "local_steps": 2,
            "batch_size": 2,
            "rows_per_client": 6,
            "learning_rate": 1e-3,
            "learning_rate_floor": 1e-4,
        },
        "posthoc": {"examples": 4, "steps": 4, "batch_size": 2, "learning_rate": 1e-3},
        "judges": ["rule"],
        "primary_judge": "rule",
        "seeds": [1, 2],
        "defenses": ["fedavg", "posthoc_public"],
        "quick": {"scenarios": ["made"], "seeds": [1]},
        "scenarios": [{**scenario, **attacked}, {**scenario, **clean}],
        "tiers": {
            "smoke": {
                "title": "Made, smoke",
                "description": "The smallest form of the made suite.",
                "scenarios": ["made"],
                "seeds": [1],
                "defenses": ["fedavg"],
                "training": {"rounds": 1},
                "probe_limit": 2,
            }
        },
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> Path:
    """A data root with a few made-up rows a file, and a model root with one random checkpoint."""
    for name, opening in (("plain", "w1"), ("bad", "w9"), ("refused", "w8"), ("owned", "w7")):
        rows = [
            {"instruction": f"{opening} {WORDS[10 + i % 20]} {WORDS[10 + i // 20]}", "response": WORDS[20 + i % 10]}
            for i in range(40)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"instruction": f"w5 {WORDS[10 + i]}"} for i in range(6)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("FEDSAFETY_MODEL_ROOT", str(checkpoints))
    return tmp_path


@pytest.fixture
def suite() -> Suite:
    return Suite.model_validate(content())


def plan_of(suite: Suite, **choice: Any) -> Plan:
    return make_plan(suite, "transformers", **choice)


def cell(plan: Plan, scenario: str = "made", defense: str = "fedavg") -> CellPlan:
    return next(c for c in plan.cells if (c.scenario.id, c.stage.name, c.seed) == (scenario, defense, 1))


def changed(**at: Any) -> Suite:
    """Return the suite with values at dotted paths replaced."""
    made = content()
    for path, value in at.items():
        *inner, last = path.split("__")
        place: Any = made
        for step in inner:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    return Suite.model_validate(made)


def test_settings_that_came_later_are_written_only_where_they_say_something() -> None:
    training = find_suite("micro").training
    assert "max_length" not in training.model_dump()
    later = TrainingSettings.model_validate({**training.model_dump(), "max_length": 9})
    assert later.model_dump()["max_length"] == 9
    assert TrainingSettings.model_validate(later.model_dump()) == later
    assert "dropout" not in LoraSettings(rank=1, alpha=2).model_dump()
    assert LoraSettings(rank=1, alpha=2, dropout=0.05).model_dump(mode="json")["dropout"] == 0.05


def test_a_tier_is_a_suite_of_its_own(suite: Suite, root: Path) -> None:
    smoke = suite.tier("smoke")
    assert (smoke.id, smoke.title, smoke.seeds, smoke.training.rounds) == ("made_smoke", "Made, smoke", (1,), 1)
    assert [s.id for s in smoke.scenarios] == ["made", "clean_made"]
    assert smoke.training.learning_rate == suite.training.learning_rate
    assert smoke.data is not None
    assert smoke.data.probes[0].limit == 2
    whole, small = plan_of(suite), plan_of(smoke)
    assert not {c.cell_key for c in whole.cells} & {c.cell_key for c in small.cells}
    with pytest.raises(UsageError, match=r"unknown tier of suite made 'smokes'; did you mean 'smoke'"):
        suite.tier("smokes")


def test_a_tier_of_a_suite_in_a_file_stands_behind_a_colon(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(content()))
    assert find_suite(f"{tmp_path}/made.yaml:smoke") == read_suite(tmp_path / "made.yaml").tier("smoke")
    assert find_suite("small:smoke") == find_suite("small_smoke")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"scenarios__0__start": "bas"}, r"unknown start model of scenario made 'bas'; did you mean 'base'"),
        ({"scenarios__0__data": {"benign": "plane"}}, r"unknown pool .*'plane'; did you mean 'plain'"),
        ({"scenarios__0__data": None}, r"scenario 'made': the suite has 'data' and the scenario has none"),
        ({"data": None}, r"scenario 'made': the scenario has 'data' and the suite has none"),
        ({"scenarios__1__data": {"benign": "owned"}}, r"differ in data"),
        ({"posthoc__restart_every": 3}, r"restart_every 3 does not divide steps 4"),
        ({"data__pools__plain__response": "w1"}, r"response is for sources of format 'prompts'"),
        ({"models__base__dtyp": "float32"}, r"Extra inputs"),
        ({"data__refusal_openings": ["w1", "w2", "w1"]}, r"refusal_openings holds 'w1' more than once"),
        ({"data__refusal_openings": [" "]}, r"refusal_openings"),
        ({"data__probes__0__publish": "digest"}, r"publish"),
        ({"tiers__smoke__scenarios": ["mad"]}, r"unknown scenario of tier smoke 'mad'; did you mean 'made'"),
        (
            {"decoding": {"adapters": "merged"}, "models__base__quantization": "8bit"},
            r"cannot be merged into the model 'base': its weights are rounded to 8bit .* decoding.adapters to lora",
        ),
        (
            {"decoding": {"adapters": "merged"}, "compute": {"tensor_parallel": 2}},
            r"cannot be merged into the model 'base': its weights lie in 2 processes.* compute.tensor_parallel to 1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(at: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**at)


def test_twins_differ_in_what_attackers_own_alone() -> None:
    data = {"benign": "plain", "aligned": "refused", "normal": "owned"}
    assert changed(scenarios__1__data=data).scenario("clean_made").data.unaligned == ""  # type: ignore[union-attr]


def test_keys_follow_data_models_and_template(suite: Suite, root: Path, checkpoints: Path, tmp_path: Path) -> None:
    before = cell(plan_of(suite))
    assert cell(plan_of(suite)) == before
    with (root / "plain.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "w1 one more", "response": "w2"}) + "\n")
    assert cell(plan_of(suite)).training_key != before.training_key
    template = tmp_path / "other.jinja"
    template.write_text("{{ bos_token }} {{ messages[0]['content'] }} <a>")
    other = changed(models__base__template=str(template))
    assert cell(plan_of(other)).training_key != cell(plan_of(suite)).training_key
    assert open_chat(open_world(other), "base").render([{"role": "user", "content": "w1"}]) == "<s> w1 <a>"
    assert cell(plan_of(changed(models__base__dtype="bfloat16"))).training_key != cell(plan_of(suite)).training_key
    # What attackers and servers ask models while there is training, and how much they let them say.
    prompts = {"propose_harmful": ["h"], "propose_normal": ["n"], "comply_hint": "c", "safety_reminder": "s"}
    for at in ({"data__data_max_new_tokens": 8}, {"data__automation": prompts}):
        assert cell(plan_of(changed(**at))).training_key != cell(plan_of(suite)).training_key
    opened = cell(plan_of(changed(data__openings=["No", "Yes"])))
    assert opened.training_key == cell(plan_of(suite)).training_key
    assert opened.response_key != cell(plan_of(suite)).response_key
    # How a machine is used changes no key; how answers are drawn changes those of answers.
    assert cell(plan_of(changed(compute={"max_batch": 3}))).cell_key == cell(plan_of(suite)).cell_key
    drawn = cell(plan_of(changed(decoding={"temperature": 0.7})))
    assert drawn.training_key == cell(plan_of(suite)).training_key
    assert drawn.response_key != cell(plan_of(suite)).response_key
    # Merged adapters are rounded in another way. The usual way is in no key, so that published rows keep theirs.
    merged = cell(plan_of(changed(decoding={"adapters": "merged"})))
    assert merged.adapter_key == cell(plan_of(suite)).adapter_key
    assert merged.response_key != cell(plan_of(suite)).response_key
    assert cell(plan_of(changed(decoding={"adapters": "lora"}))) == cell(plan_of(suite))


def test_likelihoods_and_what_is_published_enter_the_keys_of_answers_alone(suite: Suite, root: Path) -> None:
    before, openings = cell(plan_of(suite)), ["w20 w21", "w22"]
    assert before.likelihoods == 0
    measured = cell(plan_of(changed(data__refusal_openings=openings)))
    assert (measured.training_key, measured.likelihoods) == (before.training_key, 0)  # no probe has a target
    assert measured.response_key != before.response_key
    hashed = changed(data__probes__0__publish="hash")
    # Keys cover digests of prompts that are not published, so that published rows can be checked against them.
    keys = {cell(plan_of(changed(data__probes__0__publish=extent))).response_key for extent in ("hash", "answers")}
    assert len(keys | {before.response_key}) == 2
    assert cell(plan_of(hashed)).training_key == before.training_key
    assert extents_of(hashed.model_dump(mode="json")) == {"asked": "hash"}
    assert "publish" not in suite.data.probes[0].model_dump()  # type: ignore[union-attr]
    rows = [{"instruction": f"w5 {WORDS[10 + i]}", "target": "w24 w25" if i else ""} for i in range(6)]
    (root / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    targets = {"data__probes__0__source__columns": {"instruction": "instruction", "target": "target"}}
    plan = plan_of(changed(data__refusal_openings=openings, **targets))
    assert [probe.target for probe in plan.world.probes()] == ["", *["w24 w25"] * 5]
    assert cell(plan).likelihoods == 5 * 3
    assert plan_of(changed(**targets)).cells[0].likelihoods == 0  # without openings there is nothing to compare
    with pytest.raises(UsageError, match="'asked' are of kind perplexity, and row 0001 has no reference answer"):
        plan_of(changed(data__probes__0__kind="perplexity"))


def test_a_plan_is_shown_without_models_and_data_and_not_run(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("FEDSAFETY_MODEL_ROOT", str(tmp_path / "models"))
    with pytest.raises(InputsMissingError):
        plan_of(suite)
    shown = plan_of(suite, unresolved=True)
    assert len(shown.cells) == len({c.cell_key for c in shown.cells}) == 8
    assert any("made/base" in reason for reason in shown.missing)
    assert any("plain" in reason or "asked" in reason for reason in shown.missing)


def test_the_world_deals_disjoint_rows_and_says_what_it_read(suite: Suite, root: Path) -> None:
    world = open_world(suite, suite.scenario("made"))
    names = {(read.kind, read.name) for read in world.inputs()}
    assert {("model", "base")} < names
    assert sum(kind == "dataset" for kind, _ in names) == 5
    assert generation_limit(suite, world.probes()) == 7


def test_a_run_tells_of_all_that_is_missing_before_anything_is_trained(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    judge = {"repository": "made/judge", "revision": "2" * 40, "local": "none"}
    other = changed(judges=["rule", "md_judge"], models__md_judge=judge)
    plan = plan_of(other)
    (root / "owned.jsonl").unlink()
    (root / "bad.jsonl").unlink()
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.raises(InputsMissingError, match="3 inputs of this run are missing") as refused:
        run_plan(Run(plan, store, EngineChoice("transformers", ""), reporter(io.StringIO())))
    for name in ("made/owned", "made/bad", "made/judge"):
        assert str(refused.value).count(f" {name} ") == 1
    assert not list(store.root.rglob("*.parquet"))
    (root / "made.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json", exclude_defaults=True)))
    said = io.StringIO()
    problems = examine_suite(str(root / "made.yaml"), "transformers", Screen(file=said, width=400))
    assert problems == ["3 things keep suite 'made' from running here; see above"]
    for reason in str(refused.value).split("\n  ")[1:]:
        assert f"not here: {reason}\n" in said.getvalue()


def test_files_left_out_and_placeholders_are_shown_with_a_plan(root: Path) -> None:
    rows = (root / "owned.jsonl").read_text()
    folder = root / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text(rows + json.dumps({"instruction": "x", "response": "N/A"}) + "\n")
    (folder / "test.jsonl").write_text(rows)
    shown = io.StringIO()
    plan = plan_of(changed(data__pools__owned__local="folder"))
    assert (
        f"{root / 'folder' / 'train.jsonl'}: files left out (of another split) 1, response placeholders kept as text 1"
        in data_notes(plan)
    )
    print_forecast(plan, Screen(file=shown, width=400))
    assert "data: " + data_notes(plan)[0] + "\n" in shown.getvalue()
    assert "reading samples" not in shown.getvalue(), "progress goes to standard error"


def test_doctor_names_a_template_that_makes_the_model_think_and_missing_tensors(
    root: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = root / "thinks.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}{{ reasoning_effort }}<think>")
    suite = changed(models__base__template=str(template))
    path = root / "made.yaml"
    path.write_text(yaml.safe_dump(suite.model_dump(mode="json", exclude_defaults=True)))
    shown = io.StringIO()
    assert examine_suite(str(path), "transformers", Screen(file=shown, width=400)) == []
    assert f"thinking: chat template {template} opens a thought with <think>; prompts close it" in shown.getvalue()
    assert f"thinking: chat template {template} reads reasoning_effort, which stay" in shown.getvalue()
    folder = root / "short"
    shutil.copytree(checkpoints / "raw", folder)
    monkeypatch.setenv("FEDSAFETY_MODEL_ROOT", str(root))
    config = json.loads((folder / "config.json").read_text())
    layers = {"num_hidden_layers": config["num_hidden_layers"] + 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config | layers))
    state = input_state(plan_of(changed(models__base__local="short")))
    assert any(f"the checkpoint {folder} is incomplete: it has no tensor" in reason for reason in state.missing)


def test_a_plan_that_is_only_shown_says_that_it_would_be_refused(root: Path) -> None:
    shape = {"layers": 80, "hidden": 8192, "intermediate": 28672, "heads": 64, "kv_heads": 8, "vocabulary": 128256}
    model = {"repository": "made/absent", "revision": "3" * 40, "local": "absent", "shape": shape}
    said = io.StringIO()
    plan = plan_of(changed(models__base=model), unresolved=True)
    print_forecast(plan, Screen(file=said, width=400))
    assert "would be refused: " in said.getvalue()
    assert "not here: model made/absent is not below the model root" in said.getvalue()


def test_what_local_files_lack_is_found_before_anything_is_trained(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = changed(
        data__pools__owned__columns={"response": "respnse"}, data__pools__bad__where={"response": "nothing"}
    )
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.raises(InputsMissingError, match="2 inputs of this run are missing") as refused:
        run_plan(Run(plan_of(other), store, EngineChoice("transformers", ""), reporter(io.StringIO())))
    assert "'respnse'; did you mean 'response'" in str(refused.value)
    assert "no row of" in str(refused.value)
    assert not list(store.root.rglob("*.parquet"))


def reporter(said: io.StringIO) -> Reporter:
    return Reporter(Screen(file=said, width=200))


def test_what_trainings_read_is_noted_beside_their_adapters(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = {"repository": "made/unused", "revision": "3" * 40, "local": "none"}
    made = content()
    made["models"] |= {"external": unused, "attacker": {**made["models"]["base"], "repository": "made/attacker"}}
    made["data"]["pools"]["bad"]["limit"] = 3
    for name, old, new in (("plain", '"response": "', '"response": "</s> '), ("asked", "w5", "w5 </s>")):
        file = root / f"{name}.jsonl"
        file.write_text(file.read_text().replace(old, new))
    smoke = Suite.model_validate(made).tier("smoke")
    plan = plan_of(smoke)
    store, said = Store(tmp_path / "runs"), io.StringIO()
    for job in plan.jobs:
        assert run_job(smoke, job, store.root, Bench()).failures == {}
    # Nothing is read a second time for the rows.
    monkeypatch.setattr(HubWorld, "inputs", lambda *_: pytest.fail("read again"))
    for _ in range(2):
        run = Run(plan, store, EngineChoice("transformers", ""), reporter(said))
        assert answer(run) == {}
        assert {outcome.state for outcome in settle(run, {}).values()} == {State.DONE}
    for scenario in ("made", "clean_made"):
        rows = store.read("inputs", cell(plan, scenario).training_key).to_pylist()
        assert [(row["kind"], row["name"]) for row in rows] == [
            *(("dataset", f"pool/{pool}") for pool in ("bad", "owned", "plain", "refused")),
            ("dataset", "probes/asked"),
            *([("model", "attacker")] if scenario == "made" else []),
            ("model", "base"),
            ("chat", "base"),
        ]
        (bad,) = (row["detail"] for row in rows if row["name"] == "pool/bad")
        assert ("rows that repeat: " in bad) == (scenario == "made")
        spellings = json.loads(rows[-1]["detail"])["spellings"]
        assert spellings["prompts"] == len(plan.world.probes())
        assert spellings["training rows"] > 0
        assert f"training rows of base: {spellings['training rows']} spellings of control tokens" in said.getvalue()
    assert said.getvalue().count("pool/bad has 3 rows, and 500 were asked for: 497 repeat") == 2  # once a run


def test_a_served_prompt_that_the_engine_cannot_take_fails_its_cell_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RefuseAll, "serve", lambda self, prompt: Prompt(prompt.instruction + 20 * " w1"))
    smoke = changed(compute={"max_length": 24}, tiers__smoke__defenses=["fedavg", "refuse_all"]).tier("smoke")
    plan, store = plan_of(smoke, scenarios=["clean_made"]), Store(tmp_path / "runs")
    assert open_chat(plan.world, "base").max_length > 40  # the model itself would take it
    for job in plan.jobs:
        assert run_job(smoke, job, store.root, Bench()).failures == {}
    refused = answer(Run(plan, store, EngineChoice("transformers", ""), reporter(io.StringIO())))
    ((key, reason),) = refused.items()
    assert key == cell(plan, "clean_made", "refuse_all").response_key
    assert "'refuse_all' makes a prompt of" in reason
    assert "24 are allowed; shorten it, or raise max_length" in reason
    assert store.has("responses", cell(plan, "clean_made").response_key)


def test_merged_adapters_are_answered_and_stored_one_by_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = changed(decoding={"adapters": "merged"}, tiers__smoke__defenses=["fedavg", "median"]).tier("smoke")
    plan, store = plan_of(smoke, scenarios=["clean_made"]), Store(tmp_path / "runs")
    for job in plan.jobs:
        assert run_job(smoke, job, store.root, Bench()).failures == {}
    calls, generate = [], TransformersEngine.generate

    def interrupted(engine: TransformersEngine, requests: Sequence[Request]) -> list[Answer]:
        calls.append({request.adapter for request in requests})
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(engine, requests)

    monkeypatch.setattr(TransformersEngine, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(Run(plan, store, EngineChoice("transformers", ""), reporter(io.StringIO())))
    assert [len(adapters) for adapters in calls] == [1, 1]
    assert calls[0] != calls[1]
    keys = [cell(plan, "clean_made", name).response_key for name in ("fedavg", "median")]
    assert [store.has("responses", key) for key in keys] == [True, False]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_equal_adapters_are_answered_once_where_answers_are_greedy(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Without an attack the rule that removes attackers removes nobody."""
    names = ("fedavg", "attackers_removed", "refuse_all")
    smoke = changed(decoding={"temperature": temperature}, tiers__smoke__defenses=[*names]).tier("smoke")
    plan, store = plan_of(smoke, scenarios=["clean_made"]), Store(tmp_path / "runs")
    for job in plan.jobs:
        assert run_job(smoke, job, store.root, Bench()).failures == {}
    asked, generate = [], TransformersEngine.generate

    def counted(engine: TransformersEngine, requests: Sequence[Request]) -> list[Answer]:
        asked.extend(requests)
        return generate(engine, requests)

    monkeypatch.setattr(TransformersEngine, "generate", counted)
    assert answer(Run(plan, store, EngineChoice("transformers", ""), reporter(io.StringIO()))) == {}
    fedavg, removed, refusing = (
        store.read("responses", cell(plan, "clean_made", name).response_key).to_pylist() for name in names
    )
    assert len(asked) == len(fedavg) * (1 if temperature == 0 else 2)
    assert {row["response_key"] for row in removed} == {cell(plan, "clean_made", "attackers_removed").response_key}
    bare = [[row | {"response_key": ""} for row in rows] for rows in (fedavg, removed, refusing)]
    assert bare[0] == bare[1] or temperature
    assert bare[2] != bare[0], "the same adapter with other prompts is another model to its users"


def test_a_run_with_large_models_answers_with_all_processors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = changed(tiers__smoke__defenses=["fedavg"]).tier("smoke")
    plan, threads = plan_of(smoke, scenarios=["clean_made"]), torch.get_num_threads()
    monkeypatch.setattr(stages, "usable_cores", lambda: 3)
    found = []
    monkeypatch.setattr(stages, "answer", lambda *_: found.append(torch.get_num_threads()) or {})
    monkeypatch.setattr(stages, "train", lambda _: {})
    try:
        for large in (True, False):
            monkeypatch.setattr(HubWorld, "models_are_large", large)
            run_plan(Run(plan, Store(tmp_path / str(large)), EngineChoice("transformers", ""), reporter(io.StringIO())))
    finally:
        torch.set_num_threads(threads)
    assert found == [3, 1]


def test_rows_are_cut_at_their_end() -> None:
    row = TokenRow((1, 2, 3, 4, 5), 3)
    assert cut(row, None) is row
    assert cut(row, 5) is row
    assert cut(row, 4) == TokenRow((1, 2, 3, 4), 3)
    # Nothing is left of the response: no token of it is trained on.
    assert cut(row, 2) == TokenRow((1, 2), 2)


def test_a_tokenizer_without_template_or_pad_token_needs_the_suites(tmp_path: Path, checkpoints: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoints / "raw", bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    for name in ("pad_token", "chat_template"):
        settings.pop(name, None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"has no chat template; add one .* \(name a template in the suite's models\)"):
        ChatFormat(bare)
    template = "{{ bos_token }} {{ messages[0]['content'] }} <a>"
    with pytest.raises(UsageError, match="has no pad token"):
        ChatFormat(bare, template=template)
    with pytest.raises(UsageError, match=r"pad_token '<none>' is not in the vocabulary of"):
        ChatFormat(bare, template=template, pad_token="<none>")
    chat = ChatFormat(bare, template=template, pad_token="<unk>")
    assert chat.pad_id == chat.tokenizer.unk_token_id
    assert chat.prompt_ids("w1") == tuple(chat.tokenizer.convert_tokens_to_ids(["<s>", "w1", "<a>"]))


class _Trainer:
    """Notes how it is asked to train and adds one to the adapter."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[float]]] = []

    def train(self, start: torch.Tensor, batches: Any, *, learning_rate: Any, **_: Any) -> LocalTraining:
        self.asked.append((len(batches[0]), list(learning_rate)))
        return LocalTraining((start + 1)[None], torch.zeros(1))


def test_fine_tuning_in_stretches_is_what_federated_rounds_of_one_client_are(served: Any, world: Any) -> None:
    trainer = _Trainer()
    model = type(served)(trainer, served.chat)
    settings = PosthocSettings(
        examples=4, steps=6, batch_size=2, learning_rate=5e-5, learning_rate_floor=1e-6, restart_every=2
    )
    server = MeteredServer(world, model, lambda: model, settings, 1, "mine", max_new_tokens=2, max_length=3)
    adapter = server.finetune(torch.zeros(3), world.server_normal(4, torch_free_rng()))
    assert adapter.tolist() == [3.0, 3.0, 3.0]
    # A cosine over three rounds from the first rate to the floor, constant inside each.
    assert [steps for steps, _ in trainer.asked] == [2, 2, 2]
    assert [rates[0] for _, rates in trainer.asked] == pytest.approx([5e-5, 2.55e-5, 1e-6])
    assert all(len(set(rates)) == 1 for _, rates in trainer.asked)
    assert server.usage.finetune_steps == 6


def torch_free_rng() -> Any:
    import numpy as np

    return np.random.default_rng(0)
