"""A trial of a search: an attack with parameters, and the scores of the defense under it on the development seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from benchmark.attack_search.spaces import Value


class TrialState(StrEnum):
    """End of a trial."""

    FEASIBLE = "feasible"
    """The defense passes the gates under the attack, so the trial may be the best."""
    INFEASIBLE = "infeasible"
    """The defense fails a gate under the attack."""
    FAILED = "failed"
    """A cell failed or has no score."""


@dataclass(frozen=True)
class Setting:
    """An attack with its parameters."""

    attack: str
    params: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the setting as ``boosted_data(boost=3.2)``."""
        return f"{self.attack}({', '.join(f'{name}={value}' for name, value in sorted(self.params.items()))})"


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        setting: Attack and parameters.
        state: How it ended.
        safety: Mean safety over the development seeds; ``None`` without a score.
        reasons: Gates that the defense fails, or why there is no score.
        seconds: Wall time.
    """

    setting: Setting
    state: TrialState
    safety: float | None = None
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Value that a sampler lowers: safety; trials that fail a gate stand behind all others, failed trials last."""
        if self.safety is None or self.state is TrialState.FAILED:
            return 3.0
        return self.safety + (1.0 if self.state is TrialState.INFEASIBLE else 0.0)
