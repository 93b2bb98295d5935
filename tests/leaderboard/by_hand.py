"""Cells and boards for scores that are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaderboard.ranking.board import Board, Standing
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from .synthetic import catalog_row, cell_row, exact_rows, table_of, write_submission, write_tables

Cell = tuple[dict[str, Any], Mapping[str, float]]


def cells(defense: str, attacked: list[float], clean: list[float], utility: float = 0.9, **changes: Any) -> list[Cell]:
    """Return the cells of one defense with the given safeties by seed, in one attacked scenario and its twin."""
    made = []
    for scenario, attack, safeties in (("aligned_start", "unaligned_data", attacked), ("clean", "none", clean)):
        for seed, safety in enumerate(safeties):
            row = cell_row(scenario=scenario, twin="clean", attack=attack, defense=defense, seed=seed, **changes)
            made.append((row, {"safety": safety, "utility": utility, "over_refusal": 0.1}))
    return made


def board_of(root: Path, rows: list[Cell], rung: str = "reproduced") -> Board:
    """Return the board of ``rows``; submitted ones are of the defense ``mine`` and verified to ``rung``."""
    submitted = [cell for cell in rows if cell[0]["origin"] == "submitted"]
    write_tables(root / "micro", exact_rows([cell for cell in rows if cell not in submitted]))
    if submitted:
        write_submission(root, submitted[0][0]["defense"], exact_rows(submitted), rung)
    (board,) = boards(load_rows([root]))
    return board


def standing(board: Board, defense: str, scenario: str = "") -> Standing:
    lines = board.by_scenario[scenario] if scenario else board.overall
    return next(line for line in lines if line.entry.id == defense)


FEDAVG = cells("fedavg", [0.2, 0.0], [1.0, 0.8])


# Four seeds; against an SD of the differences of 0.05, 0.2 is 8 standard errors, which Holm over 6 pairs separates.
FEDAVG4 = cells("fedavg", [0.1, 0.2, 0.1, 0.2], [1.0, 1.0, 0.95, 1.0])


MEDIAN4 = cells("median", [0.5, 0.6, 0.5, 0.55], [1, 1, 1, 1])


KRUM4 = cells("krum", [0.8, 0.9, 0.85, 0.9], [1, 1, 1, 1])


DNC4 = cells("dnc", [0.85, 0.85, 0.85, 0.9], [1, 1, 1, 1])


def second_scenario(defense: str, safeties: list[float], **changes: Any) -> list[Cell]:
    made = cells(defense, safeties, [], **changes)
    for row, _ in made:
        fresh = cell_row(**{**row, "scenario": "paper_shape"} | dict.fromkeys(("cell_key", "response_key"), ""))
        identity = f"{defense}-{row['seed']}"
        row.update(fresh, cell_key=f"cell-{identity}", response_key=f"response-{identity}")
    return made


def uneven(defenses: dict[str, list[float]], twin: tuple[str, ...]) -> list[Cell]:
    """Return the cells of ``rounds`` and its twin ``clean_rounds``, given safety under attack by seed."""
    made = []
    for defense, safeties in defenses.items():
        for scenario, attack in (("rounds", "unaligned_data"), ("clean_rounds", "none")):
            for seed, safety in enumerate(safeties if attack != "none" or defense in twin else []):
                row = cell_row(scenario=scenario, twin="clean_rounds", attack=attack, defense=defense, seed=seed)
                made.append((row, {"safety": safety if attack != "none" else 1.0, "utility": 0.9, "over_refusal": 0.1}))
    return made


def board_with(root: Path, rows: list[Cell], **scenarios: dict[str, Any]) -> Board:
    """Return the board of ``rows`` of a suite on four seeds, with settings of scenarios."""
    write_uneven(root, rows, **scenarios)
    (board,) = boards(load_rows([root]))
    return board


def write_uneven(root: Path, rows: list[Cell], **scenarios: dict[str, Any]) -> Path:
    """Write the rows of such a board below ``root`` and return it."""
    tables = exact_rows(rows)
    entries = [catalog_row("suite", "micro", settings=json.dumps({"seeds": [0, 1, 2, 3]}))]
    entries += [catalog_row("scenario", name, settings=json.dumps(own)) for name, own in scenarios.items()]
    return write_tables(root, {**tables, "catalog": table_of("catalog", entries)})


ROUNDS = {"fedavg": [0.3, 0.2], "median": [0.5, 0.4], "krum": [0.7, 0.6]}
TWIN = {"seeds": [0, 1], "defenses": ["fedavg", "krum"]}
