"""Descriptions of several versions: which of them a board shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from ..by_hand import cells
from ..synthetic import catalog_row, exact_rows, table_of, write_tables


def _described(kind: str, id_: str, text: str, position: int = 0, **settings: Any) -> dict[str, Any]:
    return catalog_row(kind, id_, description=text, position=position, settings=json.dumps(settings))


@pytest.mark.parametrize("shown", ["1", "2"])
def test_the_catalog_rows_of_the_shown_version_are_shown_whatever_their_order(tmp_path: Path, shown: str) -> None:
    tables = exact_rows(cells("fedavg", [0.2], [1.0], suite_version=shown, scenario_version=shown))
    texts = {("suite", "micro"): "Suite", ("scenario", "aligned_start"): "Attack", ("scenario", "clean"): "Peace"}
    rows = [
        _described(kind, id_, f"{text} of version {version}.", position=5 - int(version), version=version)
        for (kind, id_), text in texts.items()
        for version in ("1", "2", "3")
    ]
    tables["catalog"] = table_of("catalog", rows)
    (board,) = boards(load_rows([write_tables(tmp_path, tables)]))
    assert board.info["description"] == f"Suite of version {shown}."
    assert [scenario.info["description"] for scenario in board.scenarios] == [
        f"Attack of version {shown}.",
        f"Peace of version {shown}.",
    ]


def test_rows_that_differ_in_settings_only_are_said_so_and_unreadable_settings_do_no_harm(tmp_path: Path) -> None:
    tables = exact_rows(cells("fedavg", [0.2], [1.0]))
    same = [_described("scenario", "clean", "Nobody attacks.", version="1", clients=count) for count in (10, 20)]
    odd = [catalog_row("scenario", "aligned_start", settings=text) for text in ("not json", "[1]")]
    tables["catalog"] = table_of("catalog", [*same, *odd])
    (board,) = boards(load_rows([write_tables(tmp_path, tables)]))
    (notice,) = board.notices
    assert notice.startswith("Several descriptions or settings are stored")
    assert notice.endswith("shown: scenario aligned_start, scenario clean.")
    assert board.scenarios[0].info["settings"] == "[1]"


def test_a_local_row_of_the_shown_version_comes_before_a_published_one_of_another(tmp_path: Path) -> None:
    stale = table_of("catalog", [_described("suite", "micro", "The old suite.", version="0")])
    write_tables(tmp_path / "results", {"catalog": stale})
    tables = exact_rows(cells("fedavg", [0.2], [1.0], origin="local"))
    tables["catalog"] = table_of("catalog", [_described("suite", "micro", "The present suite.", version="1")])
    write_tables(tmp_path / "runs", tables)
    (board,) = boards(load_rows([tmp_path / "results"], local=[tmp_path / "runs"]))
    assert board.info["description"] == "The present suite."


def test_methods_that_share_a_title_are_shown_with_their_ids(tmp_path: Path) -> None:
    tables = exact_rows([*cells("fedavg", [0.2], [1.0]), *cells("mine", [0.3], [1.0]), *cells("krum", [0.4], [1.0])])
    titles = {"fedavg": "FedAvg", "mine": "fed avg", "krum": "Krum"}
    rows = [catalog_row("defense", id_, title=title) for id_, title in titles.items()]
    tables["catalog"] = table_of("catalog", [*rows, catalog_row("scenario", "clean", title="Krum")])
    (board,) = boards(load_rows([write_tables(tmp_path, tables)]))
    assert {entry.id: entry.info["title"] for entry in board.entries} == {
        "fedavg": "FedAvg (fedavg)",
        "mine": "fed avg (mine)",
        "krum": "Krum",
    }
