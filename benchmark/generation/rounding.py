"""Quantised base models for vLLM: the rounded weights of training, held in the engine's own format.

Training in 8 or 4 bits multiplies with weights that bitsandbytes rounds and that are scaled back, in the precision of
the activations (:mod:`benchmark.models.loading`). vLLM's main package no longer has bitsandbytes, and its own
quantisers round differently and so make other models. Therefore the weights are rounded and scaled back once, while
they are loaded. The answers are those of the trained model, with the memory and speed of an unquantised model.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Collection, Generator
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError

LOAD_FORMAT = "fedsafety_rounded"
"""Name of the loader in vLLM."""


def rounding_obstacle(quantization: str, tensor_parallel: int) -> str | None:
    """Return why vLLM cannot hold weights as training held them, or ``None``."""
    if not quantization:
        return None
    if tensor_parallel > 1:
        return "weights are rounded while they are loaded, but its worker processes on several GPUs lack the loader"
    if quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        return "4-bit weights are rounded by bitsandbytes, which is not installed"
    return None


def rounded(weight: Tensor, quantization: str, dtype: torch.dtype) -> Tensor:
    """Return a linear layer's weight ``[out, in]`` as training multiplies with it.

    8 bits: one scale a row, 127 steps on either side of zero (Dettmers et al. 2022, arXiv 2208.07339). 4 bits: NF4 in
    blocks of 64 with scales that are quantised too (Dettmers et al. 2023, arXiv 2305.14314).

    Args:
        weight: The stored weight.
        quantization: ``8bit`` or ``4bit``.
        dtype: Precision of the products.
    """
    if quantization == "8bit":
        # Through float16, as bitsandbytes does.
        halves = weight.to(dtype).half().float()
        scales = halves.abs().amax(dim=1)
        steps = (halves * torch.where(scales > 0, 127.0 / scales, 0.0)[:, None]).round()
        return steps.to(dtype) * (scales / 127.0).to(dtype)[:, None]
    functional: Any = importlib.import_module("bitsandbytes.functional")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed, state = functional.quantize_4bit(
        weight.to(device, dtype), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    back: Tensor = functional.dequantize_4bit(packed, state)
    return back.to(weight.device, dtype)


def register_loader(quantization: str, layers: Collection[str], dtype: torch.dtype) -> None:
    """Make vLLM's load format :data:`LOAD_FORMAT` round the weights of ``layers`` from now on.

    Args:
        quantization: ``8bit`` or ``4bit``.
        layers: Module paths of all linear layers but the output head.
        dtype: The engine's precision.
    """
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    names = {f"{layer}.weight" for layer in layers}

    class RoundingLoader(DefaultModelLoader):
        def __init__(self, load_config: Any) -> None:
            super().__init__(dataclasses.replace(load_config, load_format="safetensors"))

        def get_all_weights(self, model_config: Any, model: Any) -> Generator[tuple[str, Tensor], None, None]:
            missing = set(names)
            for name, weight in super().get_all_weights(model_config, model):
                if name in names:
                    missing.discard(name)
                    yield name, rounded(weight, quantization, dtype)
                else:
                    yield name, weight
            if missing:
                raise FedSafetyError(
                    f"the checkpoint has no tensor {min(missing)!r}, so its weights cannot be rounded to "
                    f"{quantization}; save it again with transformers"
                )

    register_model_loader(LOAD_FORMAT)(RoundingLoader)
