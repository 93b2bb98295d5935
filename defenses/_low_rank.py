"""Algebra of LoRA products, and the difference that an alignment made to a layer's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from benchmark.updates import AdapterLayout
from defenses.base import Server

NOISE: Final = 1e-4
"""Singular values below this share of the largest one are rounding errors of float32 weights."""

EXACT_SIDE: Final = 1024
"""Largest smaller side of a matrix whose decomposition is exact, because its cost grows with the cube of the side."""
_OVERSAMPLING: Final = 16
_ITERATIONS: Final = 8


@dataclass(frozen=True)
class Product:
    """A matrix ``left @ right`` of low rank, kept as its factors (float64), for example LoRA's B A.

    Attributes:
        left: ``[out, k]``.
        right: ``[k, in]``.
    """

    left: Tensor
    right: Tensor

    def __add__(self, other: Product) -> Product:
        """Return the sum, whose rank is the sum of the ranks."""
        return Product(torch.cat([self.left, other.left], dim=1), torch.cat([self.right, other.right]))

    def __sub__(self, other: Product) -> Product:
        """Return the difference; without the columns of ``other`` if that has no effect."""
        return self + other.scaled(-1.0) if other.acts else self

    @property
    def acts(self) -> bool:
        """Whether the matrix may differ from zero; a fresh adapter has a left factor of zeros."""
        return bool(self.left.any())

    def scaled(self, factor: float) -> Product:
        """Return ``factor`` times the matrix."""
        return Product(factor * self.left, self.right)

    def inner(self, other: Product) -> float:
        """Return the sum of the products of corresponding entries, without forming the matrices."""
        return float(((self.left.T @ other.left) * (self.right @ other.right.T)).sum())


def products(layout: AdapterLayout, adapter: Tensor) -> dict[str, Product]:
    """Return B A of each layer of a flat adapter, without LoRA's factor s.

    Args:
        layout: Layout of the layers; the adapter may have another rank.
        adapter: Flat adapter.
    """
    views = layout.of_rank(layout.rank_of(len(adapter))).views(adapter.detach().to("cpu", torch.float64))
    return {layer: Product(views[f"{layer}.lora_B"], views[f"{layer}.lora_A"]) for layer in layout.layers}


def flat(layout: AdapterLayout, layers: Mapping[str, Product], like: Tensor) -> Tensor:
    """Return the flat adapter of products B A, with the type and the device of ``like``.

    Its rank is the largest rank of a layer, and at least that of the layout. The other layers get zeros.
    """
    rank = max(layout.rank, *(product.left.shape[1] for product in layers.values()))
    parts: list[Tensor] = []
    for layer in layout.layers:
        left, right = layers[layer].left, layers[layer].right
        missing = rank - left.shape[1]
        parts.append(torch.cat([right, right.new_zeros(missing, right.shape[1])]).flatten())
        parts.append(torch.cat([left, left.new_zeros(left.shape[0], missing)], dim=1).flatten())
    return torch.cat(parts).to(like)


def alignment_difference(server: Server, layer: str) -> Tensor:
    """Return V = W_aligned - W_unaligned of a layer (float64, ``[out, in]``)."""
    return server.weights(layer).double() - server.weights(layer, aligned=False).double()


def top_part(matrix: Tensor, count: int) -> Product:
    """Return the best approximation of a matrix by ``count`` singular values, or by fewer if the others are noise.

    The left factor holds singular vectors, whose largest entry is positive, so that equal matrices give equal factors.
    They are eigenvectors of the smaller one of M Mᵀ and Mᵀ M, which cost less than a full decomposition. Matrices
    beyond :data:`EXACT_SIDE` are reduced first to a space that nearly holds these vectors.

    Args:
        matrix: M (float64, ``[out, in]``).
        count: Largest rank of the result.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    basis = _top_space(wide, count) if len(wide) > EXACT_SIDE else None
    core = wide if basis is None else basis.T @ wide
    values, vectors = torch.linalg.eigh(core @ core.T)
    order = torch.arange(len(values) - 1, -1, -1)[:count]
    kept = order[values[order] > NOISE**2 * values[-1].clamp_min(0.0)]
    vectors = vectors[:, kept] if basis is None else basis @ vectors[:, kept]
    if wide is not matrix:
        # M v is the singular value times the left vector.
        vectors = torch.nn.functional.normalize(matrix @ vectors, dim=0)
    places = vectors.abs().argmax(dim=0, keepdim=True)
    vectors = vectors * vectors.gather(0, places).sign()
    return Product(vectors, vectors.T @ matrix)


def _top_space(wide: Tensor, count: int) -> Tensor:
    """Return an orthonormal basis ``[rows, columns]`` of a space that nearly holds the top left singular vectors.

    Subspace iteration from a fixed random start (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4), so that equal
    matrices give equal bases.
    """
    columns = min(count + _OVERSAMPLING, *wide.shape)
    start = torch.randn(wide.shape[1], columns, generator=torch.Generator().manual_seed(0), dtype=wide.dtype)
    basis: Tensor = torch.linalg.qr(wide @ start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.T @ basis).Q).Q
    return basis


def projected(difference: Tensor, product: Product) -> Product:
    """Return C P with C = V Vᵀ / ‖V‖_F for the alignment difference V of a layer; P itself where V is zero.

    C is symmetric and weighs the directions of the alignment by σ² / ‖V‖_F. So it is no orthogonal projection.

    Args:
        difference: V (float64, ``[out, in]``).
        product: P.
    """
    norm = difference.norm()
    return Product(difference @ (difference.T @ product.left) / norm, product.right) if norm else product


def alignment_score(difference: Tensor, change: Product) -> float:
    """Return the cosine of C ΔW and ΔW, see :func:`projected`; 1 where ΔW or V is zero, so that nothing is to correct.

    Args:
        difference: V (float64, ``[out, in]``).
        change: ΔW.
    """
    onto = projected(difference, change)
    squares = onto.inner(onto) * change.inner(change)
    return onto.inner(change) / squares**0.5 if squares > 0.0 else 1.0


def least_aligned(scores: dict[str, float], count: int) -> list[str]:
    """Return the ``count`` layers of lowest score; the earlier one of two with equal scores."""
    return sorted(scores, key=scores.__getitem__)[:count]
