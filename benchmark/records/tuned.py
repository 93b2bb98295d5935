"""Results of attack searches: for a defense in a scenario the attack that a search found, as a small file.

A folder of runs holds the results of its searches in ``attack_search/<suite>/tuned_attacks.yaml``. The file
``tuned_attacks.yaml`` in a suite's folder of committed rows holds those that were published. A result names development
scores and the budget. The scores on the scored seeds are ordinary rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from benchmark.errors import FedSafetyError
from benchmark.records.store import replacing

FILE_NAME = "tuned_attacks.yaml"
FOLDER = "attack_search"
"""Folder below a folder of runs that holds the rows of trials. Readers of runs pass it over."""

_MARK = "tuned_for"
"""Setting that a scenario has if its attack was tuned; see :class:`benchmark.suites.tuned.TunedScenario`."""

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Value = float | int | str | bool
_Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def tuned_scenarios(catalog: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the ids of the scenarios with a tuned attack, by the settings in rows of table ``catalog``."""
    found = set()
    for row in catalog:
        if row["kind"] == "scenario" and _MARK in (row["settings"] or ""):
            try:
                settings = json.loads(row["settings"])
            except ValueError:
                continue
            if isinstance(settings, dict) and settings.get(_MARK):
                found.add(row["id"])
    return frozenset(found)


class ChosenAttack(_Part):
    """An attack with its parameters and the safety of the defense under it on the development seeds."""

    id: _Text
    """Registry id."""
    params: dict[str, _Value] = Field(default_factory=dict)
    """Its parameters."""
    safety: _Share | None
    """Safety on the development seeds; ``None`` where the trial gave none."""


class Budget(_Part):
    """Budget of a search and its use.

    A trial trains the defense once for each development seed. A search ends before its budget once a safety is 0. The
    counts of trials that failed a gate or gave no score are among the trials.
    """

    allowed: int = Field(ge=1)
    """Trials that the search was allowed."""
    trials: int = Field(ge=1)
    """Trials that it did, the scenario's own attack included."""
    infeasible: int = Field(ge=0)
    """Trials under which the defense failed a gate."""
    failed: int = Field(ge=0)
    """Trials without a score."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.trials > self.allowed:
            raise ValueError(f"{self.trials} trials exceed the {self.allowed} that were allowed")
        if self.infeasible + self.failed >= self.trials:
            raise ValueError(
                f"{self.infeasible} infeasible and {self.failed} failed trials leave none of {self.trials}; a result "
                f"has at least one feasible trial"
            )
        return self


class TunedAttack(_Part):
    """The result of the search for one defense in one scenario."""

    defense: _Text
    """Defense, or pipeline."""
    scenario: _Text
    """Scenario whose attack was searched."""
    scenario_version: _Text
    """Version of the scenario."""
    attack: ChosenAttack
    """The attack of lowest safety; the scenario's own where no trial was lower."""
    own: ChosenAttack
    """The scenario's own attack."""
    lower: bool
    """Whether a trial was lower than the scenario's own attack on the development seeds."""
    runs_as: _Text
    """Scenario id of the attack's cells on the scored seeds."""
    runs_as_version: _Text
    """Scenario version of these cells; it names the parameters."""
    budget: Budget
    """Trials."""
    attacks: tuple[_Text, ...] = Field(min_length=1)
    """Attacks among which the search chose."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Development seeds."""
    prompts: _Text
    """Prompts that the trials answered."""
    sampler: _Text
    """Sampler of the search."""
    sampler_seed: int = Field(ge=0)
    """Its seed."""
    search: _Text
    """Key of the search, derived from all content on which its trials depend."""
    versions: dict[str, str]
    """Versions of suite, protocol, package and sampler."""

    @property
    def place(self) -> tuple[str, str]:
        """Scenario and defense; a file holds at most one result for each."""
        return self.scenario, self.defense

    @model_validator(mode="after")
    def _attack_is_lower(self) -> Self:
        same = (self.attack.id, self.attack.params) == (self.own.id, self.own.params)
        if self.lower == same:
            what = "is the scenario's own" if same else "differs from the scenario's own"
            raise ValueError(f"lower is {str(self.lower).lower()} and the attack {what}; a lower attack is another one")
        return self


class _File(_Part):
    suite: _Text
    tuned_attacks: tuple[TunedAttack, ...]


def runs_file(runs: Path, suite: str) -> Path:
    """Return the file with the results of a suite's searches in a folder of runs."""
    return runs / FOLDER / suite / FILE_NAME


def committed_file(results: Path, suite: str) -> Path:
    """Return the file with the published results of a suite's searches."""
    return results / suite / FILE_NAME


def read_tuned(path: Path) -> tuple[str, tuple[TunedAttack, ...]]:
    """Return the suite and the results of a file.

    Raises:
        FedSafetyError: The file cannot be read or is not valid, or holds two results of one defense in one scenario.
    """
    shown = f"{path.parent.name}/{path.name}"
    try:
        file = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise FedSafetyError(
            f"{shown} is not valid: {problems}; remove the entry and run the search again, which keeps its trials"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise FedSafetyError(
            f"cannot read {shown}: {' '.join(str(error).split())}; remove the file and run the searches again, which "
            f"keep their trials"
        ) from error
    places = [entry.place for entry in file.tuned_attacks]
    if repeated := next((place for place in places if places.count(place) > 1), None):
        raise FedSafetyError(f"{shown} has two results of {repeated[1]!r} in {repeated[0]!r}; keep one of them")
    return file.suite, file.tuned_attacks


def tuned_of(path: Path, suite: str) -> dict[tuple[str, str], TunedAttack]:
    """Return the results of a suite in a file by scenario and defense; empty if there is no such file.

    Raises:
        FedSafetyError: The file is not valid, or is of another suite.
    """
    if not path.is_file():
        return {}
    found, entries = read_tuned(path)
    if found != suite:
        raise FedSafetyError(f"{path} holds results of suite {found!r}, not of {suite!r}; move it to its folder")
    return {entry.place: entry for entry in entries}


def add_tuned(path: Path, suite: str, entries: Iterable[TunedAttack]) -> int:
    """Add results to a file, in place of former ones of the same places; return how many changed.

    Raises:
        FedSafetyError: The file is not valid.
        StorageError: The file cannot be written.
    """
    former = tuned_of(path, suite)
    merged = former | {entry.place: entry for entry in entries}
    changed = sum(former.get(place) != entry for place, entry in merged.items())
    if changed:
        written = [merged[place].model_dump(mode="json") for place in sorted(merged)]
        with replacing(path) as scratch:
            content = yaml.safe_dump({"suite": suite, "tuned_attacks": written}, sort_keys=False, width=120)
            scratch.write_text(content, encoding="utf-8")
    return changed


def record_tuned(runs: Path, suite: str, entry: TunedAttack) -> Path:
    """Add a result to the file of a folder of runs, of which other searches may write too; return the file.

    Raises:
        FedSafetyError: The file is not valid.
        StorageError: The file cannot be written.
    """
    path = runs_file(runs, suite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{FILE_NAME}.lock"):
        add_tuned(path, suite, [entry])
    return path
