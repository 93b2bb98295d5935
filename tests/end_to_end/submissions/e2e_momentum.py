"""Remembers what it was sent, with a random mask: tensors that are kept must not change under a method's hands."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Server, Stage, register


@register(
    title="Momentum in a file",
    description="Averages this round's masked mean with all the rounds before, which it has kept as they came.",
    stages=(Stage.PREPARE, Stage.AGGREGATE),
    knowledge=Knowledge.NONE,
)
class FileMomentum(Defense):
    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.server: Server | None = None

    def prepare(self, server: Server) -> None:
        assert server.owned_normal(2)
        self.server = server

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        assert self.server is not None
        self.kept += [updates.matrix, context.broadcast[None]]
        self.server.generate(["name a fruit ."], adapter=context.broadcast, temperature=1.0)
        mask = torch.rand(updates.matrix.shape[1], generator=context.generator) < 0.5
        return Aggregate(torch.cat(self.kept).mean(dim=0) * mask)
