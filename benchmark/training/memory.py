"""Memory of a training pass, counted on the model itself, and the limit on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from benchmark.errors import FedSafetyError
from benchmark.models.head import most_logits, replaced_logits_bytes
from benchmark.models.loading import computing_once, recomputes
from benchmark.models.memory import free_memory
from benchmark.models.sizes import ACTIVATION_SHARE, gib
from benchmark.training.dropout import DropoutRow, RowDropout
from benchmark.training.layers import Pass

_WIDTHS = (32, 48, 64)
"""Widths of the rows on which bytes are counted. Three widths separate a constant, bytes per token, and bytes per pair
of tokens, which explicit attention keeps."""

_TRANSIENT = 3
"""Activations that exist for a moment beside those that are kept, in layers."""


class StepMemory:
    """The limit on a training pass, and the bytes that a pass needs.

    Args:
        model: The model with its stacked layers.
        decoder: Its part before the head.
        current: Properties of the rows, which its stacked layers read.
        headless: Whether logits are computed at every position.
        in_place: Whether the gradient takes the place of the logits.
        budget: Bytes that a pass may need; ``None`` for no limit on a CPU, 80 % of the free memory on a GPU.
        dropout: Share of the adapters' inputs that are dropped. With dropout a pass also keeps masks and masked inputs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: nn.Module,
        current: Pass,
        *,
        headless: bool,
        in_place: bool = False,
        budget: int | None,
        dropout: float = 0.0,
    ) -> None:
        self._model, self._decoder, self._current = model, decoder, current
        self._headless, self._in_place, self._budget, self._dropout = headless, in_place, budget, dropout
        self._learned: int | None = None
        self._of_a_token: tuple[float, float] | None = None
        self.limit: int | None = budget

    def look(self, factors: int) -> None:
        """Set the limit for a training with so many factors of all clients, which are attached already.

        The limit never exceeds one that :meth:`halve` set in an earlier training.
        """
        self.limit = self._budget
        if self._budget is None and self._model.device.type == "cuda":
            # The first step allocates AdamW's two moments.
            self.limit = max(1, int(ACTIVATION_SHARE * (_free(self._model.device) - 8 * factors)))
        if self._learned is not None:
            self.limit = min(self._learned, self.limit or self._learned)

    def need(self, rows: int, width: int) -> int:
        """Return the bytes that a pass over ``rows`` rows of ``width`` tokens needs beyond model and factors."""
        if self._of_a_token is None:
            self._of_a_token = self._counted()
        token, pair = self._of_a_token
        vocabulary: int = self._model.config.get_text_config().vocab_size
        tokens = rows * width
        itemsize = int(self._model.dtype.itemsize)
        activations = int(tokens * (token + pair * width))
        if self._in_place:
            return activations + replaced_logits_bytes(tokens, vocabulary, itemsize)
        at_once = tokens if self._headless else min(tokens, max(1, most_logits() // vocabulary))
        # A logit in the model's precision and in float32, its probability, and its gradient.
        return activations + at_once * vocabulary * (12 + itemsize)

    def halve(self, rows: int, width: int, reason: str) -> None:
        """Set the limit to half the need of a pass that has just failed, for this and later trainings.

        Args:
            rows: Rows of the pass.
            width: Tokens of a row.
            reason: Message of the error. The error itself would keep the pass's tensors alive by its traceback.

        Raises:
            FedSafetyError: The pass had one row.
        """
        free_memory()
        if rows <= 1:
            raise FedSafetyError(
                f"out of memory: training one row of {width} tokens needs about {gib(self.need(1, width))}, and "
                f"{_there_is(self._model.device)}; lower training.max_length, set training.gradient_checkpointing, or "
                f"use a quantised model ({reason})"
            )
        need = self.need(rows, width)
        self.limit = self._learned = max(1, min(self.limit or need, need) // 2)

    def _counted(self) -> tuple[float, float]:
        """Return the bytes that a pass needs per token, and per pair of tokens of a row."""
        low, middle, high = (self._kept(width) for width in _WIDTHS)
        first, second = (middle - low) / (_WIDTHS[1] - _WIDTHS[0]), (high - middle) / (_WIDTHS[2] - _WIDTHS[1])
        pair = max(0.0, (second - first) / (_WIDTHS[2] - _WIDTHS[0]))
        token = max(0.0, first - pair * (_WIDTHS[0] + _WIDTHS[1]))
        config = self._model.config.get_text_config()
        layers: int = config.num_hidden_layers
        if recomputes(self._model):
            states = config.hidden_size * self._model.dtype.itemsize
            return layers * states + token * (1 + _TRANSIENT) / layers, pair * (1 + _TRANSIENT) / layers
        return token * (1 + _TRANSIENT / layers), pair * (1 + _TRANSIENT / layers)

    def _kept(self, width: int) -> int:
        """Return the bytes that one row of one client keeps for the backward pass, without weights."""
        constants = {t.untyped_storage().data_ptr() for t in (*self._model.parameters(), *self._model.buffers())}
        saved: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            # Detach, because an operation that saves its own output with its history would keep itself alive.
            plain = tensor.detach()
            saved.setdefault(plain.untyped_storage().data_ptr(), plain)
            if isinstance(tensor, nn.Parameter):
                constants.add(plain.untyped_storage().data_ptr())
            return plain

        ids = torch.zeros((1, width), dtype=torch.long, device=self._model.device)
        self._current.clear()
        self._current.clients = torch.zeros(1, dtype=torch.long, device=self._model.device)
        if self._dropout:
            self._current.dropout = RowDropout(self._dropout, [DropoutRow(0, 0, 0, width)])
        states = self._model.get_input_embeddings()(ids).detach().requires_grad_(True)
        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor), computing_once(self._model):
            self._decoder(inputs_embeds=states, use_cache=False)
        self._current.clear()
        return sum(tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in constants)


def _free(device: torch.device) -> int:
    """Return the bytes that torch can still take on a GPU: free bytes, and bytes that it reserved and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _there_is(device: torch.device) -> str:
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return f"{gib(_free(device))} of {gib(total)} are free on {torch.cuda.get_device_name(device)}"
    return f"the {device.type}'s memory did not suffice"
