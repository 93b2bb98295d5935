"""Search spaces: for each attack the parameters that a search may change, with their ranges.

The spaces stand here and not in the attacks' files, because the text of these files is part of published keys. A search
chooses among :data:`DEFAULT` and the scenario's own attack, or among the attacks that the user names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

Value = float | int | str | bool
"""Value of a parameter."""

DIGITS: Final = 3
"""Significant digits of a number that a search chooses."""


@dataclass(frozen=True)
class Number:
    """A range of numbers, bounds included.

    Attributes:
        low: Least number.
        high: Largest number.
        step: Distance between the numbers; 0 for all numbers of :data:`DIGITS` significant digits.
        log: Whether the logarithm is uniform, for factors.
    """

    low: float
    high: float
    step: float = 0.0
    log: bool = False

    def holds(self, value: Value) -> bool:
        """Return whether a value is a number of the range."""
        return isinstance(value, float | int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """A list of values."""

    options: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Return whether a value is among the options."""
        return value in self.options


Space = Mapping[str, Number | Choice]
"""Domain of each parameter of an attack."""

_SHARE = Number(0.0, 1.0, step=0.05)
_MOST = Number(0.0, 0.9, step=0.05)
"""Share of normal rows; at 1 there is no attack."""
_DATA: Final[Space] = {"normal_share": _MOST, "reminder_share": _SHARE}
_DIRECTION = Choice(("unit", "sign", "std"))

SPACES: Final[Mapping[str, Space]] = MappingProxyType(
    {
        "alie": {"z": Number(0.1, 10.0, log=True)},
        "answered_shards": _DATA,
        "benign_similar": {
            "keep": Choice((5, 10, 20, 50, 100, 200)),
            "criterion": Choice(("harmful", "lists_and_maths")),
        },
        "boosted_data": {**_DATA, "boost": Number(0.2, 20.0, log=True)},
        "gap": {**_DATA, "radius": Number(0.05, 2.0, log=True)},
        "generated_data": _DATA,
        "generated_shards": _DATA,
        "identity_shift": {"share": Number(0.05, 1.0, step=0.05)},
        "inner_product_manipulation": {"epsilon": Number(0.05, 10.0, log=True)},
        "krum_aware": {**_DATA, "factor": Number(0.05, 5.0, log=True)},
        "min_max": {"direction": _DIRECTION},
        "min_sum": {"direction": _DIRECTION},
        "neurotoxin": {**_DATA, "mask_share": Number(0.0, 0.9, step=0.05)},
        "refuse_then_answer": _DATA,
        "task_format": {"style": Choice(("benign", "aoa", "autoif", "autoif_aoa"))},
        "unaligned_data": _DATA,
        "unaligned_shards": _DATA,
    }
)
"""Space of each attack that can be searched, by id. Attacks that raise refusals, or whose effect needs a trigger in the
prompt, have none."""

DEFAULT: Final = ("unaligned_data", "boosted_data", "gap", "krum_aware", "neurotoxin")
"""Attacks that a search chooses among if the user names none: they aim at safety, generate no data, and add no text in
the language of one suite."""
