"""Made-up federated rounds to try a rule on: clients with something in common, attackers who differ, random ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.seeds import stream, torch_stream
from benchmark.updates import AdapterLayout, RoundContext, Updates

ROUNDS = 3
"""Rounds of a trial run."""

_SEED = 1
_RANK = 8
_WIDTHS = (4096, 64, 8)
_SCALE = 0.01
"""Typical size of a number in an update."""


@dataclass(frozen=True)
class Trial:
    """One round as a rule is given it, and who sent what.

    Attributes:
        updates: The round's updates; rows are ordered by id.
        context: The rest of the server's information.
        clients: For each row the number of the client that sent it.
    """

    updates: Updates
    context: RoundContext
    clients: tuple[int, ...]


def layout_of(dimension: int) -> AdapterLayout:
    """Return a layout of ``dimension`` numbers: pairs of LoRA factors as long as they fit, then one single row."""
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    left = dimension
    for width in _WIDTHS:
        while left >= 2 * _RANK * width:
            names += [f"layers.{len(names) // 2}.lora_A", f"layers.{len(names) // 2}.lora_B"]
            shapes += [(_RANK, width), (width, _RANK)]
            left -= 2 * _RANK * width
    if left:
        names.append("rest.lora_A")
        shapes.append((1, left))
    return AdapterLayout(tuple(names), tuple(shapes))


def sent(clients: int, dimension: int, malicious: int, name: str | int) -> Tensor:
    """Return what ``clients`` clients send (float32, ``[clients, dimension]``); the last ``malicious`` agree otherwise.

    Args:
        clients: Number of clients.
        dimension: Numbers in an update.
        malicious: How many of them are malicious.
        name: Name of the random stream.
    """
    generator = torch_stream(_SEED, "trial", name)
    matrix = torch.empty(clients, dimension)
    matrix.normal_(generator=generator)
    for rows in (matrix[: clients - malicious], matrix[clients - malicious :]):
        rows += torch.randn(dimension, generator=generator)
    return matrix.mul_(_SCALE)


def trial(
    matrix: Tensor,
    layout: AdapterLayout,
    declared_malicious: int,
    *,
    index: int = 0,
    clients: Sequence[int] = (),
    names: Sequence[str] = (),
    malicious: Sequence[int] = (),
) -> Trial:
    """Return one round.

    Args:
        matrix: What the clients send, one row each.
        layout: How a row divides into LoRA factors.
        declared_malicious: The declared bound f.
        index: Number of the round, from 0.
        clients: Which client sent which row; in order by default.
        names: For each client its id; random ones by default.
        malicious: The malicious clients, for rules with knowledge ``truth``.
    """
    senders = tuple(clients) or tuple(range(len(matrix)))
    ids = tuple(names) or client_names(max(senders, default=0) + 1)
    rows = sorted(range(len(senders)), key=lambda row: ids[senders[row]])
    in_order = rows == list(range(len(rows)))
    ordered = tuple(senders[row] for row in rows)
    counts = torch.tensor([400.0 + 10 * client for client in ordered], dtype=torch.float64)
    updates = Updates(matrix if in_order else matrix[rows], tuple(ids[c] for c in ordered), counts, layout)
    context = RoundContext(
        index=index,
        rounds=ROUNDS,
        declared_malicious=declared_malicious,
        broadcast=torch.randn(matrix.shape[1], generator=torch_stream(_SEED, "broadcast", index)).mul_(_SCALE),
        generator=torch_stream(_SEED, "defense", "round", index),
        malicious_ids=frozenset(ids[client] for client in malicious) or None,
    )
    return Trial(updates, context, ordered)


def copy_of(given: Trial) -> Trial:
    """Return the same round in memory of its own, its random stream at the beginning."""
    updates, context = given.updates, given.context
    return replace(
        given,
        updates=replace(updates, matrix=updates.matrix.clone(), sample_counts=updates.sample_counts.clone()),
        context=replace(
            context,
            broadcast=context.broadcast.clone(),
            generator=torch.Generator().set_state(context.generator.get_state()),
        ),
    )


def client_names(clients: int, name: str | int = 0) -> tuple[str, ...]:
    """Return ids of ``clients`` clients, as opaque as those of a run; another ``name`` gives other ones."""
    tokens = stream(_SEED, "trial-ids", name).choice(1 << 16, size=clients, replace=False)
    return tuple(f"c{token:04x}" for token in tokens)


def participants(clients: int, count: int, index: int) -> tuple[int, ...]:
    """Return the ``count`` of ``clients`` clients that take part in round ``index``, sorted."""
    drawn = stream(_SEED, "trial-schedule", index).choice(clients, size=count, replace=False)
    return tuple(sorted(map(int, drawn)))
