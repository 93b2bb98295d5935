"""Split of a loss of safety: to honest fine-tuning, and to the attack.

The start model's value minus that of the un-attacked twin is lost to honest fine-tuning. The twin's value minus the
attacked one is lost to the attack. Both are paired by seed, so that they add up to the whole loss on every seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leaderboard.scores.stats import Difference, paired

BySeed = Mapping[int, float]
"""Values of a metric by seed."""


@dataclass(frozen=True)
class Loss:
    """What is lost of a metric, with intervals over seeds; a positive difference is a loss.

    Attributes:
        tuning: Start model minus un-attacked twin.
        attack: Un-attacked twin minus attacked.
    """

    tuning: Difference
    attack: Difference


def split_loss(start: BySeed, twin: BySeed, attacked: BySeed, probes: int = 0) -> Loss | None:
    """Return the loss of a defense in a scenario, or ``None`` where the three share no seed.

    Args:
        start: The start model's values.
        twin: The defense's values without the attack.
        attacked: The defense's values under the attack.
        probes: Number of probes behind a share in 0..1; 0 for a metric that is not a share, such as the margin.
    """
    seeds = sorted(start.keys() & twin.keys() & attacked.keys())
    if not seeds:
        return None
    before, between, after = ([values[seed] for seed in seeds] for values in (start, twin, attacked))
    return Loss(paired(before, between, probes), paired(between, after, probes))
