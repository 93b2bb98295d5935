"""Products of a layer in bfloat16: taken in float32 and rounded, beside PyTorch's own product.

The shapes are those of the feed-forward block of SmolLM2-135M, with one step of ten clients. On a processor with
bfloat16 instructions PyTorch's own product is the one that training takes, and on others the one in float32.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.models import products

ROWS, INPUTS, OUTPUTS = 3840, 576, 1536


@pytest.mark.parametrize("way", ["in_float32_blocks", "torch"])
def test_product_of_a_layer_in_bfloat16(benchmark: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(n, INPUTS, generator=generator).bfloat16() for n in (ROWS, OUTPUTS))
    expected = torch.nn.functional.linear(x.double(), weight.double())
    monkeypatch.setattr(products, "widens_bfloat16", lambda: way == "in_float32_blocks")
    y = benchmark.pedantic(products.linear, args=(x, weight), rounds=5, warmup_rounds=1)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-3)
