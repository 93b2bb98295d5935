"""Booster (Huang et al. 2025): alignment with a penalty on how much one harmful step lowers the harmful loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from defenses._alignment_rows import owned_rows
from defenses._harmful_rows import harmful_rows
from defenses.base import AlignmentSchedule, Defense, Knowledge, Server, Stage, register
from tasks.base import DataKind, Example

PENALTY = 5.0
"""Booster's λ."""
HARMFUL_STEP = 0.1
"""Booster's alpha: length of the simulated harmful step."""
BATCH = 10
"""Rows of each gradient where the suite has no alignment, as in the released code."""
GRADIENTS = 3
"""Gradients of one step."""


@register(
    title="Booster",
    description=(
        "Before the first round the server aligns the start model itself. Beside the loss of the alignment it lowers "
        "how far one step on harmful answers would reduce their loss, so that later harmful training gains less. The "
        "harmful answers are those of the model before the alignment. Where the suite has no alignment, the steps "
        "follow the start. The rounds are plain FedAvg."
    ),
    paper="Huang et al. 2025, arXiv 2409.01586",
    stages=(Stage.PREPARE,),
    knowledge=Knowledge.NONE,
    resources="the alignment's data, or aligned and normal pairs; generated harmful answers; server-side fine-tuning",
    traits=("generates_unaligned",),
    alignment_gradients=GRADIENTS,
)
class Booster(Defense):
    """Start from an alignment along g = ∇f(w) + λ (∇h(w) - ∇h(w - alpha ∇h(w) / ‖∇h(w)‖)), with AdamW.

    f is the mean token loss of alignment rows and h that of harmful rows; λ = 5 and alpha = 0.1. The bracket is the
    gradient of h(w) - h(w - alpha ∇h / ‖∇h‖), the gain of one harmful step, if the second derivatives are left out. A
    step has three gradients.

    *Where the suite aligns its start*, the steps take the place of that alignment: a fresh adapter, and the
    alignment's rows, number of steps, batch size, rates and decay. Its clipping shortens g as a whole. The server draws
    from the alignment's seed, so all runs of a suite share the result. The source trains for 20 epochs with batches of
    10 rows.

    *Where it does not*, as in ``micro``, the steps follow the start model, which may be aligned already, on rows that
    the server owns. There are a third as many steps as in the post-hoc training of the suite, rounded down and at least
    1, so that the gradients are as many as those of one post-hoc repair. Their batches have 10 rows, as in the released
    code, and the first post-hoc rate without decay or clipping. Such a row shows a few steps after the alignment, and
    not an alignment by Booster.

    *Harmful rows.* The source has as many as alignment rows, which all are refusals. The server of this benchmark owns
    harmful prompts with refusals and no harmful answer, so the model before the alignment answers these prompts, see
    :func:`defenses._harmful_rows.harmful_rows`. They are at most as many as the refusals among the alignment's rows.

    Source: Huang et al. 2025, arXiv 2409.01586, algorithm 1; λ, alpha and the batch size of the released code.
    """

    def prepare(self, server: Server) -> Tensor:
        """Return the start (flat, ``[d]``) after the steps.

        Raises:
            FedSafetyError: The model before the alignment refused more than half of the harmful prompts.
        """
        schedule = server.alignment_schedule
        adapter = server.fresh() if schedule else server.start()
        aligned = server.alignment_examples() if schedule else owned_rows(server)
        schedule = schedule or _posthoc(server)
        harmful = harmful_rows(server, max(1, sum(row.kind is DataKind.ALIGNED for row in aligned)))
        batches = zip(in_passes(server, aligned, schedule), in_passes(server, harmful, schedule), strict=True)
        optimizer = torch.optim.AdamW([adapter], weight_decay=schedule.weight_decay)
        for rate, (safe, unsafe) in zip(schedule.rates, batches, strict=True):
            gradient = step_gradient(server, adapter, safe, unsafe)
            adapter.grad = gradient if schedule.clip_norm is None else clipped(gradient, schedule.clip_norm)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        return adapter


def _posthoc(server: Server) -> AlignmentSchedule:
    """Return the steps where the suite has no alignment."""
    steps = max(1, server.steps // GRADIENTS)
    return AlignmentSchedule((server.learning_rate,) * steps, BATCH, weight_decay=0.0, clip_norm=None)


def in_passes(server: Server, rows: list[Example], schedule: AlignmentSchedule) -> Iterator[list[Example]]:
    """Yield the rows of each step: consecutive ones, in a new random order after the last."""
    order, left = rows, list[Example]()
    for _ in schedule.rates:
        while len(left) < schedule.batch_size:
            order = server.shuffle(order)
            left += order
        yield left[: schedule.batch_size]
        left = left[schedule.batch_size :]


def clipped(gradient: Tensor, longest: float) -> Tensor:
    """Return a gradient, shortened to the L2 norm ``longest`` where it exceeds that.

    >>> clipped(torch.tensor([3.0, 4.0]), 1.0).tolist(), clipped(torch.tensor([3.0, 4.0]), 9.0).tolist()
    ([0.6000000238418579, 0.800000011920929], [3.0, 4.0])
    """
    length = float(gradient.double().norm())
    return gradient * (longest / length) if length > longest else gradient


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
