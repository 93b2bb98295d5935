"""An attack that returns what no attack may, fails, or does not come back; the parameter says what."""

import os
from dataclasses import replace

import numpy as np

from attacks.base import Attack, AttackerResources, AttackerView, register
from benchmark.updates import Updates
from tasks.base import DataKind, Example

ROW = Example("Say hello.", "Hello.", DataKind.UNALIGNED, "greeting")


@register(
    title="Misbehaves",
    description="Breaks the contract of an attack in the way that its parameter names.",
    knowledge="nothing",
)
class AttackMisbehaves(Attack):
    """One misbehaviour an instance.

    Args:
        what: Name of the misbehaviour.
    """

    def __init__(self, what: str = "pool fails") -> None:
        self.what = what

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Misbehave, or return one row."""
        ways = {
            "pool fails": lambda: 1 // 0,
            "pool loops": lambda: [None for _ in iter(int, 1)],
            "pool exits": lambda: os._exit(0),
            "pool of text": lambda: ["text"],
            "pool of nothing": lambda: None,
            "pool asks for a billion": lambda: resources.unaligned(10**9, rng),
            "pool asks for less than nothing": lambda: resources.unaligned(-1, rng),
            "pool asks for the world": lambda: resources._world.probes(),
            "pool asks hotly": lambda: resources.generate(["Hello."], rng, temperature=float("nan")),
        }
        return ways.get(self.what, lambda: [ROW])()

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Misbehave, or return the rows."""
        ways = {
            "poison fails": lambda: 1 // 0,
            "more rows": lambda: [*normal, *pool],
            "no rows": list,
            "rows of text": lambda: ["text"] * len(normal),
            "rows of numbers": lambda: [Example(1, 2, DataKind.NORMAL, "x")] * len(normal),
        }
        return ways.get(self.what, lambda: normal)()

    def craft(self, own: Updates, view: AttackerView) -> Updates:
        """Misbehave, or return the updates."""
        ways = {
            "craft fails": lambda: 1 // 0,
            "craft exits": lambda: os.abort(),
            "craft of nothing": lambda: None,
            "craft of a matrix": lambda: own.matrix,
            "craft of fewer clients": lambda: replace(own, matrix=own.matrix[:-1]),
            "craft of others": lambda: replace(own, client_ids=tuple(f"x{i}" for i in range(len(own)))),
            "craft of integers": lambda: replace(own, matrix=own.matrix.long()),
        }
        return ways.get(self.what, lambda: own)()
