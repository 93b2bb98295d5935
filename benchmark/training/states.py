"""States of a model under an adapter: inputs of its adapted layers, and the first token of its answers.

One forward pass gives what is read; nothing is trained. Rows are padded on the right, and pads are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError, unknown_name
from benchmark.models.rows import TokenRow
from benchmark.training.served import ServedModel

_Observer = Callable[[int, Tensor, Tensor], None]

_ROWS = 8
"""Rows of one pass: enough to use a processor well, few enough for the inputs of a wide layer."""


def feature_norms(
    model: ServedModel, adapter: Tensor, rows: Sequence[TokenRow], *, of_factors: bool = False
) -> dict[str, Tensor]:
    """Return the L2 norms of each adapted layer's input features x over all tokens of the rows.

    Args:
        model: The model.
        adapter: Flat adapter that acts, of any rank r.
        rows: The rows.
        of_factors: Whether to return the norms of each LoRA factor's input: x for A, and A x for B.

    Returns:
        Name of the layer → float32 tensor ``[in]``, in model order. With ``of_factors``, name of the factor in the
        layout → ``[in]`` for A and ``[r]`` for B.
    """
    layout = model.stacked.layout
    factors = layout.of_rank(layout.rank_of(len(adapter))).views(adapter.double())
    totals: dict[str, Tensor] = {}

    def add(number: int, inputs: Tensor, real: Tensor) -> None:
        layer, features = layout.layers[number], inputs[real].double()
        read = {layer: features}
        if of_factors:
            name = f"{layer}.lora_A"
            read = {name: features, f"{layer}.lora_B": features @ factors[name].to(features).T}
        for name, values in read.items():
            squares = values.square().sum(0)
            totals[name] = totals[name] + squares if name in totals else squares

    _read(model, adapter, [row.ids for row in rows], add)
    return {name: totals[name].sqrt().float().cpu() for name in (layout.names if of_factors else layout.layers)}


def last_inputs(model: ServedModel, adapter: Tensor, prompts: Sequence[Sequence[int]], layer: str) -> Tensor:
    """Return the inputs ``[prompts, in]`` (float32) of an adapted layer at the last token of each prompt.

    Raises:
        FedSafetyError: The layer carries no adapter.
    """
    number = layer_number(model, layer)
    parts: list[Tensor] = []

    def keep(place: int, inputs: Tensor, real: Tensor) -> None:
        if place == number:
            last = real.sum(1) - 1
            parts.append(inputs[torch.arange(len(last), device=inputs.device), last].float().cpu())

    _read(model, adapter, prompts, keep)
    return torch.cat(parts)


def layer_number(model: ServedModel, layer: str) -> int:
    """Return the place of an adapted layer.

    Raises:
        FedSafetyError: The layer carries no adapter.
    """
    layers = model.stacked.layout.layers
    if layer not in layers:
        raise FedSafetyError(str(unknown_name("adapted layer", layer, layers)))
    return layers.index(layer)


@torch.no_grad()
def first_token_scores(
    model: ServedModel, adapter: Tensor, prompts: Sequence[Sequence[int]], tokens: Sequence[int]
) -> Tensor:
    """Return the natural-log probabilities ``[prompts, tokens]`` (float32) of the first token of an answer.

    Args:
        model: The model.
        adapter: Flat adapter that acts.
        prompts: Token ids of whole prompts.
        tokens: The tokens.
    """
    stacked, parts = model.stacked, list[Tensor]()
    stacked.attach(adapter)
    try:
        for part in _parts(prompts):
            ids, real = _padded(part, stacked.pad_id, stacked.device)
            places = torch.arange(len(part), device=stacked.device) * ids.shape[1] + real.sum(1) - 1
            logits = stacked.logits_at(ids, places)
            parts.append(torch.log_softmax(logits.float(), dim=-1)[:, list(tokens)].cpu())
    finally:
        stacked.clear()
    return torch.cat(parts)


@torch.no_grad()
def _read(model: ServedModel, adapter: Tensor, rows: Sequence[Sequence[int]], observe: _Observer) -> None:
    """Run the model on rows of token ids and hand over each adapted layer's number, input and real positions."""
    stacked = model.stacked
    stacked.attach(adapter)
    try:
        for part in _parts(rows):
            ids, real = _padded(part, stacked.pad_id, stacked.device)
            stacked.observe(ids, partial(_with_mask, observe, real))
    finally:
        stacked.clear()


def _with_mask(observe: _Observer, real: Tensor, number: int, inputs: Tensor) -> None:
    observe(number, inputs, real)


def _parts(rows: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]


def _padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ids ``[rows, width]``, and which of them are real."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)
    return ids, real
