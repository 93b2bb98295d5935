"""Rows that cannot be right are refused with one error; rows of others take nothing away from committed ones."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from ..synthetic import cell_row, exact_rows, table_of, write_submission, write_tables

ATTACKED, CLEAN = ("aligned_start", "unaligned_data"), ("clean", "none")


def rows_of(defense: str, safeties: list[float], **changes: Any) -> list[tuple[dict[str, Any], dict[str, float]]]:
    return [
        (
            cell_row(
                **(
                    {"scenario": scenario, "twin": "clean", "attack": attack, "defense": defense, "seed": seed}
                    | changes
                )
            ),
            {"safety": safety if attack != "none" else 1.0, "utility": 0.9, "over_refusal": 0.1},
        )
        for seed, safety in enumerate(safeties)
        for scenario, attack in (ATTACKED, CLEAN)
    ]


COMMITTED = [*rows_of("fedavg", [0.1, 0.2, 0.1]), *rows_of("krum", [0.8, 0.9, 0.85])]


def summary(board: Board) -> list[tuple[str, str, int | None, float | None]]:
    committed = [line for line in board.overall if "committed" in line.entry.origins]
    return [
        (line.entry.id, line.group, line.rank, line.metrics["safety"].mean if "safety" in line.metrics else None)
        for line in committed
    ]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("origin", "evil", "origin is 'evil', must be one of committed, local, submitted"),
        ("twin", "aligned_start", "attack is 'unaligned_data' in 'aligned_start', which is its own twin"),
        ("status", "running", "status is 'running'"),
        ("knowledge", "everything", "knowledge is 'everything'"),
        ("knowledge", "truth", "a ranked row is told the truth"),
        ("defense", "", "defense is empty"),
        ("server_seconds", float("inf"), "server_seconds is not finite"),
        ("generated_tokens", -1, "generated_tokens is -1, must not be negative"),
        ("seed", -5, "seed is -5"),
        ("flags", [None], "flags holds a missing text"),
        ("created_at", datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC), "created_at is beyond any calendar"),
    ],
)
def test_a_cell_that_cannot_be_right_is_refused(tmp_path: Path, column: str, value: object, said: str) -> None:
    row = cell_row()
    row[column] = value
    tables = exact_rows(COMMITTED)
    tables["cells"] = table_of("cells", [row])
    with pytest.raises(FedSafetyError, match="cannot be right") as caught:
        load_rows([write_tables(tmp_path, tables)])
    assert said in str(caught.value)
    assert "make its rows again" in str(caught.value)


def test_a_probe_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    tables = exact_rows(COMMITTED)
    probes = tables["probes"].to_pylist()
    tables["probes"] = table_of("probes", [{**probes[0], "kind": "bogus"}, *probes[1:]])
    with pytest.raises(FedSafetyError, match="kind is 'bogus'"):
        load_rows([write_tables(tmp_path, tables)])


@pytest.mark.parametrize("origin", ["submitted", "local"])
@pytest.mark.parametrize(
    "changes",
    [
        {"scenario": "zzz"},  # a scenario of its own would enter the mean
        {"twin": "nowhere"},
        {"primary_judge": "rule"},
        {"malicious": 0, "clients": 99},
        {"defense": "krum", "stage": "zzz"},  # a committed defense
        {"defense": "krum", "seed": 99, "ranked": False},
    ],
    ids=str,
)
def test_rows_of_others_change_nothing_for_committed_ones(tmp_path: Path, origin: str, changes: dict[str, Any]) -> None:
    write_tables(tmp_path / "results", exact_rows(COMMITTED))
    (before,) = boards(load_rows([tmp_path / "results"]))
    defense = changes.get("defense", "aaa")
    others = {name: value for name, value in changes.items() if name != "defense"}
    hostile = rows_of(defense, [0.0, 0.0, 0.0], **({"origin": origin} | others))
    for index, (row, _) in enumerate(hostile):
        row.update(cell_key=f"cell-{index}", response_key=f"response-{index}")
    hostile = [cell for cell in hostile if cell[0]["attack"] != "none"]
    if "seed" in changes:
        hostile = hostile[:1]
    if origin == "submitted":
        write_submission(tmp_path / "results", defense, exact_rows(hostile), "reproduced")
        (after,) = boards(load_rows([tmp_path / "results"]))
    else:
        write_tables(tmp_path / "other", exact_rows(hostile))
        (after,) = boards(load_rows([tmp_path / "results", tmp_path / "other"]))
    assert summary(after) == summary(before)
    assert after.compared == before.compared == ("aligned_start",)
    assert [scenario.id for scenario in after.scenarios] == [scenario.id for scenario in before.scenarios]
    assert after.primary_judge == "oracle"


def test_a_probe_set_cannot_be_extended_from_another_folder(tmp_path: Path) -> None:
    write_tables(tmp_path / "results", exact_rows(COMMITTED))
    tables = exact_rows(rows_of("mine", [0.5, 0.5, 0.5], origin="local"))
    probes = tables["probes"].to_pylist()
    tables["probes"] = table_of("probes", [*probes, {**probes[0], "probe_id": "one more"}])
    write_tables(tmp_path / "runs", tables)
    with pytest.raises(FedSafetyError, match="is not that of the committed probe set"):
        load_rows([tmp_path / "results"], local=[tmp_path / "runs"])
