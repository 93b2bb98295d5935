"""Retracted cells: their rows stay stored, their scores do not count.

A suite's folder of committed rows may hold one ``retractions.yaml``, which retracts submitted rows as well:

.. code-block:: yaml

    suite: micro
    retractions:
      - cell_key: 0c5f…            # one cell, or …
        date: 2026-12-01
        policy: faulty_run
        reason: The worker read a truncated base model; see the change that mends it.
      - scenario: sampled          # … cells by name
        defense: dnc
        seeds: [11, 12]            # left out: all seeds
        date: 2026-12-02
        policy: misdeclared
        reason: The rule was given the true count and says so nowhere.

A retraction by name holds for rows made up to its day, so that the defense counts again once it was run anew; one by
key holds for good. A retracted cell is shown as missing with the reason, and its defense is not ranked. The rules by
which a row is retracted are in ``docs/policy.md``.
"""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.records.schemas import ORIGIN_LOCAL
from benchmark.suite_names import no_rows
from leaderboard.rows.rungs import FOLDER

FILE_NAME = "retractions.yaml"

Policy = Literal["faulty_run", "leak", "misdeclared", "withdrawn"]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Retraction(BaseModel):
    """One entry: a cell by its key, or cells by scenario, defense and seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell_key: _Text | None = None
    """Key of the one cell."""
    scenario: _Text | None = None
    """Scenario id of cells that are retracted by name."""
    defense: _Text | None = None
    """Defense, or pipeline as submitted; all its stages are retracted."""
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Run seeds; left out for all."""
    date: datetime.date
    """Day of the retraction."""
    policy: Policy
    """The rule of ``docs/policy.md`` that it rests on."""
    reason: _Text
    """What is wrong with the rows, for the page."""

    @model_validator(mode="after")
    def _names_cells_in_one_way(self) -> Self:
        by_name = (self.scenario is not None, self.defense is not None)
        if self.cell_key is None and not all(by_name):
            raise ValueError("an entry needs a cell_key, or a scenario and a defense")
        if self.cell_key is not None and (any(by_name) or self.seeds is not None):
            raise ValueError("an entry with a cell_key names no scenario, defense or seeds beside it")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: _Text
    retractions: tuple[Retraction, ...]


@dataclass(frozen=True)
class Retractions:
    """All retractions below the roots of committed rows.

    Attributes:
        entries: (suite, retraction) pairs, in an order that does not depend on files.
    """

    entries: tuple[tuple[str, Retraction], ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over all entries; empty if there are none."""
        if not self.entries:
            return ""
        content = [[suite, entry.model_dump(mode="json")] for suite, entry in self.entries]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def reason(self, cell: Mapping[str, Any]) -> str:
        """Return why a row of table ``cells`` is retracted, with day and rule; empty if it is not.

        Rows of this machine's own runs are never retracted.
        """
        if cell["origin"] == ORIGIN_LOCAL:
            return ""
        for suite, entry in self.entries:
            if suite == cell["suite"] and _covers(entry, cell):
                return f"retracted on {entry.date} ({entry.policy.replace('_', ' ')}): {entry.reason}"
        return ""

    def check(self, cells: Iterable[Mapping[str, Any]]) -> None:
        """Refuse entries that retract nothing: a misspelt one would leave a wrong score standing.

        Args:
            cells: All rows of table ``cells`` that are not local.

        Raises:
            UsageError: An entry names an unknown suite, scenario, defense, seed or key, or no row of its day or before.
        """
        if not self.entries:
            return
        known = list(cells)
        for suite, entry in self.entries:
            _check(suite, entry, known)


def retractions(roots: Iterable[Path | str]) -> Retractions:
    """Return what the files called ``retractions.yaml`` below ``roots`` retract; those of submissions hold none.

    Raises:
        FedSafetyError: A file cannot be read or is not valid, or two entries retract the same; names the file.
    """
    paths = sorted(
        {
            path.resolve()
            for root in map(Path, roots)
            for path in root.rglob(FILE_NAME)
            if not path.is_relative_to(root / FOLDER)
        }
    )
    found = [(file.suite, entry) for file in map(_read, paths) for entry in file.retractions]
    ordered = sorted(found, key=lambda pair: (pair[0], pair[1].model_dump_json()))
    targets = [(suite, entry.cell_key, entry.scenario, entry.defense, entry.seeds) for suite, entry in ordered]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            name = target[1] or f"{target[2]}, {target[3]}"
            raise FedSafetyError(f"{name} of suite {target[0]!r} is retracted twice; keep one entry with both reasons")
    return Retractions(tuple(ordered))


def _read(path: Path) -> _File:
    shown = f"{path.parent.name}/{path.name}"
    try:
        return _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise FedSafetyError(f"{shown} is not valid: {problems}; docs/policy.md shows the form") from error
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # yaml makes dates, and nests without a limit
        raise FedSafetyError(f"cannot read {shown}: {' '.join(str(error).split())}; mend or remove the file") from error


def _covers(entry: Retraction, cell: Mapping[str, Any]) -> bool:
    if entry.cell_key is not None:
        return bool(entry.cell_key == cell["cell_key"])
    return _named(entry, cell) and cell["created_at"].date() <= entry.date


def _named(entry: Retraction, cell: Mapping[str, Any]) -> bool:
    names = (entry.scenario, entry.defense) == (cell["scenario"], cell["defense"])
    return names and (entry.seeds is None or cell["seed"] in entry.seeds)


def _check(suite: str, entry: Retraction, cells: list[Mapping[str, Any]]) -> None:
    own = [cell for cell in cells if cell["suite"] == suite]
    if not own:
        present = {cell["suite"] for cell in cells}
        raise no_rows(
            suite, present, "the folders that were read", "correct or remove the entry", rows="rows to retract"
        )
    if entry.cell_key is not None:
        keys = sorted({cell["cell_key"] for cell in own})
        if entry.cell_key not in keys:
            close = difflib.get_close_matches(entry.cell_key, keys, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "take it from the column cell_key of table 'cells'"
            raise UsageError(f"no stored cell of suite {suite!r} has the retracted key {entry.cell_key!r}; {hint}")
        return
    for column, name in (("scenario", entry.scenario), ("defense", entry.defense)):
        names = {cell[column] for cell in own}
        if name not in names:
            raise unknown_name(f"{column} to retract", str(name), names)
    hit = [cell for cell in own if (cell["scenario"], cell["defense"]) == (entry.scenario, entry.defense)]
    odd = sorted(set(entry.seeds or ()) - {cell["seed"] for cell in hit})
    if odd or not hit:
        held = ", ".join(map(str, sorted({cell["seed"] for cell in hit}))) or "none"
        asked = f"seed {odd[0]}" if odd else "cells"
        raise UsageError(
            f"no {asked} of {entry.defense!r} in {entry.scenario!r} to retract; the seeds that are stored: {held}"
        )
    if not any(_covers(entry, cell) for cell in hit):
        raise UsageError(
            f"the retraction of {entry.defense!r} in {entry.scenario!r} on {entry.date} covers nothing, because all "
            f"its rows are newer; correct the date, or remove the entry"
        )
