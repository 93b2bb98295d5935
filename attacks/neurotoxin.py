"""Malicious clients leave out the coordinates that the federation moves most, so that later rounds undo less."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attacks.base import AttackerView, register
from attacks.unaligned_data import UnalignedData
from benchmark.updates import Updates

# The list of attacks is read without PyTorch.
if TYPE_CHECKING:
    from torch import Tensor


@register(
    title="Neurotoxin on unaligned data",
    description="Malicious clients train on unaligned pairs. They look at the numbers of the global adapter that moved "
    "most in the last round and send zeros there, so that their harm sits where honest clients seldom write and lasts "
    "longer after the attack.",
    paper="Zhang et al. 2022, arXiv 2206.10341",
    knowledge="public unaligned pairs; the adapters that the server sent",
)
@dataclass(frozen=True)
class Neurotoxin(UnalignedData):
    """Data poisoning with x_j ← 0 for the share of coordinates j of largest |w_t - w_(t-1)|.

    w_t is the adapter that the server sent in round t. Its last change stands for the gradient on benign data that the
    authors compute [Zhang et al. 2022, algorithm 1]; the released code masks the largest 5 % (ratio 0.95) and projects
    every step of the local training, where this attack masks the finished update. In the first round no change is
    known, so the update is sent as trained.

    Attributes:
        normal_share: Share of a malicious client's rows that stay normal (0 to 1).
        reminder_share: Share of malicious instructions that carry the server's safety reminder (0 to 1).
        mask_share: Share of the coordinates that are left out (0 to 1, 1 excluded).
    """

    mask_share: float = 0.05
    _received: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.mask_share < 1.0:
            raise ValueError(f"mask_share is {self.mask_share}; it is a share from 0 and below 1")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the updates with zeros where the global adapter moved most, and keep the received adapter."""
        if view.broadcast is None:
            return updates
        earlier, self._received[:] = list(self._received), [view.broadcast.clone()]
        masked = round(self.mask_share * view.broadcast.numel())
        if not earlier or not masked:
            return updates
        places = (view.broadcast - earlier[0]).abs().topk(masked).indices
        return replace(updates, matrix=updates.matrix.index_fill(1, places, 0.0))
