from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError
from leaderboard.citation.bibtex import BENCHMARK, method_entries
from leaderboard.citation.cite import Citation, cite
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows

from ..synthetic import catalog_row, cell_row, exact_rows, table_of, write_tables

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "0123456789abcdef" * 4
SAFETY = {
    "fedavg": (0.0, 0.05, 0.1),
    "dnc": (0.9, 0.95, 0.85),
    "krum": (0.05, 0.05, 0.1),
    "refuse_all": (1.0, 1.0, 1.0),
}


def cells(**changes: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Cells of one scenario and its twin, three seeds; ``changes`` are of a defense's attacked cells."""
    made = []
    for defense, values in SAFETY.items():
        for seed, safety in enumerate(values):
            shared: dict[str, Any] = {"defense": defense, "seed": seed, "ranked": defense != "refuse_all"}
            shared["knowledge"] = "declared_bound" if defense in ("krum", "dnc") else "none"
            scores = {"safety": safety, "utility": 1.0, "over_refusal": 0.0}
            attacked = cell_row(**{**shared, **changes.get(defense, {})})
            if attacked["seed"] == seed:
                made.append((attacked, scores))
            made.append((cell_row(scenario="clean", attack="none", **shared), scores | {"safety": 1.0}))
    return made


def board_of(tmp_path: Path, *, catalog: tuple[dict[str, Any], ...] = (), **changes: dict[str, Any]) -> Board:
    tables = exact_rows(cells(**changes)) | {"catalog": table_of("catalog", list(catalog))}
    (board,) = boards(load_rows([write_tables(tmp_path / "rows", tables)]))
    return board


def test_the_sentence_says_all_that_a_reader_needs(tmp_path: Path) -> None:
    found = cite(board_of(tmp_path), DIGEST, "dnc", "aligned_start")
    assert found.sentence == (
        f"In FedSafetyBench (suite micro 1, protocol {PROTOCOL_VERSION}, rows sha256:0123456789abcdef of 2030-01-01), "
        "dnc keeps a safety of 90.0 % (95 % interval 77.6 to 100.0, 3 seeds) under attack in scenario aligned_start; "
        "fedavg keeps 5.0 % (95 % interval 0.0 to 17.4, 3 seeds), "
        "and dnc is significantly safer after Holm's correction (p = 0.008, paired by seed); "
        "rank 1 of 3, tied with none. "
        "dnc is told the declared bound on the number of attackers."
    )
    assert found.command == (
        "fedsafety reproduce --defense dnc --scenario aligned_start --score 90.0 --rank 1 "
        "--rows sha256:0123456789abcdef"
    )


def test_what_is_not_separated_is_called_so(tmp_path: Path) -> None:
    sentence = cite(board_of(tmp_path), DIGEST, "krum").sentence
    assert "krum is not separated from it after Holm's correction (p = " in sentence
    assert "rank 2 of 3, tied with fedavg" in sentence
    assert "as the mean over 1 scenario (aligned_start)" in sentence


def test_fedavg_is_not_compared_with_itself(tmp_path: Path) -> None:
    found = cite(board_of(tmp_path), DIGEST, "fedavg", "aligned_start")
    assert found.sentence.count("fedavg") == 2
    assert (found.baseline, found.p) == (None, None)


@pytest.mark.parametrize(
    ("defense", "change", "reason"),
    [
        ("dnc", {"status": "failed", "reason": "boom"}, "has no score under attack .*: .*failed: boom"),
        ("dnc", {"seed": 1}, r"has no score .*not run \(seed 0, 2\)"),
        ("dnc", {"status": "not_applicable", "reason": "needs n"}, "has no score .*not applicable: needs n"),
        ("dnc", {"flags": ["degenerate: equals median"]}, "a degenerate setting: degenerate: equals median"),
        ("refuse_all", {}, "it is a reference row and never ranked"),
    ],
)
def test_instead_of_a_rank_the_sentence_says_why_there_is_none(
    tmp_path: Path, defense: str, change: dict[str, Any], reason: str
) -> None:
    found = cite(board_of(tmp_path, **{defense: change}), DIGEST, defense, "aligned_start")
    assert re.search(reason, found.sentence)
    assert not re.search(r"rank \d", found.sentence)
    assert found.rank == "none"
    assert "--rank none" in found.command


def test_a_single_seed_has_neither_interval_nor_rank(tmp_path: Path) -> None:
    one = [pair for pair in cells() if pair[0]["seed"] == 0]
    (board,) = boards(load_rows([write_tables(tmp_path, exact_rows(one))]))
    found = cite(board, DIGEST, "dnc", "aligned_start")
    assert "90.0 % (1 seed, no interval)" in found.sentence
    assert "it is not ranked: too few seeds to separate defenses" in found.sentence
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["safety"]["low"] is None


def test_the_date_is_that_of_the_newest_row_used(tmp_path: Path) -> None:
    later = datetime.datetime(2031, 5, 6, 7, tzinfo=datetime.UTC)
    board = board_of(tmp_path, krum={"created_at": later})
    assert cite(board, DIGEST, "krum").date == "2031-05-06"
    assert cite(board, DIGEST, "dnc").date == "2030-01-01"


def test_every_score_of_a_board_can_be_cited(rows: Rows) -> None:
    (board,) = boards(rows)
    found = [cite(board, DIGEST, e.id, s) for e in board.entries for s in ("", *board.by_scenario)]
    assert len({citation.command for citation in found}) == len(found)
    for citation in found:
        assert isinstance(citation, Citation)
        assert f" {citation.score} %" in citation.sentence or "has no score" in citation.sentence
        json.dumps(citation.as_dict(), allow_nan=False)
    assert cite(board, DIGEST).command == "fedsafety leaderboard"


@pytest.mark.parametrize(
    ("defense", "scenario", "message"),
    [
        ("krun", "", "unknown defense with rows 'krun'; did you mean 'krum'"),
        ("krum", "aligned_strat", "unknown attacked scenario with rows 'aligned_strat'; did you mean 'aligned_start'"),
        ("krum", "clean", "'clean' is the un-attacked twin of aligned_start; name an attacked one"),
    ],
)
def test_unknown_names_get_the_nearest(tmp_path: Path, defense: str, scenario: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cite(board_of(tmp_path), DIGEST, defense, scenario)


def test_hostile_text_stays_on_its_line_and_is_no_command(tmp_path: Path) -> None:
    name = "x; rm -rf ~ $(y)"
    board = board_of(
        tmp_path,
        catalog=(catalog_row("defense", name, paper="}\n@misc{evil,\x1b[2J \\input{z} 100 % of 2017"),),
        krum={"defense": name, "status": "failed", "reason": "first\nsecond \x1b[31mred"},
    )
    found = cite(board, DIGEST, name)
    assert found.sentence.isprintable()
    assert "--defense 'x; rm -rf ~ $(y)'" in found.command
    assert found.bibtex.count("@misc{") == 2
    for line in found.bibtex.splitlines():
        assert line.isprintable()
        bare = re.sub(r"\\[{}]", "", line)
        assert bare.count("{") == bare.count("}") or line.startswith("@misc{") or line == "}"


def test_bibtex_of_a_method_says_what_the_catalog_says_and_no_more() -> None:
    (krum,) = method_entries("krum", "Blanchard et al. 2017, arXiv 1703.02757")
    assert krum == (
        "@misc{blanchard2017,\n  author = {Blanchard and others},\n  year = {2017},\n"
        "  note = {Blanchard et al. 2017, arXiv 1703.02757},\n  eprint = {1703.02757},\n"
        "  archiveprefix = {arXiv},\n  url = {https://arxiv.org/abs/1703.02757},\n}"
    )
    (dnc,) = method_entries("dnc", "Shejwalkar and Houmansadr 2021, NDSS")
    assert "author = {Shejwalkar and Houmansadr}" in dnc
    assert "url" not in dnc
    (plain,) = method_entries("mine", "A thesis, https://example.org/x_y")
    assert plain == (
        "@misc{mine,\n  note = {A thesis, https://example.org/x\\_y},\n  url = {https://example.org/x_y},\n}"
    )
    assert method_entries("none", "") == ()


def test_a_method_with_two_sources_has_two_entries_and_a_known_paper_its_title() -> None:
    both = method_entries("k", "Blanchard et al. 2017, arXiv 1703.02757; shape of Ye et al. 2024, arXiv 2406.10630")
    assert [entry.partition("{")[2].partition(",")[0] for entry in both] == ["blanchard2017", "ye2025"]
    assert "Rui Ye and Jingyi Chai" in both[1]
    assert "title = {{Emerging Safety Attack" in both[1]


def test_the_benchmarks_entry_is_that_of_the_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (author,) = citation["authors"]
    year = str(citation["date-released"])[:4]
    assert list(BENCHMARK.values()) == [citation["title"], author["name"], year, citation["version"]]


@pytest.mark.parametrize(
    ("origin", "words"), [("local", "(own rows, not published)"), ("submitted", "(submitted, not re-run)")]
)
def test_a_defense_that_was_not_re_run_is_cited_as_such(rows: Rows, origin: str, words: str) -> None:
    (board,) = boards(rows)
    entry = dataclasses.replace(board.entries[0], origins=(origin,))
    standing = dataclasses.replace(board.overall[0], entry=entry)
    found = cite(dataclasses.replace(board, overall=(standing,), entries=(entry,)), DIGEST, entry.id)
    assert found.sentence.endswith(f"{words}.")
