"""Comparison of a hook's inputs before and after its call, in this process or in the method's own."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.sandbox.proxy import Sandboxed
from benchmark.submission.contract.rounds import Trial


def changed_inputs(rule: object, given: Trial, copy: Trial) -> set[str]:
    """Return the names of the inputs of `aggregate` that are no longer what they were.

    Args:
        rule: The instance that was called last.
        given: The round as it was made.
        copy: The round that the hook was given, or, where it runs apart, that was sent to it.
    """
    left = left_behind(rule) or {
        "matrix": copy.updates.matrix,
        "sample_counts": copy.updates.sample_counts,
        "broadcast": copy.context.broadcast,
    }
    before = {
        "matrix": given.updates.matrix,
        "sample_counts": given.updates.sample_counts,
        "broadcast": given.context.broadcast,
    }
    return {_WORDS[name] for name, tensor in before.items() if not same_bits(tensor, left[name])}


_WORDS = {"matrix": "updates.matrix", "sample_counts": "updates.sample_counts", "broadcast": "context.broadcast"}


def left_behind(instance: object) -> dict[str, Tensor]:
    """Return the tensors of the last call as a method that runs apart left them; empty for one that runs here."""
    return instance.given() if isinstance(instance, Sandboxed) else {}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; NaN equals NaN."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))
