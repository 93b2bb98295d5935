"""What a whole plan is predicted to cost, how that is said, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from benchmark.cli.real import workers_for
from benchmark.errors import UsageError
from benchmark.execution import run
from benchmark.execution.plan import Plan, make_plan
from benchmark.generation import needs
from benchmark.generation.needs import Device, refuse_answering, this_device
from benchmark.models import products
from benchmark.models.sizes import GIB, Precision, decoder_of, gib, trains_lean
from benchmark.prediction.answers import ProbeSet
from benchmark.prediction.device import Rate, measure_rate
from benchmark.prediction.forecast import Forecast, check_fits, predict
from benchmark.prediction.lengths import Lengths, RowSample
from benchmark.prediction.memory import training_memory
from benchmark.prediction.step import Step, training_operations
from benchmark.prediction.text import forecast_lines, settings_lines
from benchmark.screen import Screen
from benchmark.suites.alignment import AlignmentSettings, ShippedAdapter
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Decoding, Suite, find_suite
from tasks.base import ProbeKind
from tasks.hub import HubWorld
from tasks.model_source import ModelShape, ModelSource

LLAMA_2_7B = ModelShape(layers=32, hidden=4096, intermediate=11_008, heads=32, kv_heads=32, vocabulary=32_000)
LAPTOP = Device("cpu", "processor", 24 * GIB)
H200 = Device("cuda", "NVIDIA H200", 139 * GIB)
RATE = Rate("NVIDIA H200", "bfloat16", 700e12, 4e12)


def suite_of(
    *, dtype: str = "bfloat16", quantization: str = "", compute: dict[str, object] | None = None, **training: object
) -> Suite:
    """Return the micro suite with the seed paper's model and training."""
    micro = find_suite("micro")
    source = ModelSource.model_validate(
        {"repository": "meta-llama/Llama-2-7b-hf", "dtype": dtype, "quantization": quantization, "shape": LLAMA_2_7B}
    )
    settings = {"rounds": 100, "batch_size": 16, "max_length": 512} | training
    return micro.model_copy(
        update={
            "models": {"chat": source, "raw": source},
            "lora": micro.lora.model_copy(update={"rank": 32, "targets": ("q_proj", "v_proj")}),
            "training": micro.training.model_copy(update=settings),
            "compute": micro.compute.model_copy(update=compute or {}),
        }
    )


def plan_of(suite: Suite, *pipelines: str) -> Plan:
    """Return the plan of the scenario in the paper's shape (3 clients a round) and its twin, one seed."""
    names = pipelines or ("fedavg",)
    plan = make_plan(find_suite("micro"), "vllm", scenarios=["paper_shape"], pipelines=names, seeds=[11])
    return replace(plan, suite=suite)


def forecast_of(suite: Suite, device: Device, *pipelines: str) -> Forecast:
    return predict(plan_of(suite, *pipelines), device, RATE)


def test_a_paper_cell_is_rounds_times_steps() -> None:
    forecast = forecast_of(suite_of(), H200)
    assert [(job.scenario, job.seed) for job in forecast.jobs] == [("paper_shape", 11), ("clean_paper_shape", 11)]
    step = training_operations(decoder_of(LLAMA_2_7B), suite_of().lora, Step(3, 16, 512, 16 * 512), "bfloat16")
    assert forecast.jobs[0].training.useful == pytest.approx(1000 * step.useful)
    assert forecast.jobs[0].posthoc.useful == 0
    # Four operations a weight and token, as nothing but adapters gets a gradient.
    assert forecast.jobs[0].training.useful == pytest.approx(4 * 24_576_000 * 6.6e9, rel=0.03)
    assert forecast.training.useful == pytest.approx(2 * forecast.jobs[0].training.useful)
    assert forecast.adapter_bytes == 2 * 4 * 16_777_216


