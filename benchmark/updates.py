"""What a federated server receives in a round: flat client updates with per-tensor views.

An *adapter* is one flat float32 vector: the LoRA factors of every adapted layer, concatenated in the fixed order of
its :class:`AdapterLayout`. An *update* is a client's adapter minus the broadcast adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from benchmark.errors import FedSafetyError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.server import Server

LARGEST_RANK = 512
"""Largest LoRA rank of an adapter that engines serve."""


NO_SERVER = (
    "aggregate() asks for context.server, and this round has none; declare asks_server=True in @register(...), and set "
    "tools in a round of your own"
)
"""Message of :attr:`RoundContext.server` in a round without a server."""


@dataclass(frozen=True)
class AdapterLayout:
    """The order and shapes of the tensors inside a flat adapter.

    Attributes:
        names: Tensor names in storage order: for each adapted layer in model order, ``<layer>.lora_A`` then
            ``<layer>.lora_B``.
        shapes: The shape of each tensor; A is ``[rank, in]``, B is ``[out, rank]``.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def dimension(self) -> int:
        """Number of parameters d of the flat adapter."""
        return sum(self.sizes)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the adapted layers, in model order."""
        return tuple(name.removesuffix(".lora_A") for name in self.names[::2])

    @property
    def rank(self) -> int:
        """LoRA rank of the factors."""
        return self.shapes[0][0]

    def of_rank(self, rank: int) -> AdapterLayout:
        """Return the layout of adapters of the same layers with another LoRA rank (at least 1)."""
        shapes = ((rank, a[1]) if i % 2 == 0 else (a[0], rank) for i, a in enumerate(self.shapes))
        return AdapterLayout(self.names, tuple(shapes))

    def rank_of(self, dimension: int) -> int:
        """Return the LoRA rank of a flat adapter of these layers with ``dimension`` parameters; 0 if there is none."""
        rank, rest = divmod(dimension * self.rank, self.dimension)
        return 0 if rest else rank

    def mask(self, factor: str) -> Tensor:
        """Return the places of one LoRA factor of every layer in a flat adapter.

        Args:
            factor: ``A`` or ``B``.

        Returns:
            Boolean tensor ``[d]``.
        """
        import torch

        wanted = torch.tensor([name.endswith(f".lora_{factor}") for name in self.names])
        return wanted.repeat_interleave(torch.tensor(self.sizes))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return named views into ``flat`` (shape ``[..., d]``); each view has shape ``[..., *shape]``."""
        parts = flat.split_with_sizes(list(self.sizes), dim=-1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


@dataclass(frozen=True)
class Updates:
    """The updates of one round, one row per participating client.

    Rows are ordered by client id, which is assigned at random: position and id say nothing about a client's role.

    Attributes:
        matrix: Float32 tensor ``[n, d]``; row i is client i's adapter minus the broadcast adapter. Read-only.
        client_ids: Opaque ids, stable inside a run.
        sample_counts: Float64 tensor ``[n]`` of the training rows each client reports.
        layout: How a row divides into LoRA factors.
    """

    matrix: Tensor
    client_ids: tuple[str, ...]
    sample_counts: Tensor
    layout: AdapterLayout

    def __len__(self) -> int:
        return len(self.client_ids)


@dataclass(frozen=True)
class Aggregate:
    """What a defense makes of a round's updates.

    Attributes:
        update: Float32 tensor ``[d]``, added to the broadcast adapter.
        weights: Float64 tensor ``[n]``, non-negative, summing to 1, for rules that select or reweight clients;
            ``None`` for coordinate-wise rules. All zeros means that no client was trusted in this round.
    """

    update: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class RoundContext:
    """What a server knows in a round besides the updates.

    Attributes:
        index: Round number, from 0.
        rounds: Total number of rounds.
        declared_malicious: The scenario's declared bound f on malicious clients among a round's participants.
        broadcast: Float32 tensor ``[d]``, the adapter that was sent to the clients. Read-only.
        generator: The defense's own random stream for this round.
        malicious_ids: The truth, given only to reference rows whose knowledge level is ``truth``; else ``None``.
        tools: The server's metered tools, such as a gradient on data that the server owns. ``None`` outside of a run,
            and for a rule that does not declare ``asks_server``. See :attr:`server`.
    """

    index: int
    rounds: int
    declared_malicious: int
    broadcast: Tensor
    generator: torch.Generator
    malicious_ids: frozenset[str] | None = None
    tools: Server | None = None

    @property
    def server(self) -> Server:
        """The server's metered tools.

        Raises:
            FedSafetyError: The round has no server: the rule does not declare ``asks_server``, or this is a trial on
                vectors alone.
        """
        if self.tools is None:
            raise FedSafetyError(NO_SERVER)
        return self.tools
