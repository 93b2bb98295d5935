"""MT-Bench's first turn, graded from 1 to 10 by a local model."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import ClassVar

from benchmark.judges._fastchat import mt_bench
from benchmark.judges._language_model import LanguageModelJudge, unparsable
from benchmark.judges.base import Item, Judgement, Verdict, identity_of, register
from benchmark.keys import content_key
from benchmark.models.templates import Messages
from tasks.base import ProbeKind
from tasks.hub.text import normalised
from tasks.model_source import ModelShape, ModelSource

SCALE = (1.0, 10.0)
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
"""A rating in the form that the prompt requests."""
_SINGLE = re.compile(r"(?<![\w)\]])\[(\d+\.?\d*)\]")
"""A rating in single brackets. FastChat accepts it anywhere; here it ends the answer, because code has brackets."""
_LABEL = re.compile(r"\brating[\s*]*:[\s*]*$", re.IGNORECASE)
"""The word before a rating in the form that the prompt requests."""


@register(
    title="MT-Bench, first turn (local model)",
    description="A local instruction-tuned model grades an answer from 1 to 10, with FastChat's prompts for single "
    "answers, and with GPT-4's reference answer where MT-Bench has one. An answer without a rating, or with one "
    "outside the scale, is an unparsable verdict. Published figures used GPT-4 as the judge, so these are others.",
    paper="Zheng et al. 2023, arXiv 2306.05685",
    judges=(ProbeKind.UTILITY,),
    scale=(1.0, 10.0),
)
class MtBenchFirstTurn(LanguageModelJudge):
    """MT-Bench's single-answer grading on a local model.

    Probes outside MT-Bench's questions are graded by the same prompts, with the probe's own reference if it has one.
    """

    role = "mt_bench"
    default: ClassVar = ModelSource(
        repository="Qwen/Qwen2.5-14B-Instruct",
        revision="cf98f3b3bbb457ad9e2bb7baf9a0125b6b88caa8",
        shape=ModelShape(layers=48, hidden=5120, intermediate=13824, heads=40, kv_heads=8, vocabulary=152064),
        licence="Apache-2.0",
    )
    longest_answer = 2048
    cuts = False

    def prompt(self, item: Item) -> Messages:
        """Return FastChat's system turn and question."""
        source = mt_bench()
        reference = source.references.get(normalised(item.probe.instruction), item.probe.reference)
        grading = source.with_reference if reference else source.general
        question = grading.question.format(
            question=item.probe.instruction, answer=item.response, ref_answer_1=reference
        )
        return [{"role": "system", "content": grading.system}, {"role": "user", "content": question}]

    def parse(self, answer: str) -> Judgement:
        """Return the rating in double brackets, else the rating in single brackets of a last line that ends in it.

        FastChat takes the first of several ratings. Here, of different ratings, the rating that directly follows
        ``Rating:`` counts. An answer in which no rating or a second one follows it is unparsable.
        """
        last = next(reversed(answer.strip().splitlines()), "")
        text = answer if _RATING.search(answer) else last
        found = list(_RATING.finditer(text)) or list(_SINGLE.finditer(text))
        ends = bool(found) and (text is answer or not re.search(r"\w", text[found[-1].end() :]))
        ratings = {float(match[1]) for match in found}
        if len(ratings) > 1:
            ratings = {float(match[1]) for match in found if _LABEL.search(text[: match.start()])}
        if not ends or len(ratings) != 1 or not SCALE[0] <= min(ratings) <= SCALE[1]:
            return unparsable(answer)
        return Judgement(Verdict.RATED, f"{ratings.pop():g}")

    def content(self) -> dict[str, str]:
        """Return the digests of all prompts and references, and of the code that reads them.

        Raises:
            InputsMissingError: Prompts, references or probes are not on this machine.
        """
        source = mt_bench()
        # The references of probes are in no other key.
        references = {
            probe.instruction: probe.reference
            for probe in (self.world.probes() if self.world is not None else ())
            if probe.kind is ProbeKind.UTILITY
            and probe.reference
            and normalised(probe.instruction) not in source.references
        }
        return {
            "texts": content_key(asdict(source)),
            "references": content_key(references),
            "shared": identity_of("benchmark.judges._fastchat", "tasks.hub.text"),
        }
