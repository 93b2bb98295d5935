"""Products of matrices in bfloat16 that a processor without instructions for them takes in float32.

Without these instructions PyTorch widens the numbers piece by piece, which takes several times as long as a product in
float32. Here the factors are widened, the product is taken in float32, and the result is rounded to bfloat16. A
processor with the instructions does the same: it multiplies bfloat16 numbers exactly, adds in float32 and rounds. Only
the order of the sums differs, as it does between processors anyhow. An adapted layer's two terms are added before they
are rounded, and not after.

Blocks bound the memory of the widened numbers. Small blocks also use the same memory again. A large temporary is new
memory from the system in each call, which took longer than the conversion itself.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")
"""Names of the capabilities, as PyTorch names them, of processors that multiply bfloat16 numbers."""

_WEIGHT_BLOCK = 1 << 22
"""Most numbers of a weight that are in float32 at a time."""

_ROW_BLOCK = 1 << 20
"""Most numbers of a product's rows, and of its results, that are in float32 at a time."""

_FEWEST = 64
"""Fewest rows or columns of a block, whatever their length."""

_FEW_ROWS = 8
"""Rows below which widening a weight takes longer than the slow product."""


@cache
def widens_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 numbers faster in float32."""
    capabilities = torch.cpu.get_capabilities()
    known = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
    return known and not any(capabilities.get(name, False) for name in _INSTRUCTIONS)


def widens(x: Tensor) -> bool:
    """Return whether products with ``x`` are taken in float32 and rounded."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and widens_bfloat16()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x Wᵀ + b`` ``[..., out]`` for ``x`` ``[..., in]`` and a weight ``[out, in]``."""
    if not widens(x) or x.numel() < _FEW_ROWS * weight.shape[1]:
        return functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (weight, bias)):
        wide = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return wide.to(x.dtype)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of two stacks of matrices."""
    if not widens(a):
        return torch.bmm(a, b)
    y: Tensor = _Products.apply(None, a, b, 1.0)  # type: ignore[no-untyped-call]
    return y


def baddbmm(y: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return ``y`` plus a multiple of the products of two stacks of matrices, rounded once."""
    if not widens(y):
        return torch.baddbmm(y, a, b, alpha=factor)
    result: Tensor = _Products.apply(y, a, b, factor)  # type: ignore[no-untyped-call]
    return result


def mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write the product of two matrices into ``out``, rounded once. It has no backward pass."""
    if not widens(a):
        return torch.mm(a, b, out=out)
    if b.shape[0] <= b.shape[1] or b.numel() <= _WEIGHT_BLOCK:
        return _product(a, b, out)
    total = torch.zeros(out.shape, dtype=torch.float32)
    for part in _parts(b.shape[0], _WEIGHT_BLOCK // b.shape[1]):
        wide = b[part].float()
        for rows in _parts(len(a), _ROW_BLOCK // len(wide)):
            total[rows].addmm_(a[rows, part].float(), wide)
        del wide  # before the next block is widened
    return out.copy_(total)


def adapted(x: Tensor, weight: Tensor, factor_a: Tensor, factor_b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return ``x Wᵀ + s · x Aᵀ Bᵀ`` ``[C, n, out]`` and ``x Aᵀ`` ``[C, n, rank]``, without a backward pass.

    Args:
        x: Rows of each client, ``[C, n, in]``.
        weight: Weight of all clients, ``[out, in]``.
        factor_a: Factors A, ``[C, rank, in]``.
        factor_b: Factors B, ``[C, out, rank]``.
        scaling: LoRA's factor s.
    """
    if not widens(x):
        low = torch.bmm(x, factor_a.transpose(1, 2))
        return functional.linear(x, weight).baddbmm_(low, factor_b.transpose(1, 2), alpha=scaling), low
    outputs, inputs = weight.shape
    low, y = (x.new_empty((*x.shape[:2], features)) for features in (factor_a.shape[1], outputs))
    for columns in _parts(outputs, _WEIGHT_BLOCK // inputs):
        wide = weight[columns].float().t()
        for client, rows in _blocks(x, wide):
            some, own_a, own_b = x[client, rows].float(), factor_a[client].float(), factor_b[client, columns].float()
            if columns.start == 0:
                low[client, rows] = some @ own_a.t()
            y[client, rows, columns] = (some @ wide).addmm_(low[client, rows].float(), own_b.t(), alpha=scaling)
        del wide  # before the next block is widened
    return y, low


def adapted_gradients(
    gradient: Tensor,
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    factor_a: Tensor,
    factor_b: Tensor,
    scaling: float,
    *,
    of_inputs: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of the inputs, if ``of_inputs``, and of both factors of :func:`adapted`.

    Args:
        gradient: Gradient of the first result, ``[C, n, out]``.
        x: The inputs.
        low: The second result.
        weight: The weight.
        factor_a: Factors A.
        factor_b: Factors B.
        scaling: LoRA's factor s.
        of_inputs: Whether the gradient of the inputs is needed.
    """
    if not widens(gradient):
        of_low = torch.bmm(gradient, factor_b).mul_(scaling)
        # Transposed because the product with more columns than rows is the faster one.
        of_b = torch.bmm((low * scaling).transpose(1, 2), gradient).transpose(1, 2)
        of_a = torch.bmm(of_low.transpose(1, 2), x)
        return torch.matmul(gradient, weight).baddbmm_(of_low, factor_a) if of_inputs else None, of_a, of_b
    outputs, inputs = weight.shape
    of_low, scaled = torch.empty_like(low), low * scaling
    of_a, of_b = (low.new_zeros((len(x), low.shape[2], n), dtype=torch.float32) for n in (inputs, outputs))
    of_x = torch.empty_like(x)
    # Without a gradient of the inputs, one part of no columns leaves the thin products alone.
    for columns in _parts(inputs, _WEIGHT_BLOCK // outputs) if of_inputs else [slice(0, 0)]:
        wide = weight[:, columns].float()
        for client, rows in _blocks(gradient, wide):
            some = gradient[client, rows].float()
            if columns.start == 0:
                of_low[client, rows] = some @ factor_b[client].float()
                of_low[client, rows] *= scaling
                of_b[client].addmm_(scaled[client, rows].float().t(), some)
                of_a[client].addmm_(of_low[client, rows].float().t(), x[client, rows].float())
            if of_inputs:
                thin = of_low[client, rows].float(), factor_a[client, :, columns].float()
                of_x[client, rows, columns] = (some @ wide).addmm_(*thin)
        del wide  # before the next block is widened
    return of_x if of_inputs else None, of_a.to(x.dtype), of_b.to(x.dtype).transpose(1, 2)


def widened_bytes(rows: int, inputs: int, outputs: int) -> int:
    """Return the bytes that are in float32 at a time in a product of ``[rows, inputs]`` and ``[inputs, outputs]``."""
    if inputs > outputs and inputs * outputs > _WEIGHT_BLOCK:
        depth = max(_FEWEST, _WEIGHT_BLOCK // outputs)
        return 4 * (rows * outputs + depth * (outputs + min(rows, max(_FEWEST, _ROW_BLOCK // depth))))
    columns = min(outputs, max(_FEWEST, _WEIGHT_BLOCK // inputs))
    at_once = min(rows, max(_FEWEST, _ROW_BLOCK // max(inputs, columns)))
    return 4 * (inputs * columns + at_once * (inputs + columns))


def widen_layers(model: nn.Module) -> None:
    """Let the plain linear layers of a model take their products as :func:`linear` does.

    The layers stay of the class ``nn.Linear``, which other code looks for.
    """
    for module in model.modules():
        if type(module) is nn.Linear and widens(module.weight):
            module.forward = _Forward(module)  # type: ignore[assignment, method-assign]


class _Forward:
    """Forward pass of a linear layer with products in float32. A copy of the layer gets a copy that is its own.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self._layer.weight, self._layer.bias)


class _Linear(torch.autograd.Function):
    """A frozen linear layer that keeps its weight for the backward pass as it is, and not in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        y = x.new_empty((*x.shape[:-1], weight.shape[0]))
        _product(x.reshape(-1, x.shape[-1]), weight.t(), y.view(-1, weight.shape[0]), bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        gradient = gradients[0]
        of_x = gradient.new_empty((*gradient.shape[:-1], weight.shape[1]))
        mm(gradient.reshape(-1, weight.shape[0]), weight, out=of_x.view(-1, weight.shape[1]))
        return of_x, None, None


class _Products(torch.autograd.Function):
    """``y + f · a b`` of two stacks of matrices; both are kept for the backward pass as they are."""

    @staticmethod
    def forward(ctx: Any, y: Tensor | None, a: Tensor, b: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.factor = factor
        return _products(a, b, factor) if y is None else _sums(y, a, b, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        gradient = gradients[0]
        of_y, of_a, of_b, _ = ctx.needs_input_grad
        return (
            gradient if of_y else None,
            _products(gradient, b.transpose(1, 2), ctx.factor) if of_a else None,
            _products(a.transpose(1, 2), gradient, ctx.factor) if of_b else None,
            None,
        )


def _products(a: Tensor, b: Tensor, factor: float) -> Tensor:
    y = torch.bmm(a.float(), b.float())
    return (y if factor == 1.0 else y.mul_(factor)).to(a.dtype)


def _sums(y: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    return torch.baddbmm(y.float(), a.float(), b.float(), alpha=factor).to(y.dtype)


def _product(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """Write ``a b + bias`` of two matrices into ``out``, in blocks of columns and rows, and return it."""
    for columns in _parts(b.shape[1], _WEIGHT_BLOCK // b.shape[0]):
        wide = b[:, columns].float()
        shift = None if bias is None else bias[columns].float()
        for rows in _parts(len(a), _ROW_BLOCK // max(wide.shape)):
            some = a[rows].float()
            out[rows, columns] = some @ wide if shift is None else torch.addmm(shift, some, wide)
        del wide  # before the next block is widened
    return out


def _blocks(x: Tensor, wide: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield client and rows of the blocks of ``x`` ``[C, n, k]`` that meet a widened matrix ``[k, m]``."""
    for client in range(len(x)):
        for rows in _parts(x.shape[1], _ROW_BLOCK // max(wide.shape)):
            yield client, rows


def _parts(length: int, most: int) -> Iterator[slice]:
    """Yield about equal parts of ``length`` that have at most ``most`` elements each, or some few."""
    count = -(-length // max(_FEWEST, most))
    for place in range(count):
        yield slice(length * place // count, length * (place + 1) // count)
