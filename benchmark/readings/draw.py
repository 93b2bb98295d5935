"""A draw of answers for readers: stored answers of a suite, and an even choice of them.

An answer counts once however often the same text answers the same probe: a defense that refuses everything would
otherwise fill the sheet. The choice is even over the cells (kind of probe, scenario, defense): no cell gets a second
answer before each cell that has one has got its first. Among cells of equal size the choice evens out kinds, then
scenarios and defenses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError, unknown_name
from benchmark.records.schemas import READ_KINDS, STATUS_DONE
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld
from benchmark.settings import Settings
from benchmark.suite_names import no_rows


class Origin(Settings):
    """The place of an answer in the rows."""

    kind: str
    """Kind of the probe: ``harmful`` or ``over_refusal``."""
    scenario: str
    """Scenario of the cell."""
    defense: str
    """Defense of the cell."""
    seed: int
    """Run seed of the cell."""
    probe_id: str
    """Probe that is answered."""
    response_key: str
    """Response set that holds the answer."""


class Answer(Origin):
    """One stored answer."""

    question: str
    """The user turn."""
    text: str
    """The answer."""

    @property
    def place(self) -> tuple[str, str, str]:
        """The cell of the draw: kind, scenario, defense."""
        return self.kind, self.scenario, self.defense


def stored_answers(
    store: Store, suite: str, scenarios: Sequence[str] = (), defenses: Sequence[str] = ()
) -> list[Answer]:
    """Return the answers to harmful and over-refusal probes of a suite's finished whole cells, in a fixed order.

    Args:
        store: Rows of runs, with texts.
        suite: Suite id.
        scenarios: Scenarios to take; empty for all.
        defenses: Defenses to take; empty for all.

    Raises:
        UsageError: The store has no finished cell of the suite, or none of a named scenario or defense; or it holds
            digests in place of texts.
        FedSafetyError: A file is damaged.
    """
    cells = finished_cells(store, suite)
    for column, names in (("scenario", scenarios), ("defense", defenses)):
        stored = {cell[column] for cell in cells}
        for name in names:
            if name not in stored:
                raise unknown_name(f"{column} with finished cells of suite {suite!r}", name, stored)
        cells = [cell for cell in cells if not names or cell[column] in names]
    questions = _questions(store)
    texts = _texts(store, {cell["response_key"] for cell in cells})
    answers = [
        Answer(
            kind=kind,
            scenario=cell["scenario"],
            defense=cell["defense"],
            seed=cell["seed"],
            probe_id=probe_id,
            response_key=cell["response_key"],
            question=question,
            text=text,
        )
        for cell in cells
        for probe_id, text in texts.get(cell["response_key"], ())
        for kind, question in [questions.get((cell["probe_set"], probe_id), ("", ""))]
        if kind in READ_KINDS
    ]
    withheld = next((answer for answer in answers if is_withheld(answer.question) or is_withheld(answer.text)), None)
    if withheld is not None:
        raise UsageError(
            f"{store.root} holds a digest in place of the question or answer of probe {withheld.probe_id!r}, which "
            f"readers cannot read; draw from the folder of the runs (--runs), which holds the texts"
        )
    return sorted(answers, key=lambda each: (*each.place, each.seed, each.probe_id, each.response_key))


def draw(answers: Iterable[Answer], size: int, seed: int) -> list[Answer]:
    """Return ``size`` of the answers, evenly over their cells and in a random order.

    Args:
        answers: The answers to choose from, in a fixed order.
        size: Number of answers, at least 1.
        seed: Seed of the draw; the same answers, size and seed give the same draw.

    Raises:
        UsageError: ``size`` is below 1 or above the number of different answers.
    """
    check_size(size)
    generator = np.random.default_rng(seed)
    pools: dict[tuple[str, str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        pools[answer.place].append(answer)
    for pool in pools.values():
        pool[:] = [pool[index] for index in generator.permutation(len(pool))]
    turn = dict(zip(pools, generator.permutation(len(pools)).tolist(), strict=True))
    drawn: dict[tuple[str, str], Answer] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    while len(drawn) < size and pools:
        place = min(pools, key=lambda each: (*_crowding(each, counts), turn[each]))
        candidate = _next_new(pools[place], drawn)
        if candidate is None:
            del pools[place]
            continue
        drawn[candidate.probe_id, candidate.text] = candidate
        counts.update([place, *_margins(place)])
    if len(drawn) < size:
        raise UsageError(
            f"there are only {len(drawn)} different answers to draw from, not {size}; give a smaller --size, or run "
            f"more cells first"
        )
    chosen = list(drawn.values())
    return [chosen[index] for index in generator.permutation(size)]


def check_size(size: int) -> None:
    """Refuse a number of answers that no draw has.

    Raises:
        UsageError: ``size`` is below 1.
    """
    if size < 1:
        raise UsageError(f"{size} answers cannot be drawn; draw at least 1 (--size)")


def finished_cells(store: Store, suite: str) -> list[dict[str, Any]]:
    """Return the rows of a suite's finished whole cells of this protocol, by scenario, defense and seed.

    Raises:
        UsageError: There is none.
    """
    cells = store.read_all("cells").to_pylist() if store.root.is_dir() else []
    if suite not in (stored := {cell["suite"] for cell in cells}):
        way_out = f"make some with `fedsafety run --suite {suite}`, or name the folder that has some with --runs"
        raise no_rows(suite, stored, str(store.root), way_out, rows="cells")
    finished = [
        cell
        for cell in cells
        if cell["suite"] == suite
        and cell["status"] == STATUS_DONE
        and cell["final"]
        and cell["protocol_version"] == PROTOCOL_VERSION
    ]
    if not finished:
        raise UsageError(
            f"{store.root} has no finished cell of suite {suite!r} and protocol {PROTOCOL_VERSION}; run the suite first"
        )
    return sorted(finished, key=lambda cell: (cell["scenario"], cell["defense"], cell["seed"], cell["response_key"]))


def rows_of_keys(store: Store, table: str, keys: set[str]) -> Iterable[pa.Table]:
    """Yield the rows of a table with one of the response keys, one file after the other, so that few are in memory."""
    wanted = pa.array(sorted(keys), pa.string())
    for key in sorted(store.keys(table)):
        rows = store.read(table, key)
        yield rows.filter(pc.is_in(rows["response_key"].cast(pa.string()), wanted))


def _questions(store: Store) -> dict[tuple[str, str], tuple[str, str]]:
    """Return kind and user turn by probe set and probe."""
    probes = store.read_all("probes")
    columns = ("probe_set", "probe_id", "kind", "instruction")
    rows = zip(*(probes[column].to_pylist() for column in columns), strict=True)
    return {(probe_set, probe_id): (kind, question) for probe_set, probe_id, kind, question in rows}


def _texts(store: Store, keys: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Return probe and answer of each response, by response key."""
    texts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for rows in rows_of_keys(store, "responses", keys):
        columns = (rows[column].to_pylist() for column in ("response_key", "probe_id", "response"))
        for key, probe_id, text in zip(*columns, strict=True):
            texts[key].append((probe_id, text))
    return texts


def _margins(place: tuple[str, str, str]) -> list[tuple[str, ...]]:
    """Return the names under which the answers of a kind, a scenario and a defense are counted."""
    kind, scenario, defense = place
    return [("kind", kind), ("scenario", scenario), ("defense", defense)]


def _crowding(place: tuple[str, str, str], counts: Counter[tuple[str, ...]]) -> tuple[int, int, int]:
    """Return the drawn answers of a cell, of its kind, and of its scenario and defense together."""
    kind, scenario, defense = _margins(place)
    return counts[place], counts[kind], counts[scenario] + counts[defense]


def _next_new(pool: list[Answer], drawn: dict[tuple[str, str], Answer]) -> Answer | None:
    """Take answers from the end of a pool up to one that is not drawn yet, and return that one, if any."""
    while pool:
        answer = pool.pop()
        if (answer.probe_id, answer.text) not in drawn:
            return answer
    return None
