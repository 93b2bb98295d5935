"""Safe LoRA (Hsu et al. 2024): project the least aligned layers on the directions of the alignment."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor

from defenses._low_rank import Product, alignment_difference, alignment_score, flat, least_aligned, products, projected
from defenses.base import Defense, Knowledge, Server, Stage, register

SHARE: Final = 10 / 64
"""Share of the layers that are projected."""


@register(
    title="Safe LoRA",
    description="After the last round the server compares each layer's change with the directions in which the "
    "alignment had changed that layer. It projects the sixth of the layers that agree least with them on these "
    "directions.",
    paper="Hsu et al. 2024, arXiv 2405.16833",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="the model before its alignment; no data, no training",
    needs_alignment=True,
)
class SafeLora(Defense):
    """Replace B by C B in the K layers of lowest cosine between C ΔW and ΔW.

    V = W_aligned - W_unaligned, C = V Vᵀ / ‖V‖_F, and ΔW = s B A is what the federation changed. A stays as it is.
    C is the paper's fast stand-in for the projection V (Vᵀ V)⁻¹ Vᵀ, which would change nothing wherever V has full row
    rank. C has the norm of V as a factor, so that a small alignment also shrinks the projected change, and C enlarges
    the change along a direction in which V has a large singular value, as in the source.

    K is a share of the layers, rounded up: 10 of the 64 layers of the released default for Llama-2-7B. The other choice
    of the source, layers with a cosine of at most 0.5 (0.35 in SafeMERGE), depends on the spectrum of V and so on the
    model. For example, an alignment by an adapter has a V of low rank, and all its layers may lie below 0.35. Of two
    tied layers the earlier one goes first, where the released code projects both.

    Where an adapter A₀, B₀ aligns the start, ΔW = s (B A - B₀ A₀), because the change counts from the aligned model.
    The served layer is then s (B₀ A₀ + C (B A - B₀ A₀)), with the factors [C B, B₀ - C B₀] and [A; A₀]. The served
    adapter has the rank r + r₀ and is exact. A truncation to rank r would cut alignment and task alike.

    Source: Hsu et al. 2024, arXiv 2405.16833; choice of layers and default as in the released code.

    V has one direction, so that C = diag(1, 0). The change has the cosine 3 / 5, and C keeps its first row:

    >>> import torch
    >>> from defenses._low_rank import Product, alignment_score, projected
    >>> difference = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    >>> change = Product(torch.tensor([[3.0], [4.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    >>> alignment_score(difference, change), projected(difference, change).left.flatten().tolist()
    (0.6, [3.0, 0.0])
    """

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the corrected adapter (flat); its rank is that of ``adapter``, plus that of an aligned start."""
        served, start = products(server.layout, adapter), products(server.layout, server.start())
        scores: dict[str, float] = {}
        corrected: dict[str, Product] = {}
        for layer, product in served.items():
            difference = alignment_difference(server, layer)
            scores[layer] = alignment_score(difference, product - start[layer])
            corrected[layer] = projected(difference, product)
            if start[layer].acts:
                rest = start[layer].left - projected(difference, start[layer]).left
                corrected[layer] += Product(rest, start[layer].right)
        for layer in projected_layers(scores):
            served[layer] = corrected[layer]
        return flat(server.layout, served, adapter)


def projected_layers(scores: dict[str, float]) -> list[str]:
    """Return the layers to project: the share of all, rounded up, with the lowest scores; the earlier one of a tie."""
    return least_aligned(scores, math.ceil(SHARE * len(scores)))
