"""Safe LoRA (Hsu et al. 2024) on every update: each client's least aligned layers are projected before averaging."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._low_rank import Product, alignment_difference, alignment_score, products
from defenses._low_rank import projected as safe_lora_projected
from defenses.base import Defense, Knowledge, Server, Stage, register
from defenses.safe_lora import projected_layers


@register(
    title="Safe LoRA, each update",
    description=(
        "Compares each layer of each update with the change that the alignment made to the layer's weights. In "
        "those ten of 64 layers that agree least, the update of the factor B is projected on that change. Then it "
        "averages as FedAvg does."
    ),
    paper="Hsu et al. 2024, arXiv 2405.16833",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    resources="weights of the start model before and after its alignment",
    asks_server=True,
    needs_alignment=True,
)
class SafeLoRAEach(Defense):
    """Aggregate to the sample-weighted mean of the updates after the projection of each client's K worst layers.

    V is the difference of a layer's weights after and before the alignment, and C = V Vᵀ / ‖V‖_F. With the broadcast
    factors A, B and an update ΔA, ΔB, the layer's weights change by s · M, M = (B + ΔB)(A + ΔA) - B A.

    1. The score of a layer is the cosine between C M and M.
    2. In the K layers of lowest score, ΔB becomes C ΔB; ΔA stays. K is 10/64 of the layers, rounded up, as the source
    projects 10 of the 64 adapted layers of Llama-2-7B, and it is chosen for each client anew.

    For a fresh start, whose B is zero, M = ΔB (A + ΔA), and the rule of the first round is Safe LoRA's rule B ← C B
    on the client's whole adapter. Later, and from an aligned adapter, the part B ΔA of M stays as it is. A second
    projection of the whole B would weigh the earlier rounds again, because C is no orthogonal projector.

    The fixed threshold of the source (0.5, in later work 0.35) is left out: scores depend on the spectrum of V, and
    so on the model. The client weights are those of FedAvg. Condition: n ≥ 1, and a model before the alignment.
    Source: Hsu et al. 2024, arXiv 2405.16833, section 3; the form of C and "number" of layers from the released code.
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the projected updates, with the weights of FedAvg."""
        return super().aggregate(
            replace(updates, matrix=projected(updates, context.broadcast, context.server)), context
        )


def projected(updates: Updates, broadcast: Tensor, server: Server) -> Tensor:
    """Return the updates ``[n, d]`` after the projection of each client's layers of lowest score.

    Args:
        updates: The updates; left unchanged.
        broadcast: Flat adapter ``[d]`` from which the clients started.
        server: Gives the weights before and after the alignment.
    """
    layout, matrix = updates.layout, updates.matrix.clone()
    start, changes = products(layout, broadcast), layout.views(matrix)
    sent = [products(layout, row) for row in matrix]
    scores: list[dict[str, float]] = [{} for _ in sent]
    corrected: list[dict[str, Tensor]] = [{} for _ in sent]
    for layer in layout.layers:
        difference, begin = alignment_difference(server, layer), start[layer]
        for client, change in enumerate(sent):
            own = change[layer]
            # M in two terms, so that no two large products are subtracted.
            moved = Product(begin.left, own.right) + Product(own.left, begin.right + own.right)
            scores[client][layer] = alignment_score(difference, moved)
            corrected[client][layer] = safe_lora_projected(difference, own).left
    for client, row in enumerate(scores):
        for layer in projected_layers(row):
            changes[f"{layer}.lora_B"][client] = corrected[client][layer].to(matrix)
    return matrix
