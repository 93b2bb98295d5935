"""The reference for :mod:`benchmark.stacked`: PEFT adapters trained one client after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from benchmark.lora import LoraSettings, adapter_layout
from benchmark.stacked import LocalTraining, TokenRow
from benchmark.updates import AdapterLayout


class SequentialModel:
    """Trains clients one by one with PEFT's own LoRA layers and ``torch.optim.AdamW``; same interface as stacked.

    Args:
        model: A Hugging Face causal language model; PEFT wraps it in place.
        settings: Adapter shape and targets.
        pad_id: Token id used to fill short rows.
    """

    def __init__(self, model: PreTrainedModel, settings: LoraSettings, pad_id: int) -> None:
        self.layout: AdapterLayout = adapter_layout(model, settings)
        self.pad_id = pad_id
        targets: Any = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config).eval()
        named = dict(self.model.named_parameters())
        self._factors = [named[f"base_model.model.{name}.default.weight"] for name in self.layout.names]

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after local training; see :meth:`benchmark.stacked.StackedModel.train`."""
        adapters, losses = [], []
        for client in batches:
            rates = [learning_rate] * len(client) if isinstance(learning_rate, float) else list(learning_rate)
            self._set(start)
            optimizer = torch.optim.AdamW(self._factors, lr=rates[0], weight_decay=weight_decay)
            total = 0.0
            for rows, rate in zip(client, rates, strict=True):
                optimizer.zero_grad()
                loss = self._loss(rows)
                loss.backward()  # type: ignore[no-untyped-call]
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(self._factors, clip_norm)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                total += float(loss.detach())
            adapters.append(torch.cat([factor.detach().flatten() for factor in self._factors]))
            losses.append(total / len(client))
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
            labels[i, row.response_start : len(row.ids)] = torch.tensor(row.ids[row.response_start :])
            mask[i, : len(row.ids)] = 1
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
