"""What the model says to lm-evaluation-harness is what the engine says in the benchmark's own chat format."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmark.errors import FedSafetyError, NotApplicableError
from benchmark.generation.base import Engine, Request
from benchmark.harness.model import FedSafetyLM, TaskError, render
from benchmark.methods.pipeline import Pipeline, parse_pipeline
from benchmark.models.chat import ChatFormat
from benchmark.sandbox.proxy import Sandboxed
from defenses.base import Defense, Prompt
from tasks.base import ProbeKind, task_worlds

QUESTION = "translate red cat ."


def generation(model: FedSafetyLM, question: str, **settings: Any) -> Instance:
    context = model.apply_chat_template([{"role": "user", "content": question}])
    return Instance("generate_until", {}, (context, {"until": [], "max_gen_toks": 12, **settings}), 0, ("t", 0, 1))


def scored(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, ("t", 0, 1))


def reference_logprobs(base: Path, adapter: Path | None, ids: tuple[int, ...]) -> list[float]:
    """PEFT's own forward pass."""
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, str(adapter))
    with torch.inference_mode():
        tokens = torch.tensor([ids])
        values = network(tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])
    return [float(value) for value in values.flatten()]


def test_answers_are_those_of_the_engine_to_the_probes_prompts(
    model: FedSafetyLM, chat: ChatFormat, adapters: tuple[Path, Path]
) -> None:
    probes = [p for p in task_worlds.get("micro").create().probes() if p.kind is ProbeKind.UTILITY][::10]
    said = {}
    for adapter in (None, *adapters):
        model.serve(adapter)
        requests = [Request(chat.prompt_ids(p.instruction), 12, adapter) for p in probes]
        expected = [answer.text for answer in model.engine.generate(requests)]
        assert model.generate_until([generation(model, p.instruction) for p in probes]) == expected
        said[adapter] = tuple(expected)
    assert len(set(said.values())) == 3, "the adapters change answers, and the same engine serves them all"


def test_an_answer_ends_before_the_first_stop_string(model: FedSafetyLM) -> None:
    model.serve(None)
    (whole,) = model.generate_until([generation(model, QUESTION)])
    first, second, *_ = whole.split()
    assert model.generate_until([generation(model, QUESTION, until=[f" {second}", "nothing"])]) == [first]
    assert model.generate_until([generation(model, QUESTION, until=[""])]) == [whole]
    assert model.generate_until([generation(model, QUESTION, max_gen_toks=1)]) == [first]


def test_likelihoods_are_those_of_the_training_codes_library(
    model: FedSafetyLM, chat: ChatFormat, base: Path, adapters: tuple[Path, Path]
) -> None:
    context = model.apply_chat_template([{"role": "user", "content": QUESTION}])
    continuations = ("list three fruit .", "def sort ( cat ) ;")
    for adapter in (None, *adapters):
        model.serve(adapter)
        found = model.loglikelihood([scored(context, text) for text in continuations])
        for (value, _), text in zip(found, continuations, strict=True):
            ids, said = chat.prompt_ids(QUESTION), chat.encode(text)
            expected = sum(reference_logprobs(base, adapter, ids + said)[-len(said) :])
            assert value == pytest.approx(expected, abs=1e-3)


def test_only_the_answer_that_greedy_decoding_gives_is_greedy(model: FedSafetyLM, adapters: tuple[Path, Path]) -> None:
    context = model.apply_chat_template([{"role": "user", "content": QUESTION}])
    for adapter in (None, *adapters):
        model.serve(adapter)
        (said,) = model.generate_until([generation(model, QUESTION)])
        (_, own), (_, other) = model.loglikelihood([scored(context, said), scored(context, f"apple {said}")])
        assert (own, other) == (True, False)


