"""SafeMERGE (Djuhera et al. 2025): merge the least aligned layers with an adapter that the server tuned on refusals."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from defenses._low_rank import Product, alignment_difference, alignment_score, flat, least_aligned, products
from defenses.base import Defense, Knowledge, Server, Stage, register

KEPT: Final = 0.8
"""Weight of the federation's adapter in a merged layer."""
MERGED: Final = 0.2
"""Weight of the safety adapter."""


@register(
    title="SafeMERGE",
    description="After the last round the server tunes a second adapter on refusals that it owns. It merges this "
    "adapter into the half of the layers whose change agrees least with the change that the alignment had made.",
    paper="Djuhera et al. 2025, arXiv 2503.17239",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="the model before its alignment; aligned pairs; server-side fine-tuning",
    needs_alignment=True,
)
class SafeMerge(Defense):
    """Serve 0.8 B A + 0.2 B_s A_s in the layers whose Safe LoRA score is below the median, B A in the others.

    The score is the cosine of C ΔW and ΔW of :class:`defenses.safe_lora.SafeLora`. The safety adapter A_s, B_s is the
    start after the suite's post-hoc training on as many aligned pairs as half of the suite's post-hoc pairs, which is
    the aligned half of ``posthoc_public``. The weights add up to 1, so an adapter that aligns the start keeps its
    weight. Both products fit side by side into an adapter of twice the rank, which is exact.

    Half of the layers, rounded up, takes the place of the source's threshold of 0.35, which depends on the spectrum of
    the alignment and so on the model. The source states no number of layers. Half is the share that needs no knowledge
    of the model: the layers below the median. It was fixed before any score. The weights are the source's.

    This is the paper's merge of weights. The released code merges in another way: PEFT's linear combination adds the
    factors with the square roots of the weights, which brings the cross terms 0.4 (B A_s + B_s A).
    Source: Djuhera et al. 2025, arXiv 2503.17239; weights as in the released code.

    One layer with the products 1 and 6:

    >>> import torch
    >>> from defenses._low_rank import Product
    >>> one, six = (Product(torch.tensor([[value]]), torch.ones(1, 1)) for value in (1.0, 6.0))
    >>> merged = merge(one, six)
    >>> round((merged.left @ merged.right).item(), 6)
    2.0
    """

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the merged adapter (flat), whose rank is that of ``adapter`` plus the layout's."""
        begin = server.start()
        safety = products(server.layout, server.finetune(begin, server.owned_aligned(max(1, server.examples // 2))))
        served, start = products(server.layout, adapter), products(server.layout, begin)
        scores = {
            layer: alignment_score(alignment_difference(server, layer), product - start[layer])
            for layer, product in served.items()
        }
        for layer in least_aligned(scores, (len(scores) + 1) // 2):
            served[layer] = merge(served[layer], safety[layer])
        return flat(server.layout, served, adapter)


def merge(product: Product, safety: Product) -> Product:
    """Return the weighted sum of a layer's product and the safety adapter's."""
    return product.scaled(KEPT) + safety.scaled(MERGED)
