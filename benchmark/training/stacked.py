"""Training the LoRA adapters of many clients in one pass over one frozen base model.

Every adapted linear layer holds the clients' factors stacked, A ``[clients, rank, in]`` and B ``[clients, out, rank]``,
and applies client c's factors to client c's rows only. The loss is the sum of the clients' mean losses, so each client
gets the gradient that it would get alone. AdamW works element by element, so the whole trajectory is the same, too.
Tests compare it with the reference :mod:`benchmark.training.sequential`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmark.errors import FedSafetyError, first_line
from benchmark.models.head import losses_of, token_losses, token_losses_in_place
from benchmark.models.loading import recomputing
from benchmark.models.lora import adapter_layout, target_layers
from benchmark.models.memory import out_of_memory
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.dropout import DropoutRow, RowDropout, client_seeds
from benchmark.training.layers import AtPositions, Pass, StackedLinear
from benchmark.training.lean import is_lean, make_lean
from benchmark.training.memory import StepMemory
from benchmark.training.microbatches import MicroBatch, divide
from benchmark.training.objective import PLAIN, Terms
from benchmark.updates import AdapterLayout
from defenses.base import Objective

_LOSS_SCALE = {torch.float16: 1024.0}
"""Factor on the loss in half precision: without it, small gradients fall below the smallest numbers of the format."""


@dataclass(frozen=True)
class LocalTraining:
    """Result of local training.

    Attributes:
        adapters: ``[clients, d]``, in the dtype of the starting adapter.
        losses: ``[clients]``, mean over steps of each client's mean token loss.
    """

    adapters: Tensor
    losses: Tensor


@dataclass(frozen=True)
class _Full:
    """A pass that did not fit into memory: its rows, their width in tokens, and the message of the error."""

    rows: int
    width: int
    reason: str


class StackedModel:
    """A causal language model whose adapters are trained for many clients at once.

    Args:
        model: Any Hugging Face causal language model, in evaluation mode. Its targeted layers are replaced in place;
            its own weights are frozen.
        settings: Adapter shape and targets.
        pad_id: Token id that fills short rows. No other token attends to it, and it has no loss.
        memory_bytes: Bytes that a training pass may take beyond the model; a step that needs more is divided into
            passes. ``None`` for no limit on a CPU and for 80 % of the free memory on a GPU. The limit changes results
            by rounding only.
        lean: Whether attention, norms, adapted layers and the loss have backward passes of their own, which suit a
            processor's half-precision products and keep less (:mod:`benchmark.training.lean`). ``None`` for bfloat16
            on a processor only. The choice changes results by rounding only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: LoraSettings,
        pad_id: int,
        *,
        memory_bytes: int | None = None,
        lean: bool | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.lean = is_lean(model, target_layers(model, settings).values()) if lean is None else lean
        self.settings = settings
        self.layout: AdapterLayout = adapter_layout(model, settings)
        self.pad_id = pad_id
        self._current = Pass()
        self._layers: list[StackedLinear] = []
        for number, (path, layer) in enumerate(target_layers(model, settings).items()):
            stacked = StackedLinear(layer, settings.scaling, number, self._current, lean=self.lean)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, stacked)
            self._layers.append(stacked)
        if self.lean:
            make_lean(model)
        self._decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
        self._head = self._plain_head()
        self._wrap_last_block()
        self._memory = StepMemory(
            model,
            self._decoder,
            self._current,
            headless=self._head is None,
            in_place=self.lean and type(self._head) is nn.Linear,
            budget=memory_bytes,
            dropout=settings.dropout,
        )

    @property
    def device(self) -> torch.device:
        """Device of the base model."""
        device: torch.device = self.model.device
        return device

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        dropout_seed: int | Sequence[int] | None = None,
        objective: Objective | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after local training from the same start, with fresh AdamW state.

        Args:
            start: Flat adapter ``[d]`` that all clients start from; its rank may differ from that of the layout.
            batches: ``batches[client][step]`` is the list of rows of that step; all clients take the same number of
                steps with the same number of rows.
            learning_rate: One rate, or one per step.
            weight_decay: AdamW's decoupled weight decay.
            clip_norm: Largest L2 norm of a client's own gradient, or ``None``.
            dropout_seed: Seeds of the adapters' dropout, one for each client, or a single seed from which each client's
                seed is derived by place.
            objective: The loss of all clients; ``None`` for the mean cross-entropy.

        Raises:
            UsageError: The settings have dropout, but ``dropout_seed`` is ``None``.
            FedSafetyError: Clients differ in rows or steps, or a single row does not fit into memory.
        """
        clients, steps = len(batches), len(batches[0])
        _check_shape(batches)
        seeds = client_seeds(dropout_seed, clients, self.settings.dropout)
        rates = [learning_rate] * steps if isinstance(learning_rate, float) else list(learning_rate)
        flat, gradient = self._load(start.to(self.device).expand(clients, -1), trainable=True)
        optimizer = torch.optim.AdamW([flat], lr=rates[0], weight_decay=weight_decay, fused=True)
        flat.grad = gradient
        total = torch.zeros(clients, dtype=torch.float64)
        self._memory.look(flat.numel())
        terms = Terms.of(objective, start)
        try:
            with recomputing(self.model):
                for step in range(steps):
                    losses = self._backward([rows[step] for rows in batches], step, seeds, gradient, terms)
                    terms.add_to(gradient, flat.detach(), clients)
                    if clip_norm is not None:
                        self._clip(clip_norm)
                    optimizer.param_groups[0]["lr"] = rates[step]
                    optimizer.step()
                    total += losses.double().cpu()
            return LocalTraining(self._unload().to(start.device), total / steps)
        finally:
            self.clear()

    def gradient(
        self,
        adapter: Tensor,
        rows: Sequence[TokenRow],
        *,
        dropout_seed: int | None = None,
        objective: Objective | None = None,
    ) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of an objective on ``rows`` at a flat adapter ``[d]``, and the cross-entropy.

        Args:
            adapter: Flat adapter.
            rows: At least one row.
            dropout_seed: Seed of the adapters' dropout, if the settings have dropout.
            objective: The loss; ``None`` for the mean cross-entropy.

        Raises:
            UsageError: The settings have dropout, but ``dropout_seed`` is ``None``.
            FedSafetyError: A single row does not fit into memory.
        """
        seeds = client_seeds(dropout_seed, 1, self.settings.dropout)
        flat, gradient = self._load(adapter.to(self.device)[None], trainable=True)
        self._memory.look(flat.numel())
        terms = Terms.of(objective, adapter)
        try:
            with recomputing(self.model):
                losses = self._backward([rows], 0, seeds, gradient, terms)
            terms.add_to(gradient, flat.detach(), 1)
            # With one client the storage of the factors is in the order of a flat adapter.
            return gradient.to(adapter.device), float(losses[0])
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
        self._current.clear()
        for layer in self._layers:
            layer.factor_a = layer.factor_b = None

    def observe(self, ids: Tensor, observer: Callable[[int, Tensor], None]) -> None:
        """Run the decoder on ``ids`` ``[rows, width]`` and hand over each adapted layer's number and input.

        Uses the adapter set by :meth:`attach`, if any.
        """
        self._current.observe = observer
        try:
            self._decoder(input_ids=ids, use_cache=False)
        finally:
            self._current.observe = None

    @torch.no_grad()
    def logits_at(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return the logits ``[n, vocabulary]`` at ``n`` flat places of ``ids`` ``[rows, width]``.

        Uses the adapter set by :meth:`attach`, if any. Rows are padded on the right.
        """
        if self._head is None:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
            return logits.flatten(0, 1)[places]
        hidden: Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        states: Tensor = self._head(hidden.flatten(0, 1)[places])
        return states

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
        lines and one optimizer call covers all factors.
        """
        clients = adapters.shape[0]
        layout = self.layout.of_rank(self.layout.rank_of(adapters.shape[1]))
        storage = torch.cat([part.reshape(-1) for part in torch.split(adapters, list(layout.sizes), dim=1)])
        gradient = torch.zeros_like(storage) if trainable else storage
        offset = 0
        factors: list[Tensor] = []
        for shape, size in zip(layout.shapes, layout.sizes, strict=True):
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

    def _backward(
        self,
        batches: Sequence[Sequence[TokenRow]],
        step: int,
        seeds: Sequence[int],
        gradient: Tensor,
        terms: Terms = PLAIN,
    ) -> Tensor:
        """Fill ``gradient`` with the gradient of each client's mean token loss; return these losses, ``[clients]``.

        The terms of the objective that concern tokens and states take part; the others do not.

        Raises:
            FedSafetyError: A single row does not fit into memory.
        """
        lengths = [[len(row.ids) for row in batch] for batch in batches]
        scale = _LOSS_SCALE.get(self.model.dtype, 1.0)
        full: _Full | None = None
        while True:
            gradient.zero_()
            total = torch.zeros(len(batches), device=self.device, dtype=gradient.dtype)
            for part in divide(lengths, self._memory.need, self._memory.limit):
                rows = [[batches[c][i] for i in places] for c, places in zip(part.clients, part.rows, strict=True)]
                self._prepare(part, rows, len(batches), step, seeds)
                normalisers = [terms.total_weight(batches[c]) for c in part.clients]
                full = self._pass(part, rows, normalisers, total, scale, terms)
                if full is not None:
                    break
            else:
                break
            self._current.clear()
            self._memory.halve(full.rows, full.width, full.reason)
        if scale != 1.0:
            gradient.div_(scale)
        return total

    def _pass(
        self,
        part: MicroBatch,
        rows: list[list[TokenRow]],
        normalisers: Sequence[int | float],
        total: Tensor,
        scale: float,
        terms: Terms,
    ) -> _Full | None:
        """Add a pass's gradient to the factors' and its losses to ``total``; return its size if memory ran out.

        All tensors of a pass are local to this method, so that a failed pass leaves none behind.
        """
        try:
            with terms.perturbed(self._blocks, lambda: self._losses(rows, normalisers, terms)):
                losses = self._losses(rows, normalisers, terms)
            if losses is not None:
                loss = losses.sum() if scale == 1.0 else losses.sum() * scale
                loss.backward()  # type: ignore[no-untyped-call]
                total[list(part.clients)] += losses.detach().to(total.dtype)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            # Return only the message: the error's traceback would keep the pass's tensors alive.
            width = max(len(row.ids) for batch in rows for row in batch)
            return _Full(sum(map(len, rows)), width, first_line(error))
        return None

    def _prepare(
        self, part: MicroBatch, rows: list[list[TokenRow]], clients: int, step: int, seeds: Sequence[int]
    ) -> None:
        """Set the clients and the dropout of a pass for all layers."""
        complete = len(part.clients) == clients
        self._current.clients = None if complete else torch.tensor(part.clients, device=self.device)
        if self.settings.dropout:
            self._current.dropout = RowDropout(
                self.settings.dropout,
                [
                    DropoutRow(seeds[client], step, place, len(row.ids))
                    for client, places, batch in zip(part.clients, part.rows, rows, strict=True)
                    for place, row in zip(places, batch, strict=True)
                ],
            )

    def _losses(
        self, batches: Sequence[Sequence[TokenRow]], normalisers: Sequence[int | float], terms: Terms
    ) -> Tensor | None:
        """Return each client's weighted sum of token losses, divided by its number in ``normalisers``, ``[clients]``.

        Return ``None`` if no token has loss.
        """
        rows = [row for batch in batches for row in batch]
        width = max(len(row.ids) for row in rows)
        where = [i * width + k - 1 for i, row in enumerate(rows) for k in row.predicted]
        if not where:
            return None
        ids = torch.tensor([[*row.ids, *[self.pad_id] * (width - len(row.ids))] for row in rows], device=self.device)
        targets = torch.tensor([row.ids[k] for row in rows for k in row.predicted], device=self.device)
        counts = [_count(batch) for batch in batches]
        losses = terms.weighted(self._token_losses(ids, torch.tensor(where, device=self.device), targets, counts), rows)
        owner = torch.repeat_interleave(torch.tensor(counts, device=self.device))
        count = torch.tensor(normalisers, device=self.device)
        return losses.new_zeros(len(counts)).index_add(0, owner, losses) / count

    def _token_losses(self, ids: Tensor, where: Tensor, targets: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the loss ``[n]`` of the tokens that follow ``n`` flat positions of ``ids`` ``[rows, width]``.

        Rows are padded on the right, so under causal attention no real token sees a pad and no mask is needed.
        ``counts`` has the number of positions of each client.
        """
        if self._head is None:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
            return losses_of(logits.flatten(0, 1)[where], targets)
        # Keep it set during the backward pass: with gradient checkpointing the layers run forward again.
        self._current.positions = (where, tuple(counts))
        hidden: Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        states = hidden.flatten(0, 1).index_select(0, where)
        if self.lean and type(self._head) is nn.Linear:
            return token_losses_in_place(self._head, states, targets)
        return token_losses(self._head, states, targets)

    def _blocks(self) -> list[nn.Module]:
        """The decoder's layers, whose outputs an objective may perturb.

        Raises:
            FedSafetyError: The architecture does not list them.
        """
        layers = getattr(self._decoder, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise FedSafetyError(
                f"{type(self.model).__name__} has no list of decoder layers, so an objective cannot perturb their "
                f"outputs; take an objective without perturbation"
            )
        return list(layers)

    def _plain_head(self) -> nn.Module | None:
        """Return the output head if it alone maps the decoder's last state to logits, else ``None``.

        Some architectures scale or cap their logits. Without a plain head, the logits of all positions are computed.
        """
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        ids = torch.tensor([[self.pad_id, self.pad_id]], device=self.device)
        with torch.no_grad():
            short = head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state)
            full = self.model(input_ids=ids, use_cache=False).logits
        return head if torch.equal(short, full) else None

    def _wrap_last_block(self) -> None:
        """Let the last layer's feed-forward block compute only where there is loss, if the architecture allows it.

        In the usual decoders nothing after that block mixes positions. A trial with three tokens checks the model.
        """
        layers = getattr(self._decoder, "layers", None)
        block = getattr(layers[-1], "mlp", None) if layers else None
        if self._head is None or layers is None or not isinstance(block, nn.Module):
            return
        ids = torch.tensor([[self.pad_id, self.pad_id, self.pad_id]], device=self.device)
        where = torch.tensor([1], device=self.device)
        # Rounding differs with the number of positions. A block that mixes positions would differ by far more.
        relative, absolute = (1e-4, 1e-5) if self.model.dtype.itemsize >= 4 else (5e-2, 5e-2)
        with torch.no_grad():
            expected = self._head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[where])
            layers[-1].mlp = AtPositions(block, self._current)
            self._current.positions = (where, (1,))
            actual = self._head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[where])
            self._current.clear()
        if not torch.allclose(actual, expected, rtol=relative, atol=absolute):
            layers[-1].mlp = block

    def _clip(self, limit: float) -> None:
        """Scale each client's gradient down to L2 norm ``limit``."""
        gradients = [f.grad for layer in self._layers for f in (layer.factor_a, layer.factor_b) if f is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients if g is not None]).sum(0)
        scale = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            if g is not None:
                g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))


def _check_shape(batches: Sequence[Sequence[Sequence[TokenRow]]]) -> None:
    shapes = {tuple(len(batch) for batch in client) for client in batches}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise FedSafetyError(
            f"clients that train together need equally many rows in every step, but have {sorted(shapes)}; give each "
            f"client the same numbers"
        )


def _count(batch: Sequence[TokenRow]) -> int:
    return sum(len(row.predicted) for row in batch)