def test_an_alignment_is_counted_once_where_no_adapter_is_shipped() -> None:
    settings = AlignmentSettings(
        start="raw", data={"a": 1.0}, rows=8, steps=50, batch_size=8, learning_rate=1e-3, max_length=128, seed=1
    )
    suite = suite_of().model_copy(update={"alignment": settings})
    forecast, without = forecast_of(suite, H200), forecast_of(suite_of(), H200)
    step = training_operations(decoder_of(LLAMA_2_7B), suite.lora, Step(1, 8, 128, 8 * 128), "bfloat16")
    assert forecast.alignment.useful == pytest.approx(50 * step.useful)
    assert forecast.training == without.training
    more = forecast.seconds(forecast.alignment.executed)
    assert forecast.total_seconds == pytest.approx(without.total_seconds + more)
    assert any(line.startswith("  alignment of the start model, once: ") for line in forecast_lines(forecast))
    assert any("steps 50" in line for line in settings_lines(suite) if line.startswith("  alignment: "))
    shipped = settings.model_copy(update={"adapter": ShippedAdapter(file="start", sha256="0" * 64)})
    elsewhere = settings.model_copy(update={"start": "chat"})
    for other in (shipped, elsewhere):
        free = forecast_of(suite.model_copy(update={"alignment": other}), H200)
        assert free.alignment.executed == 0
        assert free.total_seconds == without.total_seconds
        assert not any("once" in line for line in forecast_lines(free))
    wide = suite.model_copy(update={"alignment": settings.model_copy(update={"batch_size": 64, "max_length": 512})})
    peaks = [each.training_memory["raw"].peak for each in (forecast_of(wide, LAPTOP), forecast_of(suite_of(), LAPTOP))]
    assert peaks[0] > peaks[1]


@pytest.mark.parametrize(
    ("device", "generator", "printed"), [(H200, "vllm", True), (H200, "transformers", False), (LAPTOP, "vllm", False)]
)
def test_the_share_of_a_gpu_is_printed_where_vllm_takes_one(device: Device, generator: str, printed: bool) -> None:
    plan = replace(plan_of(suite_of(compute={"gpu_memory_fraction": 0.3})), generator=generator)
    (line,) = (line for line in forecast_lines(predict(plan, device)) if line.startswith("  memory of answering with"))
    assert line.endswith("; vLLM takes 30% of a GPU" if printed else " GiB")


def test_a_shared_round_counts_once() -> None:
    """The paper's shape has 3 clients a round. The plan has its twin, and keep_initial trains no client."""
    rules = ("fedavg", "dnc", "median", "keep_initial")
    plan = plan_of(suite_of(rounds=1), *rules)
    alone = forecast_of(suite_of(rounds=1), H200, "fedavg")
    shared = predict(plan, H200, RATE)
    assert shared.training.useful == alone.training.useful
    assert shared.sharing.remark == (
        "; clients train in 2 of them, 4 reuse the local training of another, and in 2 no client trains"
    )
    assert shared.remembered_bytes == 3 * 4 * 16_777_216
    text = "\n".join(forecast_lines(shared))
    assert "federated training, 8 trainings in 2 scenarios; clients train in 2 of them, 4 reuse" in text
    assert "a remembered round on disk: 0.2 GiB" in text
    anew = predict(plan, H200, RATE, remembered_bytes=3 * 4 * 16_777_216 - 1)
    assert anew.training.useful == pytest.approx(3 * alone.training.useful)
    assert anew.remembered_bytes == 0
    assert anew.sharing.remark == "; clients train in 6 of them, and in 2 no client trains"
    long = predict(plan_of(suite_of(), *rules), H200, RATE)
    assert long.training.useful == pytest.approx((3 * 100 - 2) * alone.training.useful)


def test_fine_tuning_and_its_adapters_are_added() -> None:
    forecast = forecast_of(suite_of(), H200, "fedavg", "posthoc_self")
    step = training_operations(decoder_of(LLAMA_2_7B), suite_of().lora, Step(1, 16, 512, 16 * 512), "bfloat16")
    assert forecast.jobs[0].posthoc.useful == pytest.approx(50 * step.useful)
    assert forecast.adapter_bytes == 4 * 4 * 16_777_216


def test_a_row_that_ignores_updates_trains_nobody() -> None:
    assert forecast_of(suite_of(), H200, "keep_initial").training.useful == 0


def test_times_are_the_stated_share_of_what_was_measured() -> None:
    forecast = forecast_of(suite_of(), H200)
    useful = forecast.jobs[0].training.useful
    assert forecast.seconds(useful) == pytest.approx(useful / 700e12 / 0.4)
    assert forecast.seconds(1.0, traffic=4e12) == pytest.approx(1 / 0.4)
    assert forecast.total_seconds > forecast.seconds(forecast.training.useful)
    lines = "\n".join(forecast_lines(forecast))
    assert "measured here just now (bfloat16): 700.00 tera-operations/s" in lines
    assert "assumed shares: 40% of both" in lines


