"""Sampling equals the library's own generation, follows its stream and stops at the end of a sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from benchmark.errors import FedSafetyError
from benchmark.models import head as token_loss
from benchmark.models import sampling
from benchmark.models.sampling import _PerPrompt, sample
from benchmark.models.sizes import config_cache_bytes
from benchmark.seeds import integer, torch_stream
from benchmark.training.served import ServedModel
from tests.benchmark.tiny_models import CONFIGS, make_model

# Of mixed lengths, so that a batch is padded on the left.
PROMPTS = ["w1", "w2 w3 w4 w5 w6 w7", "w8 w9", "w3 w3 w3 w3", "w33 w1 w2", "w5"]


def run(
    served: ServedModel,
    temperature: float,
    seed: int = 0,
    count: int = 12,
    *,
    per_prompt: bool = False,
    prompts: list[str] = PROMPTS,
) -> tuple[list[str], int]:
    return sample(
        served.stacked.model,
        served.chat,
        prompts,
        temperature=temperature,
        max_new_tokens=count,
        generator=torch_stream(seed, "test"),
        per_prompt=per_prompt,
    )


def reference(served: ServedModel, prompt: str) -> tuple[str, int]:
    """One prompt alone, by the library."""
    ids = torch.tensor([served.chat.prompt_ids(prompt)])
    with torch.no_grad():
        output = served.stacked.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=0
        )
    new = output[0, ids.shape[1] :].tolist()
    new = new[: new.index(2)] if 2 in new else new
    return served.chat.decode(new), len(new)


@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_answers_equal_the_librarys(served: ServedModel, adapted: bool) -> None:
    if adapted:
        dimension = served.stacked.layout.dimension
        served.stacked.attach(0.3 * torch.randn(dimension, generator=torch.Generator().manual_seed(1)))
    try:
        answers, tokens = run(served, 0.0)
        expected = [reference(served, prompt) for prompt in PROMPTS]
    finally:
        served.stacked.clear()
    assert answers == [text for text, _ in expected]
    assert tokens == sum(count for _, count in expected)
    assert len(set(answers)) > 1


def test_greedy_draws_nothing(served: ServedModel) -> None:
    assert run(served, 0.0, seed=1) == run(served, 0.0, seed=2)


def test_sampling_follows_its_stream(served: ServedModel) -> None:
    assert run(served, 1.0, seed=1) == run(served, 1.0, seed=1)
    assert run(served, 1.0, seed=1) != run(served, 1.0, seed=2)
    assert run(served, 1.0, seed=1) != run(served, 0.0)


def test_a_low_temperature_is_nearly_greedy(served: ServedModel) -> None:
    assert run(served, 1e-4) == run(served, 0.0)


def test_first_tokens_follow_the_models_distribution(served: ServedModel) -> None:
    ids = torch.tensor([served.chat.prompt_ids("w1")])
    with torch.no_grad():
        expected = torch.softmax(served.stacked.model(ids).logits[0, -1] / 2.0, dim=-1)
    drawn, _ = sample(
        served.stacked.model,
        served.chat,
        ["w1"] * 4000,
        temperature=2.0,
        max_new_tokens=1,
        generator=torch_stream(0, "test"),
    )
    word = served.chat.decode([int(expected[6:].argmax()) + 6])
    share = float(expected[6:].max())
    assert drawn.count(word) / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_it_stops_at_the_end_of_the_sequence(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, tokens = run(served, 0.0)
    first = served.chat.token_id(answers[0].split()[0])
    monkeypatch.setattr(served.chat, "eos_id", first)
    stopped, fewer = run(served, 0.0)
    assert stopped[0] == ""
    assert fewer < tokens
    assert all(whole.startswith(part) for whole, part in zip(answers, stopped, strict=True))


def test_the_length_limit_counts_new_tokens(served: ServedModel) -> None:
    answers, tokens = run(served, 1.0, count=3)
    assert 0 < tokens <= 3 * len(PROMPTS)
    assert max(len(text.split()) for text in answers) <= 3


def test_no_prompt_no_answer(served: ServedModel) -> None:
    assert sample(
        served.stacked.model,
        served.chat,
        [],
        temperature=0.0,
        max_new_tokens=3,
        generator=torch_stream(0, "test"),
    ) == ([], 0)


def test_a_batch_is_bounded_by_its_keys_and_values(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tokens = run(served, 0.0)
    model = served.stacked.model
    longest = max(len(served.chat.prompt_ids(prompt)) for prompt in PROMPTS) + 12
    assert config_cache_bytes(model.config, model.dtype.itemsize) == 2 * 2 * 16 * 4
    sizes = []

    def note(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] > 1:  # prompts, not the tokens that follow
            sizes.append(inputs["input_ids"].shape[0])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    token = config_cache_bytes(model.config, model.dtype.itemsize)
    try:
        assert run(served, 0.0) == (whole, tokens)
        monkeypatch.setattr(sampling, "SAMPLED_CACHE_BYTES", 4 * longest * token + 1)
        assert run(served, 0.0) == (whole, tokens)
        monkeypatch.setattr(sampling, "SAMPLED_CACHE_BYTES", 1)
        assert run(served, 0.0) == (whole, tokens)
    finally:
        handle.remove()
    assert sizes == [6, 4, 2, 1, 1, 1, 1, 1, 1]


def test_large_vocabularies_keep_the_last_logits_only(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(served, 0.0)
    monkeypatch.setattr(token_loss, "_LOGITS", 0)
    kept, copied = [], []
    model = served.stacked.model
    handles = [
        model.register_forward_hook(lambda *parts: kept.append(parts[-1].logits.shape[1])),
        # PyTorch multiplies a view of some positions by one copy of the weights for each row.
        model.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: copied.append(inputs[0].is_contiguous())
        ),
    ]
    try:
        assert run(served, 0.0) == whole
    finally:
        for handle in handles:
            handle.remove()
    assert set(kept) == {1}
    assert all(copied)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_every_architecture_in_half_precision(architecture: str, served: ServedModel) -> None:
    model = make_model(architecture, torch.bfloat16)
    answers = {
        temperature: sample(
            model, served.chat, PROMPTS, temperature=temperature, max_new_tokens=4, generator=torch_stream(0, "test")
        )
        for temperature in (0.0, 1.0)
    }
    assert all(0 < tokens <= 4 * len(PROMPTS) for _, tokens in answers.values())
    assert answers[0.0] != answers[1.0]


def test_full_memory_is_told_with_the_numbers(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore.")

    monkeypatch.setattr(sampling, "_sample_batch", full)
    # A batch that draws together cannot be halved without other draws.
    told = r"sampling {} answers of up to \d+ tokens at once keeps 0\.0 MiB .* data\.data_max_new_tokens \(now 12\).*"
    with pytest.raises(FedSafetyError, match=told.format(6) + r"\(CUDA out of memory\.\)$"):
        run(served, 1.0)
    for temperature in (0.0, 1.0):
        with pytest.raises(FedSafetyError, match=told.format(1)):
            run(served, temperature, per_prompt=True)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_a_prompt_with_its_own_stream_draws_the_same_in_every_batch(
    served: ServedModel, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(served, 1.0, per_prompt=True)
    assert whole == run(served, 1.0, per_prompt=True)
    assert whole != run(served, 1.0, seed=1, per_prompt=True)
    monkeypatch.setattr(sampling, "SAMPLED_BATCH", size)
    assert run(served, 1.0, per_prompt=True) == whole
    assert run(served, 1.0, per_prompt=True, prompts=PROMPTS[:3])[0] == whole[0][:3]
    # Nor do others' prompts matter, only the place.
    others = ["w7 w7 w7 w7 w7 w7 w7 w7 w7", *PROMPTS[1:]]
    assert run(served, 1.0, per_prompt=True, prompts=others)[0][1:] == whole[0][1:]
    same = run(served, 1.0, per_prompt=True, prompts=["w1"] * 6)[0]
    assert len(set(same)) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_that_does_not_fit_is_halved(
    served: ServedModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(served, temperature, per_prompt=True)
    sizes: list[int] = []
    alive: list[int] = []
    kept: list[StorageWeakRef] = []
    steps: list[int] = []

    def note(_: object, __: object, inputs: dict[str, Any], output: Any) -> None:
        rows, width = inputs["input_ids"].shape
        if width > 1:  # prompts, not the tokens that follow
            sizes.append(rows)
            alive.append(sum(not one.expired() for one in kept))
            kept.clear()
            steps.clear()
        steps.append(1)
        kept.append(StorageWeakRef(output.logits.untyped_storage()))
        kept.extend(StorageWeakRef(layer.keys.untyped_storage()) for layer in inputs["past_key_values"].layers)
        if rows > 2 and len(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sampling, "free_memory", lambda: None)  # nothing waits for the collector
    handle = served.stacked.model.register_forward_hook(note, with_kwargs=True)
    try:
        assert run(served, temperature, per_prompt=True) == whole
    finally:
        handle.remove()
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert alive[:3] == [0, 0, 0]


def test_own_streams_follow_the_models_distribution_and_never_draw_what_has_no_share() -> None:
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf"), 0.0, float("-inf")]])
    draws = _PerPrompt(1.0, 1, [integer(i) for i in range(4000)])
    found = torch.bincount(draws.next(logits.expand(4000, -1)), minlength=5) / 4000
    assert found.tolist() == pytest.approx([0.0, 0.7311, 0.0, 0.2689, 0.0], abs=0.03)  # four standard deviations
    with pytest.raises(FedSafetyError, match="logits that are not finite"):
        _PerPrompt(1.0, 1, [1]).next(torch.tensor([[0.0, float("nan")]]))
