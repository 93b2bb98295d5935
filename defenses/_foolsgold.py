"""Client weights of FoolsGold and its variant: cosine similarities, pardoning, logit."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses._distances import gram

_SAME_DIRECTION = 1e-12
"""Cosines this close to 1 are 1: the difference is the rounding of the inner products."""


def cosines(rows: list[Tensor]) -> Tensor:
    """Return the pairwise cosine similarities (float64, ``[n, n]``) with a zero diagonal."""
    products = gram(rows)
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > 0, lengths, 1.0)
    similarity = products / lengths[:, None] / lengths[None, :]
    return torch.where(similarity > 1 - _SAME_DIRECTION, 1.0, similarity).fill_diagonal_(0)


def trust_of(similarity: Tensor) -> Tensor:
    """Return FoolsGold's weights v (float64, ``[n]``, each in [0, 1]) for cosines ``[n, n]`` with a zero diagonal."""
    likeness = similarity.amax(dim=1)
    ratio = likeness[:, None] / likeness[None, :]
    pardoned = torch.where(likeness[:, None] < likeness[None, :], similarity * ratio, similarity)
    trust = (1 - pardoned.amax(dim=1)).clamp_(0, 1)
    if not bool(trust.any()):
        return trust
    trust = trust / trust.max()
    trust[trust == 1] = 0.99
    return (torch.logit(trust) + 0.5).clamp_(0, 1)
