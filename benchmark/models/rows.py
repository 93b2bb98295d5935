"""A training row as token ids."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRow:
    """One tokenised training row; the loss is taken on the tokens from ``response_start`` on.

    A row that was cut before its response has no such token. The first token of a row is never predicted.
    For example, ``TokenRow((5, 8, 9, 2), 2)`` has loss on the tokens at places 2 and 3.
    """

    ids: tuple[int, ...]
    response_start: int

    @property
    def predicted(self) -> range:
        """Places of the tokens with loss."""
        return range(max(1, self.response_start), len(self.ids))
