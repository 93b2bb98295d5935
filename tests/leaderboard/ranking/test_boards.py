"""Boards beyond scenarios and means: versions, sources, gates, notices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from ..by_hand import FEDAVG, second_scenario, standing
from ..synthetic import catalog_row, exact_rows, table_of, write_tables


def test_a_sensitivity_point_is_kept_out_of_scenarios_and_means(tmp_path: Path) -> None:
    tables = exact_rows(FEDAVG + second_scenario("fedavg", [0.4, 0.4]))
    axis = {"axis": "share", "title": "Share", "unit": "%", "value": 10, "position": 0, "base": "aligned_start"}
    described = catalog_row("scenario", "paper_shape", settings=json.dumps({"sensitivity": axis}))
    tables["catalog"] = table_of("catalog", [described])
    (board,) = boards(load_rows([write_tables(tmp_path, tables)]))
    assert [scenario.id for scenario in board.scenarios] == ["aligned_start", "clean"]
    assert board.compared == ("aligned_start",)
    assert standing(board, "fedavg").metrics["safety"].mean == pytest.approx(0.1)
