"""Generating instruction data with a model at hand: batched, with a key-value cache and a stream of its own.

This is for data (proposals, answers) inside a run, where the adapter exists only in memory. Probes are answered by the
engines in :mod:`benchmark.generation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmark.chat import ChatFormat

_BATCH = 256


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> tuple[list[str], int]:
    """Return one answer per prompt and the number of generated tokens.

    Args:
        model: A causal language model, with or without attached adapter.
        chat: Its chat format.
        prompts: Instructions.
        temperature: Softmax temperature; 0 is greedy.
        max_new_tokens: Length limit.
        generator: Stream (CPU) that is drawn from unless greedy.
    """
    answers: list[str] = []
    tokens = 0
    for start in range(0, len(prompts), _BATCH):
        batch = [chat.prompt_ids(prompt) for prompt in prompts[start : start + _BATCH]]
        for ids in _sample_batch(model, chat, batch, temperature, max_new_tokens, generator):
            answers.append(chat.decode(ids))
            tokens += len(ids)
    return answers, tokens


def _sample_batch(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: list[tuple[int, ...]],
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    # Left padding: every row's next token is at the same column.
    width = max(map(len, prompts))
    ids = torch.tensor([[chat.pad_id] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    produced: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits: Tensor = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]
        if temperature == 0:
            chosen = logits.argmax(-1).cpu()
        else:
            shares = torch.softmax(logits.float().cpu() / temperature, dim=-1)
            chosen = torch.multinomial(shares, 1, generator=generator)[:, 0]
        running &= chosen != chat.eos_id
        for i in running.nonzero()[:, 0].tolist():
            produced[i].append(int(chosen[i]))
        if not running.any():
            break
        ids = chosen[:, None].to(model.device)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return produced
