"""Reference row: every request is refused."""

from __future__ import annotations

from defenses.base import Defense, Knowledge, Prompt, Stage, register

REFUSAL = "i'm sorry , i cannot help with that ."
"""In the lower-case tokens of the embedded world; the published refusal keywords match it regardless of case."""


@register(
    title="Refuse everything",
    description=(
        "Trains by plain FedAvg and answers every request with the same refusal, without asking the model. It is "
        "perfectly safe and useless, which shows what a high safety score alone is worth."
    ),
    stages=(Stage.SERVE,),
    knowledge=Knowledge.NONE,
    ranked=False,
)
class RefuseAll(Defense):
    """Serve one fixed refusal; aggregation is the default FedAvg.

    >>> RefuseAll().serve(Prompt("name a fruit .")).answer
    "i'm sorry , i cannot help with that ."
    """

    def serve(self, prompt: Prompt) -> Prompt:
        """Return the request with the refusal as its answer."""
        return Prompt(prompt.instruction, answer=REFUSAL)
