"""Publishing adds measurements and keeps one catalog a suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError
from benchmark.records.publish import other_protocols, publish
from benchmark.records.store import Store

from ...leaderboard.synthetic import catalog_row, cell_row


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def catalog(results: Path) -> dict[str, str]:
    assert len(list((results / "micro" / "catalog").glob("*"))) == 1
    return {row["id"]: row["title"] for row in Store(results / "micro").read_all("catalog").to_pylist()}


def add_cell(store: Store, seed: int, **changes: str) -> None:
    row = cell_row(seed=seed, origin="local", **changes)
    store.write("cells", row["cell_key"], [row])


def add_catalog(store: Store, key: str, titles: dict[str, str], suite: str = "micro", time: int = 0) -> None:
    rows = [catalog_row("suite", suite), *(catalog_row("defense", id_, title=title) for id_, title in titles.items())]
    store.write("catalog", key, rows)
    os.utime(store.root / "catalog" / f"{key}.parquet", ns=(time, time))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results into which a first run was published."""
    store = Store(tmp_path / "first")
    add_cell(store, seed=0)
    add_catalog(store, "first", {"krum": "Krum", "retired": "Retired rule"})
    assert publish(store, tmp_path / "results", "micro")["catalog"] == 3
    return tmp_path / "results"


def test_new_descriptions_win_and_those_that_the_new_catalog_lacks_stay(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "second", {"krum": "Krum, reworded", "dnc": "DnC"})
    added = publish(store, results, "micro")
    assert {table: count for table, count in added.items() if count} == {"cells": 1, "catalog": 2}
    assert catalog(results) == {
        "micro": "Micro",
        "krum": "Krum, reworded",
        "retired": "Retired rule",
        "dnc": "DnC",
    }
    after = files(results)
    assert {name for name in before if after.get(name) != before[name]} == {n for n in before if "/catalog/" in n}


def test_a_catalog_that_says_nothing_new_stays_the_same_file(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "other", {"krum": "Krum"})
    assert publish(store, results, "micro")["catalog"] == 0
    assert before.items() <= files(results).items()


def test_several_former_catalogs_become_one(tmp_path: Path, results: Path) -> None:
    Store(results / "micro").write("catalog", "stray", [catalog_row("defense", "median", title="Median")])
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "same", {"krum": "Krum", "retired": "Retired rule"})
    publish(store, results, "micro")
    assert catalog(results)["median"] == "Median"


def test_the_widest_catalog_of_the_suite_counts_and_of_equals_the_newest(tmp_path: Path, results: Path) -> None:
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "a", {"krum": "newest of the wide", "dnc": "DnC"}, time=2)
    add_catalog(store, "b", {"krum": "older of the wide", "dnc": "DnC"}, time=1)
    add_catalog(store, "c", {"krum": "narrow"}, time=3)
    add_catalog(store, "d", {"krum": "foreign", "dnc": "foreign", "x": "foreign"}, suite="other", time=4)
    publish(store, results, "micro")
    assert catalog(results) == {
        "micro": "Micro",
        "krum": "newest of the wide",
        "dnc": "DnC",
        "retired": "Retired rule",
    }


def test_a_refused_publishing_leaves_the_catalog_as_it_was(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=0)
    add_catalog(store, "second", {"krum": "Krum, reworded"})
    with pytest.raises(UsageError, match="already has each finished cell"):
        publish(store, results, "micro")
    assert files(results) == before


def test_cells_of_another_protocol_stay_behind_and_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add_cell(store, seed=0, protocol_version="0")
    add_cell(store, seed=1)
    assert publish(store, tmp_path / "results", "micro")["cells"] == 1
    (cell,) = Store(tmp_path / "results" / "micro").read_all("cells").to_pylist()
    assert (cell["seed"], cell["protocol_version"]) == (1, PROTOCOL_VERSION)
    assert other_protocols(store, "micro") == (
        f"1 finished cells of protocol 0 stay in {store.root}: this release publishes protocol {PROTOCOL_VERSION}"
    )


def test_a_folder_of_another_protocol_alone_is_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add_cell(store, seed=0, protocol_version="0")
    rule = f"are of protocol 0, and this release publishes protocol {PROTOCOL_VERSION}; run the suite again, or publish"
    with pytest.raises(UsageError, match=rule):
        publish(store, tmp_path / "results", "micro")
    assert not (tmp_path / "results").exists()
