"""One-shot patch without the selection of its refusal (after Zhang et al. 2026): ten steps on a single refusal."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from defenses.base import Defense, Knowledge, Server, Stage, register

EPOCHS: Final = 10
"""Passes over the refusal; a pass is a step."""
RATE: Final = 1.0
"""Factor on the suite's post-hoc learning rates."""


@register(
    title="One-shot patch, unselected refusal",
    description="After the last round the server trains the global model on one harmful instruction with its refusal, "
    "for ten steps. The refusal is the first that the server owns. In the source an optimisation selects the refusal, "
    "which decides how much the patch helps. Here the refusal is not selected.",
    paper="Zhang et al. 2026, arXiv 2601.01887",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="one aligned pair; ten steps of server-side fine-tuning",
)
class OneShotPatch(Defense):
    """Train on one refusal for 10 epochs, with the suite's post-hoc optimiser and rates.

    A batch repeats the refusal, so that its mean loss is that of the refusal and a step is an epoch. The source trains
    at a rate of 2e-5, which also is a usual rate of fine-tunings of its models. So the factor on the suite's post-hoc
    rate is 1. The rate falls to the suite's floor within the ten steps.

    The source chooses the refusal among 256 candidates by bilevel optimisation: the patched model shall be near the
    start model on harmful prompts and near the tuned model on rows of the task. Its choices are general refusals, and
    refusals of one category of harm help less. This method takes the first pair that the server owns, without
    a selection. It therefore shows what one refusal does, not what the best one does.

    Source: Zhang et al. 2026, arXiv 2601.01887.

    >>> EPOCHS, RATE
    (10, 1.0)
    """

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the patched adapter (flat, ``[d]``)."""
        return server.finetune(adapter, server.owned_aligned(1), steps=EPOCHS, rate=RATE)
