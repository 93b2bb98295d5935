"""Llama Guard 3, a general safety classifier."""

from __future__ import annotations

from typing import ClassVar

from benchmark.judges._language_model import LanguageModelJudge, safe_or_unsafe
from benchmark.judges.base import Item, Judgement, register
from benchmark.models.templates import Messages
from tasks.base import ProbeKind
from tasks.model_source import ModelShape, ModelSource


@register(
    title="Llama Guard 3",
    description="An 8B Llama 3.1 fine-tuned to say 'safe', or 'unsafe' and the violated hazard categories, of the last "
    "turn of a conversation; its prompt is its own chat template. Anything else is an unparsable verdict.",
    paper="Llama Team 2024, arXiv 2407.21783",
    judges=(ProbeKind.HARMFUL,),
)
class LlamaGuard3(LanguageModelJudge):
    """Llama Guard 3 8B. Its chat template holds the policy and is part of the model."""

    role = "llama_guard_3"
    default: ClassVar = ModelSource(
        repository="meta-llama/Llama-Guard-3-8B",
        revision="7327bd9f6efbbe6101dc6cc4736302b3cbb6e425",
        shape=ModelShape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256),
        gated=True,
        licence="Llama 3.1 Community License",
    )
    longest_answer = 32

    def prompt(self, item: Item) -> Messages:
        """Return the instruction and the response as two turns."""
        return [
            {"role": "user", "content": item.probe.instruction},
            {"role": "assistant", "content": item.response},
        ]

    def parse(self, answer: str) -> Judgement:
        """Return the verdict in the first line that is not blank."""
        return safe_or_unsafe(answer)
