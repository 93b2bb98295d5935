"""Probes of a suite's probe sources, and a search for prompts inside texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from benchmark.errors import UsageError
from tasks.base import Probe, ProbeKind
from tasks.hub.datasets import load_rows
from tasks.hub.settings import ProbeSource
from tasks.hub.text import normalised

_WINDOW: Final = 16
"""Number of leading characters by which prompts are indexed. Shorter prompts are found only as a whole text."""


def make_probes(source: ProbeSource) -> tuple[Probe, ...]:
    """Return the probes of one source, in its order. With a limit, return that many, spread evenly over the source.

    Ids are ``<set>/<id>``, with the row's number if no column is mapped to id. A mapped response is the reference, too.

    Raises:
        InputsMissingError: The data set is not on this machine and cannot be downloaded.
        UsageError: Two rows have the same id, or a row of kind perplexity has no reference.
    """
    rows = load_rows(source.source).table.to_pylist()
    ids = [row["id"] for row in rows]
    if len(set(ids)) != len(ids):
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        raise UsageError(
            f"ids of the probes {source.id!r} repeat: {', '.join(repeated[:3])}; map another column to id, or none"
        )
    if source.limit is not None and source.limit < len(rows):
        rows = [rows[index * len(rows) // source.limit] for index in range(source.limit)]
    unanswered = [row["id"] for row in rows if source.source.response or not row["response"]]
    if source.kind is ProbeKind.PERPLEXITY and unanswered:
        raise UsageError(
            f"the probes {source.id!r} are of kind perplexity, and row {unanswered[0]} has no reference answer whose "
            f"likelihood could be measured; map a column to response or reference, or leave out such rows"
        )
    return tuple(
        Probe(
            id=f"{source.id}/{row['id']}",
            kind=source.kind,
            stratum=source.stratum,
            scored=source.scored,
            instruction=source.prefix + row["instruction"] + source.suffix,
            reference="" if source.source.response else row["response"],
            max_new_tokens=source.max_new_tokens,
            target=row["target"],
            publish=source.publish,
        )
        for row in rows
    )


class PromptFinder:
    """Finds prompts inside texts, by their normal form in :mod:`tasks.hub.text`.

    Args:
        prompts: Prompts to find.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self._whole: set[str] = set()
        self._by_start: dict[str, list[str]] = {}
        for prompt in prompts:
            text = normalised(prompt)
            self._whole.add(text)
            if len(text) >= _WINDOW:
                self._by_start.setdefault(text[:_WINDOW], []).append(text)

    def holds(self, text: str) -> bool:
        """Return whether ``text`` is one of the prompts, or contains one of at least 16 characters."""
        letters = normalised(text)
        return letters in self._whole or any(
            letters.startswith(prompt, place)
            for place in range(len(letters) - _WINDOW + 1)
            for prompt in self._by_start.get(letters[place : place + _WINDOW], ())
        )
