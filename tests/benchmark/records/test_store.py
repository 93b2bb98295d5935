"""The store: a file is whole or absent, and what cannot be read or written is said, never lost or guessed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records import store as module
from benchmark.records.schemas import TABLES
from benchmark.records.store import SCRATCH, Store, read_table, row_files


def probe(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "probe_set": "set",
        "probe_id": f"p{number}",
        "kind": "harmful",
        "stratum": "new",
        "scored": True,
        "instruction": "do w1",
        "reference": "",
        "position": None,
        "max_new_tokens": None,
        "target": None,
        "publish": None,
    } | changes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_rows_come_back_as_they_were(store: Store) -> None:
    assert not store.has("probes", "a")
    assert store.read_all("probes").num_rows == 0
    store.write("probes", "b", [probe(2)])
    store.write("probes", "a", [probe(0), probe(1)])
    assert store.has("probes", "a")
    assert store.keys("probes") == {"a", "b"}
    assert store.read("probes", "a").to_pylist() == [probe(0), probe(1)]
    assert store.read("probes", "a").schema.equals(TABLES["probes"], check_metadata=True)
    assert store.read_all("probes")["probe_id"].to_pylist() == ["p0", "p1", "p2"]
    assert files(store) == ["probes/a.parquet", "probes/b.parquet"]
    store.remove("probes", "a")
    store.remove("probes", "a")
    assert store.keys("probes") == {"b"}


def test_rows_may_come_as_a_table_and_labels_unify(store: Store) -> None:
    store.write("probes", "a", [probe(0, kind="harmful")])
    store.write("probes", "b", pa.Table.from_pylist([probe(1, kind="utility")], schema=TABLES["probes"]))
    assert store.read_all("probes")["kind"].to_pylist() == ["harmful", "utility"]


def test_no_rows_are_a_file_too(store: Store) -> None:
    store.write("verdicts", "a", [])
    assert store.has("verdicts", "a")
    assert store.read("verdicts", "a").num_rows == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in probe(0).items() if k != "kind"}, "and its schema differ in the column 'kind'"),
        (probe(0, colour="red"), "and its schema differ in the column 'colour'"),
        (probe(0, instruction=3), "a row does not fit the schema of table 'probes'"),
        (probe(0, scored="yes"), "a row does not fit the schema of table 'probes'"),
        (probe(0, instruction=None), "'probes': Casting field 'instruction' with null values to non-nullable"),
        (probe(0, kind=None), "'probes': Casting field 'kind' with null values to non-nullable"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_nothing(store: Store, row: dict[str, Any], message: str) -> None:
    store.write("probes", "a", [probe(0)])
    with pytest.raises(FedSafetyError, match=message):
        store.write("probes", "b", [probe(1), row])
    assert files(store) == ["probes/a.parquet"]


def test_a_number_out_of_range_is_refused(store: Store) -> None:
    row = dict.fromkeys(TABLES["responses"].names, "x")
    row |= {"tokens": 40_000, "finished": True, "soft_refusal": None}  # type: ignore[dict-item]
    with pytest.raises(FedSafetyError, match="does not fit the schema of table 'responses'"):
        store.write("responses", "a", [row])
    store.write("responses", "a", [row | {"tokens": 40}])
    assert store.read("responses", "a")["soft_refusal"].to_pylist() == [None]


def test_a_table_of_other_columns_is_refused(store: Store) -> None:
    with pytest.raises(FedSafetyError, match="does not fit the schema of table 'probes'"):
        store.write("probes", "a", pa.table({"x": [1]}))


def fail(code: int) -> Any:
    def raise_it(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return raise_it


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("benchmark.records.store.pq.write_table", errno.ENOSPC, "No space left on device"),
        ("benchmark.records.store.os.replace", errno.ENOSPC, "No space left on device"),
        ("benchmark.records.store.pq.write_table", errno.EROFS, "Read-only file system"),
        ("benchmark.records.store.pq.write_table", errno.EACCES, "Permission denied"),
    ],
)
def test_a_full_disk_or_read_only_folder_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str, code: int, message: str
) -> None:
    store.write("probes", "a", [probe(0)])
    monkeypatch.setattr(where, fail(code))
    for key in ("a", "b"):
        with pytest.raises(FedSafetyError, match=rf"cannot write .*{key}\.parquet: {message}; free space or choose"):
            store.write("probes", key, [probe(1)])
    monkeypatch.undo()
    assert files(store) == ["probes/a.parquet"]
    assert store.read("probes", "a").to_pylist() == [probe(0)]


def test_json_is_written_in_one_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.adapter_folder("k") / "run.json"
    store.write_json(path, {"b": 1, "a": [2]})
    before = path.read_text()
    assert before == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    monkeypatch.setattr("benchmark.records.store.os.replace", fail(errno.ENOSPC))
    with pytest.raises(FedSafetyError, match=r"cannot write .*run\.json: No space left"):
        store.write_json(path, {})
    assert path.read_text() == before
    assert files(store) == ["adapters/k/run.json"]


def test_ctrl_c_while_writing_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write("probes", "a", [probe(0)])
    assert files(store) == []


def test_what_a_killed_writer_left_is_ignored_and_cleared(store: Store) -> None:
    store.write("probes", "a", [probe(0)])
    store.write_json(store.adapter_folder("k") / "run.json", {})
    (store.root / "probes" / f"{SCRATCH}x1").write_bytes(b"PAR1 half a file")
    (store.root / "probes" / f"{SCRATCH}x2.parquet").write_bytes(b"")
    (store.adapter_folder("k") / f"{SCRATCH}x3").write_text("{")
    half = store.root / "adapters" / f"{SCRATCH}x4"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    assert store.keys("probes") == {"a"}
    assert store.read_all("probes").num_rows == 1
    assert store.clear_scratch() == 4
    assert files(store) == ["adapters/k/run.json", "probes/a.parquet"]
    assert not half.exists()
    assert store.clear_scratch() == 0
    assert Store(store.root / "nowhere").clear_scratch() == 0


def test_a_damaged_file_is_named_with_the_way_out(store: Store) -> None:
    store.write("probes", "a", [probe(number) for number in range(100)])
    path = store.root / "probes" / "a.parquet"
    whole = path.read_bytes()
    for damaged in (b"", b"no parquet", whole[: len(whole) // 2], whole[:40] + bytes(40) + whole[80:]):
        path.write_bytes(damaged)
        with pytest.raises(FedSafetyError, match=r"a\.parquet is damaged .*; delete it and run again"):
            store.read("probes", "a")


def outcome(store: Store) -> str:
    """Return the rows of file ``a``, or why it is refused."""
    try:
        return str(store.read("probes", "a").to_pylist())
    except FedSafetyError as error:
        return str(error)


def test_a_flipped_bit_in_the_pages_is_noticed(store: Store) -> None:
    store.write("probes", "a", [probe(number, instruction=f"do w{number * 37 % 101}") for number in range(50)])
    path = store.root / "probes" / "a.parquet"
    whole = path.read_bytes()
    expected = outcome(store)
    # The footer is the last part; its length stands before the closing mark.
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, pages, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert outcome(store) == expected or "a.parquet is damaged" in outcome(store)


def test_a_name_that_is_no_text_is_damage(store: Store) -> None:
    store.write("probes", "a", [probe(0)])
    path = store.root / "probes" / "a.parquet"
    path.write_bytes(path.read_bytes().replace(b"probe_id", b"probe\xff\xfed"))
    with pytest.raises(FedSafetyError, match=r"a\.parquet is damaged .*; delete it and run again"):
        store.read("probes", "a")


def test_a_folder_in_the_place_of_a_file_is_called_one(store: Store) -> None:
    (store.root / "probes" / "a.parquet").mkdir(parents=True)
    with pytest.raises(FedSafetyError, match=r"a\.parquet is a folder where a file of rows belongs; move it away"):
        store.read("probes", "a")


def test_a_missing_file_is_named(store: Store) -> None:
    with pytest.raises(FedSafetyError, match=r"b\.parquet is missing; run the command that makes it again"):
        store.read("probes", "b")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"fedsafety.table": "probes", "fedsafety.schema_version": "0"}, "schema version 0, this program reads"),
        ({"fedsafety.table": "rounds", "fedsafety.schema_version": "1"}, "holds table 'rounds', not 'probes'"),
        (None, "schema version none"),
    ],
)
def test_a_file_of_another_version_or_table_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"probe_id": ["p0"]}).replace_schema_metadata(metadata), path)
    with pytest.raises(FedSafetyError, match=message):
        read_table(path, "probes")


def test_a_store_is_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(FedSafetyError, match="file is a file; give another folder with --runs"):
        Store(path)


def test_what_a_living_process_writes_is_left_alone(store: Store) -> None:
    store.write("probes", "a", [probe(0)])
    folder = store.root / "probes"
    living = folder / f"{SCRATCH}{os.getppid()}-b.parquet"
    dead = folder / f"{SCRATCH}{2**22 + 1}-b.parquet"
    for path in (living, dead):
        path.write_bytes(b"PAR1")
    assert store.clear_scratch() == 1
    assert living.exists()
    assert not dead.exists()
    assert store.keys("probes") == {"a"}


def test_an_ending_in_capitals_is_refused_and_not_passed_over(store: Store, tmp_path: Path) -> None:
    store.write("probes", "a", [probe(1)])
    (tmp_path / "runs" / "probes" / "a.parquet").rename(tmp_path / "runs" / "probes" / "a.PARQUET")
    with pytest.raises(FedSafetyError, match=r"a\.PARQUET' ends in \.PARQUET; rename it so that it ends in \.parquet"):
        store.keys("probes")
    with pytest.raises(FedSafetyError, match=r"a\.PARQUET' ends in \.PARQUET"):
        row_files(tmp_path, below=True)


def test_a_file_in_the_place_of_a_table_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "probes").write_text("x")
    for use in (lambda: store.keys("probes"), lambda: store.write("probes", "a", [probe(1)])):
        with pytest.raises(FedSafetyError, match=r"runs/probes is a file where a folder of rows belongs; move it away"):
            use()
