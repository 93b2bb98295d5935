"""What a submission's folder may hold, and what of it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.withheld import without_texts
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.rows.submitted import LONGEST_TEXT
from leaderboard.scores.cells import scores

from ..synthetic import (
    catalog_row,
    cell_row,
    exact_rows,
    reading_row,
    table_of,
    verification_row,
    write_submission,
    write_table,
    write_tables,
)

Tables = dict[str, pa.Table]


def rows_of(defense: str, **changes: Any) -> list[tuple[dict[str, Any], dict[str, float]]]:
    made = []
    for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none")):
        for seed in (0, 1):
            told = {"scenario": scenario, "twin": "clean", "attack": attack, "defense": defense, "seed": seed}
            made.append((cell_row(**(told | changes)), {"safety": 0.5, "utility": 0.9, "over_refusal": 0.1}))
    return made


def mine(**changes: Any) -> Tables:
    return exact_rows(rows_of("mine", **changes))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_tables(tmp_path / "results" / "micro", exact_rows(rows_of("fedavg")))
    return tmp_path / "results"


def test_a_submission_below_the_results_is_read_apart_from_committed_rows(results: Path) -> None:
    digest = load_rows([results]).published_digest
    write_submission(results, "mine", mine())
    rows = load_rows([results])
    assert (rows.published.cells.num_rows, rows.pending.cells.num_rows) == (4, 4)
    assert rows.published_digest == rows.cited_digest(pending=False) == digest
    assert rows.cited_digest(pending=True) != digest
    assert {rung.name for rung in rows.rungs.values()} == {"claimed"}
    assert load_rows([results], submitted=False).pending.cells.num_rows == 0
    assert load_rows([results], without=[results / "submitted" / "mine"]).pending.cells.num_rows == 0


def test_reproduced_rows_are_published(results: Path) -> None:
    digest = load_rows([results]).published_digest
    folder = write_submission(results, "mine", mine(), "reproduced")
    rows = load_rows([results])
    assert (rows.published.cells.num_rows, rows.pending.cells.num_rows) == (8, 0)
    assert rows.published_digest != digest
    assert rows.published.verifications.num_rows == 4
    # A folder that `fedsafety verify` wrote is read alike wherever it lies.
    apart = folder.rename(results.parent / "verified")
    assert load_rows([results, apart]).published_digest == rows.published_digest


@pytest.mark.parametrize("rung", ["claimed", "checked", "sampled", "reproduced"])
def test_the_rung_is_the_lowest_over_the_cells_of_an_entry(results: Path, rung: str) -> None:
    tables = mine()
    folder = write_submission(results, "mine", tables, "reproduced")
    cells = tables["cells"].to_pylist()
    rungs = ["reproduced", "reproduced", "reproduced", rung]
    rows = [verification_row(cell, "mine", name) for cell, name in zip(cells, rungs, strict=True) if name != "claimed"]
    write_table(folder / "verifications", table_of("verifications", rows))
    found = set(load_rows([results]).rungs.values())
    assert {each.name for each in found} == {rung}
    reason = {"claimed": "1 of 4 cells were not verified", "reproduced": ""}.get(rung, "nobody asked for more")
    assert {each.reason for each in found} == {reason}


def test_a_pipeline_of_a_submission_has_a_rung_of_its_own(results: Path) -> None:
    both = exact_rows([*rows_of("mine"), *rows_of("fedavg+mine")])
    folder = write_submission(results, "mine", both, "reproduced")
    cells = [cell for cell in both["cells"].to_pylist() if cell["defense"] == "mine"]
    write_table(
        folder / "verifications", table_of("verifications", [verification_row(c, "mine", "reproduced") for c in cells])
    )
    rows = load_rows([results])
    assert set(rows.pending.cells.column("defense").to_pylist()) == {"fedavg+mine"}
    assert "mine" in set(rows.published.cells.column("defense").to_pylist())


def refused(results: Path, message: str) -> None:
    with pytest.raises(FedSafetyError, match=message):
        load_rows([results])


def test_cells_of_another_id_than_the_folders_are_refused(results: Path) -> None:
    write_submission(results, "mine", exact_rows(rows_of("theirs")))
    refused(
        results, r"submission 'mine' holds cells of 'theirs' under attack 'none', which is neither a defense nor an"
    )


@pytest.mark.parametrize("origin", ["committed", "local"])
def test_a_submission_cannot_hold_rows_of_another_origin(results: Path, origin: str) -> None:
    folder = write_submission(results, "mine", mine())
    write_table(folder / "cells", mine(origin=origin)["cells"])
    refused(results, f"submission 'mine' holds {origin} cells; all of a submission's cells are of origin submitted")


def test_submitted_cells_and_verifications_elsewhere_are_refused(results: Path) -> None:
    write_tables(results / "other", mine(origin="submitted"))
    refused(results, r"holds submitted cells among others; a submission's rows lie in submitted/<id>/")
    verified = table_of("verifications", [verification_row(cell_row(), "fedavg", "reproduced")])
    write_tables(results / "other", {**mine(origin="committed"), "verifications": verified})
    refused(results, r"holds verifications, which only folders submitted/<id>/ do; `fedsafety verify` writes them")


def test_a_submission_holds_no_readings(results: Path) -> None:
    write_submission(results, "mine", {**mine(), "readings": table_of("readings", [reading_row()])})
    refused(results, r"submission 'mine' holds readings, which only the project's own rows do; remove them")


def test_rows_beside_the_folders_of_submissions_are_refused(results: Path) -> None:
    write_table(results / "submitted", mine()["cells"])
    refused(results, r"000\.parquet' lies in no folder of a submission; rows lie in submitted/<id>/<table>/")


def test_verifications_of_another_id_are_refused(results: Path) -> None:
    write_submission(results, "mine", mine(), "reproduced", id="theirs")
    refused(results, "submission 'mine' holds verifications of 'theirs'; remove them")


def test_two_folders_cannot_claim_one_id_nor_one_pipeline(results: Path, tmp_path: Path) -> None:
    write_submission(results, "mine", mine(), "reproduced")
    one = exact_rows([(cell_row(defense="mine", seed=3), {"safety": 1.0})])
    write_submission(tmp_path / "more", "mine", one, "reproduced")
    with pytest.raises(FedSafetyError, match=r"results/submitted/mine' both claim 'mine'; who was first keeps it"):
        load_rows([results, tmp_path / "more"])
    write_submission(results, "mine", exact_rows([*rows_of("mine"), *rows_of("mine+theirs")]))
    write_submission(results, "theirs", exact_rows(rows_of("mine+theirs", server_seconds=1.0)))
    refused(results, r"both claim 'mine\+theirs'; who was first keeps it, rename the other")


def test_a_submission_retracts_nothing(results: Path) -> None:
    folder = write_submission(results, "mine", mine())
    entry = "{scenario: aligned_start, defense: fedavg, date: 2031-01-01, policy: withdrawn, reason: mine is better}"
    (folder / "retractions.yaml").write_text(f"suite: micro\nretractions:\n  - {entry}\n")
    refused(results, r"holds a retractions\.yaml; submitted rows are retracted like others, in the suite's own folder")
    assert load_rows([results], submitted=False).retractions.entries == ()


def test_a_submitted_row_is_retracted_in_the_suites_own_folder(results: Path) -> None:
    write_submission(results, "mine", mine())
    entry = "{scenario: aligned_start, defense: mine, date: 2031-01-01, policy: misdeclared, reason: It knew.}"
    (results / "micro" / "retractions.yaml").write_text(f"suite: micro\nretractions:\n  - {entry}\n")
    states = {(cell.row["defense"], cell.row["scenario"]): cell.state for cell in scores(load_rows([results]))}
    assert states["mine", "aligned_start"] == "retracted"
    assert states["mine", "clean"] == states["fedavg", "aligned_start"] == "done"


def test_a_suite_without_committed_rows_is_refused(results: Path) -> None:
    write_submission(results, "mine", mine(suite="../evil"))
    refused(results, r"holds cells of suite '\.\./evil', of which there are no committed rows; remove them")


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("cells", {"server_seconds": 1e308}, r"the number 1e\+308 in column 'server_seconds'; at most 9\.0"),
        ("cells", {"upload_bytes": 2**62}, r"in column 'upload_bytes'; at most"),
        ("cells", {"flags": ["x" * (LONGEST_TEXT + 1)]}, "a text of 10001 characters in column 'flags'"),
        ("catalog", {"description": "x" * (LONGEST_TEXT + 1)}, "10001 characters in column 'description'"),
    ],
    ids=["seconds", "bytes", "flags", "description"],
)
def test_numbers_and_texts_that_no_page_bears_are_refused(
    results: Path, table: str, changes: dict[str, Any], message: str
) -> None:
    tables = mine(**(changes if table == "cells" else {}))
    if table == "catalog":
        tables["catalog"] = table_of("catalog", [catalog_row("defense", "mine", **changes)])
    write_submission(results, "mine", tables)
    refused(results, message)


def test_probes_of_a_committed_set_cannot_be_changed(results: Path) -> None:
    tables = mine()
    tables["probes"] = table_of("probes", [{**p, "scored": False} for p in tables["probes"].to_pylist()])
    write_submission(results, "mine", tables, "reproduced")
    refused(results, "is not that of the committed probe set")


def test_probes_by_digest_are_those_of_the_committed_set(results: Path, tmp_path: Path) -> None:
    """Published rows may hold digests where a submission, or a run of this machine, holds the prompts."""
    texts = mine()["probes"]
    write_submission(results, "mine", mine(), "reproduced")
    write_tables(tmp_path / "own", mine(origin="local"))
    hashed = without_texts(
        "probes", texts, {probe.partition("/")[0]: "hash" for probe in texts["probe_id"].to_pylist()}
    )
    assert "question" not in str(hashed["instruction"].to_pylist())
    write_table(results / "micro" / "probes", hashed)
    load_rows([results], local=[tmp_path / "own"])
    changed = [{**probe, "instruction": "another"} for probe in texts.to_pylist()]
    write_submission(results, "mine", {**mine(), "probes": table_of("probes", changed)}, "reproduced")
    refused(results, "is not that of the committed probe set")


def both_pools(rows: Rows, table: str) -> list[dict[str, Any]]:
    return [row for part in (rows.published, rows.pending) for row in getattr(part, table).to_pylist()]


@pytest.mark.parametrize("rung", ["claimed", "reproduced"])
def test_rows_under_anothers_keys_and_descriptions_of_others_are_not_read(results: Path, rung: str) -> None:
    before = load_rows([results])
    committed = before.published.cells.to_pylist()[0]
    tables = mine()
    stolen = [{**row, "response_key": committed["response_key"]} for row in tables["verdicts"].to_pylist()[:5]]
    judged = [{**row, "judge": "evil"} for row in tables["verdicts"].to_pylist()[:5]]
    other = [{**row, "response_key": "nobody's"} for row in tables["verdicts"].to_pylist()[:5]]
    verdicts = [{**row, "verdict": "harmful", "detail": "mine"} for row in stolen]
    tables["verdicts"] = table_of("verdicts", [*tables["verdicts"].to_pylist(), *verdicts, *judged, *other])
    described = [("defense", "fedavg"), ("defense", "mine"), ("suite", "micro"), ("scenario", "clean"), ("judge", "x")]
    tables["catalog"] = table_of("catalog", [catalog_row(kind, id_, title="Evil") for kind, id_ in described])
    tables["rounds"] = table_of("rounds", [a_round(committed["training_key"]), a_round("nobody's")])
    write_submission(results, "mine", tables, rung)
    after = load_rows([results])
    assert len(both_pools(after, "verdicts")) == len(both_pools(before, "verdicts")) + mine()["verdicts"].num_rows
    assert {row["judge"] for row in both_pools(after, "verdicts")} == {"oracle"}
    assert [(row["kind"], row["id"]) for row in both_pools(after, "catalog")] == [("defense", "mine")]
    assert both_pools(after, "rounds") == []


def a_round(training_key: str) -> dict[str, Any]:
    return {
        "training_key": training_key,
        "round": 0,
        "clients": ["a", "b"],
        "malicious": [False, True],
        "weights": [1.0, 0.0],
        "norms": [1.0, 1.0],
        "losses": [1.0, 1.0],
        "rejected": [],
        "learning_rate": 0.1,
        "aggregate_seconds": 0.1,
    }


def test_of_two_submissions_with_one_key_the_one_verified_further_has_the_say(results: Path) -> None:
    shared = {"response_key": "shared", "training_key": "shared"}
    one = exact_rows([(cell_row(defense="zeta", cell_key="z", **shared), {"safety": 1.0})])
    other = exact_rows([(cell_row(defense="alpha", cell_key="a", **shared), {"safety": 0.0})])
    write_submission(results, "zeta", one, "reproduced")
    write_submission(results, "alpha", other, "sampled")
    rows = load_rows([results])
    assert rows.pending.verdicts.num_rows == 0
    found = {cell.row["defense"]: cell.metrics.get("safety") for cell in scores(rows)}
    assert (found["zeta"], found["alpha"]) == (1.0, 1.0)


def test_a_pending_cell_does_not_say_what_anothers_responses_were_asked(results: Path) -> None:
    key = load_rows([results]).published.cells.to_pylist()[0]["response_key"]
    tables = mine(response_key=key, probe_set="another")
    cells = [{**cell, "cell_key": f"c{index}"} for index, cell in enumerate(tables["cells"].to_pylist())]
    write_submission(results, "mine", {**tables, "cells": table_of("cells", cells)})
    states = {(cell.row["defense"], cell.state) for cell in scores(load_rows([results]))}
    assert states == {("fedavg", "done"), ("mine", "unscored")}


def test_verifier_and_detail_are_kept_as_they_are(results: Path) -> None:
    write_submission(results, "mine", mine(), "sampled", detail=json.dumps({"p": 0.4}))
    (row, *_) = load_rows([results]).pending.verifications.to_pylist()
    assert (json.loads(row["detail"]), row["fresh_seed"], row["kind"]) == ({"p": 0.4}, 7, "defense")
