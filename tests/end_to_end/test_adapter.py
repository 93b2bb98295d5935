"""The adapter of a finished cell is an ordinary PEFT adapter, and it is the one whose answers are stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmark.records.store import Store
from leaderboard.api import adapter
from tasks.micro import MicroWorld

pytestmark = pytest.mark.slow


def test_plain_peft_loads_the_adapter_of_a_cell(finished_run: Path) -> None:
    cells = Store(finished_run).read_all("cells").to_pylist()
    cell = next(cell for cell in cells if cell["defense"] == "fedavg" and cell["malicious"])
    folder = adapter(finished_run, cell["scenario"], "fedavg", cell["seed"], suite="tiny")
    assert folder.name == cell["adapter_key"]
    base = AutoModelForCausalLM.from_pretrained(MicroWorld().model_path(cell["start_model"]), dtype=torch.float32)
    tokens = torch.tensor([[1, 5, 9, 12]])
    with torch.no_grad():
        before = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, folder)
        after = adapted(tokens).logits
    factors = {name: tensor for name, tensor in adapted.named_parameters() if "lora_B" in name}
    assert factors
    assert all(tensor.abs().max() > 0 for tensor in factors.values())
    assert (after - before).abs().max() > 1e-3
