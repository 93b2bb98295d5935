"""The three ways of training that :mod:`benchmark.speed.gpu_benchmark` times, and the random model that they train."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainingArguments
from transformers import Trainer as TransformersTrainer

from benchmark.errors import UsageError
from benchmark.models.loading import _steady_products
from benchmark.models.lora import adapter_layout
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.stacked import StackedModel
from benchmark.updates import AdapterLayout
from tasks.model_source import ModelShape

Batches = Sequence[Sequence[Sequence[TokenRow]]]
"""``batches[client][step]`` is the list of rows of that step."""

_RATE = 5e-5


def random_llama(shape: ModelShape, device: str, dtype: str, *, checkpointing: bool) -> PreTrainedModel:
    """Return a frozen Llama of random weights, made on ``device`` without a checkpoint, with fused attention."""
    settings: dict[str, Any] = {"attn_implementation": "sdpa", "use_cache": False}
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied_embeddings,
        **settings,
    )
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        finally:
            torch.set_default_dtype(before)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.disable_input_require_grads()
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    return frozen


class Trainer(ABC):
    """Trains one round's clients.

    Args:
        model: The frozen base; changed in place.
        lora: Shape of the adapters.
        eight_bit: Whether to quantise the base's linear layers by bitsandbytes first.
        memory_bytes: Budget of a pass, where passes are divided.
    """

    layout: AdapterLayout

    @abstractmethod
    def __init__(
        self, model: PreTrainedModel, lora: LoraSettings, *, eight_bit: bool, memory_bytes: int | None
    ) -> None: ...

    @abstractmethod
    def round(self, start: Tensor, batches: Batches) -> Tensor:
        """Return every client's adapter ``[clients, d]`` after training from ``start`` ``[d]``."""

    def seconds(self, start: Tensor, batches: Batches) -> float:
        """Return how long a round takes."""
        _wait()
        began = time.perf_counter()
        self.round(start, batches)
        _wait()
        return time.perf_counter() - began


class StackedRound(Trainer):
    """All clients in one pass, as runs do it."""

    lean: bool | None = None

    def __init__(
        self, model: PreTrainedModel, lora: LoraSettings, *, eight_bit: bool, memory_bytes: int | None
    ) -> None:
        if eight_bit:
            quantise(model)
            _steady_products(model)
        self._stacked = StackedModel(model, lora, 0, memory_bytes=memory_bytes, lean=self.lean)
        self.layout = self._stacked.layout

    def round(self, start: Tensor, batches: Batches) -> Tensor:
        """Return every client's adapter ``[clients, d]``."""
        return self._stacked.train(start, batches, learning_rate=_RATE, clip_norm=1.0, dropout_seed=1).adapters


class PlainRound(StackedRound):
    """All clients in one pass, without lean passes (:mod:`benchmark.training.lean`)."""

    lean = False


class PeftLoop(Trainer):
    """The peer: PEFT's own layers with its own dropout, one client after the other, nothing of ours in between."""

    def __init__(
        self, model: PreTrainedModel, lora: LoraSettings, *, eight_bit: bool, memory_bytes: int | None
    ) -> None:
        del memory_bytes
        self.layout = adapter_layout(model, lora)
        if eight_bit:
            quantise(model)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            task_type="CAUSAL_LM",
        )
        # Training mode: for dropout, and for recomputation where it is on.
        self._model: Any = get_peft_model(model, config).train()
        named = dict(self._model.named_parameters())
        self._factors = [named[f"base_model.model.{name}.default.weight"] for name in self.layout.names]

    def round(self, start: Tensor, batches: Batches) -> Tensor:
        """Return every client's adapter ``[clients, d]``."""
        trained = []
        for client in batches:
            self._set(start)
            optimizer = torch.optim.AdamW(self._factors, lr=_RATE, weight_decay=0.0, fused=True)
            for rows in client:
                optimizer.zero_grad()
                self._loss(rows).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self._factors, 1.0)
                optimizer.step()
            trained.append(self._flat())
        return torch.stack(trained)

    def _set(self, start: Tensor) -> None:
        with torch.no_grad():
            for factor, view in zip(self._factors, self.layout.views(start).values(), strict=True):
                factor.copy_(view)

    def _flat(self) -> Tensor:
        return torch.cat([factor.detach().flatten() for factor in self._factors]).cpu()

    def _loss(self, rows: Sequence[TokenRow]) -> Tensor:
        device, dtype = self._model.device, self._model.dtype
        ids = torch.tensor([row.ids for row in rows], device=device)
        labels = ids.clone()
        for own, row in zip(labels, rows, strict=True):
            own[: row.response_start] = -100
        with torch.autocast(device.type, dtype=dtype, enabled=dtype.itemsize < 4):
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())


class TrainerLoop(PeftLoop):
    """The field's way: a Hugging Face ``Trainer`` for every client and round, on PEFT's layers."""

    def round(self, start: Tensor, batches: Batches) -> Tensor:
        """Return every client's adapter ``[clients, d]``."""
        trained = []
        for client in batches:
            self._set(start)
            with tempfile.TemporaryDirectory() as folder:
                trainer = TransformersTrainer(
                    model=self._model,
                    args=self._arguments(folder, len(client), len(client[0])),
                    train_dataset=[row for rows in client for row in rows],
                    data_collator=_collate,
                )
                trainer.train()
            trained.append(self._flat())
        return torch.stack(trained)

    def _arguments(self, folder: str, steps: int, rows: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows,
            train_sampling_strategy="sequential",
            learning_rate=_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            bf16=self._model.dtype == torch.bfloat16,
            use_cpu=self._model.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )


def _collate(rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    ids = torch.tensor([row.ids for row in rows])
    labels = ids.clone()
    for own, row in zip(labels, rows, strict=True):
        own[: row.response_start] = -100
    return {"input_ids": ids, "labels": labels}


def quantise(model: PreTrainedModel) -> None:
    """Replace the linear layers, but the head, by bitsandbytes' 8-bit ones with the same weights.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("8 bit needs bitsandbytes, which is not installed; install it, or leave 8bit out of --weights")
    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    layers = [(name, m) for name, m in model.named_modules() if type(m) is nn.Linear and m is not head]
    for name, layer in layers:
        parent, _, own = name.rpartition(".")
        device = layer.weight.device
        made = bitsandbytes.nn.Linear8bitLt(
            layer.in_features, layer.out_features, bias=False, has_fp16_weights=False, device="meta"
        )
        # It is quantised on its way to the device.
        made.weight = bitsandbytes.nn.Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
        setattr(model.get_submodule(parent), own, made.to(device))
    cast(Any, model).is_loaded_in_8bit = True  # where PEFT looks


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
