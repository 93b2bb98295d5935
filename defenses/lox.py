"""LoX (Perin et al. 2025): start from a model whose alignment is extrapolated in its strongest directions."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from defenses._low_rank import Product, alignment_difference, flat, products, top_part
from defenses.base import Defense, Knowledge, Server, Stage, register

DIRECTIONS: Final = 6
"""Number k of singular values of V that are extrapolated."""
ALPHA: Final = 1.25
"""Factor a of the added term."""
_SAME: Final = 1e-3
"""Largest share of ‖V‖ by which V may differ from the start adapter's product: more than float32 weights round off."""


@register(
    title="LoX",
    description="Before the first round the server strengthens the alignment of the start model: it adds 1.25 times "
    "the six strongest directions of the change that the alignment had made to each layer.",
    paper="Perin et al. 2025, arXiv 2506.15606",
    stages=(Stage.PREPARE,),
    knowledge=Knowledge.NONE,
    resources="the model before its alignment; no data, no training",
    needs_alignment=True,
)
class Lox(Defense):
    """Start from W + a U_k U_kᵀ V with V = W_aligned - W_unaligned and its left singular vectors U_k; k = 6, a = 1.25.

    Both values are the paper's for Llama-2-7B. The released code's defaults (all directions, a = 1) are another
    method, which extrapolates all of V. The source changes every matrix with the embeddings, and this rule the layers
    with adapters.

    The source cuts V of full rank. Where an adapter of rank 8 aligns the start, V has rank 8, and its six strongest
    directions hold nearly all of it: 97 % of ‖V‖², the median over the layers of the suite ``pocket``. There the
    method is near the variant that extrapolates all of V.

    The start has to be an adapter of rank r.

    - Where an adapter A₀, B₀ aligns the start, V = s B₀ A₀, and the start becomes (I + a U_k U_kᵀ) B₀ with the same A₀.
      Nothing is cut. A₀ stays, so that clients train as from the suite's start.
    - Where the start adapter has no effect, the added term becomes the adapter. Its singular values are shared equally
      between A and B. With k < r, the other r - k directions are those of the fresh adapter.
    - Otherwise, or with k > r, the start is the best approximation of the sum by rank r, with equal shares.

    Source: Perin et al. 2025, arXiv 2506.15606.

    Of the singular values 2 and 1, the larger one grows by a factor of 1 + 1.25:

    >>> difference = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    >>> extrapolated(difference, top_part(difference, 1)).tolist()
    [[4.5, 0.0], [0.0, 1.0]]
    """

    def prepare(self, server: Server) -> Tensor:
        """Return the extrapolated start (flat, ``[d]``)."""
        begin = server.start()
        start = products(server.layout, begin)
        layers: dict[str, Product] = {}
        for layer, product in start.items():
            difference = alignment_difference(server, layer)
            part = top_part(difference, DIRECTIONS)
            rest = difference - server.scaling * product.left @ product.right
            if product.acts and rest.norm() <= _SAME * difference.norm():
                layers[layer] = Product(extrapolated(product.left, part), product.right)
            else:
                added = part.scaled(ALPHA / server.scaling)
                layers[layer] = _of_rank(product + added if product.acts else added, product)
        return flat(server.layout, layers, begin)


def extrapolated(matrix: Tensor, part: Product) -> Tensor:
    """Return (I + a U_k U_kᵀ) M, where U_k is the left factor of ``part``."""
    return matrix + ALPHA * part.left @ (part.left.T @ matrix)


def _of_rank(product: Product, fresh: Product) -> Product:
    """Return the best approximation of a product by the rank of ``fresh``, with equal norms of columns and rows.

    Directions beyond the rank of the product are those of ``fresh`` on the right, and zero on the left.
    """
    rank = fresh.right.shape[0]
    best = top_part(product.left @ product.right, rank)
    roots = best.right.norm(dim=1).sqrt()
    spare = fresh.right[len(roots) :]
    left = torch.cat([best.left * roots, fresh.left.new_zeros(len(fresh.left), len(spare))], dim=1)
    return Product(left, torch.cat([best.right / roots[:, None], spare]))
