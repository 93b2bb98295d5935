"""RESTA (Bhardwaj et al. 2024): add a part of what the alignment had changed."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from defenses._low_rank import alignment_difference, flat, products, top_part
from defenses.base import Defense, Knowledge, Server, Stage, register

GAMMA: Final = 0.5
"""Factor g of the safety vector."""
RANKS: Final = 3
"""Largest rank of the added term, in ranks r of the suite's adapters."""


@register(
    title="RESTA",
    description="After the last round the server adds half of the difference between the aligned model and the model "
    "before its alignment to the weights of the global model.",
    paper="Bhardwaj et al. 2024, arXiv 2402.11746",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="the model before its alignment; no data, no training",
    needs_alignment=True,
)
class Resta(Defense):
    """Serve W + g V with V = W_aligned - W_unaligned, g = 0.5, and V cut to its 3 r largest singular values.

    The factor g is the default of a re-implementation of the source, of which one script takes 0.3. The source tunes
    its unsafe model on harmful data. Here the unsafe model is the model before the alignment, so that the server needs
    no harmful data. The source's option to drop random entries of the change and to scale up the others (DARE) is left
    out.

    g V of rank k goes into an adapter of rank r + k, as s [B, g/s U_k] [A; U_kᵀ V] with the left singular vectors U_k.
    An alignment by an adapter has a V of rank r at most, and nothing is cut. Other alignments have a V of full rank.
    Then k = 3 r makes four times the rank, and keeps at least 88 % of ‖V‖² in each layer of the embedded model. A
    truncation at r keeps 62 %. Full rank would store an adapter as large as the model.

    Source: Bhardwaj et al. 2024, arXiv 2402.11746, without DARE.

    A layer of weight 3 that the alignment had raised from 1 to 2 is served with 3.5:

    >>> import torch
    >>> part = top_part(torch.tensor([[2.0]]).double() - torch.tensor([[1.0]]).double(), 1).scaled(GAMMA)
    >>> 3.0 + (part.left @ part.right).item()
    3.5
    """

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the adapter (flat) with the added term; its rank is at most that of ``adapter`` plus 3 r."""
        layers = products(server.layout, adapter)
        for layer, product in layers.items():
            part = top_part(alignment_difference(server, layer), RANKS * server.layout.rank)
            layers[layer] = product + part.scaled(GAMMA / server.scaling)
        return flat(server.layout, layers, adapter)
