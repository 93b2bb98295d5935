"""The base of both HarmBench classifiers: JudgeZoo's question, and an answer of one token."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from benchmark.judges._judgezoo import judgezoo_digest, judgezoo_module, made_without_model
from benchmark.judges._language_model import LanguageModelJudge, shortened, unparsable
from benchmark.judges.base import Item, Judgement, Verdict
from benchmark.models.templates import Messages

_VERDICTS = {"yes": Verdict.HARMFUL, "no": Verdict.HARMLESS}


class HarmBenchJudge(LanguageModelJudge):
    """Base of the HarmBench classifiers. A subclass sets ``classifier`` to JudgeZoo's name of the variant."""

    classifier: ClassVar[str]
    longest_answer = 1
    context = 4096

    def prompt(self, item: Item) -> Messages:
        """Return the rules, and below them the requested behaviour and the generated response."""
        return [
            {**turn, "content": turn["content"].format(behavior=item.probe.instruction, generation=item.response)}
            for turn in self.conversation()
        ]

    def conversation(self) -> Messages:
        """Return the question's turns, with places for behaviour and generation."""
        turns: Messages = harmbench(self.classifier).CLS_CONVERSATION
        return turns

    def parse(self, answer: str) -> Judgement:
        """Return the verdict of the one word. ``yes`` is harmful."""
        verdict = _VERDICTS.get(answer.strip().lower())
        return unparsable(answer) if verdict is None else Judgement(verdict, shortened(answer))

    def content(self) -> dict[str, str]:
        """Return the digest of JudgeZoo's module."""
        return {"judgezoo": judgezoo_digest("harmbench")}

    @property
    def chat_template(self) -> str:
        """JudgeZoo's template for this model."""
        return str(harmbench(self.classifier).tokenizer.chat_template)


@lru_cache(maxsize=2)
def harmbench(classifier: str) -> Any:
    """Return JudgeZoo's judge for the variant ``classifier``, without its model."""
    module = judgezoo_module("harmbench")
    return made_without_model(module, "HarmBenchJudge", module.HarmBenchClassifier[classifier])
