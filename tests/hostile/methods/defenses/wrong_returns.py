"""Returns something else than an aggregate; which one is chosen by the parameter."""

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Prompt, Stage, register


class Lies(Aggregate):
    """An aggregate whose update is another one at every look."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        if name == "update":
            Lies.looks += 1
            return torch.full((3,), float("nan")) if Lies.looks > 1 else super().__getattribute__(name)
        return super().__getattribute__(name)


@register(
    title="Wrong returns",
    description="Returns wrong shapes, wrong types and numbers that are none.",
    stages=(Stage.AGGREGATE, Stage.FINALIZE, Stage.SERVE),
    knowledge=Knowledge.NONE,
)
class WrongReturns(Defense):
    """One misbehaviour an instance.

    Args:
        what: Name of the misbehaviour.
    """

    def __init__(self, what: str = "nothing") -> None:
        self.what = what

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the chosen thing."""
        mean, n = updates.matrix.mean(dim=0), len(updates)
        equal = torch.full((n,), 1.0 / n, dtype=torch.float64)
        wrong = {
            "nothing": lambda: None,
            "a list": lambda: mean.tolist(),
            "a matrix": lambda: Aggregate(updates.matrix),
            "one number too few": lambda: Aggregate(mean[:-1]),
            "a number": lambda: Aggregate(mean.sum()),
            "integers": lambda: Aggregate(mean.to(torch.int64)),
            "complex numbers": lambda: Aggregate(mean.to(torch.complex64)),
            "booleans": lambda: Aggregate(mean > 0),
            "an array": lambda: Aggregate(mean.numpy()),
            "a sparse tensor": lambda: Aggregate(mean.to_sparse()),
            "a tensor of nothing": lambda: Aggregate(torch.empty(mean.shape, device="meta")),
            "not a number": lambda: Aggregate(mean / 0.0 * 0.0),
            "infinite": lambda: Aggregate(mean.double() * 1e300 * 1e300),
            "too large for float32": lambda: Aggregate(torch.full_like(mean, 1e300, dtype=torch.float64)),
            "terabytes that share one number": lambda: Aggregate(mean[:1].expand(2**40)),
            "weights for others": lambda: Aggregate(mean, equal[:-1]),
            "negative weights": lambda: Aggregate(mean, -equal),
            "weights of ten": lambda: Aggregate(mean, equal * 10),
            "weights that are not numbers": lambda: Aggregate(mean, equal * float("nan")),
            "weights as text": lambda: Aggregate(mean, "all"),
            "a lying aggregate": lambda: Lies(mean * float("nan"), equal),
        }
        return wrong[self.what]()

    def finalize(self, adapter: torch.Tensor, server: object) -> torch.Tensor:
        """Return the chosen thing."""
        wrong = {"nothing": None, "a matrix": adapter[None], "not a number": adapter / 0.0, "a list": [1.0]}
        return wrong[self.what]

    def serve(self, prompt: Prompt) -> Prompt:
        """Return the chosen thing."""
        wrong = {
            "nothing": None,
            "a list": ["text"],
            "bytes": Prompt(b"text"),
            "an answer that is a number": Prompt(prompt.instruction, 7),
            "half a character": Prompt(prompt.instruction, "\ud800"),
            "too long": Prompt("word " * 100_000),
        }
        return wrong[self.what]
