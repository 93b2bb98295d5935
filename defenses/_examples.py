"""One small round to try a rule on; the examples in the docstrings use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.updates import AdapterLayout, RoundContext, Updates


def one_round(
    rows: Sequence[Sequence[float]] | Tensor,
    *,
    malicious: int = 0,
    counts: Sequence[float] | None = None,
    ids: Sequence[str] | None = None,
    malicious_ids: frozenset[str] | None = None,
    seed: int = 0,
) -> tuple[Updates, RoundContext]:
    """Return the updates and the context of a one-round run.

    Args:
        rows: One update per client, ``[n][d]``.
        malicious: The declared bound f.
        counts: Reported sample counts; all 1 by default.
        ids: Client ids; ``client_00``, ``client_01``, … by default.
        malicious_ids: The malicious clients, for rules with knowledge ``truth``.
        seed: Seed of the defense's own stream.
    """
    matrix = torch.as_tensor(rows, dtype=torch.float32)
    participants, dimension = matrix.shape
    updates = Updates(
        matrix=matrix,
        client_ids=tuple(ids or (f"client_{index:02d}" for index in range(participants))),
        sample_counts=torch.tensor(counts or [1.0] * participants, dtype=torch.float64),
        layout=AdapterLayout(names=("layer.lora_A",), shapes=((1, dimension),)),
    )
    context = RoundContext(
        index=0,
        rounds=1,
        declared_malicious=malicious,
        broadcast=torch.zeros(dimension),
        generator=torch.Generator().manual_seed(seed),
        malicious_ids=malicious_ids,
    )
    return updates, context
