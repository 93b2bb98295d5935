"""Weights of an engine that hold one adapter at a time, merged into the base model.

A processor reads every weight from memory for each batch of tokens, and LoRA kernels read more and compute in small
pieces. A merged adapter costs one pass over the weights for each adapter, and then nothing.

The product of an adapter's factors is formed and added in float32, and the sum is rounded once to the stored format.
Base weights are copied back and never subtracted, so they are afterwards what they were, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.generation.adapters import StoredAdapter


@dataclass(frozen=True)
class Place:
    """Place of a linear layer of the checkpoint inside an engine, which may fuse several layers.

    Attributes:
        layer: Name of the engine's layer.
        rows: Rows of its weight.
    """

    layer: str
    rows: slice


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return ``W + s · B A`` in the format of ``weight``, computed in float32 and rounded once.

    Args:
        weight: Base weight W ``[out, in]``.
        a: Factor A ``[rank, in]``.
        b: Factor B ``[out, rank]``.
        scaling: Factor s.
    """
    left, right = (factor.to(weight.device).float() for factor in (b, a))
    return torch.addmm(weight.float(), left, right, alpha=scaling).to(weight.dtype)


class MergedWeights:
    """The linear layers of an engine, which hold the base weights or those of one adapter.

    Args:
        base: Base weight of each of the engine's layers. Nothing else may write into these tensors.
        places: Place of each linear layer of the checkpoint, by module path.
        write: Makes a layer of the engine compute with a weight. The weight may be one of ``base``.
    """

    def __init__(
        self, base: Mapping[str, Tensor], places: Mapping[str, Place], write: Callable[[str, Tensor], object]
    ) -> None:
        self._base, self._places, self._write = base, places, write
        self._changed: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of the base weights."""
        return sum(weight.nbytes for weight in self._base.values())

    def hold(self, adapter: StoredAdapter | None) -> None:
        """Make the engine compute with ``adapter``, or with the base weights alone.

        After an interrupt the weights are undefined until the next call, which writes all layers that may differ.
        """
        parts: dict[str, list[str]] = {}
        for module in adapter.factors if adapter else ():
            parts.setdefault(self._places[module].layer, []).append(module)
        for layer in sorted(self._changed - parts.keys()):
            self._write(layer, self._base[layer])
            self._changed.discard(layer)
        if adapter is None:
            return
        for layer, modules in parts.items():
            # Mark the layer first, because an interrupt may come while it is written.
            self._changed.add(layer)
            weight = self._base[layer].clone()
            for module in modules:
                rows = self._places[module].rows
                weight[rows] = merged_weight(weight[rows], *adapter.factors[module], adapter.scaling)
            self._write(layer, weight)