def test_trainings_on_a_processor_run_side_by_side_in_processes_of_one_thread() -> None:
    """Two trainings at 60 % of 4e11 operations/s of two threads, after the 60 s in which processes open."""
    rate = Rate("processor", "bfloat16", 4e11, 1e10, threads=2)
    forecast = predict(plan_of(suite_of(rounds=1)), LAPTOP, rate)
    one = forecast.jobs[0].training.executed
    assert forecast.alone(forecast.jobs[0].training) == pytest.approx(one / (0.6 * 2e11))
    assert forecast.training_seconds == pytest.approx(60 + 2 * one / (0.6 * 2e11))
    side_by_side = replace(forecast, processes=2)
    assert side_by_side.training_seconds == pytest.approx(60 + one / (0.6 * 2e11))
    answers = forecast.answering.operations / 4e11 / 0.18
    assert forecast.total_seconds == pytest.approx(forecast.training_seconds + 75 + answers)
    lines = forecast_lines(side_by_side)
    assert any(line.startswith("  all trainings in 2 processes, data and work after them included: ") for line in lines)
    assert "  opening the answering engine: 75 s" in lines
    assert "times are expected values, memory is an upper bound" in lines[0]
    assert any(line.startswith("  in all: ") and line.endswith(" expected on processor") for line in lines)


def test_generated_data_take_time_once_for_a_scenario_and_seed_and_for_each_repaired_adapter() -> None:
    """The attack of ``generated`` makes 3 sequences for each pair, and so does post-hoc defense level 3."""
    plan = make_plan(find_suite("micro"), "vllm", scenarios=["generated"], pipelines=["fedavg", "dnc"], seeds=[11])
    repaired = make_plan(
        find_suite("micro"), "vllm", scenarios=["generated"], pipelines=["fedavg", "posthoc_self"], seeds=[11]
    )
    suite = suite_of(rounds=1)
    models = {**suite.models, "attacker": suite.models["raw"]}
    suite = suite.model_copy(update={"models": models})
    world = HubWorld(models=models)
    both, after = (predict(replace(each, suite=suite, world=world), LAPTOP) for each in (plan, repaired))
    attack = both.jobs[0].attack_data
    assert attack.passes > 0
    assert both.generated == attack == both.jobs[1].attack_data
    assert both.generated.read == attack.passes * 128
    posthoc = 3 * suite.posthoc.examples
    assert after.generated.passes == attack.passes + posthoc * sum(1 for job in after.jobs)
    text = "\n".join(forecast_lines(after))
    assert f"  data that models generate in trainings: {after.generated.passes:,} sequences, " in text


def test_measured_lengths_replace_what_is_assumed() -> None:
    """Rows of 50 tokens with 20 in the loss, and one probe set of 10 prompts of 40 tokens with 8 new ones."""
    plan = plan_of(suite_of(rounds=1))
    scenarios = [job.scenario.id for job in plan.jobs]
    sample = RowSample((50,) * 4, (20,) * 4)
    probes = (ProbeSet(ProbeKind.HARMFUL, 10, 8, measured=2, prompt=40.0, scored=45.5),)
    lengths = Lengths({"raw": probes}, dict.fromkeys(scenarios, sample), asking={"raw": 60.0})
    forecast = predict(plan, H200, RATE, lengths=lengths)
    step = training_operations(
        decoder_of(LLAMA_2_7B), suite_of().lora, Step(3, 16, 50, 16 * 20, 3 * 16 * 20), "bfloat16"
    )
    assert forecast.jobs[0].training.useful == pytest.approx(10 * step.useful)
    assert (forecast.answering.passes, forecast.answering.read, forecast.answering.written) == (20, 800, 160)
    assert (forecast.measuring.passes, forecast.measuring.read) == (40, 1820)
    # Memory stays that of rows of full length.
    assert forecast.training_memory == forecast_of(suite_of(rounds=1), H200).training_memory
    lines = forecast_lines(forecast)
    assert any(line.startswith("  likelihoods: 40 sequences, 1,820 tokens, ") for line in lines)
    assert "  read from the data here: prompts for raw of 40 tokens on average" in lines
    assumed = [line for line in lines if line.startswith("  assumed: ")]
    assert not any("rows of 512 tokens" in line or "prompts of 128" in line for line in assumed)
    lines = forecast_lines(forecast_of(suite_of(rounds=1), H200))
    assert "  assumed: training rows of 512 tokens, each with loss; shorter rows take less" in lines
    assert "  assumed: prompts of 128 tokens" in lines


