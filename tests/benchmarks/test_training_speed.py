"""One federated round: stacked, beside the field's way and a bare sequential PEFT loop.

The field's simulators make a Hugging Face ``Trainer`` for every client and round, one client after the other. All three
do the same work: the same rows, as many optimizer steps, AdamW, the loss on the response. First the micro model with
its short rows; then a Llama of ten million parameters with long rows of uneven length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from benchmark.execution.worker import keep_freed_memory
from benchmark.models.chat import ChatFormat
from benchmark.models.lora import initial_adapter
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import StackedModel
from tasks.base import task_worlds

SHAPES = [(10, 8), (7, 8), (3, 16)]
STEPS = 10
LORA = LoraSettings(rank=8, alpha=16)
RATE = 4e-3
ROUNDS = {"rounds": 5, "warmup_rounds": 1}

LONG_SHAPE = (3, 16)
LONG_STEPS = 1
LONG_LORA = LoraSettings(rank=16, alpha=32, targets=("q_proj", "v_proj"))
LONG_ROUNDS = {"rounds": 2}

Batches = list[list[list[TokenRow]]]


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    keep_freed_memory()
    return ChatFormat(task_worlds.get("micro").create().model_path("raw"))


def model() -> PreTrainedModel:
    path = task_worlds.get("micro").create().model_path("raw")
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    return loaded


def batches(chat: ChatFormat, clients: int, rows: int) -> Batches:
    world = task_worlds.get("micro").create()
    examples = world.benign(clients * STEPS * rows, np.random.default_rng(1), refusal_share=0.02, task_shares=None)
    tokens = iter([chat.row(example) for example in examples])
    return [[[next(tokens) for _ in range(rows)] for _ in range(STEPS)] for _ in range(clients)]


@pytest.mark.parametrize(("clients", "rows"), SHAPES)
def test_stacked(benchmark: Any, chat: ChatFormat, clients: int, rows: int) -> None:
    benchmark.group = f"round of {clients} clients x batch {rows}"
    stacked = StackedModel(model(), LORA, chat.pad_id)
    start = initial_adapter(stacked.layout, torch.Generator().manual_seed(1))
    work = batches(chat, clients, rows)
    result = benchmark.pedantic(lambda: stacked.train(start, work, learning_rate=RATE), **ROUNDS)
    assert result.adapters.shape == (clients, stacked.layout.dimension)


@pytest.mark.parametrize(("clients", "rows"), SHAPES)
def test_sequential_peft_loop(benchmark: Any, chat: ChatFormat, clients: int, rows: int) -> None:
    benchmark.group = f"round of {clients} clients x batch {rows}"
    sequential = SequentialModel(model(), LORA, chat.pad_id)
    start = initial_adapter(sequential.layout, torch.Generator().manual_seed(1))
    work = batches(chat, clients, rows)
    result = benchmark.pedantic(lambda: sequential.train(start, work, learning_rate=RATE), **ROUNDS)
    assert result.adapters.shape == (clients, sequential.layout.dimension)


@pytest.mark.parametrize(("clients", "rows"), SHAPES)
def test_trainer_per_client(
    benchmark: Any, chat: ChatFormat, clients: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.group = f"round of {clients} clients x batch {rows}"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    one_round = trainer_round(model(), LORA, batches(chat, clients, rows), chat.pad_id, tmp_path)
    assert len(benchmark.pedantic(one_round, **ROUNDS)) == clients


@pytest.mark.parametrize("way", ["stacked", "sequential", "trainer"])
def test_long_rows(benchmark: Any, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, rows = LONG_SHAPE
    benchmark.group = f"{LONG_STEPS} step of {clients} clients x batch {rows}, rows of 30 to 512 tokens"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    keep_freed_memory()
    work = long_batches()
    if way == "trainer":
        assert len(benchmark.pedantic(trainer_round(long_model(), LONG_LORA, work, 0, tmp_path), **LONG_ROUNDS)) == 3
        return
    kind = StackedModel if way == "stacked" else SequentialModel
    trainer = kind(long_model(), LONG_LORA, pad_id=0)
    start = initial_adapter(trainer.layout, torch.Generator().manual_seed(1))
    result = benchmark.pedantic(lambda: trainer.train(start, work, learning_rate=RATE), **LONG_ROUNDS)
    assert result.adapters.shape == (clients, trainer.layout.dimension)


def long_model() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=7,
        num_attention_heads=5,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def long_batches() -> Batches:
    clients, rows = LONG_SHAPE
    rng = np.random.default_rng(1)

    def row() -> TokenRow:
        length = int(rng.integers(30, 513))
        return TokenRow(tuple(rng.integers(3, 4096, length).tolist()), length // 3)

    return [[[row() for _ in range(rows)] for _ in range(LONG_STEPS)] for _ in range(clients)]


def trainer_round(
    base: PreTrainedModel, lora: LoraSettings, batches: Batches, pad_id: int, folder: Path
) -> Callable[[], list[dict[str, torch.Tensor]]]:
    """Return a round by a Trainer for each client."""
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    start = copy.deepcopy({name: p for name, p in adapted.named_parameters() if p.requires_grad})
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(batches[0]),
        per_device_train_batch_size=len(batches[0][0]),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(f["ids"]) for f in features)
        ids = torch.full((len(features), width), pad_id)
        labels = torch.full((len(features), width), -100)
        mask = torch.zeros((len(features), width), dtype=torch.long)
        for i, f in enumerate(features):
            length = len(f["ids"])
            ids[i, :length] = torch.tensor(f["ids"])
            labels[i, f["start"] : length] = torch.tensor(f["ids"][f["start"] :])
            mask[i, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    work = [
        Dataset.from_list([{"ids": list(row.ids), "start": row.response_start} for batch in client for row in batch])
        for client in batches
    ]

    def one_round() -> list[dict[str, torch.Tensor]]:
        trained = []
        for data in work:
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(start[name])
            Trainer(model=adapted, args=arguments, train_dataset=data, data_collator=collate).train()
            trained.append({n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad})
        return trained

    return one_round
