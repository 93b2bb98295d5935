from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from leaderboard.citation.cite import cite
from leaderboard.ranking.boards import boards
from leaderboard.rows.retractions import Retractions, retractions
from leaderboard.rows.rows import load_rows

from ..synthetic import SMALL, cell_row, write_rows, write_site

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
CELLS = [cell_row(defense=defense, seed=seed, created_at=AT) for defense in ("fedavg", "dnc") for seed in (0, 1)]
BY_KEY = f"{{cell_key: {CELLS[0]['cell_key']}, date: 2030-01-01, policy: leak, reason: It leaked.}}"
BY_NAME = "{scenario: aligned_start, defense: dnc, date: 2030-01-01, policy: faulty_run, reason: 'Truncated base'}"


def written(root: Path, *entries: str, suite: str = "micro") -> Path:
    folder = root / suite
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"suite: {suite}", "retractions:" if entries else "retractions: []", *(f"  - {e}" for e in entries)]
    (folder / "retractions.yaml").write_text("\n".join(lines))
    return root


def reasons(found: Retractions, cells: list[dict[str, Any]] = CELLS) -> list[str]:
    return [found.reason(cell) for cell in cells]


def test_no_file_retracts_nothing(tmp_path: Path) -> None:
    found = retractions([tmp_path])
    assert found == Retractions()
    assert found.digest == ""
    assert reasons(found) == [""] * 4
    found.check(CELLS)


def test_a_key_retracts_one_cell_and_names_all_seeds_of_theirs(tmp_path: Path) -> None:
    found = retractions([written(tmp_path, BY_KEY, BY_NAME)])
    found.check(CELLS)
    assert reasons(found) == [
        "retracted on 2030-01-01 (leak): It leaked.",
        "",
        "retracted on 2030-01-01 (faulty run): Truncated base",
        "retracted on 2030-01-01 (faulty run): Truncated base",
    ]


def test_seeds_narrow_a_retraction_by_name(tmp_path: Path) -> None:
    found = retractions([written(tmp_path, BY_NAME.replace("date:", "seeds: [1], date:"))])
    assert [bool(reason) for reason in reasons(found)] == [False, False, False, True]


def test_a_name_covers_rows_up_to_its_day_and_a_key_whenever_they_were_made(tmp_path: Path) -> None:
    later = [cell | {"created_at": AT + datetime.timedelta(days=1)} for cell in CELLS]
    found = retractions([written(tmp_path, BY_KEY, BY_NAME)])
    assert [bool(reason) for reason in reasons(found, later)] == [True, False, False, False]
    with pytest.raises(FedSafetyError, match="covers nothing, because all its rows are newer"):
        found.check(later)


def test_own_rows_and_other_suites_are_untouched(tmp_path: Path) -> None:
    found = retractions([written(tmp_path, BY_KEY, BY_NAME)])
    assert reasons(found, [cell | {"origin": "local"} for cell in CELLS]) == [""] * 4
    assert reasons(found, [cell | {"suite": "other"} for cell in CELLS]) == [""] * 4


def test_the_digest_depends_on_what_is_retracted_not_on_files(tmp_path: Path) -> None:
    one = retractions([written(tmp_path / "one", BY_KEY, BY_NAME)])
    other = retractions([written(tmp_path / "other" / "deep", BY_NAME, BY_KEY)])
    assert one.digest == other.digest
    assert len(one.digest) == 64
    assert one.digest != retractions([written(tmp_path / "third", BY_KEY)]).digest


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (BY_KEY.replace("It leaked.", "' '"), r"retractions.0.reason: String should have at least 1 character"),
        (BY_KEY.replace("leak,", "mood,"), r"retractions.0.policy: Input should be 'faulty_run', 'leak'"),
        (BY_KEY.replace("date: 2030-01-01, ", ""), r"retractions.0.date: Field required"),
        (BY_KEY.replace("{", "{seeds: [1], "), "names no scenario, defense or seeds beside it"),
        ("{scenario: x, date: 2030-01-01, policy: leak, reason: y}", "needs a cell_key, or a scenario and a defense"),
        (BY_NAME.replace("date:", "seeds: [], date:"), r"retractions.0.seeds"),
        (BY_KEY.replace("reason", "raeson"), r"raeson: Extra inputs are not permitted"),
        ("{", r"cannot read micro/retractions.yaml"),
    ],
)
def test_what_is_not_valid_is_named(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(FedSafetyError, match=message) as caught:
        retractions([written(tmp_path, entry)])
    assert "micro/retractions.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_cells_cannot_be_retracted_twice(tmp_path: Path) -> None:
    with pytest.raises(FedSafetyError, match="retracted twice"):
        retractions([written(tmp_path, BY_NAME, BY_NAME.replace("Truncated base", "Another reason"))])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (BY_KEY.replace(CELLS[0]["cell_key"][:4], "0000"), f"did you mean '{CELLS[0]['cell_key']}'"),
        (BY_KEY.replace(CELLS[0]["cell_key"], "zz"), "take it from the column cell_key"),
        (BY_NAME.replace("dnc", "dncc"), "unknown defense to retract 'dncc'; did you mean 'dnc'"),
        (BY_NAME.replace("aligned_start", "aligned"), "unknown scenario to retract 'aligned'; did you mean"),
        (BY_NAME.replace("date:", "seeds: [7], date:"), r"no seed 7 of 'dnc' in 'aligned_start' to retract; .*: 0, 1"),
    ],
)
def test_a_retraction_that_hits_nothing_is_an_error(tmp_path: Path, entry: str, message: str) -> None:
    found = retractions([written(tmp_path, entry)])
    with pytest.raises(FedSafetyError, match=message):
        found.check(CELLS)