def test_without_a_measurement_there_is_no_time() -> None:
    lines = "\n".join(forecast_lines(predict(plan_of(suite_of()), H200)))
    assert "measured here" not in lines
    assert "in all" not in lines
    assert "peak memory of training chat" not in lines
    assert "peak memory of training raw" in lines


def test_recomputation_costs_time_but_is_no_useful_work() -> None:
    plain, again = forecast_of(suite_of(), H200), forecast_of(suite_of(gradient_checkpointing=True), H200)
    assert again.training.useful == plain.training.useful
    assert again.training.executed > 1.3 * plain.training.executed
    assert again.training_memory["raw"].peak < plain.training_memory["raw"].peak
    assert any("recomputed" in line for line in forecast_lines(again))


def test_a_plan_that_cannot_fit_is_refused_with_the_numbers() -> None:
    suite = suite_of(dtype="float32")
    forecast = forecast_of(suite, LAPTOP)
    assert forecast.training_memory["raw"].weights == 4 * 6_738_415_616
    with pytest.raises(UsageError) as refusal:
        check_fits(suite, forecast, LAPTOP)
    said = str(refusal.value)
    assert "training model 'raw'" in said
    assert "weights 25.1 GiB" in said
    assert "processor has 24.0 GiB" in said
    assert "quantization" in said
    assert "a smaller model" in said


def test_the_way_out_works() -> None:
    with pytest.raises(UsageError, match=r"set compute.train_memory_gib to (\d+\.\d), which divides a step") as refusal:
        check_fits(suite_of(), forecast_of(suite_of(), LAPTOP), LAPTOP)
    room = float(str(refusal.value).partition("train_memory_gib to ")[2].partition(",")[0])
    suite = suite_of(compute={"train_memory_gib": room})
    forecast = forecast_of(suite, LAPTOP)
    assert forecast.training_memory["raw"].parts > 1
    check_fits(suite, forecast, LAPTOP)
    with pytest.raises(UsageError, match="in each of 2 processes"):
        check_fits(suite, forecast, LAPTOP, workers=2)


def test_a_gpu_divides_steps_by_itself() -> None:
    suite = suite_of()
    small = Device("cuda", "a GPU", 40 * GIB)
    forecast = forecast_of(suite, small)
    memory = forecast.training_memory["raw"]
    assert memory.parts > forecast_of(suite, H200).training_memory["raw"].parts
    assert memory.budget is not None
    assert memory.activations <= memory.budget
    check_fits(suite, forecast, small)


def test_where_not_even_a_row_fits_the_way_out_is_another() -> None:
    suite = suite_of(max_length=16_384)
    device = Device("cuda", "a GPU", 24 * GIB)
    with pytest.raises(
        UsageError, match=r"gradient_checkpointing or a smaller training\.max_length, because not even one row"
    ):
        check_fits(suite, forecast_of(suite, device), device)


def test_quantised_weights_take_less() -> None:
    peaks = [
        forecast_of(suite_of(quantization=form), H200).training_memory["raw"].weights for form in ("", "8bit", "4bit")
    ]
    assert peaks == sorted(peaks, reverse=True)


def test_answering_that_cannot_fit_is_refused_with_the_numbers() -> None:
    suite = suite_of(compute={"train_memory_gib": 1.0, "gpu_memory_fraction": 0.3})
    device = Device("cuda", "a GPU", 24 * GIB)
    forecast = forecast_of(suite, device)
    with pytest.raises(
        UsageError, match=r"answering with model 'raw' needs at least 13\.8 GiB .* offers 7\.2 GiB \(30%"
    ):
        check_fits(suite, forecast, device)
    wide = suite_of(compute={"tensor_parallel": 4, "gpu_memory_fraction": 0.3})
    assert 4 * forecast_of(wide, device).answering_memory["raw"].least <= forecast.answering_memory["raw"].least + 4


