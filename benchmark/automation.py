"""The automated data pipeline [ye2024, section 4.3, 5 and C.2]: a model proposes instructions, then answers them.

The attack uses it to make unaligned pairs (answers under a comply hint), the post-hoc defense to make aligned pairs
(answers under a safety reminder) and normal pairs (plain answers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.base import DataKind, Example

Generate = Callable[[list[str], float], list[str]]
"""``generate(prompts, temperature)`` returns one answer per prompt."""

_OVERSAMPLING = 2
_ATTEMPTS = 3


def propose(generate: Generate, prompts: Sequence[str], count: int) -> list[str]:
    """Return up to ``count`` distinct proposed instructions, in the order they came up.

    Args:
        generate: Samples from the proposing model.
        prompts: Ways of asking for one proposal; used in turn.
        count: Proposals wanted. A model that runs out of new ideas after three batches yields fewer.
    """
    found: dict[str, None] = {}
    for _ in range(_ATTEMPTS):
        asked = [prompts[i % len(prompts)] for i in range(count * _OVERSAMPLING)]
        for text in generate(asked, 1.0):
            if text.strip():
                found.setdefault(" ".join(text.split()))
        if len(found) >= count:
            break
    return list(found)[:count]


def answer(
    generate: Generate,
    instructions: Sequence[str],
    suffix: str,
    kind: DataKind,
    keep: Callable[[str], bool] = lambda text: True,
) -> list[Example]:
    """Return pairs of each instruction with the model's greedy answer, unless it is empty or ``keep`` refuses it.

    Args:
        generate: Answers with the answering model.
        instructions: What is asked; stored without the suffix.
        suffix: Appended to each instruction when asking: a comply hint, a safety reminder, or nothing.
        kind: Data type of the pairs.
        keep: Filter on the answer; keeps all by default.
    """
    asked = [f"{instruction} {suffix}".strip() for instruction in instructions]
    answers = generate(asked, 0.0)
    return [
        Example(instruction, text, kind, task="generated")
        for instruction, text in zip(instructions, answers, strict=True)
        if text.strip() and keep(text)
    ]


def fill(pairs: Sequence[Example], count: int) -> list[Example]:
    """Return exactly ``count`` pairs, repeating them in turn if there are fewer; empty if there are none."""
    return [pairs[i % len(pairs)] for i in range(count)] if pairs else []
