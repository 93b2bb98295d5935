"""Lean passes: parts of a frozen model replaced by parts that suit a processor's bfloat16 products and keep less.

Attention works in blocks (:mod:`benchmark.training.attention`). Norms and gated feed-forward blocks have backward
passes of their own. A part is replaced only where a trial gives what the model's own part gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmark.models.sizes import trains_lean
from benchmark.training.attention import attend_in_blocks
from benchmark.training.layers import GatedFeedForward
from benchmark.training.norms import FrozenNorm


def is_lean(model: PreTrainedModel, adapted: Iterable[nn.Module]) -> bool:
    """Return whether a model with these adapted layers is trained with lean passes."""
    plain = all(type(layer) is nn.Linear for layer in adapted)
    return plain and trains_lean(str(model.dtype).removeprefix("torch."), model.device.type)


@torch.no_grad()
def make_lean(model: PreTrainedModel) -> None:
    """Replace the parts of a frozen model in place, before adapters are attached."""
    for path, module in list(model.named_modules()):
        if _is_norm(module):
            _replace(model, path, module, FrozenNorm)
        elif _is_gated(module):
            _replace(model, path, module, GatedFeedForward)
    if model.config._attn_implementation == "sdpa":
        attend_in_blocks(model)


def _replace(model: nn.Module, path: str, part: nn.Module, kind: Callable[[nn.Module], nn.Module]) -> None:
    weight = next(part.parameters())
    features = weight.shape[-1]
    trial = torch.linspace(-2.0, 3.0, 2 * features, device=weight.device).view(1, 2, features).to(weight.dtype)
    new = kind(part)
    expected = part(trial)
    # Half precision rounds an intermediate number more or less often. Another function would differ by far more.
    relative = 2.0**-20 if weight.dtype.itemsize >= 4 else 2.0**-5
    if torch.allclose(new(trial), expected, rtol=relative, atol=relative * float(expected.abs().max())):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new)


def _is_norm(module: nn.Module) -> bool:
    named = type(module).__name__.endswith("RMSNorm")
    return named and all(hasattr(module, name) for name in ("weight", "variance_epsilon"))


def _is_gated(module: nn.Module) -> bool:
    children = dict(module.named_children())
    parts = {"gate_proj", "up_proj", "down_proj", "act_fn"}
    return parts == children.keys() and type(children["act_fn"]).__name__ in ("SiLU", "SiLUActivation")