def test_merged_adapters_need_a_copy_of_the_linear_layers_and_no_slots() -> None:
    suite = suite_of()
    merging = suite.model_copy(update={"decoding": Decoding(adapters="merged")})
    slots, copied = (forecast_of(each, LAPTOP).answering_memory["raw"] for each in (suite, merging))
    assert (copied.adapters, slots.copy) == (0, 0)
    assert copied.copy == 2 * decoder_of(LLAMA_2_7B).linear_parameters
    assert copied.weights == slots.weights
    assert copied.least - copied.copy == slots.least - slots.adapters
    assert copied.taken(LAPTOP) - copied.copy == slots.taken(LAPTOP) - slots.adapters
    text = "\n".join(forecast_lines(forecast_of(merging, LAPTOP)))
    assert f"copy of the linear layers for merging adapters {gib(copied.copy)}), with the cache" in text
    small = Device("cpu", "processor", 16 * GIB)
    with pytest.raises(UsageError, match=r"needs at least .* copy for merging 12\.1 GiB.*decoding\.adapters"):
        refuse_answering("raw", copied, small)


def test_judges_are_predicted_by_their_own_models() -> None:
    suite = suite_of().model_copy(update={"judges": ("oracle", "md_judge"), "primary_judge": "oracle"})
    forecast = forecast_of(suite, H200)
    assert set(forecast.judging) == {"md_judge"}
    assert forecast.judging["md_judge"].passes > 0
    assert forecast.models["md_judge"].decoder.parameters == pytest.approx(7.24e9, rel=0.01)
    assert forecast.answering_memory["md_judge"].adapters == 0


def test_quantised_weights_answer_unquantised_where_vllm_rounds_them() -> None:
    plan, whole = plan_of(suite_of(quantization="8bit")), forecast_of(suite_of(), H200)
    assert plan.generator == "vllm"
    rounded, kept = (predict(each, H200, RATE) for each in (plan, replace(plan, generator="transformers")))
    assert rounded.answering_memory["raw"] == whole.answering_memory["raw"]
    assert rounded.answering.traffic == whole.answering.traffic
    assert kept.answering_memory["raw"].weights == kept.training_memory["raw"].weights
    assert kept.answering_memory["raw"].weights < 0.6 * rounded.answering_memory["raw"].weights
    assert kept.answering.traffic < rounded.answering.traffic
    # vLLM's processes on several devices do not know the rounding, so it is transformers that would answer.
    spread = suite_of(quantization="8bit", compute={"tensor_parallel": 2})
    assert 2 * forecast_of(spread, H200).answering_memory["raw"].weights == kept.answering_memory["raw"].weights


def test_a_judge_that_is_too_large_refuses_nothing_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    micro = suite_of(compute={"train_memory_gib": 1.0})
    large = ModelSource.model_validate(
        {"repository": "tests/large", "shape": LLAMA_2_7B.model_copy(update={"layers": 80, "hidden": 8192})}
    )
    suite = micro.model_copy(
        update={
            "models": {**micro.models, "md_judge": large},
            "judges": ("oracle", "md_judge"),
            "primary_judge": "oracle",
        }
    )
    device = Device("cuda", "a GPU", 40 * GIB)
    (warning,) = check_fits(suite, forecast_of(suite, device), device)
    assert warning.startswith("judge md_judge: its model needs at least ")
    assert "a GPU offers 36.0 GiB (90% of 40.0 GiB)" in warning
    assert "name a smaller model for the role md_judge in the suite's models" in warning
    assert "fedsafety judge" in warning
    assert check_fits(suite, forecast_of(suite, H200), H200) == ()
    # On the command line, a run goes on.
    monkeypatch.setattr(needs, "this_device", lambda: device)
    screen = io.StringIO()
    plan = replace(plan_of(suite), world=HubWorld(models=suite.models))
    workers_for(plan, 0, Screen(file=screen, width=80))
    assert screen.getvalue() == f"warning: {warning}\n"


