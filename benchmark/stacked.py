"""Training the LoRA adapters of many clients in one pass over one frozen base model.

Every adapted linear layer holds the clients' factors stacked, A ``[clients, rank, in]`` and B ``[clients, out, rank]``,
and applies client c's factors to client c's rows only. The loss is the sum of the clients' own mean losses, so each
client's gradient is the one it would have alone; AdamW acts element by element, so its whole trajectory is too.
:mod:`benchmark.sequential` is the reference that tests compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from benchmark.lora import LoraSettings, adapter_layout, target_layers
from benchmark.updates import AdapterLayout


@dataclass(frozen=True)
class TokenRow:
    """One tokenised training row; the loss is taken on the tokens from ``response_start`` on."""

    ids: tuple[int, ...]
    response_start: int


@dataclass(frozen=True)
class LocalTraining:
    """Adapters after local training.

    Attributes:
        adapters: ``[clients, d]``, in the dtype of the starting adapter.
        losses: ``[clients]``, mean over steps of each client's mean token loss.
    """

    adapters: Tensor
    losses: Tensor


class StackedLinear(nn.Module):
    """A frozen linear layer with stacked LoRA factors.

    Rows of the input are grouped by client: with C clients an input ``[C · b, ..., in]`` holds client 0's rows first.
    """

    def __init__(self, base: nn.Linear, scaling: float) -> None:
        super().__init__()
        self.weight = base.weight
        self.bias = base.bias
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scaling = scaling
        self.factor_a: Tensor | None = None
        self.factor_b: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, ``[C · b, ..., out]``."""
        if self.factor_a is None or self.factor_b is None:
            return functional.linear(x, self.weight, self.bias)
        clients = self.factor_a.shape[0]
        rows = x.reshape(clients, -1, self.in_features)
        if self._merging_is_cheaper(rows.shape[1]):
            weight = torch.baddbmm(self.weight, self.factor_b, self.factor_a, alpha=self.scaling)
            y = torch.bmm(rows, weight.transpose(1, 2))
        else:
            low = torch.bmm(rows, self.factor_a.transpose(1, 2))
            y = functional.linear(rows, self.weight)
            y = torch.baddbmm(y, low, self.factor_b.transpose(1, 2), alpha=self.scaling)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def _merging_is_cheaper(self, rows: int) -> bool:
        """Whether forming each client's merged weight costs less than two thin products over its rows.

        Merging adds the weight's own gradient (rows · in · out) but halves the number of operations, which is what
        counts for layers as small as these; for large layers it would also cost a weight copy per client.
        """
        return self.in_features * self.out_features <= 65_536 and rows >= 32


class _AtPositions(nn.Module):
    """A position-wise module that computes only where its output is used; elsewhere it gives zero.

    Attributes:
        positions: ``None`` for everywhere, or flat positions ``[n]`` grouped by client with each client's count.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.positions: tuple[Tensor, tuple[int, ...]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the inner module's output for ``x`` ``[rows, width, features]`` at the positions."""
        if self.positions is None:
            result: Tensor = self.inner(x)
            return result
        where, counts = self.positions
        flat = x.flatten(0, 1)
        # Stacked layers need equally many rows of every client: short ones repeat rows that are then dropped.
        most = max(counts)
        slots = torch.arange(most, device=x.device)
        starts = torch.tensor([0, *counts[:-1]], device=x.device).cumsum(0)
        own = torch.tensor(counts, device=x.device)
        padded = where[starts[:, None] + slots.minimum(own[:, None] - 1)]
        real = (slots < own[:, None]).flatten().nonzero()[:, 0]
        y: Tensor = self.inner(flat[padded])
        return flat.new_zeros(flat.shape).index_copy(0, where, y.flatten(0, 1)[real]).view(x.shape)