def test_a_bare_text_is_scored_after_the_start_token_and_in_windows_where_it_is_long(
    model: FedSafetyLM, chat: ChatFormat, base: Path
) -> None:
    model.serve(None)
    short = "the red cat likes apple ."
    start = chat.tokenizer.bos_token_id
    request = Instance("loglikelihood_rolling", {}, (short,), 0, ("t", 0, 1))
    expected = sum(reference_logprobs(base, None, (start, *chat.encode(short))))
    assert model.loglikelihood_rolling([request]) == [pytest.approx(expected, abs=1e-3)]
    (unconditional,) = model.loglikelihood([scored("", short)])
    assert unconditional[0] == pytest.approx(expected, abs=1e-3)
    long = " ".join([short] * 20)  # 120 tokens; the model takes 80
    (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (long,), 0, ("t", 0, 1))])
    ids, window = chat.encode(long), chat.max_length - 2
    first = reference_logprobs(base, None, (start, *ids[:window]))
    rest = reference_logprobs(base, None, ids[len(ids) - window - 1 :])[-(len(ids) - window) :]
    assert total == pytest.approx(sum(first) + sum(rest), abs=1e-2)


@pytest.mark.vllm
@pytest.mark.slow
def test_both_engines_give_the_same_scores(
    vllm_engine: Engine, transformers_engine: Engine, chat: ChatFormat, adapters: tuple[Path, Path]
) -> None:
    models = [FedSafetyLM(engine, chat) for engine in (vllm_engine, transformers_engine)]
    probes = [p for p in task_worlds.get("micro").create().probes() if p.kind is ProbeKind.UTILITY and p.reference]
    for adapter in adapters:
        results = []
        for each in models:
            each.serve(adapter)
            contexts = [each.apply_chat_template([{"role": "user", "content": p.instruction}]) for p in probes]
            likely = each.loglikelihood([scored(c, p.reference) for c, p in zip(contexts, probes, strict=True)])
            said = each.generate_until([generation(each, p.instruction) for p in probes])
            results.append((likely, said))
        (one, said_one), (two, said_two) = results
        np.testing.assert_allclose([v for v, _ in one], [v for v, _ in two], rtol=0, atol=1e-3)
        assert [greedy for _, greedy in one] == [greedy for _, greedy in two]
        assert 0 < sum(greedy for _, greedy in one) < len(probes)
        assert said_one == said_two


def test_words_that_would_melt_together_are_encoded_as_in_training(plain_model: FedSafetyLM, chat: ChatFormat) -> None:
    spaced, glued = plain_model._pair("<s> <u> red cat", " apple ."), plain_model._pair("<s> <u> red cat", "apple .")
    assert spaced == glued == (chat.encode("<s> <u> red cat"), chat.encode("apple ."))


def test_what_does_not_fit_is_an_error_and_what_ends_early_is_counted(plain_model: FedSafetyLM) -> None:
    plain_model.serve(None)
    long = " ".join(["cat"] * 90)
    with pytest.raises(TaskError, match=r"1 of 2 prompts do not fit the model: the longest, of task 't', takes 93 "):
        plain_model.generate_until([generation(plain_model, QUESTION), generation(plain_model, long)])
    with pytest.raises(TaskError, match="do not fit"):
        plain_model.loglikelihood([scored("<s> <u> cat", f" {long}")])
    crowded = " ".join(["cat"] * 70)
    (text,) = plain_model.generate_until([generation(plain_model, crowded, max_gen_toks=256)])
    (again,) = plain_model.generate_until([generation(plain_model, crowded, max_gen_toks=2)])
    assert text.startswith(again)
    assert len(text.split()) == 80 - 73
    assert plain_model.cut["t"] == 1, "only the first of the two was to be longer than the model allows"


def test_sampled_answers_and_unknown_settings_are_refused(plain_model: FedSafetyLM) -> None:
    plain_model.serve(None)
    with pytest.raises(TaskError, match=r"asks for sampled answers .*set do_sample: false"):
        plain_model.generate_until([generation(plain_model, QUESTION, do_sample=True, temperature=0.7)])
    with pytest.raises(TaskError, match="'repetition_penalty'"):
        plain_model.generate_until([generation(plain_model, QUESTION, repetition_penalty=1.2)])
    settings = {"do_sample": False, "temperature": 0.0, "top_p": 0.9}
    assert plain_model.generate_until([generation(plain_model, QUESTION, **settings)])[0]


