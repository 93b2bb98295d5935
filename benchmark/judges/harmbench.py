"""The HarmBench classifier, fine-tuned from Llama-2-13B."""

from __future__ import annotations

from typing import ClassVar

from benchmark.judges._harmbench import HarmBenchJudge
from benchmark.judges.base import register
from tasks.base import ProbeKind
from tasks.model_source import ModelShape, ModelSource


@register(
    title="HarmBench classifier",
    description="A Llama-2-13B fine-tuned to say whether a response shows the behaviour that was asked for, under "
    "HarmBench's rules; prompt of JudgeZoo. Its one token must be yes or no: anything else is an unparsable verdict.",
    paper="Mazeika et al. 2024, arXiv 2402.04249",
    judges=(ProbeKind.HARMFUL,),
)
class HarmBench(HarmBenchJudge):
    """HarmBench-Llama-2-13b-cls, HarmBench's test classifier."""

    role = "harmbench"
    classifier = "LLAMA_2_13B"
    default: ClassVar = ModelSource(
        repository="cais/HarmBench-Llama-2-13b-cls",
        revision="bda705349d1144fa618770bea64d99ce54e3835b",
        shape=ModelShape(layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40, vocabulary=32000),
        licence="MIT",
    )
