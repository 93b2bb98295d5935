"""FLTrust (Cao et al. 2021): trust in an update by its angle to the server's own update."""

from __future__ import annotations

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._distances import gram
from defenses.base import Defense, Knowledge, Stage, register

ROOT_ROWS = 100
"""Rows of the root data set, as in the paper."""


@register(
    title="FLTrust",
    description=(
        "In every round the server trains an update of its own on a few ordinary rows, as a client does. A client is "
        "trusted by the cosine between its update and the server's, and not at all where the cosine is negative. All "
        "updates are scaled to the length of the server's update before they are averaged."
    ),
    paper="Cao et al. 2021, arXiv 2012.13995",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    resources="normal pairs; the training of one client in every round",
    asks_server=True,
)
class FLTrust(Defense):
    """Aggregate to Σ t_i (‖g_0‖ / ‖x_i‖) x_i / Σ t_i with trust t_i = max(0, cos(x_i, g_0)).

    g_0 is the server's own update of the round: the broadcast adapter after training on the root rows, minus the
    broadcast adapter. The client weights are t_i / Σ t_j. Where no client is trusted, the update is zero. A zero
    update has no direction and no trust.

    *Root rows.* The server owns normal rows and refusals, and the root rows are normal ones, at most 100 as in the
    paper. An honest client sends what ordinary rows teach. With refusals as root rows its cosine would be near zero,
    and the rule would trust those clients whose rows contain refusals.

    *Root training.* As in the paper, the server trains as a client of the round does: from the broadcast adapter, with
    a client's steps, rows of a step and rate. So ‖g_0‖, to which all updates are scaled, is what an ordinary client of
    the round sends. One round costs as many steps as one client takes.

    Condition: n ≥ 1. Sample counts are ignored.
    Source: Cao et al. 2021, arXiv 2012.13995, section IV.

    The server's update is (0, 3). The updates (0, 6), (4, 0) and (0, -1) have the cosines 1, 0 and -1:

    >>> combined(torch.tensor([[0.0, 6.0], [4.0, 0.0], [0.0, -1.0]]), torch.tensor([0.0, 3.0])).update.tolist()
    [0.0, 3.0]
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the trust-weighted mean of the scaled updates."""
        server = context.server
        rows = server.owned_normal(min(ROOT_ROWS, server.examples))
        trained = server.train_as_client(context.broadcast, rows, context.index)
        return combined(updates.matrix, trained - context.broadcast)


def combined(matrix: torch.Tensor, root: torch.Tensor) -> Aggregate:
    """Return the aggregate of updates ``[n, d]`` (float32) for a root update ``[d]`` (float32).

    >>> weights = combined(torch.tensor([[3.0, 4.0], [2.0, 0.0]]), torch.tensor([1.0, 0.0])).weights
    >>> [round(weight, 6) for weight in weights.tolist()]
    [0.375, 0.625]
    """
    products = gram([*matrix, root])
    lengths = products.diagonal().sqrt()
    length = lengths[-1]
    cosines = products[-1, :-1] / (lengths[:-1] * length)
    trust = torch.where((lengths[:-1] > 0) & (length > 0), cosines, 0.0).clamp(min=0.0, max=1.0)
    if not trust.any():
        return Aggregate(torch.zeros_like(root), torch.zeros(len(matrix), dtype=torch.float64))
    weights = trust / trust.sum()
    shares = weights * torch.where(trust > 0, length / lengths[:-1], 0.0)
    update = torch.zeros(len(root), dtype=torch.float64)
    for row, share in zip(matrix, shares.tolist(), strict=True):
        if share:
            # In float64, because a very short update has a factor that float32 does not hold.
            update.add_(row, alpha=share)
    return Aggregate(update.float(), weights)
