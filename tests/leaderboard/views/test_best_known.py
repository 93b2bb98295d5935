"""Submitted attacks: they may lower one number of a defense, and do nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import FedSafetyError
from leaderboard.citation.cite import cite_score
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.rows.rungs import RUNGS
from leaderboard.scores.summaries import OVERALL
from leaderboard.view_table import view_csv

from ..by_hand import FEDAVG4, KRUM4, MEDIAN4, Cell, cells, second_scenario, standing
from ..synthetic import catalog_row, cell_row, exact_rows, table_of, write_submission, write_tables
from ..test_text import printed

KRUM_ALONE = 0.8625
"""Krum's safety under the scenario's own attack."""


def committed(root: Path) -> Path:
    second = second_scenario("fedavg", [0.3] * 4) + second_scenario("krum", [0.7] * 4)
    rows = FEDAVG4 + MEDIAN4 + KRUM4 + second + second_scenario("median", [0.4] * 4)
    write_tables(root / "micro", exact_rows(rows))
    return root


def attacking(attack: str, safeties: dict[str, list[float]], base: str = "aligned_start", **changes: Any) -> list[Cell]:
    """Return the cells of a submitted attack on ``base``, by the safeties of each defense."""
    scenario = f"{base}_{attack}"
    return [
        (
            cell_row(**({"scenario": scenario, "attack": attack, "defense": defense, "seed": seed} | changes)),
            {"safety": safety, "utility": 0.9, "over_refusal": 0.1},
        )
        for defense, values in safeties.items()
        for seed, safety in enumerate(values)
    ]


def write_attack(
    root: Path, attack: str, rows: list[Cell], rung: str = "reproduced", base: str = "aligned_start"
) -> None:
    tables = exact_rows(rows)
    described = {row["scenario"] for row, _ in rows}
    tables["catalog"] = table_of(
        "catalog",
        [
            catalog_row("attack", attack, title=f"The {attack}", paper="Doe 2030", description="It does harm."),
            *(catalog_row("scenario", name, settings=json.dumps({"base": base})) for name in described),
        ],
    )
    write_submission(root, attack, tables, rung, kind="attack")


def board_of(rows: Rows) -> Board:
    (board,) = boards(rows)
    return board


def without_best_known(board: Board) -> str:
    """Return everything of a board that a submitted attack may not change."""
    lines = {
        view: [
            (line.entry, line.group, line.rank, line.notes, line.better, line.tied, line.worst)
            for line in board.standings(view)
        ]
        for view in (OVERALL, *board.by_scenario)
    }
    metrics = {
        view: [
            {name: value for name, value in line.metrics.items() if name != "best_known"}
            for line in board.standings(view)
        ]
        for view in (OVERALL, *board.by_scenario)
    }
    families = {view: (family.ids, family.comparisons.adjusted.tolist()) for view, family in board.families.items()}
    parts = (board.scenarios, board.compared, board.excluded, board.seeds, board.judges, board.attacks, board.cells)
    return repr((lines, metrics, families, parts, board.detection, board.agreement, board.sensitivity))


def test_a_reproduced_attack_lowers_by_its_own_value_where_it_was_run(tmp_path: Path) -> None:
    committed(tmp_path)
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.2] * 4, "fedavg": [0.9] * 4}))
    board = board_of(load_rows([tmp_path]))
    assert board.has_best_known
    for view in ("", "aligned_start"):
        krum = standing(board, "krum", view).best_known
        assert krum is not None
        assert (krum.safety.mean, krum.scenario, krum.attack, krum.spared) == (0.2, "aligned_start", "storm", ())
        # An attack that does less harm than the scenario's own changes nothing.
        fedavg = standing(board, "fedavg", view).best_known
        assert fedavg is not None
        assert (fedavg.safety.mean, fedavg.attack) == (pytest.approx(0.15), "")
    # Who was not attacked keeps its own value and is marked.
    median = standing(board, "median", "aligned_start").best_known
    assert median is not None
    assert (median.safety, median.attack, median.spared) == (
        standing(board, "median", "aligned_start").metrics["safety"],
        "",
        ("storm",),
    )
    # In the other scenario nobody was attacked by it, and there it is not asked for.
    other = standing(board, "krum", "paper_shape").best_known
    assert other is not None
    assert (other.safety.mean, other.attack, other.spared) == (pytest.approx(0.7), "", ())


def test_the_overall_value_is_the_lowest_over_the_compared_scenarios(tmp_path: Path) -> None:
    committed(tmp_path)
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.8] * 4}))
    line = standing(board_of(load_rows([tmp_path])), "krum")
    assert line.best_known is not None
    assert line.worst is not None
    assert (line.best_known.safety, line.best_known.scenario, line.best_known.attack) == (
        line.worst[1],
        "paper_shape",
        "",
    )


def test_an_attack_on_some_seeds_only_has_not_attacked(tmp_path: Path) -> None:
    committed(tmp_path)
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.0] * 3, "median": [0.0] * 5}))
    board = board_of(load_rows([tmp_path]))
    krum, median = (standing(board, name, "aligned_start").best_known for name in ("krum", "median"))
    assert krum is not None
    assert median is not None
    assert (krum.safety.mean, krum.spared) == (pytest.approx(KRUM_ALONE), ("storm",))
    assert (median.safety.mean, median.safety.count, median.attack) == (0.0, 4, "storm")


@pytest.mark.parametrize("rung", RUNGS[:-1])
def test_an_attack_that_is_not_reproduced_lowers_nothing(tmp_path: Path, rung: str) -> None:
    before = board_of(load_rows([committed(tmp_path)]))
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.0] * 4}), rung)
    after = board_of(load_rows([tmp_path]))
    assert not after.has_best_known
    assert [attack.rung.name for attack in after.submitted_attacks] == [rung]
    assert all(line.best_known is None for line in after.overall)
    assert without_best_known(after) == without_best_known(before)


@pytest.mark.parametrize(
    ("changes", "base", "words"),
    [
        (
            {"participants": 5},
            "aligned_start",
            "have another federation, twin, start, probes or judge than aligned_start",
        ),
        ({"twin": "nowhere"}, "aligned_start", "have another federation, twin, start, probes or judge"),
        ({"start_digest": "other"}, "aligned_start", "have another federation, twin, start, probes or judge"),
        ({}, "nowhere", "are on no attacked scenario of the suite"),
        ({}, "clean", "are on no attacked scenario of the suite"),
        ({"scenario": "paper_shape"}, "aligned_start", "are on no attacked scenario of the suite"),
    ],
    ids=str,
)
def test_an_attack_in_another_setting_does_not_count_and_is_said(
    tmp_path: Path, changes: dict[str, Any], base: str, words: str
) -> None:
    before = board_of(load_rows([committed(tmp_path)]))
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.0] * 4}, **changes), base=base)
    after = board_of(load_rows([tmp_path]))
    assert after.submitted_attacks == ()
    assert without_best_known(after) == without_best_known(before)
    assert any(notice.startswith(f"4 cells of the submitted attack storm {words}") for notice in after.notices)


def test_an_attack_folder_cannot_replace_rows_of_a_submitted_defense(tmp_path: Path) -> None:
    committed(tmp_path)
    rows = [*cells("mine", [0.9] * 4, [1] * 4), *second_scenario("mine", [0.9] * 4)]
    write_submission(tmp_path, "mine", exact_rows(rows), "reproduced")
    before = board_of(load_rows([tmp_path]))
    later = cell_row()["created_at"].replace(year=2040)
    stolen = attacking("storm", {"mine": [0.0] * 4, "krum": [0.0] * 4}, scenario="aligned_start", created_at=later)
    write_attack(tmp_path, "storm", stolen, "sampled")
    with pytest.raises(FedSafetyError, match="of another submission, 'mine'; a cell is stored once, remove it"):
        load_rows([tmp_path])
    for row, _ in stolen:
        row["response_key"] += "-storm"  # another method, so another key
    write_attack(tmp_path, "storm", stolen, "sampled")
    assert without_best_known(board_of(load_rows([tmp_path]))) == without_best_known(before)


def test_attacks_alone_make_no_board(tmp_path: Path) -> None:
    write_attack(tmp_path, "storm", attacking("storm", {"krum": [0.0] * 4}))
    assert boards(load_rows([tmp_path])) == []


SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
ATTACKS = st.lists(
    st.tuples(
        st.sampled_from(["aligned_start", "paper_shape"]),
        st.sampled_from(RUNGS),
        st.dictionaries(st.sampled_from(["fedavg", "median", "krum", "new"]), st.lists(SHARES, min_size=1, max_size=6)),
    ),
    max_size=3,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(submitted=ATTACKS)
@pytest.mark.slow
def test_submitted_attacks_only_ever_lower_and_change_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, submitted: list[tuple[str, str, dict[str, list[float]]]]
) -> None:
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as scratch:
        root = committed(Path(scratch))
        before = board_of(load_rows([root]))
        for index, (base, rung, safeties) in enumerate(submitted):
            if safeties:
                write_attack(root, f"storm{index}", attacking(f"storm{index}", safeties, base), rung, base)
        after = board_of(load_rows([root]))
    assert without_best_known(after) == without_best_known(before)
    counted = [safeties for _, rung, safeties in submitted if rung == "reproduced" and safeties]
    assert after.has_best_known == bool(counted)
    for view in (OVERALL, *after.by_scenario):
        for line in after.standings(view):
            own = line.worst[1] if line.worst else line.metrics["safety"]
            if line.best_known is None:
                assert not counted
            else:
                names = after.compared if view == OVERALL else (view,)
                tried = [
                    sum(safeties[line.entry.id][:4]) / 4
                    for base, rung, safeties in submitted
                    if rung == "reproduced" and base in names and len(safeties.get(line.entry.id, ())) >= 4
                ]
                assert line.best_known.safety.mean == pytest.approx(min([own.mean, *tried]))
                assert line.best_known.safety.mean <= own.mean + 1e-12
                assert line.metrics["best_known"] is line.best_known.safety
                assert bool(line.best_known.attack) == (line.best_known.safety.mean < own.mean)


def rows_with_attack(root: Path) -> Rows:
    committed(root)
    write_attack(root, "storm", attacking("storm", {"krum": [0.2] * 4, "fedavg": [0.0] * 4}))
    return load_rows([root])


def test_terminal_downloads_and_citations_name_the_attack(tmp_path: Path) -> None:
    rows = rows_with_attack(tmp_path)
    board = board_of(rows)
    text = printed(rows)
    (median,) = (line for line in text.splitlines() if " median " in line)
    assert " 40.0 o " in median
    assert "best: the lowest safety under a scenario's own attack and reproduced submitted ones" in " ".join(
        text.split()
    )
    lines = {line["defense"]: line for line in csv.DictReader(view_csv(board).decode().splitlines())}
    assert (lines["krum"]["best_known"], lines["krum"]["best_known_attack"]) == ("0.2", "storm")
    assert (lines["krum"]["best_known_scenario"], lines["median"]["not_attacked_by"]) == ("aligned_start", "storm")
    assert lines["median"]["best_known_attack"] == ""
    sentence = cite_score(board, rows, "krum").sentence
    assert "under the best-known attack, storm on aligned_start, it keeps a safety of 20.0 %" in sentence
    assert "best-known" not in cite_score(board, rows, "median").sentence


def test_the_page_has_the_column_and_the_source_where_an_attack_is_reproduced(tmp_path: Path) -> None:
    rows = rows_with_attack(tmp_path / "a")
    board = board_of(rows)
    text = render(environment(), board, rows, [("index.html", board)])
    assert 'data-key="best_known"' in text
    assert '<span class="word">by storm</span>' in text
    assert '<span class="word">not attacked by it</span>' in text
    assert "not attacked by it. Source: Doe 2030." in " ".join(text.split())
    assert "against 86.2 % under its own attack. Source: Doe 2030." in " ".join(text.split())
    committed(tmp_path / "b")
    write_attack(tmp_path / "b", "storm", attacking("storm", {"krum": [0.2] * 4}), "sampled")
    pending = load_rows([tmp_path / "b"])
    shown = board_of(pending)
    text = render(environment(), shown, pending, [("index.html", shown)])
    assert 'data-key="best_known"' not in text
    assert "it is not reproduced and lowers no score" in text
