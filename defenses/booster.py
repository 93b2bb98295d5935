"""Booster (Huang et al. 2025): alignment with a penalty on how much one harmful step lowers the harmful loss."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses._alignment_rows import alignment_rows
from defenses._harmful_rows import harmful_rows
from defenses.base import Defense, Knowledge, Server, Stage, register
from tasks.base import Example

PENALTY = 5.0
"""Booster's λ."""
HARMFUL_STEP = 0.1
"""Booster's alpha: length of the simulated harmful step."""
BATCH = 10
"""Rows of each gradient, as in the released code."""
GRADIENTS = 3
"""Gradients of one step."""


@register(
    title="Booster",
    description=(
        "Before the first round the server aligns the start model once more. Beside the loss of the alignment it "
        "lowers how far one step on harmful answers would reduce their loss, so that later harmful training gains "
        "less. The harmful answers are those of the model before the alignment. The rounds are plain FedAvg."
    ),
    paper="Huang et al. 2025, arXiv 2409.01586",
    stages=(Stage.PREPARE,),
    knowledge=Knowledge.NONE,
    resources="the alignment's data, or aligned and normal pairs; generated harmful answers; server-side fine-tuning",
    traits=("generates_unaligned",),
)
class Booster(Defense):
    """Start from the suite's start after AdamW steps along g = ∇f(w) + λ (∇h(w) - ∇h(w - alpha ∇h(w) / ‖∇h(w)‖)).

    f is the mean token loss of alignment rows and h that of harmful rows; λ = 5 and alpha = 0.1. The bracket is the
    gradient of h(w) - h(w - alpha ∇h / ‖∇h‖), the gain of one harmful step, if the second derivatives are left out.

    *Harmful rows.* The source has 5,000. The server of this benchmark owns harmful prompts with refusals and no
    harmful answer, so the model before the alignment answers these prompts, see
    :func:`defenses._harmful_rows.harmful_rows`.

    *Steps.* A step has three gradients, so there are a third as many steps as in the post-hoc training of the suite,
    rounded down and at least 1: the gradients are as many as those of one post-hoc repair. Their batches have 10
    rows, as in the released code. AdamW has the first post-hoc rate throughout, no weight decay, and PyTorch's other
    defaults. The source trains for 20 epochs from a model that is not aligned; most suites start from an aligned one.

    Source: Huang et al. 2025, arXiv 2409.01586, algorithm 1; λ, alpha and the batch size of the released code.
    """

    def prepare(self, server: Server) -> Tensor:
        """Return the start (flat, ``[d]``) after the steps."""
        harmful = harmful_rows(server, max(1, server.examples // 2))
        aligned = alignment_rows(server)
        adapter = server.start()
        optimizer = torch.optim.AdamW([adapter], lr=server.learning_rate, weight_decay=0.0)
        for step in range(max(1, server.steps // GRADIENTS)):
            adapter.grad = step_gradient(server, adapter, batch(aligned, step), batch(harmful, step))
            optimizer.step()
        return adapter


def step_gradient(server: Server, adapter: Tensor, aligned: list[Example], harmful: list[Example]) -> Tensor:
    """Return g at ``adapter`` (flat, ``[d]``), from three gradients.

    Where the harmful gradient is zero, a harmful step gains nothing and g is the gradient of the alignment loss.
    """
    gradient, _ = server.gradient(adapter, aligned)
    before, _ = server.gradient(adapter, harmful)
    length = before.double().norm().float()
    if not length:
        return gradient
    after, _ = server.gradient(adapter - HARMFUL_STEP * before / length, harmful)
    return gradient + PENALTY * (before - after)


def batch(rows: list[Example], step: int) -> list[Example]:
    """Return the rows of a step: consecutive ones, from the beginning again after the last.

    >>> batch([*range(12)], 1)
    [10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    """
    return [rows[(step * BATCH + i) % len(rows)] for i in range(BATCH)]
