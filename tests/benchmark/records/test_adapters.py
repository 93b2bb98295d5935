"""The record beside an adapter: it is there when the adapter is complete, and it is refused when it is not whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.adapters import Usage, adapter_is_complete, read_record, write_record
from benchmark.records.store import Store

RECORD = {
    "usage": asdict(Usage(generated_pairs=3)),
    "malicious_rows": 1,
    "malicious_leaks": 0,
    "rejected_updates": 0,
    "train_seconds": 0.5,
    "upload_bytes": 40,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.adapter_folder("a").mkdir(parents=True)
    return store


def test_a_record_makes_an_adapter_complete_and_is_read_back(store: Store) -> None:
    assert not adapter_is_complete(store, "a")
    write_record(store, "a", RECORD)
    assert adapter_is_complete(store, "a")
    assert read_record(store.adapter_folder("a")) == RECORD


@pytest.mark.parametrize("lacking", [*RECORD, "usage/extra_models"])
def test_an_incomplete_record_is_refused(store: Store, lacking: str) -> None:
    record = json.loads(json.dumps(RECORD))
    name, _, inner = lacking.partition("/")
    del (record[name] if inner else record)[inner or name]
    write_record(store, "a", record)
    with pytest.raises(FedSafetyError, match=r"run\.json is incomplete; delete its folder"):
        read_record(store.adapter_folder("a"))


def test_a_missing_or_damaged_record_is_refused(store: Store) -> None:
    with pytest.raises(FedSafetyError, match=r"cannot read .*run\.json .*; delete its folder and run again"):
        read_record(store.adapter_folder("a"))
    (store.adapter_folder("a") / "run.json").write_text("{half")
    with pytest.raises(FedSafetyError, match=r"cannot read .*run\.json .*; delete its folder and run again"):
        read_record(store.adapter_folder("a"))


def test_usages_add_up() -> None:
    total = Usage(owned_aligned=1, server_seconds=0.5).plus(Usage(owned_aligned=2, extra_models=1))
    assert total == Usage(owned_aligned=3, extra_models=1, server_seconds=0.5)
