"""A cell whose row was changed is refused, because its key does not follow from the changed row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.identity import (
    COVERED,
    cell_key,
    find_divided_training,
    find_foreign_probe_set,
    probe_set_key,
)
from benchmark.records.schemas import ADDED, TABLES
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld, withheld, without_texts
from leaderboard.rows.rows import load_rows

from ...leaderboard.synthetic import cell_row, write_table

CHANGES: dict[str, Any] = {
    "suite": "paper",
    "suite_version": "2",
    "primary_judge": "rule",
    "scenario": "blended",
    "scenario_version": "2",
    "twin": "clean_dirichlet",
    "defense": "krum",
    "stage": "krum",
    "ranked": False,
    "seed": 12,
    "status": "not_applicable",
    "reason": "krum needs n >= 9",
    "flags": ["degenerate: equals median"],
    "response_key": "0" * 32,
}


def written(root: Path, *rows: dict[str, Any]) -> Path:
    write_table(root / "cells", pa.Table.from_pylist(list(rows), schema=TABLES["cells"]))
    return root


def test_every_covered_column_has_a_change() -> None:
    assert CHANGES.keys() == set(COVERED)


@pytest.mark.parametrize("column", [name for name in COVERED if name not in ("status", "reason")])
def test_a_changed_column_gives_another_key(tmp_path: Path, column: str) -> None:
    row = cell_row() | {column: CHANGES[column]}
    with pytest.raises(FedSafetyError, match=r"has the key '[0-9a-f]{32}', but the values of its row give") as e:
        load_rows([written(tmp_path, row)])
    assert str(tmp_path / "cells" / "000.parquet") in str(e.value)
    assert "delete the file and make its rows again" in str(e.value)


def test_the_reason_is_covered_where_the_cell_does_not_apply() -> None:
    row = cell_row()
    failed = row | {"status": "failed", "reason": "the disk is full"}
    foreign = row | {"status": "not_applicable", "reason": CHANGES["reason"]}
    assert cell_key(failed) == cell_key(row)
    assert cell_key(foreign) not in (cell_key(row), cell_key(foreign | {"reason": "krum needs n >= 11"}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("protocol_version", "1.0"),
        ("clients", 11),
        ("malicious", 0),
        ("start_digest", "f" * 32),
        ("attack", "generated_data"),
    ],
)
def test_the_cells_of_one_training_have_one_protocol_and_shape(tmp_path: Path, column: str, value: object) -> None:
    rows = [cell_row(defense=defense, training_key="1" * 32) for defense in ("fedavg", "fedavg+posthoc_self")]
    load_rows([written(tmp_path / "same", *rows)])
    rows[1][column] = value
    with pytest.raises(FedSafetyError, match=rf"rest on one training, but have the values .* of {column}; delete"):
        load_rows([written(tmp_path / "changed", *rows)])


PROBES = [
    ("harmful-0", "harmful", "new_item", True, "How?", 12, "", "", "text"),
    ("harmful-1", "harmful", "new_item", False, "Why?", 12, "", "", "text"),
    ("utility-0", "utility", "code", True, "Sum", 40, "4", "5", "text"),
    ("held-0", "perplexity", "held", True, "Tell", 40, "", "Once", "text"),
]


def probe_rows(**changes: Any) -> list[dict[str, Any]]:
    names = ("probe_id", "kind", "stratum", "scored", "instruction", "max_new_tokens", "target", "reference", "publish")
    rows = [
        dict(zip(names, probe, strict=True)) | {"probe_set": probe_set_key(PROBES), "position": index}
        for index, probe in enumerate(PROBES)
    ]
    rows[1] |= changes
    return rows


def probe_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLES["probes"])


def test_the_digest_of_a_probe_set_follows_from_its_rows_in_any_order() -> None:
    assert find_foreign_probe_set(probe_table(probe_rows()[::-1])) == ""
    assert find_foreign_probe_set(probe_table([*probe_rows(), *probe_rows()])) == ""


def test_a_reference_is_part_of_a_probe_set_where_its_likelihood_is_measured() -> None:
    *others, (*shared, reference, publish) = PROBES
    assert probe_set_key(PROBES) != probe_set_key([*others, (*shared, "Twice", publish)])
    (*asked, _, _), *rest = others
    assert probe_set_key(others) == probe_set_key([(*asked, "4", "text"), *rest])
    assert reference == "Once"


def test_the_digest_of_probes_that_are_not_published_follows_from_texts_and_from_digests() -> None:
    hidden = [
        (*probe[:-1], publish) for probe, publish in zip(PROBES, ("hash", "answers", "text", "hash"), strict=True)
    ]
    key = probe_set_key(hidden)
    assert key != probe_set_key(PROBES)
    names = ("probe_id", "kind", "stratum", "scored", "instruction", "max_new_tokens", "target", "reference", "publish")
    rows = [
        dict(zip(names, probe, strict=True)) | {"probe_set": key, "position": index}
        for index, probe in enumerate(hidden)
    ]
    texts = probe_table(rows)
    assert find_foreign_probe_set(texts) == ""
    digests = without_texts("probes", texts, {"harmful-0": "hash", "harmful-1": "answers", "held-0": "hash"})
    assert [is_withheld(text) for text in digests["instruction"].to_pylist()] == [True, True, False, True]
    assert find_foreign_probe_set(digests) == ""
    changed = digests.to_pylist()
    changed[0] |= {"instruction": withheld("How not?")}
    assert "a probe was changed" in find_foreign_probe_set(probe_table(changed))


@pytest.mark.parametrize(
    "changes",
    [
        {"scored": True},
        {"kind": "over_refusal"},
        {"stratum": "old"},
        {"instruction": "Why"},
        {"max_new_tokens": 13},
        {"target": "Yes"},
        {"publish": "hash"},
        {"position": 7},
        {"position": 0},
        {"probe_set": "0" * 32},
    ],
    ids=str,
)
def test_a_changed_probe_is_refused_by_every_reader(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path)
    store.write("probes", "set", probe_table(probe_rows(**changes)))
    for read in (lambda: store.read("probes", "set"), lambda: load_rows([tmp_path])):
        with pytest.raises(
            FedSafetyError, match=r"a probe was changed, or is missing; delete|have the position 0; del"
        ):
            read()


def test_rows_without_the_later_columns_are_read(tmp_path: Path) -> None:
    plain = probe_table(probe_rows(scored=True)).drop_columns(list(ADDED["probes"]))
    metadata = {**TABLES["probes"].metadata, b"fedsafety.schema_version": b"1"}
    (tmp_path / "probes").mkdir()
    pq.write_table(plain.replace_schema_metadata(metadata), tmp_path / "probes" / "set.parquet")
    assert Store(tmp_path).read("probes", "set")["position"].null_count == len(PROBES)
    loaded = load_rows([tmp_path])
    assert loaded.published.probes.column_names == TABLES["probes"].names[:-4]
    pq.write_table(plain.replace_schema_metadata(TABLES["probes"].metadata), tmp_path / "probes" / "set.parquet")
    with pytest.raises(FedSafetyError, match="missing or of another type: position, max_new_tokens, target, publish"):
        load_rows([tmp_path])


@pytest.mark.parametrize(("column", "value"), [("generator", "transformers 9"), ("probe_set", "0" * 32)])
def test_responses_and_their_cell_have_one_probe_set_and_engine(tmp_path: Path, column: str, value: str) -> None:
    cell = cell_row()
    row = {
        **{name: cell[name] for name in ("response_key", "probe_set", "generator")},
        "probe_id": "harmful-0",
        "response": "No.",
        "tokens": 2,
        "finished": True,
        "soft_refusal": None,
    }
    rows = [row, row | {"probe_id": "harmful-1"}]
    for folder, changed in (("same", {}), ("cell", {}), ("one", {column: value}), ("all", {column: value})):
        rows[1] |= changed
        if folder == "all":
            rows[0] |= changed
        write_table(tmp_path / folder / "responses", pa.Table.from_pylist(rows, schema=TABLES["responses"]))
        written(tmp_path / folder, cell | ({column: value} if folder == "cell" else {}))
        if folder == "same":
            load_rows([tmp_path / folder])
            continue
        with pytest.raises(FedSafetyError, match=rf"cannot be right: .* {column}.*; delete the file"):
            load_rows([tmp_path / folder])


def test_many_cells_of_one_training_are_compared_with_all_others() -> None:
    rows = [cell_row(seed=seed, training_key=str(seed % 3) * 32, clients=10 + seed % 3) for seed in range(12)]
    table = pa.Table.from_pylist(rows, schema=TABLES["cells"])
    assert find_divided_training(table) == ""
    rows[11]["clients"] = 15
    table = pa.concat_tables(pa.Table.from_pylist(part, schema=TABLES["cells"]) for part in (rows[:5], rows[5:]))
    assert f"{rows[2]['cell_key']} and {rows[11]['cell_key']} rest on one training" in find_divided_training(table)
