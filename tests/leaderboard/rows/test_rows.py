from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.records.schemas import ADDED, TABLES
from benchmark.records.store import SCRATCH
from leaderboard.rows.rows import load_rows

from ..synthetic import LOCAL, SMALL, cell_row, exact_rows, make_rows, table_of, write_rows, write_table, write_tables


def test_every_table_is_loaded_whole_and_split_by_origin(committed: Path, runs: Path) -> None:
    rows = load_rows([committed, runs])
    for name in TABLES:
        assert getattr(rows.published, name).num_rows == make_rows(SMALL)[name].num_rows
        assert getattr(rows.local, name).num_rows == make_rows(LOCAL, seed=8)[name].num_rows
    assert set(rows.local.cells.column("origin").to_pylist()) == {"local"}


def test_rows_come_back_as_they_were_written(committed: Path) -> None:
    def in_order(table: pa.Table) -> list[str]:
        return sorted(map(repr, table.to_pylist()))

    loaded = load_rows([committed]).published
    for name, table in make_rows(SMALL).items():
        expected = table.drop_columns(list(ADDED.get(name, ())))
        assert in_order(getattr(loaded, name)) == in_order(expected), name


def test_order_of_rows_files_and_roots_leaves_no_trace(tmp_path: Path, committed: Path, runs: Path) -> None:
    rng = np.random.default_rng(3)
    for name, table in make_rows(SMALL).items():
        shuffled = table.take(pa.array(rng.permutation(table.num_rows)))
        write_table(tmp_path / "any" / name, shuffled, files=5)
    assert load_rows([runs, tmp_path]).digest == load_rows([committed, runs]).digest


def test_split_over_roots_leaves_no_trace(tmp_path: Path, committed: Path) -> None:
    for name, table in make_rows(SMALL).items():
        half = table.num_rows // 2
        write_table(tmp_path / "one" / name, table.slice(0, half))
        write_table(tmp_path / "two" / name, table.slice(half))
    assert load_rows([tmp_path / "two", tmp_path / "one"]).digest == load_rows([committed]).digest


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("cells", "server_seconds", 0.25),
        ("cells", "flags", ["late"]),
        ("cells", "reason", "x"),
        ("rounds", "weights", [0.25, 0.75]),
        ("responses", "response", "something else"),
        ("responses", "soft_refusal", None),
        ("responses", "finished", False),
        ("verdicts", "detail", "something else"),
        ("probes", "instruction", "something else"),
        ("catalog", "description", "something else"),
    ],
)
def test_any_changed_value_changes_the_digest(
    tmp_path: Path, committed: Path, table: str, column: str, value: object
) -> None:
    tables = make_rows(SMALL)
    changed = tables[table].to_pylist()
    assert changed[1][column] != value
    changed[1][column] = value
    tables[table] = table_of(table, changed)
    assert load_rows([write_tables(tmp_path, tables)]).digest != load_rows([committed]).digest


def test_a_missing_row_changes_the_digest(tmp_path: Path, committed: Path) -> None:
    tables = make_rows(SMALL)
    tables["verdicts"] = tables["verdicts"].slice(1)
    assert load_rows([write_tables(tmp_path, tables)]).digest != load_rows([committed]).digest


def _metadata(rows: pa.Table, **changes: str) -> pa.Table:
    metadata = {**rows.schema.metadata, **{f"fedsafety.{name}".encode(): text for name, text in changes.items()}}
    return rows.replace_schema_metadata(metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda table: _metadata(table, schema_version="99"),
            r"odd\.parquet.*version 99.*reads versions 1 and 2;.*run",
        ),
        (
            lambda table: _metadata(table, table="lost"),
            r"odd\.parquet.*not a file of.*'lost'.*move it out",
        ),
        (lambda table: table.replace_schema_metadata(None), r"odd\.parquet.*not a file of benchmark rows"),
        (lambda table: table.drop_columns(["seed"]), r"odd\.parquet.*missing or of another type: seed; unknown: none"),
        (lambda table: table.append_column("extra", table.column("seed")), r"odd\.parquet.*unknown: extra"),
    ],
    ids=["version", "table", "foreign", "column lost", "column added"],
)
def test_what_cannot_be_read_faithfully_is_refused(
    tmp_path: Path, damage: Callable[[pa.Table], pa.Table], message: str
) -> None:
    (tmp_path / "cells").mkdir()
    pq.write_table(damage(table_of("cells", [cell_row()])), tmp_path / "cells" / "odd.parquet")
    with pytest.raises(FedSafetyError, match=message):
        load_rows([tmp_path])


