"""Sampled answers depend on the model, the prompt and the request's seed, and on nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmark.errors import UsageError
from benchmark.generation.base import Engine, Request

from .tiny_model import TinyModel, peft_logprobs


def sampled(tiny: TinyModel, seed: int) -> list[Request]:
    return [
        Request(prompt, 4 + i % 5, adapter, (7, 8), temperature=0.9, top_p=0.95, seed=seed + i)
        for i, (prompt, adapter) in enumerate(zip(tiny.prompts, [None, *tiny.adapters] * 3, strict=True))
    ]


def test_answers_are_those_of_each_request_alone(engine: Engine, tiny: TinyModel) -> None:
    requests = sampled(tiny, 100)
    together = [answer.token_ids for answer in engine.generate(requests)]
    assert together == [engine.generate([request])[0].token_ids for request in requests]
    shuffled = engine.generate([*reversed(requests), *sampled(tiny, 500)])
    assert together == [answer.token_ids for answer in shuffled[: len(requests)]][::-1]
    assert together != [answer.token_ids for answer in engine.generate(sampled(tiny, 200))]


def test_greedy_answers_beside_sampled_ones_stay_greedy(engine: Engine, tiny: TinyModel) -> None:
    greedy = [replace(request, temperature=0.0, seed=None) for request in sampled(tiny, 0)]
    expected = engine.generate(greedy)
    mixed = engine.generate([r for pair in zip(greedy, sampled(tiny, 0), strict=True) for r in pair])
    assert [answer.token_ids for answer in mixed[::2]] == [answer.token_ids for answer in expected]
    assert [answer.token_ids for answer in mixed[1::2]] != [answer.token_ids for answer in expected]
    for warm, cold in zip(mixed[1::2], expected, strict=True):
        assert warm.contrast_logprobs == pytest.approx(cold.contrast_logprobs, abs=1e-3)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_tokens_are_drawn_with_their_probabilities(
    engine: Engine, tiny: TinyModel, temperature: float, top_p: float
) -> None:
    prompt, draws = tiny.prompts[2], 800
    sequences = [(*prompt, token) for token in range(120)]
    logits = np.array([row[-1] for row in peft_logprobs(tiny.folder, None, sequences)])
    weights = np.exp(logits / temperature)
    weights /= weights.sum()
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= top_p]] = 0.0
    weights /= weights.sum()
    requests = [Request(prompt, 1, None, None, temperature, top_p, seed) for seed in range(draws)]
    # A token that ends the answer is left out of it: id 2.
    found = Counter(a.token_ids[0] if a.token_ids else 2 for a in engine.generate(requests))
    assert all(weights[token] > 0 for token in found)
    spread = np.sqrt(weights * (1 - weights) / draws)
    shares = np.array([found[token] / draws for token in range(120)])
    assert np.all(np.abs(shares - weights) <= 5 * spread + 1 / draws)


def test_a_tiny_top_p_is_greedy(engine: Engine, tiny: TinyModel) -> None:
    narrow = [Request(prompt, 6, temperature=1.0, top_p=1e-6, seed=1) for prompt in tiny.prompts]
    greedy = [Request(prompt, 6) for prompt in tiny.prompts]
    assert [a.token_ids for a in engine.generate(narrow)] == [a.token_ids for a in engine.generate(greedy)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 0.7, "top_p": 0.0, "seed": 1}, "top_p is 0.0"),
        ({"temperature": 0.7}, "at temperature 0.7 has no seed"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request((1, 2), 3, **settings)  # type: ignore[arg-type]
