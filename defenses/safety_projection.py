"""Safety projection (SPAG, 2026): a step back along the gradient of the safety loss when a round exceeds its bound."""

from __future__ import annotations

from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

BOUND = 0.2
"""The paper's bound τ on the safety loss, in nats per token."""
ROWS = 64
"""Most refusals of one gradient."""


@register(
    title="Safety projection",
    description=(
        "Averages as FedAvg does. Then the server measures the loss of refusals that it owns. If the loss exceeds "
        "a bound, the model takes the step along the gradient of that loss that would bring it to the bound if the "
        "loss were linear, but never a step longer than the round's own."
    ),
    paper="SPARD 2026, arXiv 2605.28030",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    resources="aligned pairs; one gradient in every round",
    asks_server=True,
)
class SafetyProjection(Defense):
    """Aggregate to m - min((l - τ) / ‖g‖², η) · g where l > τ, and to the mean m elsewhere.

    m is the sample-weighted mean of the updates, l the mean token loss of refusals that the server owns, at the
    averaged model, and g its gradient there. The paper projects after every step of a user's training. A server sees
    rounds instead of steps, so the projection follows the aggregation.

    *Bound.* The paper's τ is 0.2 nats for an aligned model of 7 billion parameters.

    - Where the server has the model from which the start was aligned, τ = max(0.2, loss of the start) on the same
      rows: a round may not make the model less safe than the start. A smaller start model, or one that refuses in
      other words than the server's rows, has a higher loss than 0.2 before any client trained it. A bound of 0.2
      would teach the server's wording in every round instead of keeping what the start could.
    - Elsewhere τ = 0.2. The start was not aligned, and the loss of an unsafe model is not a bound on safety. The rule
      then teaches refusals, as far as the trust region allows. A chat model counts as unaligned where the server lacks
      the model before its alignment, because the server cannot tell.

    *Where the bound does not act.* A round that leaves the loss at τ or below is FedAvg's, number for number. From an
    aligned start this happens where training lowers the loss of refusals, for example because honest clients hold
    some. The loss may then fall although the model refuses less often, because it is the loss of the server's wording.
    Where clients hold no refusals, the loss rises and the bound acts. On a development seed of micro the first round
    moves the loss from 0.58 to 0.63 nats without an attack, and to 0.68 under unaligned data.

    *Trust region.* The paper bounds the factor by a constant η, which suits one model and one rate. Here η = ‖m‖ /
    ‖g‖, with which the step is as long as the round's own update. A linear loss holds no further.

    *Rows.* The same refusals in every round: half of the pairs that the suite grants a post-hoc defense, at most 64.

    The client weights are those of the mean. If the loss or the gradient at the averaged model is not finite, as
    after an update of huge numbers, the mean stays as it is. Condition: n ≥ 1.
    Source: SPARD 2026, arXiv 2605.28030, the formula of the paper. The released code differs from it.

    With l = 0.7, τ = 0.2 and g = (0, 2) the linear step is 0.5 / 4 · g = (0, 0.25). It is shorter than m = (3, 4):

    >>> import torch
    >>> projected(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), 0.7, 0.2).tolist()
    [3.0, 3.75]
    """

    def __init__(self) -> None:
        self._bound: float | None = None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean after the projection, with the weights of the mean."""
        server, mean = context.server, super().aggregate(updates, context)
        rows = server.owned_aligned(max(1, min(ROWS, server.examples // 2)))
        if self._bound is None:
            # Without a guard, so that a tool that does not work at all stops the run.
            start = server.gradient(server.start(), rows)[1]
            self._bound = max(BOUND, start) if server.has_unaligned else BOUND
        try:
            gradient, loss = server.gradient(context.broadcast + mean.update, rows)
        except FedSafetyError:  # not finite
            return mean
        return Aggregate(projected(mean.update, gradient, loss, self._bound), mean.weights)


def projected(mean: Tensor, gradient: Tensor, loss: float, bound: float) -> Tensor:
    """Return an update ``[d]`` (float32) after the step back from a loss above its bound.

    The trust region shortens a step that is longer than the update. A gradient of zero gives no step:

    >>> import torch
    >>> projected(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.1]), 0.7, 0.2).tolist()
    [1.0, -1.0]
    >>> projected(torch.tensor([1.0, 0.0]), torch.zeros(2), 0.7, 0.2).tolist()
    [1.0, 0.0]

    Args:
        mean: Update before the step.
        gradient: Gradient ``[d]`` of the safety loss.
        loss: The safety loss.
        bound: Its bound τ, in the same unit.
    """
    length = float(gradient.double().norm())
    if loss <= bound or not length:
        return mean
    factor = min((loss - bound) / length**2, float(mean.double().norm()) / length)
    return (mean.double() - factor * gradient.double()).float()
