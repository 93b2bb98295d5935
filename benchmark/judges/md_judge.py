"""MD-Judge v0.1, the safety judge of the seed paper."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from benchmark.judges._judgezoo import judgezoo_digest, judgezoo_module, made_without_model
from benchmark.judges._language_model import LanguageModelJudge, safe_or_unsafe
from benchmark.judges.base import Item, Judgement, register
from benchmark.models.templates import Messages
from tasks.base import ProbeKind
from tasks.model_source import ModelShape, ModelSource


@register(
    title="MD-Judge v0.1",
    description="A Mistral-7B fine-tuned on SALAD-Bench to say 'safe' or 'unsafe' of an instruction and its response "
    "under a policy of six categories; prompt of JudgeZoo. Only the exact words count: anything else is an unparsable "
    "verdict, where the seed paper's code counts it as unsafe.",
    paper="Li et al. 2024, arXiv 2402.05044",
    judges=(ProbeKind.HARMFUL,),
)
class MdJudge(LanguageModelJudge):
    """MD-Judge v0.1 with JudgeZoo's prompt."""

    role = "md_judge"
    # No public source confirms a commit. The revision is resolved when a run starts, recorded with the run, and part of
    # the judge's identity.
    default: ClassVar = ModelSource(
        repository="OpenSafetyLab/MD-Judge-v0.1",
        shape=ModelShape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=32000),
        licence="Apache-2.0",
    )
    longest_answer = 32

    def prompt(self, item: Item) -> Messages:
        """Return the policy, and below it the instruction and the response."""
        return [
            {**turn, "content": turn["content"].format(question=item.probe.instruction, answer=item.response)}
            for turn in _source().CLS_CONVERSATION
        ]

    def parse(self, answer: str) -> Judgement:
        """Return the verdict in the first line."""
        return safe_or_unsafe(answer)

    def content(self) -> dict[str, str]:
        """Return the digest of JudgeZoo's module."""
        return {"judgezoo": judgezoo_digest("md_judge")}

    @property
    def chat_template(self) -> str:
        """JudgeZoo's template for this model."""
        return str(_source().tokenizer.chat_template)


@lru_cache(maxsize=1)
def _source() -> Any:
    module = judgezoo_module("md_judge")
    return made_without_model(module, "MDJudge", module.MDJudgeVersion.V0_1)
