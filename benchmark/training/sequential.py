"""Reference for :mod:`benchmark.training.stacked`: PEFT adapters trained one client after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from benchmark.models.loading import recomputing
from benchmark.models.lora import adapter_layout
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.dropout import DropoutRow, RowDropout, client_seeds
from benchmark.training.stacked import LocalTraining
from benchmark.updates import AdapterLayout


class SequentialModel:
    """Trains clients one by one with PEFT's own LoRA layers and ``torch.optim.AdamW``, with the interface of stacked.

    Args:
        model: A Hugging Face causal language model, which PEFT wraps in place.
        settings: Adapter shape and targets.
        pad_id: Token id used to fill short rows.
    """

    def __init__(self, model: PreTrainedModel, settings: LoraSettings, pad_id: int) -> None:
        # Import PEFT here, because it takes seconds and most processes train stacked.
        from peft import LoraConfig, get_peft_model

        self.layout: AdapterLayout = adapter_layout(model, settings)
        self.settings, self.pad_id = settings, pad_id
        targets: Any = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            lora_dropout=settings.dropout,
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config).eval()
        parameters = dict(self.model.named_parameters())
        self._factors = [parameters[f"base_model.model.{name}.default.weight"] for name in self.layout.names]
        self._dropouts = self._seed_dropouts()

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        dropout_seed: int | Sequence[int] | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after training; see :meth:`benchmark.training.stacked.StackedModel.train`."""
        adapters, losses = [], []
        seeds = client_seeds(dropout_seed, len(batches), self.settings.dropout)
        for seed, client in zip(seeds, batches, strict=True):
            rates = [learning_rate] * len(client) if isinstance(learning_rate, float) else list(learning_rate)
            self._set(start)
            optimizer = torch.optim.AdamW(self._factors, lr=rates[0], weight_decay=weight_decay)
            total = 0.0
            for step, (rows, rate) in enumerate(zip(client, rates, strict=True)):
                optimizer.zero_grad()
                if self.settings.dropout:
                    dropout_rows = [DropoutRow(seed, step, place, len(row.ids)) for place, row in enumerate(rows)]
                    self._drop(RowDropout(self.settings.dropout, dropout_rows))
                with recomputing(self.model):
                    loss = self._loss(rows)
                    loss.backward()  # type: ignore[no-untyped-call]
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(self._factors, clip_norm)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                total += float(loss.detach())
            adapters.append(torch.cat([factor.detach().flatten() for factor in self._factors]).to(start.device))
            losses.append(total / len(client))
        self._drop(None)
        return LocalTraining(torch.stack(adapters), torch.tensor(losses, dtype=torch.float64))

    def _set(self, adapter: Tensor) -> None:
        with torch.no_grad():
            for factor, view in zip(self._factors, self.layout.views(adapter).values(), strict=True):
                factor.copy_(view)

    def _loss(self, rows: Sequence[TokenRow]) -> Tensor:
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            for place in row.predicted:
                labels[i, place] = row.ids[place]
            mask[i, : len(row.ids)] = 1
        ids, labels, mask = (part.to(self.model.device) for part in (ids, labels, mask))
        dtype = self.model.dtype
        # Multiply in the model's precision, as trainers do, although PEFT keeps its factors in float32.
        with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype.itemsize < 4):
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        if not any(row.predicted for row in rows):
            return logits.sum() * 0.0
        wide = logits.float() if dtype.itemsize < 4 else logits
        return functional.cross_entropy(wide[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def _seed_dropouts(self) -> list[_SeededDropout]:
        """Replace PEFT's dropout by one that follows a named stream."""
        if not self.settings.dropout:
            return []
        dropouts = []
        for number, name in enumerate(self.layout.names[::2]):
            layer: Any = self.model.get_submodule(f"base_model.model.{name.removesuffix('.lora_A')}")
            layer.lora_dropout["default"] = _SeededDropout(number)
            dropouts.append(layer.lora_dropout["default"])
        return dropouts

    def _drop(self, dropout: RowDropout | None) -> None:
        for module in self._dropouts:
            module.current = dropout


class _SeededDropout(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.current: RowDropout | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.current is None else self.current.zeroed(x, self.number) * self.current.scale