def test_the_number_of_processes_follows_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(compute={"train_memory_gib": 1.0})
    seeds = find_suite("micro").seeds
    whole = make_plan(find_suite("micro"), "vllm", scenarios=["paper_shape"], pipelines=["fedavg"], seeds=seeds)
    plan = replace(whole, suite=suite, world=HubWorld(models=suite.models))
    device = Device("cpu", "processor", 96 * GIB)
    each = predict(plan, device).training_memory["raw"].resident(device)
    assert 16 * GIB < each < 21 * GIB  # three such processes fit into 64 GiB, four do not
    monkeypatch.setattr(needs, "this_device", lambda: device)
    monkeypatch.setattr(needs, "available_memory", lambda: 64 * GIB)
    monkeypatch.setattr(run, "available_memory", lambda: 64 * GIB)
    monkeypatch.setattr(run, "usable_cores", lambda: 16)
    screen = io.StringIO()
    assert workers_for(plan, 0, Screen(file=screen)) == 3
    assert screen.getvalue() == (
        f"training processes at once: 3 on 16 processors, because each needs {gib(each)} and 64.0 GiB of memory are "
        f"free\n"
    )
    assert workers_for(plan, 5, Screen(file=screen)) == 5
    with pytest.raises(UsageError, match=r"in each of 8 processes .* the process and holes in its heap \d"):
        workers_for(plan, 8, Screen(file=screen))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_process_takes_what_was_predicted(dtype: str) -> None:
    """The peak of a fresh process, as the system counts it, within a factor of 1.5 of the prediction."""
    shape = ModelShape(layers=8, hidden=288, intermediate=768, heads=6, kv_heads=2, vocabulary=16_000)
    lora = LoraSettings(rank=8, alpha=16, targets="all-linear")
    step = Step(clients=10, rows=4, width=96, losses=4 * 48)
    decoder = decoder_of(shape)
    device = Device("cpu", "processor", 64 * GIB)
    lean = trains_lean(dtype, "cpu")
    memory = training_memory(
        decoder, Precision(dtype), lora, step, find_suite("micro").compute, device, checkpointing=False, lean=lean
    )
    done = subprocess.run([sys.executable, "-c", TRAINING, dtype], capture_output=True, text=True, check=True)
    assert 1 / 1.5 < memory.resident(device) / int(done.stdout) < 1.5


