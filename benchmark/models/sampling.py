"""Generation of instruction data with an open model, in batches, with a key-value cache and a stream of its own.

It serves data (proposals, answers) inside a run, where the adapter exists only in memory. The engines in
:mod:`benchmark.generation` answer the probes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmark.errors import FedSafetyError, first_line
from benchmark.models.chat import ChatFormat
from benchmark.models.head import most_logits
from benchmark.models.last_position import last_position
from benchmark.models.memory import free_memory, out_of_memory
from benchmark.models.sizes import SAMPLED_BATCH, SAMPLED_CACHE_BYTES, config_cache_bytes, gib
from benchmark.seeds import integer


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
    per_prompt: bool = False,
) -> tuple[list[str], int]:
    """Return one answer per prompt and the number of generated tokens.

    A batch that does not fit into memory is halved if that leaves every random draw the same.

    Args:
        model: A causal language model, with or without attached adapter.
        chat: Its chat format.
        prompts: Instructions.
        temperature: Softmax temperature; 0 is greedy.
        max_new_tokens: Length limit.
        generator: Random stream (CPU); not used at temperature 0.
        per_prompt: Whether every prompt has a stream of its own, seeded by ``generator``'s next number and the prompt's
            place. Else a batch shares one stream, and a prompt's draws depend on those of the prompts before it.

    Raises:
        FedSafetyError: A batch does not fit into memory and cannot be halved, or the model gives no finite logits.
    """
    rows = [chat.prompt_ids(prompt, name=f"prompt {place}") for place, prompt in enumerate(prompts)]
    longest = max(map(len, rows), default=1) + max_new_tokens
    sequence = longest * config_cache_bytes(model.config, model.dtype.itemsize)
    size = min(SAMPLED_BATCH, max(1, SAMPLED_CACHE_BYTES // sequence))
    seed = int(torch.randint(1 << 62, (1,), generator=generator)) if per_prompt and temperature else None
    produced: list[list[int]] = []
    while len(produced) < len(rows):
        batch = rows[len(produced) : len(produced) + size]
        draws: _Draws = _Together(temperature, generator)
        if temperature == 0:
            draws = _Greedy()
        elif seed is not None:
            places = range(len(produced), len(produced) + len(batch))
            draws = _PerPrompt(temperature, max_new_tokens, [integer(seed, place) for place in places])
        sampled = _tried(model, chat, batch, draws, max_new_tokens)
        if not isinstance(sampled, str):
            produced += sampled
            continue
        free_memory()
        if len(batch) == 1 or isinstance(draws, _Together):
            raise FedSafetyError(
                f"out of memory: sampling {len(batch)} answers of up to {longest} tokens at once keeps "
                f"{gib(len(batch) * sequence)} of keys and values beside the model; lower data.data_max_new_tokens "
                f"(now {max_new_tokens}), or choose a quantised or smaller model or a device with more memory "
                f"({sampled})"
            )
        size = len(batch) // 2
    return [chat.decode(ids) for ids in produced], sum(map(len, produced))


def _tried(
    model: PreTrainedModel, chat: ChatFormat, prompts: list[tuple[int, ...]], draws: _Draws, max_new_tokens: int
) -> list[list[int]] | str:
    """Return a batch's answers, or the message of the error if the batch does not fit into memory."""
    try:
        return _sample_batch(model, chat, prompts, draws, max_new_tokens)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        # Return only the message: the error's traceback would keep the batch's keys and values alive.
        return first_line(error)


class _Draws(Protocol):
    """Choice of the next token of every row of a batch."""

    def next(self, logits: Tensor) -> Tensor:
        """Return the tokens ``[rows]``, on the CPU, chosen from ``logits`` ``[rows, vocabulary]``."""


class _Greedy:
    def next(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1).cpu()


class _Together:
    """All rows draw from one stream."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature, self._generator = temperature, generator

    def next(self, logits: Tensor) -> Tensor:
        shares = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        return torch.multinomial(shares, 1, generator=self._generator)[:, 0]


class _PerPrompt:
    """Each row draws from a stream of its own, one number a token, by inverting the cumulative distribution."""

    def __init__(self, temperature: float, count: int, seeds: Sequence[int]) -> None:
        self._temperature, self._step = temperature, -1
        generator = torch.Generator()
        numbers = []
        for seed in seeds:
            generator.manual_seed(seed)
            numbers.append(torch.rand(count, generator=generator, dtype=torch.float64))
        self._drawn = torch.stack(numbers, dim=1)

    def next(self, logits: Tensor) -> Tensor:
        self._step += 1
        # One row at a time stays in the processor's cache. All rows at once take several times as long.
        return torch.cat([self._drawn_from(row, place) for place, row in enumerate(logits.cpu())])

    def _drawn_from(self, logits: Tensor, place: int) -> Tensor:
        sums = torch.softmax(logits.float() / self._temperature, dim=-1).double().cumsum(-1)
        if not torch.isfinite(sums[-1]):
            raise FedSafetyError("the model gives logits that are not finite; its adapter or its weights are damaged")
        # Search to the right of equal sums, so that a token of probability 0 is never drawn.
        token = torch.searchsorted(sums, self._drawn[self._step, place, None] * sums[-1:], right=True)
        return token.clamp(max=len(logits) - 1)


def _sample_batch(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: list[tuple[int, ...]],
    draws: _Draws,
    max_new_tokens: int,
) -> list[list[int]]:
    # Pad on the left, so that every row's next token is in the same column.
    width = max(map(len, prompts))
    ids = torch.tensor([[chat.pad_id] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    produced: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool)
    options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if ids.numel() * model.config.get_text_config().vocab_size > most_logits() and _keeps_some_logits(model):
        options["logits_to_keep"] = last_position(model.device)
    for _ in range(max_new_tokens):
        logits: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=positions, **options).logits[:, -1]
        chosen = draws.next(logits)
        running &= chosen != chat.eos_id
        for i in running.nonzero()[:, 0].tolist():
            produced[i].append(int(chosen[i]))
        if not running.any():
            break
        ids = chosen[:, None].to(model.device)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return produced


def _keeps_some_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