def test_an_unknown_suite_is_an_error(tmp_path: Path) -> None:
    found = retractions([written(tmp_path, BY_KEY, suite="mikro")])
    with pytest.raises(FedSafetyError, match="unknown suite 'mikro'; did you mean 'micro'"):
        found.check(CELLS)


def test_a_retracted_cell_is_missing_with_its_reason_and_changes_nobody_elses_score(tmp_path: Path) -> None:
    root = tmp_path / "results"
    before = load_rows([write_rows(root / "micro", SMALL)])
    key = cell_row(defense="posthoc_self", seed=1)["cell_key"]
    hostile = "Wrong <script>alert(1)</script> base."
    written(root, f"{{cell_key: {key}, date: 2030-02-03, policy: faulty_run, reason: {hostile!r}}}")
    after = load_rows([root])
    assert after.published.digest == before.published.digest
    assert after.published_digest != before.published_digest  # a cited digest stands for the same scores
    (old,), (new,) = boards(before), boards(after)
    for view in ("aligned_start", "*"):
        lines = {line.entry.id: line for line in new.standings(view)}
        for line in old.standings(view):
            if line.entry.id != "posthoc_self":
                assert lines[line.entry.id].metrics == line.metrics
        assert (lines["posthoc_self"].group, lines["posthoc_self"].rank) == ("unranked", None)
        assert "retracted on 2030-02-03 (faulty run): Wrong" in " ".join(lines["posthoc_self"].notes)
        assert "(seed 1)" in " ".join(lines["posthoc_self"].notes)
    assert [cell.row["cell_key"] for cell in new.retracted] == [key]
    sentence = cite(new, after.published_digest, "posthoc_self", "aligned_start").sentence
    assert "posthoc_self has no score" in sentence
    assert "retracted on 2030-02-03 (faulty run)" in sentence
    page = write_site(after, tmp_path / "site").read_text()
    assert page.count("retracted on 2030-02-03 (faulty run): Wrong &lt;script&gt;alert(1)") > 0
    assert "<script>alert" not in page
    assert after.published_digest in page


def test_retracted_cells_take_no_part_in_detection_and_agreement(tmp_path: Path) -> None:
    root = tmp_path / "results"
    (old,) = boards(load_rows([write_rows(root / "micro", SMALL)]))
    entry = "{scenario: aligned_start, defense: DEFENSE, date: 2030-02-03, policy: faulty_run, reason: Wrong base}"
    written(root, *(entry.replace("DEFENSE", name) for name in ("krum", "fedavg")))
    (new,) = boards(load_rows([root]))
    assert ("krum", "aligned_start") in old.detection.detections
    gone = {("krum", "aligned_start"), ("fedavg", "aligned_start")}
    assert new.detection.detections.keys() == old.detection.detections.keys() - gone
    for place, one in new.detection.detections.items():
        assert (one.rule, one.state) == (old.detection.detections[place].rule, old.detection.detections[place].state)
    assert new.agreement.sets < old.agreement.sets


def test_rows_with_a_retraction_that_hits_nothing_are_not_read(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "results" / "micro", SMALL).parent
    written(root, BY_NAME.replace("dnc", "krun"))
    with pytest.raises(FedSafetyError, match="unknown defense to retract 'krun'; did you mean 'krum'"):
        load_rows([root])
