"""Condition and scores of Krum, Multi-Krum and their variants."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from defenses._distances import squared_distances


def check_krum_shape(name: str, participants: int, declared_malicious: int) -> None:
    """Refuse shapes below the condition n >= 2f + 3 of Blanchard et al. 2017.

    Raises:
        NotApplicableError: Names the rule ``name``, the condition, the numbers and the way out.
    """
    needed = 2 * declared_malicious + 3
    if participants < needed:
        raise NotApplicableError(
            f"{name} needs n >= 2f + 3 updates a round: f = {declared_malicious} needs n >= {needed}, "
            f"but n = {participants}; let more clients take part, declare a smaller f, or choose "
            f"'krum_one_neighbour', the variant that is defined from n = 2 on"
        )


def admissible_bound(participants: int, declared_malicious: int) -> int:
    """Return the declared bound f, lowered where a round is too small for it.

    The plan checks the planned shape; a round becomes smaller when the server rejects a non-finite update. Nobody may
    stop the run that way, so the rule goes on with the largest bound that still meets n >= 2f + 3.
    """
    return max(0, min(declared_malicious, (participants - 3) // 2))


def krum_scores(matrix: Tensor, neighbours: int) -> Tensor:
    """Return each client's sum of squared distances to its nearest *other* updates.

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        neighbours: How many others are counted; all of them if there are fewer.

    Returns:
        Float64 tensor ``[n]``; low is good.
    """
    others = squared_distances(matrix.unbind()).fill_diagonal_(float("inf")).sort(dim=1).values
    return others[:, : min(neighbours, len(matrix) - 1)].sum(dim=1)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return the indices ``[count]`` of the lowest ``scores``; ties go to the earlier client id."""
    return torch.sort(scores, stable=True).indices[:count]
