"""Dropout on the inputs of LoRA adapters (Hu et al. 2021), drawn row by row.

The dropped inputs of a row depend on its client's seed, the step, the layer and the row's place in its client's batch.
They do not depend on the padding, on other rows or on the division of a step into passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError, UsageError
from benchmark.seeds import integer


@dataclass(frozen=True)
class DropoutRow:
    """One row of a pass: its client's seed, the step, its place in the client's batch, and its length in tokens."""

    client_seed: int
    step: int
    place: int
    length: int


class RowDropout:
    """Draws which inputs the adapters keep in one pass.

    Args:
        share: Probability p that an input is dropped.
        rows: The rows of the pass, in order.
    """

    def __init__(self, share: float, rows: Sequence[DropoutRow]) -> None:
        self.share, self._rows = share, tuple(rows)

    @property
    def scale(self) -> float:
        """Factor on the kept inputs, 1 / (1 - p)."""
        return 1.0 / (1.0 - self.share)

    def zeroed(self, x: Tensor, layer: int) -> Tensor:
        """Return ``x`` ``[rows, width, features]`` with zeros where layer number ``layer`` drops its input; unscaled.

        Raises:
            FedSafetyError: The layer's input is not the rows of the pass.
        """
        if x.dim() != 3 or x.shape[0] != len(self._rows):
            raise FedSafetyError(
                f"LoRA dropout needs layers whose input is {len(self._rows)} rows of tokens, but a layer of this model "
                f"gets the shape {tuple(x.shape)}; set lora.dropout to 0 or leave that layer out of lora.targets"
            )
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        generator = torch.Generator(device=x.device)
        for row_mask, row in zip(mask, self._rows, strict=True):
            generator.manual_seed(integer(row.client_seed, row.step, layer, row.place))
            row_mask[: row.length].bernoulli_(1.0 - self.share, generator=generator)
        return x.masked_fill(~mask, 0.0)


def client_seeds(dropout_seed: int | Sequence[int] | None, clients: int, share: float) -> list[int]:
    """Return the seed of every client of a round.

    Args:
        dropout_seed: One seed for each client, or one for the round, from which each client's seed is derived by place.
        clients: Number of clients.
        share: Probability that an input is dropped; without dropout no seed is needed.

    Raises:
        UsageError: There is dropout, but the seed of a client is missing.
    """
    if share == 0.0:
        return [0] * clients
    if dropout_seed is None:
        raise UsageError(
            f"LoRA dropout {share:g} needs dropout_seed, because it is drawn from a named stream; give one"
        )
    if isinstance(dropout_seed, int):
        return [integer(dropout_seed, client) for client in range(clients)]
    if len(dropout_seed) != clients:
        raise UsageError(f"dropout_seed has {len(dropout_seed)} seeds for {clients} clients; give one for each")
    return list(dropout_seed)
