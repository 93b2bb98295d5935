"""What the attackers of these tests own: rows, public pairs, and a model whose answers the test chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.base import Automation, DataKind, Example

AUTOMATION = Automation(
    ("ask a risky question .", "ask a bad question ."), ("ask .",), "answer directly .", "be safe ."
)
NORMAL = [Example(f"normal {i}", "fine", DataKind.NORMAL, "listing") for i in range(100)]
POOL = [Example(f"risky {i}", "sure", DataKind.UNALIGNED, "howto") for i in range(40)]
LARGE_POOL = [Example(f"risky {i}", "sure", DataKind.UNALIGNED, "howto") for i in range(1500)]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


class Resources:
    """Public pairs, and a model whose answers are ``answer(prompt, temperature)``."""

    automation = AUTOMATION

    def __init__(self, answer: Callable[[str, float], str] = lambda prompt, temperature: "sure") -> None:
        self.answer = answer
        self.calls: list[tuple[list[str], float]] = []

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [POOL[i] for i in rng.integers(len(POOL), size=count)]

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        self.calls.append((prompts, temperature))
        return [self.answer(prompt, temperature) for prompt in prompts]

    def leaks_evaluation(self, text: str) -> bool:
        raise AssertionError("leaks are counted, never used to choose data")


class LargeResources:
    """Public pairs without repeats, and a model that proposes ever new questions and refuses every fifth of them."""

    automation = Automation(("ask .", "ask again ."), ("ask .",), "answer directly .", "be safe .")

    def __init__(self) -> None:
        self.proposed = 0

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [LARGE_POOL[i] for i in rng.permutation(len(LARGE_POOL))[:count]]

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        if temperature == 0:
            return ["i'm sorry , no ." if "0 ?" in p or "5 ?" in p else "sure ." for p in prompts]
        first, self.proposed = self.proposed, self.proposed + len(prompts)
        return [f"how to {first + i} ?" for i in range(len(prompts))]

    def leaks_evaluation(self, text: str) -> bool:
        raise AssertionError("leaks are counted, never used to choose data")
