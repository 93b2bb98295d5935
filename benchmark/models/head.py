"""Cross-entropy through a frozen output head, without keeping all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from benchmark.models.products import mm, widened_bytes

_LOGITS = 1 << 26
"""Logits that may be in memory at once."""

_REPLACED_LOGITS = 3 << 23
"""Logits that may be in memory at once where their gradient takes their place. Fewer would slow the head's products."""

_WIDE_LOGITS = 1 << 20
"""Logits of these that are in float32 at a time: they stay in a processor's cache."""

_EVEN_ROWS = 64
"""Products of so many rows, or a multiple, leave no rest that a processor's kernels multiply slowly."""


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


def token_losses_in_place(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return what :func:`token_losses` returns, with logits in the model's precision only.

    The gradient replaces the logits as soon as they are there, a few rows at a time, so that neither all logits nor
    their gradient are ever held in float32.
    """
    losses: Tensor = _InPlace.apply(hidden, targets, head)  # type: ignore[no-untyped-call]
    return losses


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each row of ``logits`` ``[n, vocabulary]``; half precision is widened first."""
    return functional.cross_entropy(logits.float() if logits.element_size() < 4 else logits, targets, reduction="none")


def most_logits() -> int:
    """Return how many logits are in memory at once, at most."""
    return _LOGITS


def replaced_logits_bytes(positions: int, vocabulary: int, itemsize: int) -> int:
    """Return the bytes of the logits that :func:`token_losses_in_place` holds at a time."""
    wide = min(positions, max(1, _WIDE_LOGITS // vocabulary)) * max(4, itemsize)
    return vocabulary * (_rows_at_once(positions, vocabulary) * itemsize + wide)


def widened_head_bytes(positions: int, vocabulary: int, features: int) -> int:
    """Return the bytes that :func:`token_losses_in_place` holds in float32 for a product of bfloat16 numbers.

    Only processors without bfloat16 instructions take such products (:mod:`benchmark.models.products`).
    """
    rows = _rows_at_once(positions, vocabulary)
    return max(widened_bytes(rows, features, vocabulary), widened_bytes(rows, vocabulary, features))


def _rows_at_once(positions: int, vocabulary: int) -> int:
    """Return the rows of a part of the logits; the parts are about equal."""
    most = max(1, _REPLACED_LOGITS // vocabulary)
    if positions <= most:
        return positions
    equal = -(-positions // -(-positions // most))
    return min(most, -(-equal // _EVEN_ROWS) * _EVEN_ROWS)


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


class _InPlace(torch.autograd.Function):
    """Losses of a frozen linear head; the gradient takes the place of the logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
        vocabulary, positions = head.weight.shape[0], len(hidden)
        at_once = _rows_at_once(positions, vocabulary)
        logits = hidden.new_empty((at_once, vocabulary))
        wide = logits.new_empty(
            (min(at_once, max(1, _WIDE_LOGITS // vocabulary)), vocabulary),
            dtype=torch.promote_types(hidden.dtype, torch.float32),
        )
        losses, gradient = wide.new_empty(positions), torch.empty_like(hidden)
        for first in range(0, positions, at_once):
            rows = slice(first, min(first + at_once, positions))
            table = logits[: rows.stop - first]
            mm(hidden[rows], head.weight.t(), out=table)
            if head.bias is not None:
                table += head.bias
            _to_gradient(table, targets[rows], losses[rows], wide)
            mm(table, head.weight, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        return (saved * gradients[0][:, None]).to(saved.dtype), None, None


def _to_gradient(logits: Tensor, targets: Tensor, losses: Tensor, room: Tensor) -> None:
    """Write the rows' cross-entropy into ``losses`` and its gradient over ``logits``; ``room`` holds some rows."""
    for first in range(0, len(logits), len(room)):
        some = slice(first, first + len(room))
        table, wanted = room[: len(logits[some])].copy_(logits[some]), targets[some, None]
        # log sum exp x = max x - log max softmax x: the softmax, which is the gradient, takes the exponentials once.
        torch.sub(table.amax(dim=1), table.gather(1, wanted)[:, 0], out=losses[some])
        torch.softmax(table, dim=1, out=table)
        losses[some] -= table.amax(dim=1).log_()
        table.scatter_add_(1, wanted, table.new_full((1, 1), -1.0).expand_as(wanted))
        logits[some] = table