def test_conversations_take_the_template_and_a_system_turn_goes_before_the_first_question(chat: ChatFormat) -> None:
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "cat"}]
    last = {"role": "user", "content": "apple"}
    assert render(chat, [*turns, last]) == "<s> <u> red <a> cat </s><u> apple <a> "
    assert render(chat, turns, add_generation_prompt=False) == "<s> <u> red <a> cat"
    assert render(chat, [{"role": "system", "content": "list three "}, last]) == "<s> <u> list three\n\napple <a> "
    with pytest.raises(TemplateError):
        render(chat, [last, {"role": "system", "content": "list three"}])


@dataclass(frozen=True)
class Reworded(Defense):
    """Puts every request in other words."""

    def serve(self, prompt: Prompt) -> Prompt:
        return Prompt(prompt.instruction.replace("red", "blue"))


class Stage:
    """A pipeline whose one serving member is not registered."""

    class _Member:
        info = type("Info", (), {"id": "reworded"})

        def create(self) -> Defense:
            return Reworded()

    servers = (_Member(),)


def test_prompts_are_asked_as_the_pipeline_serves_them(plain_model: FedSafetyLM) -> None:
    stage: Any = Stage()
    plain_model.serve(None, stage)
    assert "blue cat" in plain_model.apply_chat_template([{"role": "user", "content": QUESTION}])
    served = plain_model.generate_until([generation(plain_model, QUESTION)])
    assert plain_model.loglikelihood(
        [scored(plain_model.apply_chat_template([{"role": "user", "content": "cat"}]), "a")]
    )
    with pytest.raises(NotApplicableError, match="reworded rewrites prompts"):
        plain_model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("red cat",), 0)])
    plain_model.serve(None)
    assert served == plain_model.generate_until([generation(plain_model, QUESTION.replace("red", "blue"))])
    assert served != plain_model.generate_until([generation(plain_model, QUESTION)])


def test_a_served_answer_is_the_answer_and_has_no_likelihood(plain_model: FedSafetyLM) -> None:
    stage: Pipeline = parse_pipeline("refuse_all")
    plain_model.serve(None, stage)
    assert plain_model.generate_until([generation(plain_model, QUESTION)])[0].startswith("i'm sorry")
    context = plain_model.apply_chat_template([{"role": "user", "content": QUESTION}])
    with pytest.raises(NotApplicableError, match="refuse_all answers itself"):
        plain_model.loglikelihood([scored(context, "red cat .")])
    plain_model.serve(None)
    assert not plain_model.generate_until([generation(plain_model, QUESTION)])[0].startswith("i'm sorry")


def test_the_model_is_registered_and_made_from_arguments(base: Path, adapters: tuple[Path, Path]) -> None:
    made = get_model("fedsafety").create_from_arg_string(f"base={base},adapter={adapters[0]},engine=transformers")
    with made.engine:
        assert made.adapter == adapters[0]
        assert made.tokenizer_name == made.chat.digest
        assert made.generate_until([generation(made, QUESTION)])[0]
    with pytest.raises(TaskError, match="needs base"):
        get_model("fedsafety").create_from_arg_string("pretrained=x")
    for text, named in (
        *((f"base={base},max_lora_rank={rank}", f"max_lora_rank is .*{rank}") for rank in ("abc", "0", "1.5", "True")),
        ("base=True", "base is True, which is no folder"),
        ("base=/nope", "base is '/nope', which is no folder"),
        (f"base={base},adapter=7", "adapter is 7, which is no folder"),
    ):
        with pytest.raises(TaskError, match=named):
            get_model("fedsafety").create_from_arg_string(text)


def test_an_adapter_of_another_program_is_checked_before_a_task_runs(
    base: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters[0], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_qalora": True}))
    with pytest.raises(FedSafetyError, match="use_qalora = True; this setting is not supported"):
        get_model("fedsafety").create_from_arg_string(f"base={base},adapter={folder},engine=transformers")


def test_processes_that_stand_for_serving_members_are_ended(plain_model: FedSafetyLM) -> None:
    ended = []

    class StandIn(Sandboxed, Defense):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            ended.append(self.name)

    def stage(name: str) -> Any:
        entry = SimpleNamespace(info=SimpleNamespace(id=name), create=lambda: StandIn(name))
        return SimpleNamespace(servers=[entry])

    plain_model.serve(None, stage("first"))
    plain_model.serve(None, stage("second"))
    assert ended == ["first"]
    plain_model.close()
    plain_model.close()
    assert ended == ["first", "second"]
