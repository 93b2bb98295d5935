"""Root-mean-square norms (Zhang and Sennrich 2019, arXiv 1910.07467) with frozen weights, for half precision.

The usual implementation keeps its input in float32 for the backward pass. Here the input is kept as it is, with one
number a token, and the backward pass computes the gradient of the input alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FrozenNorm(nn.Module):
    """A root-mean-square norm over the last dimension, computed in float32 or finer.

    Args:
        inner: The norm that it replaces, with ``weight`` and ``variance_epsilon``.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = inner.weight, inner.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of ``x`` ``[..., features]``."""
        y: Tensor = _Normed.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return y


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        y: Tensor = (x * inverse).mul_(weight).to(x.dtype)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.to(inverse.dtype)
        gradient = (gradients[0] * inverse).mul_(weight)
        along = torch.linalg.vecdot(gradient, wide).unsqueeze_(-1).mul_(inverse.square().div_(x.shape[-1]))
        return gradient.addcmul_(wide, along, value=-1.0).to(x.dtype), None, None
