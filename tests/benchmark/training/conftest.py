"""Models of float64 that compute everything in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm


@pytest.fixture(autouse=True)
def _float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute softmax and norms of float64 in float64, where transformers computes them in float32.

    On some processors the last bit of a float64 product depends on the number of rows. A rounding to float32 can turn
    that bit into a difference of 1e-7, and AdamW, which divides a gradient by its own size, into a visible one.
    """
    softmax = torch.nn.functional.softmax

    def precise_softmax(values: Tensor, *arguments: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        return softmax(values, *arguments, dtype=None if values.dtype == torch.float64 else dtype, **options)

    monkeypatch.setattr(torch.nn.functional, "softmax", precise_softmax)
    for norm in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(norm, "forward", _precise(norm.forward))


def _precise(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def precise_forward(norm: Any, values: Tensor) -> Tensor:
        if values.dtype != torch.float64:
            return forward(norm, values)
        weight: Tensor = norm.weight
        return weight * values * torch.rsqrt(values.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    return precise_forward
