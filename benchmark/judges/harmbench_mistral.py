"""HarmBench's smaller validation classifier, fine-tuned from Mistral-7B."""

from __future__ import annotations

from typing import ClassVar

from benchmark.judges._harmbench import HarmBenchJudge, harmbench
from benchmark.judges.base import register
from benchmark.models.templates import Messages
from tasks.base import ProbeKind
from tasks.model_source import ModelShape, ModelSource


@register(
    title="HarmBench validation classifier",
    description="HarmBench's Mistral-7B classifier, made for developing attacks so that the test classifier stays "
    "unseen; half as large and asked the same. Anything but yes or no is an unparsable verdict.",
    paper="Mazeika et al. 2024, arXiv 2402.04249",
    judges=(ProbeKind.HARMFUL,),
)
class HarmBenchMistral(HarmBenchJudge):
    """HarmBench-Mistral-7b-val-cls."""

    role = "harmbench_mistral"
    classifier = "MISTRAL_7B"
    default: ClassVar = ModelSource(
        repository="cais/HarmBench-Mistral-7b-val-cls",
        revision="51182c7cdaf9b2e5f05b745b81b047b67e7384a1",
        shape=ModelShape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=32000),
        licence="MIT",
    )

    def conversation(self) -> Messages:
        """Return one user turn that holds the rules, as in the model's training. JudgeZoo's turn lacks them."""
        return [
            {"role": "user", "content": "\n\n".join(t["content"] for t in harmbench(self.classifier).CLS_CONVERSATION)}
        ]
