"""Choice of a source's rows by its conditions and filters, with the counts that a report needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tasks.hub.columns import Reader, SourceRow
from tasks.hub.filters import FILTERS, Rule

_REASONS: Final = 1000
"""Most different reasons of a rule that are counted. Later ones count as further reasons."""
FURTHER: Final = "further reasons"

Steps = tuple[tuple[str, int], ...]
"""Steps of reading, in order, each with the number of rows that remain after it."""


class Sieve:
    """Rows of a source that pass ``where`` and its filters, and the counts of one pass over them.

    Args:
        reader: Rows to choose from.
        explain: Whether the reasons for which rows are left out are counted, which costs time.

    Attributes:
        dropped: Rule → reason → number of rows that it left out; empty without ``explain``.
        placeholders: Our column, text, and whether the text was read as empty → number of cells with this placeholder.
    """

    def __init__(self, reader: Reader, *, explain: bool = False) -> None:
        self._reader = reader
        self._explain = explain
        self._rules: list[Rule] = [*reader.conditions(), *(FILTERS[name].rule(name) for name in reader.source.filters)]
        self._passed = [0] * len(self._rules)
        self._read = 0
        self.dropped: dict[str, Counter[str]] = {rule.name: Counter() for rule in self._rules} if explain else {}
        self.placeholders: Counter[tuple[str, str, bool]] = Counter()

    @property
    def steps(self) -> Steps:
        """Number of rows read so far, and number of rows that passed each rule."""
        return ("read", self._read), *((rule.name, n) for rule, n in zip(self._rules, self._passed, strict=True))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts of :data:`tasks.hub.columns.COLUMNS` of the rows that pass, in order.

        Raises:
            FedSafetyError: A row that is read has no one text, or a row that passes lacks one.
        """
        for row in self._reader.rows():
            self._read += 1
            values = row.checked() if self._passes(row) else None
            self.placeholders.update(row.placeholders)
            if values is not None:
                yield values

    def _passes(self, row: SourceRow) -> bool:
        for place, rule in enumerate(self._rules):
            if not rule.keep(row):
                if self._explain:
                    reasons = self.dropped[rule.name]
                    reason = rule.why(row)
                    reasons[reason if reason in reasons or len(reasons) < _REASONS else FURTHER] += 1
                return False
            self._passed[place] += 1
        return True
