"""Cross-entropy through a frozen output head, without keeping all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LOGITS = 1 << 26
"""Logits that may be in memory at once."""


def token_losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each position, ``[n]``, in float32 or the finer precision of the model.

    Args:
        head: Frozen output head; its ``weight`` is ``[vocabulary, features]``.
        hidden: Last states, ``[n, features]``.
        targets: Next tokens, ``[n]``.
    """
    assert isinstance(head.weight, Tensor)
    vocabulary = head.weight.shape[0]
    if len(hidden) * vocabulary <= _LOGITS:
        return losses_of(head(hidden), targets)
    losses: Tensor = _InParts.apply(hidden, targets, head, max(1, _LOGITS // vocabulary))  # type: ignore[no-untyped-call]
    return losses


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each row of ``logits`` ``[n, vocabulary]``; half precision is widened first."""
    return functional.cross_entropy(logits.float() if logits.element_size() < 4 else logits, targets, reduction="none")


def most_logits() -> int:
    """Return how many logits are in memory at once, at most."""
    return _LOGITS


class _InParts(torch.autograd.Function):
    """Losses in parts. The head is frozen, so the backward pass needs the gradients of the positions alone.

    The forward pass computes these gradients while it has the logits.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Module, size: int) -> Tensor:
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part, part_targets in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                loss = losses_of(head(leaf), part_targets)
                gradients += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (saved,) = ctx.saved_tensors
        return (saved * gradients[0][:, None]).to(saved.dtype), None, None, None
