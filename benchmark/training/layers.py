"""The layers that :mod:`benchmark.training.stacked` puts into a base model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from benchmark.models.products import adapted, adapted_gradients, baddbmm, bmm, linear
from benchmark.models.sizes import merging_is_cheaper
from benchmark.training.dropout import RowDropout


@dataclass
class Pass:
    """Properties of a pass's rows, which all layers read.

    Attributes:
        clients: Indices of the rows' clients, ``[C]``; ``None`` for all.
        dropout: Dropout on the adapters' inputs, or ``None``.
        positions: ``None`` where every position is needed, or the flat positions ``[n]`` with loss, grouped by client,
            with each client's count.
        observe: Receives each layer's number and input while it is set, or ``None``.
    """

    clients: Tensor | None = None
    dropout: RowDropout | None = None
    positions: tuple[Tensor, tuple[int, ...]] | None = None
    observe: Callable[[int, Tensor], None] | None = None

    def clear(self) -> None:
        """Forget the rows."""
        self.clients = self.dropout = self.positions = self.observe = None


class StackedLinear(nn.Module):
    """A frozen linear layer with stacked LoRA factors.

    Rows of the input are grouped by client: with C clients an input ``[C · b, ..., in]`` holds client 0's rows first.
    The factors are kept in the optimizer's precision and multiplied in the model's.

    Args:
        base: Any linear layer, quantised or not.
        scaling: LoRA's factor s.
        number: Number of the layer, part of the seed of its dropout.
        current: Properties of the rows.
        lean: Whether the layer has a backward pass of its own, which makes fewer copies. It never merges weights.
    """

    def __init__(
        self, base: nn.Linear, scaling: float, number: int = 0, current: Pass | None = None, *, lean: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scaling, self.number = scaling, number
        self.current, self.lean = current or Pass(), lean
        # Layers of other classes, such as quantised ones, multiply with their own method.
        self.base = None if type(base) is nn.Linear else base
        self.weight = None if self.base is not None else base.weight
        self.bias = None if self.base is not None else base.bias
        self.factor_a: Tensor | None = None
        self.factor_b: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, ``[C · b, ..., out]``."""
        if self.current.observe is not None:
            self.current.observe(self.number, x)
        if self.factor_a is None or self.factor_b is None:
            return self._plain(x)
        if self.lean and self.current.dropout is None and self.weight is not None:
            return self._lean(x, None)
        factor_a, factor_b = self._factor(self.factor_a, x.dtype), self._factor(self.factor_b, x.dtype)
        clients = factor_a.shape[0]
        rows = x.reshape(clients, -1, self.in_features)
        dropout = self.current.dropout
        size = self.in_features * self.out_features
        if dropout is None and self.weight is not None and merging_is_cheaper(size, rows.shape[1], rows.element_size()):
            weight = torch.baddbmm(self.weight, factor_b, factor_a, alpha=self.scaling)
            y = bmm(rows, weight.transpose(1, 2))
        else:
            inputs, scaling = rows, self.scaling
            if dropout is not None:
                inputs, scaling = dropout.zeroed(x, self.number).reshape(rows.shape), self.scaling * dropout.scale
            low = bmm(inputs, factor_a.transpose(1, 2))
            y = linear(rows, self.weight) if self.weight is not None else self._plain(rows)
            y = baddbmm(y, low, factor_b.transpose(1, 2), scaling)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def of_gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the layer's output for the input SiLU(gate) · up."""
        lean = self.lean and self.factor_a is not None and self.current.dropout is None and self.weight is not None
        if lean and self.current.observe is None:
            return self._lean(gate, up)
        product: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
        y: Tensor = self(product)
        return y

    def _lean(self, x: Tensor, up: Tensor | None) -> Tensor:
        assert self.factor_a is not None
        assert self.factor_b is not None
        factor_a, factor_b = self._factor(self.factor_a, x.dtype), self._factor(self.factor_b, x.dtype)
        rows = x.reshape(factor_a.shape[0], -1, self.in_features)
        other = None if up is None else up.reshape(rows.shape)
        y: Tensor = _Adapted.apply(rows, other, self.weight, factor_a, factor_b, self.scaling)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def _plain(self, x: Tensor) -> Tensor:
        if self.base is not None:
            result: Tensor = self.base(x)
            return result
        assert self.weight is not None
        return linear(x, self.weight, self.bias)

    def _factor(self, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the factors of the rows' clients in the precision of the rows."""
        part = factor if self.current.clients is None else factor.index_select(0, self.current.clients)
        return part.to(dtype)


class _Adapted(torch.autograd.Function):
    """``x Wᵀ + s · x Aᵀ Bᵀ`` of each client with a frozen W; the products of the backward pass add up in place.

    Where ``up`` is given, the input is SiLU(x) · up. The backward pass computes that input again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor | None, weight: Tensor, factor_a: Tensor, factor_b: Tensor, scaling: float
    ) -> Tensor:
        inputs = x if up is None else functional.silu(x).mul_(up)
        y, low = adapted(inputs, weight, factor_a, factor_b, scaling)
        ctx.save_for_backward(x, up, low, weight, factor_a, factor_b)
        ctx.scaling = scaling
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor, Tensor, None]:
        x, up, low, weight, factor_a, factor_b = ctx.saved_tensors
        active = None if up is None else functional.silu(x)
        of_inputs, of_a, of_b = adapted_gradients(
            gradients[0],
            x if active is None else active * up,
            low,
            weight,
            factor_a,
            factor_b,
            ctx.scaling,
            of_inputs=any(ctx.needs_input_grad[:2]),
        )
        if of_inputs is None:
            return None, None, None, of_a, of_b, None
        if active is None:
            return of_inputs, None, None, of_a, of_b, None
        of_up = active.mul_(of_inputs)
        of_gate = torch.ops.aten.silu_backward(of_inputs.mul_(up), x)
        return of_gate, of_up, None, of_a, of_b, None


class _Gated(torch.autograd.Function):
    """SiLU(gate) · up, of which the backward pass keeps only the two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return of_gate, functional.silu(gate).mul_(gradients[0])


class GatedFeedForward(nn.Module):
    """A gated feed-forward block that keeps only its input and the outputs of its first two layers.

    Args:
        inner: The block that it replaces, whose layers it takes over.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = inner.gate_proj, inner.up_proj, inner.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` ``[..., features]``."""
        assert isinstance(self.gate_proj, nn.Module)
        assert isinstance(self.up_proj, nn.Module)
        assert isinstance(self.down_proj, nn.Module)
        gate, up = self.gate_proj(x), self.up_proj(x)
        if isinstance(self.down_proj, StackedLinear):
            return self.down_proj.of_gated(gate, up)
        product: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
        y: Tensor = self.down_proj(product)
        return y


class AtPositions(nn.Module):
    """A position-wise module that computes only where its output is used; elsewhere its output is zero."""

    def __init__(self, inner: nn.Module, current: Pass) -> None:
        super().__init__()
        self.inner, self.current = inner, current
        self._adapted = any(isinstance(module, StackedLinear) for module in inner.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Return the inner module's output for ``x`` ``[rows, width, features]`` at the positions."""
        # Dropout is drawn for whole rows, so all positions are computed.
        if self.current.positions is None or (self._adapted and self.current.dropout is not None):
            result: Tensor = self.inner(x)
            return result
        where, counts = self.current.positions
        flat = x.flatten(0, 1)
        # Stacked layers need equally many rows of every client. Clients with fewer repeat a row and drop the copies.
        most = max(counts)
        slots = torch.arange(most, device=x.device)
        starts = torch.tensor([0, *counts[:-1]], device=x.device).cumsum(0)
        sizes = torch.tensor(counts, device=x.device)
        padded = where[starts[:, None] + slots.minimum(sizes[:, None] - 1)]
        real = (slots < sizes[:, None]).flatten().nonzero()[:, 0]
        y: Tensor = self.inner(flat.index_select(0, padded.flatten()).view(*padded.shape, -1))
        return flat.new_zeros(flat.shape).index_copy(0, where, y.flatten(0, 1).index_select(0, real)).view(x.shape)
