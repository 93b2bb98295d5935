"""Answers and scores of one adapter on a processor: merged into vLLM's weights, beside its peers.

The peers are vLLM's LoRA kernels, and the field's usual way: PEFT merges the adapter into a transformers model, whose
own ``generate`` answers all prompts in one batch. The model has the shape of SmolLM2-135M and random weights in
bfloat16. All ways do the same work: the same prompts, and answers of the same length, because no token ends an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmark.generation.base import Engine, Request
from benchmark.generation.settings import EngineSettings

VOCABULARY = 49_152
PROMPTS, NEW_TOKENS = 96, 32
ROUNDS = {"rounds": 2}

Prompts = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "base"
    words = {"<pad>": 0, "<s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).bfloat16()
    # The logit of a zero row is 0, and some of 49,151 random logits are above: no answer ends before its limit.
    model.get_input_embeddings().weight.data[0] = 0.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        folder = tmp_path_factory.mktemp("answers") / "adapter"
        get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    rng = np.random.default_rng(1)
    return [tuple(rng.integers(3, VOCABULARY, int(rng.integers(30, 60))).tolist()) for _ in range(PROMPTS)]


@pytest.fixture(scope="module", params=["merged", "lora"])
def engine(request: pytest.FixtureRequest, base: Path) -> Iterator[Engine]:
    from benchmark.generation.vllm_engine import VllmEngine

    with VllmEngine(base, EngineSettings(max_length=256, dtype="bfloat16", adapters=request.param)) as opened:
        yield opened


def test_answers(benchmark: Any, engine: Engine, adapter: Path, prompts: Prompts) -> None:
    requests = [Request(prompt, NEW_TOKENS, adapter) for prompt in prompts]
    measure(benchmark, lambda: [len(answer.token_ids) for answer in engine.generate(requests)])


def test_answers_by_transformers(benchmark: Any, base: Path, adapter: Path, prompts: Prompts) -> None:
    measure(benchmark, peer(base, adapter, prompts))


def measure(benchmark: Any, answer: Callable[[], list[int]]) -> None:
    benchmark.group = f"answers of {NEW_TOKENS} tokens to {PROMPTS} prompts, one adapter"
    lengths = benchmark.pedantic(answer, **ROUNDS)
    assert lengths == [NEW_TOKENS] * PROMPTS
    benchmark.extra_info["tokens/s"] = round(sum(lengths) / benchmark.stats["min"])


def test_scores(benchmark: Any, engine: Engine, adapter: Path, prompts: Prompts) -> None:
    benchmark.group = f"log-probabilities of {PROMPTS} sequences, one adapter"
    scores = benchmark.pedantic(lambda: engine.scores([(prompt, adapter) for prompt in prompts]), **ROUNDS)
    assert [len(row) for row in scores] == [len(prompt) - 1 for prompt in prompts]
    benchmark.extra_info["tokens/s"] = round(sum(map(len, scores)) / benchmark.stats["min"])


def peer(base: Path, adapter: Path, prompts: Prompts) -> Callable[[], list[int]]:
    """Return the answering of all prompts by transformers, with weights that PEFT merged."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def answer() -> list[int]:
        with torch.inference_mode():
            out = merged.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
        return [int((row != 0).sum()) for row in out[:, longest:]]

    return answer
