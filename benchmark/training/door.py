"""The server's door: the updates that reach the defense, and the start and aggregate that reach the model."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.updates import LARGEST_RANK, AdapterLayout, Aggregate, Updates

_WEIGHT_ROUNDING = 1e-4
"""How far the sum of a round's weights may be from 1; float32 weights of many clients come that close."""


def admitted(sent: Updates, malicious: frozenset[str]) -> tuple[Updates, tuple[str, ...]]:
    """Return the finite updates and the ids of the malicious clients whose update is not.

    An attacker must not win by crashing a run, for example with numbers whose norm overflows. An honest update that is
    not finite shows that training diverged.

    Args:
        sent: The clients' updates.
        malicious: Ids of the clients that the attack controls.

    Raises:
        FedSafetyError: An honest update is not finite.
    """
    finite = torch.isfinite(sent.matrix.square().sum(dim=1)).tolist()
    if all(finite):
        return sent, ()
    refused = tuple(client for client, ok in zip(sent.client_ids, finite, strict=True) if not ok)
    honest = [client for client in refused if client not in malicious]
    if honest:
        raise FedSafetyError(
            f"the update of honest client {honest[0]} is not finite: training diverged; "
            f"lower the learning rate or set clip_norm"
        )
    return rows_of(sent, [i for i, ok in enumerate(finite) if ok]), refused


def checked_start(returned: Tensor | None, start: Tensor, owner: str) -> Tensor:
    """Return the adapter that the federation starts from: what a defense's prepare hook returned, or ``start``.

    Args:
        returned: Result of the hook; ``None`` leaves the start as it is.
        start: Flat adapter ``[d]`` of the suite.
        owner: Name of the defense, for errors.

    Raises:
        FedSafetyError: The result is no finite float32 vector of the shape of ``start``.
    """
    if returned is None:
        return start
    rule = f"return a finite {start.dtype} tensor of shape {tuple(start.shape)}, or None to keep the suite's start"
    if not isinstance(returned, Tensor):
        raise FedSafetyError(f"prepare() of {owner!r} returned {type(returned).__name__} as the start; {rule}")
    if returned.shape != start.shape or returned.dtype != start.dtype:
        shape = f"{returned.dtype} of shape {tuple(returned.shape)}"
        raise FedSafetyError(f"prepare() of {owner!r} returned a start of {shape}; {rule}")
    if not torch.isfinite(returned).all():
        raise FedSafetyError(
            f"prepare() of {owner!r} returned a start of shape {tuple(returned.shape)} with values that are not "
            f"finite; {rule}"
        )
    return returned.detach().to(start.device).clone()


def checked_aggregate(aggregate: Aggregate, received: Updates) -> Aggregate:
    """Return the aggregate if it is usable.

    Raises:
        FedSafetyError: It has the wrong type, shape or number of weights, or is not finite.
    """
    if not isinstance(aggregate, Aggregate):
        raise FedSafetyError(f"aggregate() returned {type(aggregate).__name__}; return an Aggregate")
    update, weights = aggregate.update, aggregate.weights
    for name, part in (("update", update), ("weights", weights)):
        if not isinstance(part, Tensor) and not (name == "weights" and part is None):
            raise FedSafetyError(f"aggregate() returned {name} of type {type(part).__name__}; return a torch tensor")
    shape = received.matrix.shape[1:]
    if update.shape != shape:
        raise FedSafetyError(
            f"aggregate() returned an update of shape {tuple(update.shape)}; it must be {tuple(shape)}"
        )
    for name, part in (("update", update), ("weights", weights)):
        if part is not None and not part.is_floating_point():
            raise FedSafetyError(f"aggregate() returned {name} of {part.dtype}; return floating-point numbers")
    # Cast first because a finite float64 value may be infinite in the adapter's float32.
    update = update.to(received.matrix.dtype)
    if not torch.isfinite(update).all():
        raise FedSafetyError("aggregate() returned an update that is not finite; check for division by zero")
    if weights is not None:
        if weights.shape != (len(received),):
            raise FedSafetyError(f"aggregate() returned {tuple(weights.shape)} weights for {len(received)} clients")
        if not torch.isfinite(weights).all() or (weights < 0).any():
            raise FedSafetyError("aggregate() returned a negative or non-finite weight; weights are shares of trust")
        total = float(weights.sum(dtype=torch.float64))
        if weights.any() and abs(total - 1.0) > _WEIGHT_ROUNDING:
            raise FedSafetyError(f"aggregate() returned weights that sum to {total:g}; divide them by their sum")
    return Aggregate(update, weights)


def check_final(adapter: Tensor, layout: AdapterLayout, owner: str) -> None:
    """Check the adapter that a defense's finalize hook returned.

    Args:
        adapter: Result of the hook.
        layout: Layout of the trained adapter. The result may have a higher rank.
        owner: Name of the defense, for errors.

    Raises:
        FedSafetyError: The result is no finite float32 vector of a rank from that of the layout to the largest rank
            that engines serve.
    """
    rule = (
        f"return a finite {torch.float32} vector of {layout.dimension} values, or of the layout's layers with a higher "
        f"rank (layout.of_rank), at most {LARGEST_RANK}"
    )
    if not isinstance(adapter, Tensor):
        raise FedSafetyError(f"finalize() of {owner!r} returned {type(adapter).__name__} as the adapter; {rule}")
    if adapter.dim() != 1 or not layout.rank <= layout.rank_of(len(adapter)) <= LARGEST_RANK:
        raise FedSafetyError(f"finalize() of {owner!r} returned an adapter of shape {tuple(adapter.shape)}; {rule}")
    if not torch.isfinite(adapter).all():
        raise FedSafetyError(f"finalize() of {owner!r} returned an adapter with values that are not finite; {rule}")


def rows_of(updates: Updates, indices: list[int]) -> Updates:
    """Return the updates of the clients at ``indices``."""
    return Updates(
        matrix=updates.matrix[indices],
        client_ids=tuple(updates.client_ids[i] for i in indices),
        sample_counts=updates.sample_counts[indices],
        layout=updates.layout,
    )
