"""Asks the server's tools for absurd amounts and with wrong types."""

import torch
from torch import Tensor

from defenses.base import Defense, Knowledge, Server, Stage, register
from tasks.base import DataKind, Example

PAIR = Example("Say hello.", "Hello.", DataKind.NORMAL, "greeting")

FATAL = {
    "a billion pairs": lambda s, a: s.owned_aligned(10**9),
    "minus five pairs": lambda s, a: s.owned_normal(-5),
    "more than 64 bits": lambda s, a: s.owned_aligned(10**30),
    "numbers as prompts": lambda s, a: s.generate([1, 2], adapter=None, temperature=0.0),
    "too long a prompt": lambda s, a: s.generate(["word " * 10_000], adapter=None, temperature=0.0),
    "example of another kind": lambda s, a: s.finetune(a, [Example("x", "y", "secret", "x")]),
    "half a character": lambda s, a: s.generate(["\ud800"], adapter=None, temperature=0.0),
    "a count as text, past the library": lambda s, a: s._ask("owned_aligned", {"count": "7"}, {}),
    "a tool that there is not": lambda s, a: s._ask("__class__", {}, {}),
    "another argument": lambda s, a: s._ask("owned_aligned", {"count": 1, "seed": 2}, {}),
    "tensors that lie nowhere": lambda s, a: forge(s, [2**40, 2**40 + 4]),
    "tensors without memory": lambda s, a: forge(s, [0, 64]),
}
"""Whoever asks these has its process ended."""

HARMLESS = {
    "not a number": lambda s, a: s.owned_aligned(float("nan")),
    "a prompt that no model takes": lambda s, a: s.generate(["word " * 500], adapter=None, temperature=0.0),
    "cold": lambda s, a: s.generate(["Hello."], adapter=None, temperature=-1.0),
    "no temperature": lambda s, a: s.generate(["Hello."], adapter=None, temperature=float("nan")),
    "endless temperature": lambda s, a: s.generate_external(["Hello."], temperature=float("inf")),
    "temperature as a word": lambda s, a: s.generate(["Hello."], adapter=None, temperature="warm"),
    "short adapter": lambda s, a: s.generate(["Hello."], adapter=a[:-1], temperature=0.0),
    "adapter of integers": lambda s, a: s.finetune(a.to(torch.int64), [PAIR]),
    "adapter as a path": lambda s, a: s.generate(["Hello."], adapter="/etc/passwd", temperature=0.0),
    "no examples": lambda s, a: s.finetune(a, []),
    "examples of text": lambda s, a: s.finetune(a, ["text"]),
    "an example that no model takes": lambda s, a: s.finetune(a, [Example("word " * 500, "y", DataKind.NORMAL, "x")]),
    "shuffle of numbers": lambda s, a: s.shuffle([1, 2, 3]),
    "the world": lambda s, a: s._world.probes(),
    "the meter": lambda s, a: s.usage.plus(s.usage),
    "the oracle": lambda s, a: s.leaks_evaluation("word"),
    "another model": lambda s, a: s._external(),
}
"""Whoever asks these gets an error and may go on."""


def forge(server: Server, offsets: list[int]) -> None:
    """Send a description of tensors that are not there, past the library."""
    header = {"adapter": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}
    channel = server._ask.__self__
    message = {"ask": "generate", "args": {"prompts": ["x"], "temperature": 0.0}, "serial": channel._serial}
    channel._pipe.send({**message, "tensors": header})
    raise RuntimeError(channel._pipe.receive())


@register(
    title="Asks for the absurd",
    description="Asks the server for more than there is and for what nobody offers.",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
)
class AsksAbsurd(Defense):
    """Says what it was answered.

    Args:
        question: Name of a question that ends the process; anything else for all of those that only cost an error.
    """

    def __init__(self, question: str = "a billion pairs") -> None:
        self.question = question

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Ask."""
        if self.question in FATAL:
            raise RuntimeError(f"was answered with {FATAL[self.question](server, adapter)!r:.100}")
        answered = []
        for name, question in HARMLESS.items():
            try:
                question(server, adapter)
            except Exception:
                continue
            answered.append(name)
        raise RuntimeError(f"{len(HARMLESS)} questions, answered: {answered}")
