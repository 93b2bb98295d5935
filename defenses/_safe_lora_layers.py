"""Projection of Safe LoRA (Hsu et al. 2024, arXiv 2405.16833): its spectral weighting, scores and choice of layers.

V [out, in] is the difference of a layer's weights after and before the alignment. The projection of the source is C =
V Vᵀ / ‖V‖_F, with a single norm. C is no orthogonal projector: it weighs the left singular vectors of V by σ² /
‖V‖_F. The orthogonal projector on the columns of V would be the identity for every layer whose V has full row rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHARE = 10 / 64
"""Share of the layers that are projected: the source projects 10 of the 64 adapted layers of Llama-2-7B."""


def weighting(difference: Tensor) -> Tensor:
    """Return C = V Vᵀ / ‖V‖_F ``[out, out]`` for V = ``difference`` ``[out, in]``; zeros for V = 0.

    >>> weighting(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[1.7999999523162842, 0.0], [0.0, 3.200000047683716]]
    """
    return weighted(difference, torch.eye(len(difference), dtype=difference.dtype))


def weighted(difference: Tensor, columns: Tensor) -> Tensor:
    """Return C · X for X = ``columns`` ``[out, k]`` without forming C; zeros for V = 0.

    >>> weighted(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[5.0], [0.0]])).tolist()
    [[9.0], [0.0]]

    Args:
        difference: V ``[out, in]``.
        columns: X, of the same type.
    """
    norm = torch.linalg.vector_norm(difference)
    if not norm:
        return torch.zeros_like(columns)
    product: Tensor = difference @ (difference.T @ columns) / norm
    return product


def score(left: Tensor, right: Tensor, left_weighted: Tensor) -> float:
    """Return the cosine between C M and M for M = L R, without forming the matrices ``[out, in]``.

    A zero M or a zero C M has nothing to project and the score 1.

    With C = diag(9, 16) / 5 and M = (1, 1)ᵀ the cosine is (9 + 16) / (√2 √(81 + 256)):

    >>> round(score(torch.ones(2, 1), torch.ones(1, 1), torch.tensor([[1.8], [3.2]])), 6)
    0.962964

    Args:
        left: L ``[out, k]``.
        right: R ``[k, in]``.
        left_weighted: C · L ``[out, k]``.
    """
    left, right, left_weighted = left.double(), right.double(), left_weighted.double()
    inner = right @ right.T
    length = float(((left.T @ left) * inner).sum().clamp(min=0).sqrt())
    weighted_length = float(((left_weighted.T @ left_weighted) * inner).sum().clamp(min=0).sqrt())
    if not (length and weighted_length):
        return 1.0
    return float(((left_weighted.T @ left) * inner).sum()) / length / weighted_length


def lowest_layers(scores: list[float]) -> list[int]:
    """Return the places of the layers to project: the K of lowest score, K = 10/64 of all, rounded up.

    Ties go to the earlier layer. The places are in ascending order.

    >>> lowest_layers([0.9, 0.2, 0.5, 0.2, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 1.0, 1.0, 1.0])
    [1, 3, 9]
    """
    count = math.ceil(SHARE * len(scores))
    return sorted(sorted(range(len(scores)), key=lambda place: (scores[place], place))[:count])