TRAINING = """
import resource
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import benchmark.execution.job
from benchmark.execution.worker import keep_freed_memory
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.stacked import StackedModel

torch.set_num_threads(1)
keep_freed_memory()
config = LlamaConfig(
    hidden_size=288, intermediate_size=768, num_hidden_layers=8, num_attention_heads=6, num_key_value_heads=2,
    vocab_size=16_000, attn_implementation="sdpa",
)
base = LlamaForCausalLM(config).to(getattr(torch, sys.argv[1]))
model = StackedModel(base, LoraSettings(rank=8, alpha=16, targets="all-linear"), 0)
rows = [TokenRow(tuple(range(1, 97)), 48)] * 4
model.train(torch.zeros(model.layout.dimension), [[rows] * 2] * 10, learning_rate=1e-3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
"""Two training steps of the shape in the test above."""


@pytest.mark.parametrize(
    ("scenario", "pipeline", "role"),
    [("generated", "fedavg", "attacker"), ("paper_shape", "posthoc_external", "external")],
)
def test_a_second_model_that_generates_data_is_in_the_peak(scenario: str, pipeline: str, role: str) -> None:
    suite = suite_of(compute={"train_memory_gib": 1.0})
    raw = suite.models["raw"]
    suite = suite.model_copy(update={"models": {**suite.models, "attacker": raw, "external": raw}})
    plan = make_plan(find_suite("micro"), "vllm", scenarios=[scenario], pipelines=[pipeline], seeds=[11])
    forecast = predict(replace(plan, suite=suite, world=HubWorld(models=suite.models)), H200)
    (memory,) = forecast.training_memory.values()
    assert memory.sampling is not None
    assert (memory.sampling.role, memory.sampling.second) == (role, memory.weights)
    assert memory.peak == 2 * memory.weights + 8 * GIB > memory.steps
    assert any(f"while {role} generates data" in line for line in forecast_lines(forecast))
    # A GPU that is short of memory generates less at once; a processor's memory cannot be known to run out.
    check_fits(suite, forecast, Device("cuda", "a GPU", 32 * GIB))
    for device in (Device("cuda", "a GPU", 24 * GIB), Device("cpu", "processor", 32 * GIB)):
        assert memory.steps < device.memory
        with pytest.raises(
            UsageError, match=rf"while '{role}' generates data .* a smaller model for the role '{role}'"
        ):
            check_fits(suite, forecast, device)


def test_only_what_generates_data_counts_as_such() -> None:
    assert all(memory.sampling is None for memory in forecast_of(suite_of(), H200).training_memory.values())
    memory = forecast_of(suite_of(), H200, "fedavg", "posthoc_self").training_memory["raw"]
    assert memory.sampling is not None
    assert (memory.sampling.role, memory.sampling.second) == ("raw", 0)
    assert memory.sampling.total < memory.steps == memory.peak


def test_a_model_of_unknown_size_is_named_and_not_counted() -> None:
    suite = suite_of()
    nameless = {role: source.model_copy(update={"shape": None}) for role, source in suite.models.items()}
    forecast = forecast_of(suite.model_copy(update={"models": nameless}), H200)
    assert forecast.unknown == ("raw",)
    assert forecast.jobs == ()
    assert any("model raw: unknown size" in line for line in forecast_lines(forecast))


def test_a_configuration_below_the_model_root_comes_before_the_stated_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "meta-llama" / "Llama-2-7b-hf"
    LlamaConfig(
        architectures=["LlamaForCausalLM"], hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=50
    ).save_pretrained(folder)
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    monkeypatch.setenv("FEDSAFETY_MODEL_ROOT", str(tmp_path))
    assert forecast_of(suite_of(), H200).models["raw"].decoder.hidden == 64


def test_worlds_with_their_own_models_are_read_from_them() -> None:
    plan = make_plan(find_suite("micro"), "vllm", scenarios=["aligned_start"], pipelines=["fedavg"], seeds=[11])
    forecast = predict(plan, LAPTOP)
    assert forecast.row_tokens < 100
    assert forecast.models["chat"].decoder.parameters < 1_000_000
    assert forecast.answering.passes == 2 * len(plan.world.probes())
    check_fits(plan.suite, forecast, LAPTOP)


def test_the_rate_is_measured_here() -> None:
    device = this_device()
    rate = measure_rate("float32", device, seconds=0.01)
    assert rate.device == device.name
    assert rate.threads == (torch.get_num_threads() if device.kind == "cpu" else 1)
    assert rate.operations > 1e6
    assert rate.bandwidth > 1e6
    assert device.memory > GIB
    assert rate.unwidened is None


@pytest.mark.parametrize("threads", [1, 2])
def test_the_rate_of_bfloat16_is_that_of_the_products_in_training(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        calls.append(left.dtype)
        return products.linear(left, right)

    monkeypatch.setattr("benchmark.prediction.device.linear", counted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    device = Device("cpu", "processor", 24 * GIB)
    for widened in (False, True):
        monkeypatch.setattr("benchmark.prediction.device.widens_bfloat16", lambda widened=widened: widened)
        monkeypatch.setattr(products, "widens_bfloat16", lambda widened=widened: widened)
        rate = measure_rate("bfloat16", device, seconds=0.01)
        assert rate.operations > 1e6
        assert (rate.unwidened is not None) == widened
        assert bool(calls) == widened
    assert set(calls) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["micro", "paper", "aligned", "small"])
def test_every_setting_of_a_suite_is_printed(name: str) -> None:
    suite = find_suite(name)
    text = "\n".join(settings_lines(suite))
    for group in ("training", "posthoc", "lora", "decoding", "compute"):
        for field in type(getattr(suite, group)).model_fields:
            assert f"{field} " in text
    for role, model in suite.models.items():
        line = f"model {role}: repository {model.repository}, package none, revision {model.revision}"
        assert line in text
    for pool, source in suite.data.pools.items() if suite.data else ():
        assert f"data pool {pool}: repository {source.repository}, revision {source.revision}" in text
        assert f"split {source.split}" in text
        assert all(condition in text for condition in source.filters)
    for probe in suite.data.probes if suite.data else ():
        assert f"probes {probe.id}: " in text
    for scenario in suite.scenarios:
        assert f"scenario {scenario.id}: " in text
    assert all(judge in text for judge in suite.judges)


def test_each_source_of_development_and_fresh_prompts_has_a_line_without_settings_that_are_none() -> None:
    lines = settings_lines(find_suite("pocket"))
    (development,) = (line for line in lines if line.startswith("  development malicious_instructions: "))
    (fresh,) = (line for line in lines if line.startswith("  fresh prompts of xstest_safe: "))
    (rest,) = (line for line in lines if line.startswith("  data: "))
    assert development.startswith(
        "  development malicious_instructions: github (repository vinid/safety-tuned-llamas, "
    )
    assert ", offset 40, limit 60" in fresh
    assert not any("none" in line for line in (development, fresh))
    assert rest.startswith("  data: overlaps remove, data_max_new_tokens 64, ")
    assert "repository" not in rest
    # A name that reads "none" is a value.
    assert any("attack (id none)" in line for line in lines if line.startswith("  scenario clean_one_shot: "))
