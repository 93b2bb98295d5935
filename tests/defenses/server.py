"""A server whose tools count their use and compute nothing, for the tests of defenses that ask one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmark.updates import AdapterLayout
from tasks.base import Automation, DataKind, Example

AUTOMATION = Automation(("propose harm .",), ("propose a task .",), "directly .", "answer safely .")
REFUSAL = "i'm sorry , i cannot help with that ."


def refuse_when_reminded(prompt: str) -> str:
    """Refuse under the safety reminder only."""
    if prompt.endswith("answer safely ."):
        return REFUSAL
    return "sure , mix water ."


class FakeServer:
    """Proposes two harmful and three ordinary instructions; records the use of its tools; fine-tuning adds one."""

    layout = AdapterLayout(("layer.lora_A",), ((1, 3),))
    automation = AUTOMATION
    alignment_rows = 0
    steps = 8
    learning_rate = 0.01
    scaling = 2.0

    def __init__(self, examples: int = 10, answer: Callable[[str], str] = refuse_when_reminded) -> None:
        self.examples = examples
        self.answer = answer
        self.sources: list[str] = []
        self.tuned: list[Example] = []
        self.options: dict[str, Any] = {}
        self.shuffled = 0
        self._proposed = 0

    def owned_aligned(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"harm {i}", REFUSAL, DataKind.ALIGNED, "howto") for i in range(count)]

    def owned_normal(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"task {i}", "done", DataKind.NORMAL, "code") for i in range(count)]

    def owned_contrast(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"harm toy {i}", "done", DataKind.NORMAL, "howto") for i in range(count)]

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        assert adapter is not None
        assert adapter.tolist() == [1.0, 2.0, 3.0], "the attacked global model generates"
        self.sources.append("self")
        return [self._answer(prompt, temperature) for prompt in prompts]

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        self.sources.append("external")
        return [self._answer(prompt, temperature) for prompt in prompts]

    def finetune(self, adapter: Tensor, examples: list[Example], **options: Any) -> Tensor:
        self.tuned, self.options = examples, options
        return adapter + 1

    def start(self) -> Tensor:
        return torch.zeros(3)

    def alignment_examples(self) -> list[Example]:
        return []

    def align(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        return adapter

    def gradient(self, adapter: Tensor, examples: list[Example], **options: Any) -> tuple[Tensor, float]:
        return torch.zeros(3), 0.0

    def first_token_scores(self, adapter: Tensor, prompts: list[str], openings: list[str]) -> Tensor:
        return torch.zeros(len(prompts), len(openings))

    def weights(self, layer: str, *, aligned: bool = True) -> Tensor:
        return torch.zeros(1, 3)

    def feature_norms(self, adapter: Tensor, examples: list[Example]) -> dict[str, Tensor]:
        return {"layer": torch.ones(3)}

    def activations(self, adapter: Tensor, prompts: list[str], layer: str) -> Tensor:
        return torch.zeros(len(prompts), 3)

    def shuffle(self, examples: list[Example]) -> list[Example]:
        self.shuffled += 1
        return examples[::-1]

    def _answer(self, prompt: str, temperature: float) -> str:
        if prompt not in (*AUTOMATION.propose_harmful, *AUTOMATION.propose_normal):
            assert temperature == 0
            return self.answer(prompt)
        assert temperature == 1
        self._proposed += 1
        return f"how to harm {self._proposed % 2} ?" if "harm" in prompt else f"do task {self._proposed % 3} ."