def test_a_half_written_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_rows(tmp_path, SMALL)
    path = tmp_path / "verdicts" / "000.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FedSafetyError, match=r"cannot read .*verdicts.*000\.parquet.*delete the file and run"):
        load_rows([tmp_path])


def test_what_a_running_command_is_writing_is_passed_over(tmp_path: Path, committed: Path) -> None:
    write_tables(tmp_path, make_rows(SMALL))
    (tmp_path / "cells" / f"{SCRATCH}4711-key.parquet").write_bytes(b"PAR1 half a file")
    assert load_rows([tmp_path]).digest == load_rows([committed]).digest


def test_a_missing_value_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([field.with_nullable(True) for field in TABLES["cells"]], metadata=TABLES["cells"].metadata)
    write_table(tmp_path / "cells", pa.Table.from_pylist([{**cell_row(), "seed": None}], schema=schema))
    with pytest.raises(FedSafetyError, match="no value in some rows of column 'seed'"):
        load_rows([tmp_path])


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*nowhere"):
        load_rows([tmp_path / "nowhere"])


def test_folders_that_contain_each_other_are_refused(tmp_path: Path) -> None:
    for seed, folder in enumerate(("results/runs", "results-old")):
        write_table(tmp_path / folder / "cells", table_of("cells", [cell_row(origin="local", seed=seed)]))
    results = tmp_path / "results"
    for roots, local in (([results], [results / "runs"]), ([results / "runs"], [results])):
        with pytest.raises(UsageError, match=r"folder '.*runs' lies inside '.*results', .* read twice; name folders"):
            load_rows(roots, local=local)
    beside_and_twice = [tmp_path / "results-old", results / "x" / ".."]
    assert load_rows(beside_and_twice, local=[results]).local.cells.num_rows == 2


def test_the_same_cell_twice_in_one_origin_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_table(tmp_path / folder / "cells", table_of("cells", [cell_row(seed=4)]))
    with pytest.raises(
        FedSafetyError, match=r"\(micro, aligned_start, fedavg, seed 4\) is stored twice.*delete one"
    ) as e:
        load_rows([tmp_path])
    assert str(e.value).endswith(
        f"{str(tmp_path / 'a/cells/000.parquet')!r}, {str(tmp_path / 'b/cells/000.parquet')!r}"
    )


def test_the_same_cell_committed_and_local_is_fine(tmp_path: Path) -> None:
    for origin in ("committed", "local"):
        write_table(tmp_path / origin / "cells", table_of("cells", [cell_row(origin=origin)]))
    rows = load_rows([tmp_path / "committed", tmp_path / "local"])
    assert rows.published.cells.num_rows == rows.local.cells.num_rows == 1


def test_a_response_set_shared_by_two_suites_is_stored_once(tmp_path: Path) -> None:
    tables = exact_rows([(cell_row(), {})])
    write_tables(tmp_path / "one", tables)
    write_tables(tmp_path / "two", {**tables, "cells": table_of("cells", [cell_row(suite="other", cell_key="k")])})
    assert load_rows([tmp_path]).published.verdicts.num_rows == tables["verdicts"].num_rows


def test_contradicting_verdicts_are_refused(tmp_path: Path) -> None:
    tables = exact_rows([(cell_row(), {})])
    write_tables(tmp_path / "one", tables)
    other = tables["verdicts"].to_pylist()
    other[0]["verdict"] = "harmful"
    write_table(tmp_path / "two" / "verdicts", table_of("verdicts", other))
    with pytest.raises(
        FedSafetyError, match=r"table 'verdicts' with response_key=.* contradict each other in verdict"
    ) as e:
        load_rows([tmp_path])
    assert str(e.value).count("/verdicts/000.parquet'") == 2


def test_unfinished_local_work_does_not_touch_the_published_digest(tmp_path: Path, committed: Path) -> None:
    write_table(tmp_path / "verdicts", exact_rows([(cell_row(), {})])["verdicts"])
    rows = load_rows([committed], local=[tmp_path])
    assert rows.published.digest == load_rows([committed]).published.digest
    assert rows.local.verdicts.num_rows > 0
