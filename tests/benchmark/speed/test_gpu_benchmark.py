"""The benchmark of large models, run end to end on a processor with a tiny shape."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmark.models.lora import initial_adapter
from benchmark.prediction.device import Rate
from benchmark.speed.gpu_benchmark import Measured, Work, main, table_lines
from benchmark.speed.gpu_trainers import PeftLoop, StackedRound, TrainerLoop, random_llama
from benchmark.suites.settings import LoraSettings
from tasks.model_source import ModelShape

SHAPE = ModelShape(layers=2, hidden=32, intermediate=64, heads=4, kv_heads=2, vocabulary=100)
WORK = Work(
    SHAPE,
    LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj")),
    clients=3,
    steps=2,
    rows=2,
    tokens=12,
    loss_from=4,
    checkpointing=False,
    memory_gib=None,
)
TINY = shlex.split(
    "--device cpu --weights float32,bfloat16 --layers 2 --hidden 32 --intermediate 64 --heads 4 --kv-heads 2 "
    "--vocabulary 100 --rank 4 --steps 2 --rows 2 --tokens 12 --loss-from 4 --repeats 1 --no-alone"
)

MODES = ("stacked", "sequential PEFT", "Hugging Face Trainer")

app = typer.Typer()
app.command()(main)
runner = CliRunner()


def test_a_tiny_shape_runs_from_end_to_end(tmp_path: Path) -> None:
    result = runner.invoke(app, [*TINY, "--json", str(tmp_path / "numbers.json")])
    assert result.exit_code == 0, result.output
    rows = [
        line.split(" | ")[:2] for line in result.output.splitlines() if line.startswith(("| float32", "| bfloat16"))
    ]
    assert rows == [[f"| {form}", mode] for form in ("float32", "bfloat16") for mode in MODES]
    assert "failed" not in result.output
    assert "100 rounds, extrapolated" in result.output
    content = json.loads((tmp_path / "numbers.json").read_text())
    assert [rate["dtype"] for rate in content["rates"]] == ["float32", "bfloat16"]
    for line in content["measured"]:
        assert line["tokens_per_second"] == pytest.approx(3 * 2 * 2 * 12 / line["seconds"])
        assert 0 < line["share"] < 1
        assert line["peak_bytes"] is None


def test_recomputation_is_not_useful_work() -> None:
    again = Work(**{**vars(WORK), "checkpointing": True})
    assert again.useful("float32") == WORK.useful("float32")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peer_does_the_same_work(checkpointing: bool) -> None:
    trained = []
    for kind in (StackedRound, PeftLoop, TrainerLoop):
        model = random_llama(SHAPE, "cpu", "float32", checkpointing=checkpointing)
        trainer = kind(model, WORK.lora, eight_bit=False, memory_bytes=None)
        start = initial_adapter(trainer.layout, torch.Generator().manual_seed(0))
        trained.append(trainer.round(start, WORK.batches(WORK.steps)) - start)
    assert trained[0].abs().max() > 1e-5
    # AdamW's first steps divide by tiny gradients, which rounding moves.
    for other in trained[1:]:
        assert torch.allclose(trained[0], other, atol=2e-6)


@pytest.mark.slow
def test_on_a_processor_each_way_tells_the_memory_of_its_process(tmp_path: Path) -> None:
    alone = [option for option in TINY if option != "--no-alone"]
    tied = ["--weights", "bfloat16", "--tied", "--targets", "all-linear", "--dropout", "0"]
    result = runner.invoke(app, [*alone, *tied, "--json", str(tmp_path / "numbers.json")])
    assert result.exit_code == 0, result.output
    lines = json.loads((tmp_path / "numbers.json").read_text())["measured"]
    assert [line["mode"] for line in lines] == list(MODES)
    # Python and its libraries; the model itself is tiny.
    assert all(100 << 20 < line["peak_bytes"] < 4 << 30 for line in lines)


def test_without_a_gpu_it_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = runner.invoke(app, [])
    assert result.exit_code == 2
    assert "there is no GPU here" in result.output
    assert "--device cpu" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu"], "6,738,415,616 parameters would take too long on a processor"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        ([*TINY, "--weights", "int3"], "unknown format 'int3'"),
        ([*TINY, "--weights", ","], "names no format"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], said: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_what_fails_is_a_row_of_its_own_and_no_ratio() -> None:
    done = Measured("stacked", "bfloat16", 2.0, 3 << 30, 1000.0, 0.41)
    failed = Measured("sequential PEFT", "bfloat16", None, None, None, None, "out of memory")
    lines = table_lines(WORK, [Rate("GPU", "bfloat16", 8e14, 3e12)], [done, failed])
    assert lines[-2] == "| bfloat16 | stacked | 2 | 1,000 | 41.0% | 3.0 GiB |  | 3.3 min |"
    assert lines[-1].startswith("| bfloat16 | sequential PEFT | failed: out of memory |")


def test_8_bit_without_its_library_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = runner.invoke(app, [*TINY, "--weights", "8bit"])
    assert result.exit_code == 0
    assert result.output.count("failed: 8 bit needs bitsandbytes, which is not installed") == 3
