"""Where submissions stand: unreproduced ones are shown, unranked, and change nothing that is said of others."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard.api import Leaderboard
from leaderboard.citation.cite import cite_score
from leaderboard.page.answers import answers
from leaderboard.page.download import cell_table
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import GROUPS, NOT_REPRODUCED, Board
from leaderboard.ranking.boards import boards
from leaderboard.reproduce import reproduce_score
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.rows.rungs import MEANINGS, RUNGS
from leaderboard.scores.summaries import OVERALL
from leaderboard.view_table import view_csv, view_rows

from ..by_hand import DNC4, FEDAVG4, KRUM4, MEDIAN4, Cell, cells, standing
from ..synthetic import SMALL, catalog_row, cell_row, exact_rows, make_rows, table_of, write_submission, write_tables
from ..test_text import printed

PENDING = RUNGS[:-1]
BEST = [1.0, 0.95, 1.0, 1.0]


def committed(root: Path) -> Path:
    write_tables(root / "micro", exact_rows(FEDAVG4 + MEDIAN4 + KRUM4 + DNC4))
    return root


def rows_with(root: Path, rung: str, safeties: list[float] = BEST, **changes: Any) -> Rows:
    committed(root)
    write_submission(root, "mine", exact_rows(cells("mine", safeties, [1] * 4, **changes)), rung)
    return load_rows([root])


def only(found: list[Board]) -> Board:
    (board,) = found
    return board


def settled(board: Board) -> str:
    """Return everything that a board says of what is not pending, in words that are equal just if it is."""
    lines = {
        view: [line for line in board.standings(view) if not line.entry.pending]
        for view in (OVERALL, *board.by_scenario)
    }
    positions = [dataclasses.replace(line.entry, info={}) for line in lines[OVERALL]]
    families = {view: (family.ids, family.comparisons.adjusted.tolist()) for view, family in board.families.items()}
    kept = {field.name: getattr(board, field.name) for field in dataclasses.fields(board)}
    for name in ("overall", "by_scenario", "entries", "families", "notices", "version_notices", "cells"):
        del kept[name]
    return repr((lines, positions, families, kept, board.settled_cells, answers(board)))


@pytest.mark.parametrize("rung", PENDING)
def test_what_is_not_reproduced_is_shown_and_not_ranked(tmp_path: Path, rung: str) -> None:
    before = only(boards(load_rows([committed(tmp_path / "before")])))
    after = only(boards(rows_with(tmp_path / "after", rung)))
    for view in (OVERALL, "aligned_start"):
        line = standing(after, "mine", "" if view == OVERALL else view)
        assert (line.group, line.rank, line.tied, line.better) == (NOT_REPRODUCED, None, (), ())
        assert line.metrics["safety"].mean == pytest.approx(0.9875)
        assert line.metrics["recovery"].count == 4
        assert line.notes[0].startswith(f"{rung}, not reproduced")
        assert after.standings(view)[-1] is line
        assert "mine" not in after.families[view].ids
    assert standing(after, "mine").entry.rung is not None
    assert list(GROUPS)[-1] == NOT_REPRODUCED
    assert settled(after) == settled(before)


def test_a_reproduced_submission_is_ranked_among_the_others(tmp_path: Path) -> None:
    board = only(boards(rows_with(tmp_path, "reproduced")))
    line = standing(board, "mine")
    assert (line.group, line.rank, line.tied) == ("ranked", 1, ("krum",))
    assert line.entry.rung is not None
    assert (line.entry.rung.reproduced, line.entry.pending) == (True, False)
    assert "mine" in board.families[OVERALL].ids


def test_a_pending_reference_or_gated_line_stands_with_the_pending_ones(tmp_path: Path) -> None:
    assert standing(only(boards(rows_with(tmp_path / "a", "sampled", ranked=False))), "mine").group == NOT_REPRODUCED
    line = standing(only(boards(rows_with(tmp_path / "b", "sampled", utility=0.1))), "mine")
    assert line.group == NOT_REPRODUCED
    assert line.notes[-1] == "utility must be at least 85.5 and is 10.0"


def test_own_rows_come_before_a_pending_submission_of_the_same_name(tmp_path: Path) -> None:
    committed(tmp_path / "results")
    write_submission(tmp_path / "results", "mine", exact_rows(cells("mine", [0.0] * 4, [0] * 4)))
    own = cells("mine", [0.5, 0.55, 0.5, 0.6], [1] * 4, origin="local")
    write_tables(tmp_path / "runs", exact_rows(own))
    board = only(boards(load_rows([tmp_path / "results"], local=[tmp_path / "runs"])))
    assert standing(board, "mine").entry.origins == ("local",)
    assert standing(board, "mine").rank is not None
    assert any("submitted cells are of defenses that have committed or own rows" in text for text in board.notices)


TEXTS = st.sampled_from(["", "<script>alert(1)</script>", "`@all` | [x](y)", "\u202eevil", "fedavg", "=1+1", "9" * 40])
SHARES = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def hostile(draw: st.DrawFn) -> tuple[str, list[Cell], str, str]:
    """Return id, cells, rung and a text of a submission that nobody should have to suffer from."""
    id_ = draw(st.sampled_from(["aaa", "mine", "zzz", "krum_two", "fedavg~", "__proto__"]))
    made: list[Cell] = []
    for defense in draw(st.sampled_from([[id_], [f"fedavg+{id_}"], [id_, f"{id_}+posthoc"], ["fedavg"]])):
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none"), ("sampled", "x")):
            for seed in draw(st.sampled_from([[0, 1, 2, 3], [0], [0, 1, 2, 3, 99, 2**40], []])):
                changes = draw(
                    st.just({})
                    | st.fixed_dictionaries(
                        {},
                        optional={
                            "twin": st.sampled_from(["clean", "aligned_start", "nowhere"]),
                            "primary_judge": st.sampled_from(["oracle", "rule"]),
                            "suite_version": st.sampled_from(["1", "2"]),
                            "protocol_version": st.sampled_from(["1", "2"]),
                            "created_at": st.sampled_from([datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC)]),
                            "participants": st.sampled_from([4, 2**31 - 1]),
                            "probe_set": st.sampled_from(["another"]),
                            "server_seconds": st.sampled_from([0.0, 2.0**53]),
                            "upload_bytes": st.just(2**53),
                            "flags": st.sampled_from([["degenerate: equals fedavg"], ["variant: of krum"], ["<b>"]]),
                            "status": st.sampled_from(["done", "failed", "not_applicable"]),
                            "reason": TEXTS,
                            "generator": TEXTS,
                            "ranked": st.just(False),
                            "knowledge": st.sampled_from(["none", "declared_bound"]),
                            "response_key": st.sampled_from(["shared", "r"]),
                            "training_key": st.sampled_from(["shared", "t"]),
                            "stage": st.sampled_from(["fedavg", "krum"]),
                        },
                    )
                )
                told = {"scenario": scenario, "twin": "clean", "attack": attack, "defense": defense, "seed": seed}
                key = f"{id_}-{len(made)}"
                row = cell_row(**(told | {"cell_key": key, "response_key": f"r-{key}"} | changes))
                # A cell that contradicts itself is refused when it is read.
                row["reason"] = "" if row["status"] == "done" else row["reason"] or "no reason"
                row["final"] = row["stage"] == row["defense"]
                if defense == "fedavg":
                    row["attack"] = id_
                row["clients"] = max(row["clients"], row["participants"])
                if row["twin"] == row["scenario"]:
                    row["attack"] = "none"
                # Cells of one training that contradict each other are refused when they are read.
                row["training_key"] += f"-{row['protocol_version']}-{row['participants']}-{row['attack']}"
                made.append((row, {"safety": draw(SHARES), "utility": draw(SHARES), "over_refusal": draw(SHARES)}))
    return id_, made, draw(st.sampled_from(PENDING)), draw(TEXTS)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = committed(tmp_path_factory.mktemp("unharmed"))
    return root, settled(only(boards(load_rows([root]))))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(submission=hostile())
def test_no_pending_submission_changes_anything_that_is_said_of_others(
    unharmed: tuple[Path, str], submission: tuple[str, list[Cell], str, str]
) -> None:
    root, before = unharmed
    id_, made, rung, text = submission
    unique = {row["response_key"]: (row, shares) for row, shares in made}
    tables = exact_rows(list(unique.values()))
    tables["cells"] = exact_rows(made)["cells"]
    described = [("defense", id_), ("defense", "fedavg"), ("attack", id_), ("suite", "micro"), ("scenario", "sampled")]
    tables["catalog"] = table_of(
        "catalog",
        [
            catalog_row(kind, name, title=text, description=text, position=-5, settings=json.dumps({"base": text}))
            for kind, name in described
        ],
    )
    with TemporaryDirectory() as scratch:
        write_submission(Path(scratch), id_, tables, rung)
        rows = load_rows([root, scratch])
    after = only(boards(rows))
    # Compared first: pytest would spend minutes on the difference of two such texts.
    same = settled(after) == before
    assert same
    if any(entry.pending for entry in after.entries):
        assert cite_score(after, rows, id_ if id_ in {entry.id for entry in after.entries} else "").rung in (rung, "")


def test_what_is_said_of_judges_does_not_depend_on_pending_rows(tmp_path: Path) -> None:
    tables = make_rows(SMALL)
    before = only(boards(load_rows([write_tables(tmp_path / "before", tables)])))
    write_tables(tmp_path / "after" / "micro", tables)
    # A defense that every other judge takes for the opposite of what the exact one says.
    keys = {cell["response_key"] for cell in tables["cells"].to_pylist() if cell["defense"] == "krum"}
    own = [
        {
            **cell,
            "defense": "mine",
            "stage": "mine",
            "cell_key": f"m-{index}",
            "response_key": cell["response_key"] + "m",
        }
        for index, cell in enumerate(tables["cells"].to_pylist())
        if cell["defense"] == "krum"
    ]
    turned = {"harmless": "harmful", "harmful": "harmless", "refused": "answered", "answered": "refused"}
    verdicts = [
        {**row, "response_key": row["response_key"] + "m", "verdict": turned.get(row["verdict"], row["verdict"])}
        for row in tables["verdicts"].to_pylist()
        if row["response_key"] in keys
    ]
    changed = {"cells": table_of("cells", own), "verdicts": table_of("verdicts", verdicts)}
    empty = {name: table.slice(0, 0) for name, table in tables.items()}
    write_submission(tmp_path / "after", "mine", {**empty, **changed}, "sampled")
    after = only(boards(load_rows([tmp_path / "after"])))
    assert standing(after, "mine").metrics["judge:rule"].count == 3
    assert after.agreement.ranks
    assert settled(after) == settled(before)


def test_the_terminal_table_names_the_rung_and_says_what_it_means(tmp_path: Path) -> None:
    text = printed(rows_with(tmp_path, "sampled"))
    (line,) = (line for line in text.splitlines() if " mine " in line)
    assert line.split()[-1] == "sampled"
    assert not line.split()[0].isdigit()
    flat = " ".join(text.split())
    assert f"sampled: {MEANINGS['sampled']}." in flat
    assert "Rows without such a mark are the project's own runs." in flat
    assert "rungs" not in printed(load_rows([committed(tmp_path / "none")]))
    reproduced = printed(rows_with(tmp_path / "other", "reproduced"))
    (line,) = (line for line in reproduced.splitlines() if " mine " in line)
    assert line.split()[-2:] == ["reproduced,", "safer"]


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        ("claimed", "(submitted, not re-run)"),
        ("checked", "(submitted, checked but not re-run, bundle sha256:{})"),
        ("sampled", "(submitted, re-run by sample, bundle sha256:{})"),
        ("reproduced", "(submitted, reproduced: every row was run again, bundle sha256:{})"),
    ],
)
def test_a_citation_says_whether_it_was_re_run_and_by_which_bundle(tmp_path: Path, rung: str, words: str) -> None:
    rows = rows_with(tmp_path, rung)
    board = only(boards(rows))
    found = cite_score(board, rows, "mine")
    assert found.sentence.endswith(f" {words.format(''.join(found.bundles)[:16])}.")
    assert found.rung == rung
    assert len(found.bundles) == (rung != "claimed")
    assert ("rank 1 of 5" in found.sentence) == (rung == "reproduced")
    # What the pending rows say is covered by the digest that is cited with it, and by no other's.
    assert (found.rows == rows.published_digest) == (rung == "reproduced")
    assert cite_score(board, rows, "krum").rows == rows.published_digest
    same = reproduce_score(board, found.rows, "mine", "", score=found.score, rank=found.rank, digest=found.rows)
    assert all(check.same for check in same)


def test_citations_of_others_do_not_depend_on_pending_rows(tmp_path: Path) -> None:
    late = datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC)
    before, after = load_rows([committed(tmp_path / "a")]), rows_with(tmp_path / "b", "sampled", created_at=late)
    for defense in ("", "krum", "fedavg"):
        one, other = (cite_score(only(boards(rows)), rows, defense) for rows in (before, after))
        assert one == other


def test_downloads_and_the_api_carry_the_rung(tmp_path: Path) -> None:
    rows = rows_with(tmp_path / "mine", "checked")
    board = only(boards(rows))
    table = cell_table(board)
    rungs = dict(zip(table["defense"].to_pylist(), table["rung"].to_pylist(), strict=True))
    assert (rungs["mine"], rungs["krum"]) == ("checked", None)
    (line,) = (line for line in csv.DictReader(view_csv(board).decode().splitlines()) if line["defense"] == "mine")
    assert (line["rung"], line["group"], line["rank"]) == ("checked", "not_reproduced", "")
    found = {line["defense"]: line for line in Leaderboard.load(tmp_path / "mine").table()}
    assert (found["mine"]["rung"], found["krum"]["rung"]) == ("checked", None)
    assert len(found["mine"]["bundles"]) == 64
    plain = only(boards(load_rows([committed(tmp_path / "none")])))
    assert "rung" not in cell_table(plain).column_names
    assert "rung" not in view_rows(plain)[0]


def page(rows: Rows) -> str:
    board = only(boards(rows))
    return render(environment(), board, rows, [("index.html", board)])


def test_the_page_marks_submissions_and_explains_the_marks_where_there_are_some(tmp_path: Path) -> None:
    text = page(rows_with(tmp_path / "a", "sampled"))
    assert text.count('<a class="badge rung sampled" href="#rungs"') >= 4  # ranking, map, list, own page
    assert all(meaning.replace("'", "&#39;") in text for meaning in MEANINGS.values())
    assert "Rows without such a mark are the project&#39;s own runs." in text
    assert "Its scores are shown and not ranked." in text
    assert "<strong>Sampled</strong>: submitted by others; " in text
    assert "results/submitted/mine/source/" in text
    assert "4 defenses, 1 more submitted" in text
    plain = page(load_rows([committed(tmp_path / "b")]))
    for word in ("rung", "not_reproduced", "best_known", "more submitted"):
        assert word not in plain
    reproduced = page(rows_with(tmp_path / "c", "reproduced"))
    assert "not_reproduced" not in reproduced.partition('id="data">')[2].partition("</script>")[0]
    assert '<a class="badge rung reproduced" href="#rungs"' in reproduced


def test_a_hostile_title_is_text_on_the_page(tmp_path: Path) -> None:
    tables = exact_rows(cells("mine", BEST, [1] * 4))
    evil = "<img src=x onerror=alert(1)>"
    tables["catalog"] = table_of("catalog", [catalog_row("defense", "mine", title=evil, description=evil, paper=evil)])
    committed(tmp_path)
    write_submission(tmp_path, "mine", tables, "checked", reason=evil)
    text = page(load_rows([tmp_path]))
    assert evil not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
