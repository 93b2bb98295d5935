"""Causal attention in blocks of explicit products, for training in bfloat16 on a processor.

PyTorch's fused attention multiplies small tiles, which leaves a processor's bfloat16 products idle. Here a block of
queries meets all keys before its end in one product a head, so that most of the scores that the causal mask hides are
never computed. Heads that share keys share a product as well. Scores and
their softmax are in float32. The backward pass computes a block's probabilities again, so that only queries, keys and
values are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmark.models.products import bmm
from benchmark.models.sizes import ATTENTION_BLOCK, ATTENTION_SCORES

NAME = "blocks"
"""Name of this attention in a model's configuration."""


def attend_in_blocks(model: PreTrainedModel) -> None:
    """Let the training passes of a model with fused attention use this module's attention instead."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return what fused attention returns, ``[rows, tokens, heads, width]``; arguments are those of transformers.

    Only causal attention that has a backward pass and nothing else to observe is computed in blocks.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    observed = any(options.get(name) is not None for name in ("cache", "position_bias"))
    training = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    if not causal or not training or observed or dropout or attention_mask is not None or _unequal(query, key):
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **options
        )
        return result
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _InBlocks.apply(query, key, value, factor), None  # type: ignore[no-untyped-call]


def _unequal(query: Tensor, key: Tensor) -> bool:
    return query.shape[2] != key.shape[2]


class _InBlocks(torch.autograd.Function):
    """Attention of queries ``[rows, heads, tokens, width]`` to keys and values of as many or fewer heads."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        rows, heads, tokens, _ = query.shape
        output = query.new_empty((rows, tokens, heads, value.shape[-1]))
        for some, begin, end in _blocks(query):
            shared = key[some].shape[:2]
            table, _ = _probabilities(query[some, :, begin:end], key[some, :, :end], scaling, begin)
            answers = bmm(table.to(value.dtype), _flat(value[some, :, :end]))
            answers = answers.view(*shared, -1, end - begin, value.shape[-1]).flatten(1, 2)
            output[some, begin:end] = answers.transpose(1, 2)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        of_query, wide = torch.empty_like(query), torch.promote_types(query.dtype, torch.float32)
        of_key, of_value = (torch.zeros(part.shape, dtype=wide, device=part.device) for part in (key, value))
        for some, begin, end in _blocks(query):
            own_key, own_value, queries = _flat(key[some, :, :end]), _flat(value[some, :, :end]), end - begin
            table, own_query = _probabilities(query[some, :, begin:end], key[some, :, :end], ctx.scaling, begin)
            of_output = _grouped(gradients[0][some, begin:end].transpose(1, 2), key.shape[1])
            of_value[some, :, :end] += bmm(table.to(value.dtype).transpose(1, 2), of_output).view_as(
                value[some, :, :end]
            )
            of_table = bmm(of_output, own_value.transpose(1, 2)).to(wide)
            of_scores = torch._softmax_backward_data(of_table, table, -1, wide).mul_(ctx.scaling).to(query.dtype)
            of_query[some, :, begin:end] = bmm(of_scores, own_key).view(-1, query.shape[1], queries, key.shape[-1])
            of_key[some, :, :end] += bmm(of_scores.transpose(1, 2), own_query).view_as(key[some, :, :end])
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None


def _blocks(query: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Yield rows, and first and last query of the blocks."""
    rows, heads, tokens, _ = query.shape
    for begin in range(0, tokens, ATTENTION_BLOCK):
        end = min(begin + ATTENTION_BLOCK, tokens)
        at_once = max(1, ATTENTION_SCORES // (heads * (end - begin) * end))
        for first in range(0, rows, at_once):
            yield slice(first, first + at_once), begin, end


def _flat(part: Tensor) -> Tensor:
    """Return keys or values ``[rows, heads, tokens, width]`` as ``[rows · heads, tokens, width]``."""
    return part.flatten(0, 1)


def _grouped(part: Tensor, shared: int) -> Tensor:
    """Return queries ``[rows, heads, tokens, width]``, those with the same keys together: ``[rows · shared, …]``."""
    return part.reshape(part.shape[0] * shared, -1, part.shape[-1])


def _probabilities(query: Tensor, key: Tensor, scaling: float, begin: int) -> tuple[Tensor, Tensor]:
    """Return a block's probabilities in float32 or finer, and its queries, both grouped by shared keys."""
    wide = torch.promote_types(query.dtype, torch.float32)
    queries, keys = query.shape[2], key.shape[2]
    own = _grouped(query, key.shape[1])
    scores = torch.bmm(own.to(wide) * scaling, _flat(key).to(wide).transpose(1, 2))
    hidden = torch.full((queries, keys), float("-inf"), dtype=wide, device=query.device).triu_(begin + 1)
    scores.view(-1, queries, keys).add_(hidden)
    return torch.softmax(scores, dim=-1), own
