"""The leaderboard from Python: rows, tables, intervals, comparisons, citations, and the adapter of a cell.

Imports neither torch nor transformers, and reads rows only. ``docs/api.md`` shows it at work.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.records.schemas import STATUS_DONE
from benchmark.records.store import Store
from leaderboard.citation.cite import Citation, cite_score, find_board, find_standing, find_view
from leaderboard.ranking.board import Board
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.stats import Difference, Estimate
from leaderboard.view_table import view_rows

__all__ = ["Citation", "Difference", "Estimate", "Leaderboard", "Rows", "adapter", "load_rows"]


@dataclass(frozen=True)
class Leaderboard:
    """One suite's scores.

    Attributes:
        rows: All rows, as Arrow tables under ``rows.published``, ``rows.local`` and ``rows.pending``.
        board: Everything computed from them, see :class:`leaderboard.ranking.board.Board`.
    """

    rows: Rows
    board: Board

    @classmethod
    def load(cls, results: Path | str = "results", *, suite: str = "micro") -> Leaderboard:
        """Return the scores of ``suite`` from a folder of rows.

        Raises:
            UsageError: The folder does not exist, or holds no rows of that suite.
            FedSafetyError: Rows cannot be read faithfully.
        """
        rows = load_rows([results])
        return cls(rows, find_board(rows, suite))

    def table(self, scenario: str = "") -> list[dict[str, Any]]:
        """Return the ranking, one mapping a defense; see :func:`leaderboard.view_table.view_rows` for its names.

        Args:
            scenario: An attacked scenario; empty for the mean over the compared ones.

        Raises:
            UsageError: The attacked scenario is unknown.
        """
        return view_rows(self.board, scenario)

    def interval(self, defense: str, metric: str = "safety", scenario: str = "") -> Estimate:
        """Return mean and 95 % interval over seeds; shares are in 0..1.

        Raises:
            UsageError: The defense, metric or attacked scenario is unknown, or the defense has no score there.
        """
        standing = find_standing(self.board, find_view(self.board, scenario), defense)
        if not standing.metrics:
            raise UsageError(f"{defense!r} has no scores {_there(scenario)}: {'; '.join(standing.notes)}")
        if metric not in standing.metrics:
            raise unknown_name("metric", metric, standing.metrics)
        return standing.metrics[metric]

    def compare(self, one: str, other: str, metric: str = "safety", scenario: str = "") -> Difference:
        """Return ``one`` minus ``other``, paired by seed, with the 95 % interval and p value of this pair alone.

        The table's ``better`` lists the ranked defenses that a scenario separates, with all pairs corrected together.

        Raises:
            UsageError: A defense or the attacked scenario is unknown, or the two share no scored seed there.
        """
        view = find_view(self.board, scenario)
        for defense in (one, other):
            find_standing(self.board, view, defense)
        difference = self.board.difference(view, one, other, metric)
        if difference is None:
            raise UsageError(
                f"{one!r} and {other!r} have no seed with a score for {metric!r} in common {_there(scenario)}"
            )
        return difference

    def cite(self, defense: str, scenario: str = "") -> Citation:
        """Return sentence, BibTeX and checking command of a score; see :func:`leaderboard.citation.cite.cite`.

        Raises:
            UsageError: The defense or the attacked scenario is unknown.
        """
        return cite_score(self.board, self.rows, defense, scenario)


def adapter(runs: Path | str, scenario: str, defense: str, seed: int, *, suite: str = "micro", stage: str = "") -> Path:
    """Return the folder of the LoRA adapter that a cell of your own runs was scored with, in PEFT's format.

    Committed rows come without adapters, which are large; a run makes them again from the same seed.

    Args:
        runs: Folder of your own runs.
        scenario: Scenario id, attacked or not.
        defense: Registry id or pipeline.
        seed: Run seed.
        suite: Suite id.
        stage: A pipeline up to an intermediate stage; empty for the whole.

    Raises:
        UsageError: The runs have no such cell; names the command that makes it.
        FedSafetyError: The cell failed or is not applicable, or its adapter is gone.
    """
    root = Path(runs)
    chosen = {"suite": "" if suite == "micro" else suite, "scenario": scenario, "defense": defense, "seed": str(seed)}
    options = [f"--{name} {shlex.quote(value)}" for name, value in (chosen | {"runs": str(root)}).items() if value]
    command = f"fedsafety run {' '.join(options)}"
    wanted = {"suite": suite, "scenario": scenario, "defense": defense, "stage": stage or defense, "seed": seed}
    cells = Store(root).read_all("cells").to_pylist() if root.exists() else []
    found = [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]
    if not found:
        raise UsageError(f"{root} has no cell {_named(wanted)}; make it with: {command}")
    cell = max(found, key=lambda cell: (cell["created_at"], cell["cell_key"]))
    if cell["status"] != STATUS_DONE:
        raise FedSafetyError(f"the cell {_named(wanted)} is {cell['status'].replace('_', ' ')}: {cell['reason']}")
    folder = Store(root).adapter_folder(cell["adapter_key"])
    if not (folder / "adapter_config.json").is_file():
        raise FedSafetyError(
            f"the adapter {folder} of the cell {_named(wanted)} is gone; make it again with: {command}"
        )
    return folder


def _there(scenario: str) -> str:
    return f"in {scenario!r}" if scenario else "over the compared scenarios"


def _named(wanted: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in wanted.items() if name != "stage")
