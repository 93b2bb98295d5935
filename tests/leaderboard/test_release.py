from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import StorageError, UsageError
from benchmark.records.schemas import SCHEMA_VERSION
from leaderboard import release as release_module
from leaderboard.ranking.boards import boards
from leaderboard.release import file_digests, write_release
from leaderboard.rows.rows import Rows, load_rows

from .synthetic import SMALL, cell_row, exact_rows, make_rows, table_of, write_site, write_tables


@pytest.fixture(scope="module")
def published(committed: Path) -> Rows:
    return load_rows([committed])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_holds_page_tables_and_a_manifest(published: Rows, tmp_path: Path) -> None:
    folder = write_release(published, "1.0", tmp_path / "releases")
    assert folder == tmp_path / "releases" / "1.0"
    found = contents(folder)
    (board,) = boards(published)
    tables = {f"tables/micro/{name}.csv" for name in ("overall", *board.by_scenario)}
    write_site(published, tmp_path / "site")
    assert set(found) == tables | {"release.json"} | set(contents(tmp_path / "site"))
    assert found["index.html"] == (tmp_path / "site" / "index.html").read_bytes()
    manifest = json.loads(found.pop("release.json"))
    assert manifest["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    del manifest["files"]
    assert manifest == {
        "release": "1.0",
        "package": __version__,
        "protocol": PROTOCOL_VERSION,
        "schema": SCHEMA_VERSION,
        "suites": {"micro": {"version": "1", "protocol": PROTOCOL_VERSION}},
        "rows": {
            "sha256": published.published_digest,
            "cells": published.published.cells.num_rows,
            "newest": "2030-01-01",
            "where": "results/ of the repository at tag release-1.0",
        },
        "check": "fedsafety reproduce releases/1.0",
    }


def test_a_table_has_one_line_a_defense_with_its_interval(published: Rows, tmp_path: Path) -> None:
    folder = write_release(published, "1.0", tmp_path)
    lines = list(csv.DictReader(io.StringIO((folder / "tables" / "micro" / "aligned_start.csv").read_text())))
    (board,) = boards(published)
    standings = board.by_scenario["aligned_start"]
    assert [line["defense"] for line in lines] == [standing.entry.id for standing in standings]
    for line, standing in zip(lines, standings, strict=True):
        safety = standing.metrics["safety"]
        assert float(line["safety"]) == pytest.approx(safety.mean, abs=1e-6)
        assert float(line["safety_high"]) == pytest.approx(safety.high, abs=1e-6)
        assert line["rank"] == str(standing.rank or "")
        assert (line["safety_seeds"], line["safety_method"]) == ("3", safety.method)


def test_the_same_rows_give_the_same_bytes_and_no_path(published: Rows, tmp_path: Path) -> None:
    one, two = (write_release(published, "1.0", tmp_path / name) for name in ("one", "two"))
    assert contents(one) == contents(two)
    assert not [name for name, content in contents(one).items() if str(tmp_path).encode() in content]


def test_a_release_is_never_overwritten(published: Rows, tmp_path: Path) -> None:
    folder = write_release(published, "1.0", tmp_path)
    before = contents(folder)
    with pytest.raises(UsageError, match="exists, and releases are frozen; give the next version"):
        write_release(published, "1.0", tmp_path)
    assert contents(folder) == before
    write_release(published, "1.0.1", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0", "1.0.1"]


@pytest.mark.parametrize("version", ["", "1", "v1.0", "1.0-rc1", "../1.0", "1.0/x", "01.0", "1.0.0.0", "1.0\n"])
def test_what_is_no_version_is_refused(published: Rows, tmp_path: Path, version: str) -> None:
    with pytest.raises(UsageError, match="is not a release version; give two or three numbers"):
        write_release(published, version, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("origin", ["local", "submitted"])
def test_local_and_submitted_rows_are_not_released(tmp_path: Path, origin: str) -> None:
    tables = make_rows(SMALL)
    stray = cell_row(defense="mine", origin=origin)
    write_tables(tmp_path / "rows", tables)
    write_tables(tmp_path / "submitted" / "mine", {"cells": table_of("cells", [stray])})
    rows = load_rows([tmp_path / "rows", tmp_path / "submitted" / "mine"])
    with pytest.raises(UsageError, match=f"1 cells are {origin}, and a release holds committed rows only"):
        write_release(rows, "1.0", tmp_path / "releases")
    assert not list((tmp_path / "releases").iterdir())


def test_without_cells_there_is_no_release(tmp_path: Path) -> None:
    rows = load_rows([write_tables(tmp_path / "rows", exact_rows([]))])
    with pytest.raises(UsageError, match="there are no cells to show"):
        write_release(rows, "1.0", tmp_path / "releases")


def test_a_release_that_fails_half_way_leaves_nothing(
    published: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release_module, "view_csv", full)
    with pytest.raises(StorageError, match=r"cannot write the release .*: No space left on device; free space or name"):
        write_release(published, "1.0", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_digests_cover_every_file_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("release.json", "a.html", "deep/b.csv"):
        (tmp_path / name).write_text(name)
    assert list(file_digests(tmp_path)) == ["a.html", "deep/b.csv"]
