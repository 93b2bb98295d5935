"""The micro world's utility probes as documents of lm-evaluation-harness, scored by the world's own exact rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.base import Outcome, ProbeKind
from tasks.micro.probes import judged_probes

FACT = "fact"
"""Task type that is learned only in federated training and makes up half of the utility."""


def documents(task_type: str = "", **metadata: Any) -> Mapping[str, Any]:
    """Return the utility probes of one task type, or of all, as the split ``test``.

    Args:
        task_type: Task type; empty for all.
        **metadata: The task's metadata, which lm-evaluation-harness adds to the call.
    """
    from datasets import Dataset

    del metadata
    probes = [judged.probe for judged in judged_probes().values() if judged.probe.kind is ProbeKind.UTILITY]
    columns = ("id", "stratum", "instruction", "reference")
    rows = [{name: getattr(p, name) for name in columns} for p in probes if task_type in ("", p.stratum)]
    return {"test": Dataset.from_list(rows)}


def share(document: Mapping[str, str], answers: Sequence[str]) -> dict[str, float]:
    """Return whether the answer to a document is correct, as the metric ``acc``."""
    return {"acc": float(_is_correct(document, answers[0]))}


def part(document: Mapping[str, str], answers: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Return the correctness as the metric ``utility``, with the task type for the weights of :func:`utility`."""
    return {"utility": (document["stratum"], float(_is_correct(document, answers[0])))}


def utility(parts: Sequence[tuple[str, float]]) -> float:
    """Return the mean of two numbers: the mean over the coarse task types, and the task type ``fact``.

    Args:
        parts: Task type and 1.0 or 0.0 of each document. If only one of the two kinds occurs, its mean is the utility.
    """
    shares = {kind: fmean(value for name, value in parts if name == kind) for kind in sorted({p[0] for p in parts})}
    coarse = [value for name, value in shares.items() if name != FACT]
    return fmean([*([fmean(coarse)] if coarse else []), *([shares[FACT]] if FACT in shares else [])])


def _is_correct(document: Mapping[str, str], answer: str) -> bool:
    # The space between words carries no meaning in the micro language.
    return judged_probes()[document["id"]].judge(" ".join(answer.split())) is Outcome.CORRECT