class StackedModel:
    """A causal language model whose adapters are trained for many clients at once.

    Args:
        model: Any Hugging Face causal language model, in evaluation mode. Its targeted layers are replaced in place;
            its own weights are frozen.
        settings: Adapter shape and targets.
        pad_id: Token id used to fill short rows; it is never attended to nor trained on.
    """

    def __init__(self, model: PreTrainedModel, settings: LoraSettings, pad_id: int) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.settings = settings
        self.layout: AdapterLayout = adapter_layout(model, settings)
        self.pad_id = pad_id
        self._layers: list[StackedLinear] = []
        for path, layer in target_layers(model, settings).items():
            stacked = StackedLinear(layer, settings.scaling)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, stacked)
            self._layers.append(stacked)
        self._decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
        self._head = self._plain_head()
        self._last_block = self._wrap_last_block()

    @property
    def device(self) -> torch.device:
        """Where the base model lives."""
        return self._layers[0].weight.device

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after local training from the same start, with fresh AdamW state.

        Args:
            start: Flat adapter ``[d]`` that all clients start from.
            batches: ``batches[client][step]`` is the list of rows of that step; all clients take the same number of
                steps with the same number of rows.
            learning_rate: One rate, or one per step.
            weight_decay: AdamW's decoupled weight decay.
            clip_norm: Largest L2 norm of a client's own gradient, or ``None``.
        """
        clients, steps = len(batches), len(batches[0])
        rates = [learning_rate] * steps if isinstance(learning_rate, float) else list(learning_rate)
        flat, gradient = self._load(start.to(self.device).expand(clients, -1), trainable=True)
        optimizer = torch.optim.AdamW([flat], lr=rates[0], weight_decay=weight_decay, fused=True)
        flat.grad = gradient
        total = torch.zeros(clients, dtype=torch.float64)
        try:
            for step in range(steps):
                gradient.zero_()
                losses = self._losses([rows[step] for rows in batches])
                losses.sum().backward()  # type: ignore[no-untyped-call]
                if clip_norm is not None:
                    self._clip(clip_norm)
                optimizer.param_groups[0]["lr"] = rates[step]
                optimizer.step()
                total += losses.detach().double().cpu()
            return LocalTraining(self._unload(), total / steps)
        finally:
            self.clear()

    def attach(self, adapter: Tensor | None) -> None:
        """Make the wrapped model answer with one flat adapter ``[d]``, or as the bare base model."""
        if adapter is None:
            self.clear()
        else:
            self._load(adapter.to(self.device)[None], trainable=False)

    def clear(self) -> None:
        """Detach all adapters."""
        for layer in self._layers:
            layer.factor_a = layer.factor_b = None

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the natural-log probability of every token but the first of each sequence, given those before it.

        Uses the adapter set by :meth:`attach`, if any.
        """
        result = []
        for sequence in sequences:
            ids = torch.tensor([list(sequence)], device=self.device)
            table = torch.log_softmax(self.model(input_ids=ids, use_cache=False).logits[0, :-1].double(), dim=-1)
            result.append(table.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return result

    def _load(self, adapters: Tensor, *, trainable: bool) -> tuple[Tensor, Tensor]:
        """Attach ``adapters`` ``[clients, d]``; return the flat storage of all factors and of their gradients.

        The storage is factor by factor, each ``[clients, *shape]`` and contiguous, so that batched products read whole
        lines and one optimizer call covers everything.
        """
        clients = adapters.shape[0]
        storage = torch.cat([part.reshape(-1) for part in torch.split(adapters, list(self.layout.sizes), dim=1)])
        gradient = torch.zeros_like(storage) if trainable else storage
        offset = 0
        factors: list[Tensor] = []
        for shape, size in zip(self.layout.shapes, self.layout.sizes, strict=True):
            span = slice(offset, offset + clients * size)
            factor = storage[span].view(clients, *shape)
            if trainable:
                factor.requires_grad_(True)
                factor.grad = gradient[span].view(clients, *shape)
            factors.append(factor)
            offset = span.stop
        for layer, a, b in zip(self._layers, factors[::2], factors[1::2], strict=True):
            layer.factor_a, layer.factor_b = a, b
        return storage, gradient

    def _unload(self) -> Tensor:
        """Return the attached adapters as ``[clients, d]``."""
        factors = [f.detach() for layer in self._layers for f in (layer.factor_a, layer.factor_b) if f is not None]
        return torch.cat([factor.flatten(1) for factor in factors], dim=1)

    def _losses(self, batches: Sequence[Sequence[TokenRow]]) -> Tensor:
        """Return each client's mean token loss over its responses, ``[clients]``."""
        rows = [row for batch in batches for row in batch]
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([[*row.ids, *[self.pad_id] * (width - len(row.ids))] for row in rows], device=self.device)
        where = [i * width + k for i, row in enumerate(rows) for k in range(row.response_start - 1, len(row.ids) - 1)]
        targets = [token for row in rows for token in row.ids[row.response_start :]]
        counts = [sum(len(row.ids) - row.response_start for row in batch) for batch in batches]
        logits = self._logits_at(ids, torch.tensor(where, device=self.device), counts)
        token_losses = functional.cross_entropy(logits, torch.tensor(targets, device=self.device), reduction="none")
        count = torch.tensor(counts, device=self.device)
        owner = torch.repeat_interleave(count)
        return token_losses.new_zeros(len(counts)).index_add(0, owner, token_losses) / count

    def _logits_at(self, ids: Tensor, where: Tensor, counts: Sequence[int]) -> Tensor:
        """Return next-token logits ``[n, vocabulary]`` at ``n`` flat positions of ``ids`` ``[rows, width]``.

        Rows are padded on the right, so under causal attention no real token sees a pad and no mask is needed.
        ``counts`` says how many of the positions are each client's.
        """
        if self._head is None:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
            return logits.flatten(0, 1)[where]
        if self._last_block is not None:
            self._last_block.positions = (where, tuple(counts))
        try:
            hidden: Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            if self._last_block is not None:
                self._last_block.positions = None
        result: Tensor = self._head(hidden.flatten(0, 1)[where])
        return result

    def _plain_head(self) -> nn.Module | None:
        """Return the output head if logits are just the head of the decoder's last state, else ``None``.

        Some architectures scale or cap their logits; there all positions are computed.
        """
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        ids = torch.tensor([[self.pad_id, self.pad_id]], device=self.device)
        with torch.no_grad():
            short = head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state)
            full = self.model(input_ids=ids, use_cache=False).logits
        return head if torch.equal(short, full) else None

    def _wrap_last_block(self) -> _AtPositions | None:
        """Let the last layer's feed-forward block compute only where there is loss, if the architecture allows it.

        Nothing after that block mixes positions in the usual decoders; whether that holds here is tried, not assumed.
        """
        layers = getattr(self._decoder, "layers", None)
        block = getattr(layers[-1], "mlp", None) if layers else None
        if self._head is None or layers is None or not isinstance(block, nn.Module):
            return None
        ids = torch.tensor([[self.pad_id, self.pad_id, self.pad_id]], device=self.device)
        where = torch.tensor([1], device=self.device)
        with torch.no_grad():
            wanted = self._head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[where])
            wrapped = _AtPositions(block)
            layers[-1].mlp = wrapped
            wrapped.positions = (where, (1,))
            found = self._head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[where])
            wrapped.positions = None
        if torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
            return wrapped
        layers[-1].mlp = block
        return None

    def _clip(self, limit: float) -> None:
        """Scale each client's gradient down to L2 norm ``limit``."""
        gradients = [f.grad for layer in self._layers for f in (layer.factor_a, layer.factor_b) if f is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients if g is not None]).sum(0)
        scale = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            if g is not None:
                g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
