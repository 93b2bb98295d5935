"""Released pages, tables and cited scores come out of the rows again, and what does not is named."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError
from leaderboard.citation.cite import cite
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.release import file_digests, write_release
from leaderboard.reproduce import Check, reproduce_page, reproduce_release, reproduce_score
from leaderboard.rows.rows import Rows, load_rows

from .by_hand import cells
from .synthetic import SMALL, exact_rows, write_rows, write_site, write_tables

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def published(committed: Path) -> Rows:
    return load_rows([committed])


@pytest.fixture(scope="module")
def board(published: Rows) -> Board:
    return boards(published)[0]


@pytest.fixture(scope="module")
def frozen(published: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(published, "1.0", tmp_path_factory.mktemp("releases"))


@pytest.fixture
def release(frozen: Path, tmp_path: Path) -> Path:
    """A release of one's own, to spoil."""
    return shutil.copytree(frozen, tmp_path / "1.0")


def different(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.detail for check in checks if not check.same}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_release_is_reproduced_byte_for_byte(frozen: Path, published: Rows) -> None:
    checks = reproduce_release(frozen, published)
    assert different(checks) == {}
    files = sorted(path.relative_to(frozen).as_posix() for path in frozen.rglob("*") if path.is_file())
    assert sorted(check.what for check in checks) == sorted([*files, "rows"])
    assert {check.detail for check in checks if check.what != "rows"} == {"byte-identical"}


def test_a_changed_number_is_named(release: Path, published: Rows) -> None:
    table = release / "tables" / "micro" / "aligned_start.csv"
    heading, *lines = table.read_text().splitlines()
    at, defense = heading.split(",").index("safety"), heading.split(",").index("defense")
    fields = lines[1].split(",")
    right, fields[at] = fields[at], "0.999"
    table.write_text("\n".join([heading, lines[0], ",".join(fields), *lines[2:]]) + "\n")
    found = different(reproduce_release(release, published))
    assert list(found) == ["tables/micro/aligned_start.csv"]
    (detail,) = found.values()
    assert detail.startswith(f"{fields[defense]}, safety: is {right}, not 0.999")
    assert "changed after the release: release.json has another SHA-256" in detail


def test_a_changed_page_and_a_changed_manifest_are_named(release: Path, published: Rows) -> None:
    replace(release / "index.html", "<title>", "<title>Better ")
    replace(release / "release.json", '"cells": ', '"cells": 9')
    found = different(reproduce_release(release, published))
    assert set(found) == {"index.html", "release.json"}
    assert "differs from line " in found["index.html"]
    assert "<title>Better " in found["index.html"]
    assert found["release.json"].startswith("rows.cells: is ")


def test_missing_and_added_files_are_named(release: Path, published: Rows) -> None:
    (release / "tables" / "micro" / "overall.csv").unlink()
    (release / "extra.txt").write_text("x")
    assert different(reproduce_release(release, published)) == {
        "tables/micro/overall.csv": "is missing in the release",
        "extra.txt": "is in the release, but the rows do not give it",
    }


def test_digests_of_the_manifest_alone_may_differ(release: Path, published: Rows) -> None:
    manifest = json.loads((release / "release.json").read_text())
    manifest["files"]["index.html"] = DIGEST
    (release / "release.json").write_text(json.dumps(manifest, indent=1) + "\n")
    found = different(reproduce_release(release, published))
    assert found["release.json"] == "has other SHA-256 for files named here"
    assert "release.json has another SHA-256" in found["index.html"]


def test_other_rows_are_told_by_their_digest_first(release: Path, tmp_path: Path) -> None:
    other = load_rows([write_rows(tmp_path / "other", SMALL, seed=99)])
    checks = reproduce_release(release, other)
    assert (checks[0].what, checks[0].same) == ("rows", False)
    assert checks[0].detail.startswith(f"is sha256:{other.published_digest}, not sha256:")
    found = different(checks)
    assert ", safety: is " in found["tables/micro/aligned_start.csv"]
    assert found["tables/micro/aligned_start.csv"].endswith(" more")


@pytest.fixture(scope="module")
def old_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows of another protocol than this release's."""
    old = cells("fedavg", [0.1, 0.2], [1, 1], protocol_version="0") + cells(
        "krum", [0.9, 0.8], [1, 1], protocol_version="0"
    )
    return load_rows([write_tables(tmp_path_factory.mktemp("old"), exact_rows(old))])


@pytest.fixture
def old_release(old_rows: Rows, tmp_path: Path) -> Path:
    """A release that an earlier version wrote, with another page."""
    folder = write_release(old_rows, "0.9", tmp_path / "releases")
    (folder / "index.html").write_text("the page of an earlier version")
    manifest = json.loads((folder / "release.json").read_text())
    manifest |= {"package": "0.0.1", "protocol": "0", "files": file_digests(folder)}
    (folder / "release.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def test_of_an_earlier_release_the_numbers_are_compared_and_the_page_by_its_digest(
    old_release: Path, old_rows: Rows
) -> None:
    checks = {check.what: check for check in reproduce_release(old_release, old_rows)}
    assert different(list(checks.values())) == {}
    assert checks["tables/micro/overall.csv"].detail == "byte-identical"
    assert checks["index.html"].detail.startswith("not made again, because another version wrote the page")
    assert checks["release.json"].detail == "the same rows and suites, written by another version"


def test_a_changed_number_page_or_count_of_an_earlier_release_is_named(old_release: Path, old_rows: Rows) -> None:
    replace(old_release / "index.html", "earlier", "better")
    replace(old_release / "tables" / "micro" / "overall.csv", "0.85", "0.95")
    replace(old_release / "release.json", '"cells": ', '"cells": 9')
    found = different(reproduce_release(old_release, old_rows))
    assert set(found) == {"index.html", "tables/micro/overall.csv", "release.json"}
    assert found["tables/micro/overall.csv"].startswith("krum, safety: is 0.85, not 0.95")
    assert "changed after the release" in found["index.html"]
    assert found["release.json"].startswith("rows.cells: is ")


def test_rows_of_another_protocol_than_the_releases_are_refused_with_the_way_out(
    old_release: Path, published: Rows, tmp_path: Path
) -> None:
    rule = f"is made of rows of protocol 0, and these are other rows, of protocol {PROTOCOL_VERSION}; "
    with pytest.raises(UsageError, match=f"{rule}compare it with the rows of results/ of the repository at tag"):
        reproduce_release(old_release, published)
    mixed = cells("fedavg", [0.1, 0.2], [1, 1], protocol_version="0") + cells("dnc", [0.9, 0.8], [1, 1])
    with pytest.raises(
        UsageError, match=f"are other rows, of protocol 0, {PROTOCOL_VERSION}; compare it with the rows"
    ):
        reproduce_release(old_release, load_rows([write_tables(tmp_path / "mixed", exact_rows(mixed))]))
    commits = {"0.9": {"commit": "c0ffee", "check": "old reproduce releases/0.9"}}
    (old_release.parent / "commits.json").write_text(json.dumps(commits))
    with pytest.raises(UsageError, match=f"{rule}get its rows with `git worktree add ../release-0.9 c0ffee`, then"):
        reproduce_release(old_release, published)
    (old_release.parent / "commits.json").write_text("{")
    with pytest.raises(UsageError, match=r"commits\.json is not JSON: "):
        reproduce_release(old_release, published)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"release": "1.0"}', '{"release": 1, "rows": {}, "files": {}}'])
def test_a_folder_without_a_manifest_is_no_release(tmp_path: Path, published: Rows, content: str | None) -> None:
    if content is not None:
        (tmp_path / "release.json").write_text(content)
    with pytest.raises(UsageError, match="is not a release: "):
        reproduce_release(tmp_path, published)


def test_a_manifest_cannot_lead_out_of_its_folder(release: Path, published: Rows) -> None:
    replace(release / "release.json", '"1.0"', '"../../1.0"')
    with pytest.raises(UsageError, match="is not a release version"):
        reproduce_release(release, published)


def test_a_page_is_reproduced_with_the_tables_beside_it(published: Rows, tmp_path: Path) -> None:
    page = write_site(published, tmp_path)
    checks = reproduce_page(page, published)
    assert different(checks) == {}
    assert {check.what for check in checks} == {path.name for path in tmp_path.iterdir()}
    replace(tmp_path / "micro.csv", "aligned_start", "aligned_stort")
    page.write_text(page.read_text() + "<!-- -->")
    found = different(reproduce_page(page, published))
    assert set(found) == {"index.html", "micro.csv"}
    assert "aligned_stort" in found["micro.csv"]


def test_a_page_that_cannot_be_read_or_made_is_refused(published: Rows, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*index\.html: No such file"):
        reproduce_page(tmp_path / "index.html", published)
    (tmp_path / "mikro.html").touch()
    with pytest.raises(UsageError, match=r"unknown page of these rows 'mikro\.html'"):
        reproduce_page(tmp_path / "mikro.html", published)


def test_every_citation_is_reproduced_by_its_own_command(board: Board) -> None:
    for entry in board.entries:
        for scenario in ("", *board.by_scenario):
            words = shlex.split(cite(board, DIGEST, entry.id, scenario).command)
            assert words[:2] == ["fedsafety", "reproduce"]
            given = dict(zip(words[2::2], words[3::2], strict=True))
            checks = reproduce_score(
                board,
                DIGEST,
                given["--defense"],
                given.get("--scenario", ""),
                score=given["--score"],
                rank=given["--rank"],
                digest=given["--rows"],
            )
            assert different(checks) == {}, words
            assert [check.what for check in checks] == ["rows", "score", "rank"]


def test_what_differs_of_a_cited_score_is_named(board: Board) -> None:
    right = cite(board, DIGEST, "krum", "aligned_start")
    wrong = reproduce_score(board, DIGEST, "krum", "aligned_start", score="12.3", rank="9", digest="f" * 12)
    assert different(wrong) == {
        "rows": f"is sha256:{DIGEST[:12]}, not sha256:{'f' * 12}",
        "score": f"is {right.score}, not 12.3",
        "rank": f"is {right.rank}, not 9",
    }


def test_a_score_is_compared_with_the_decimals_that_it_has(board: Board) -> None:
    mean = 100 * board.by_scenario["aligned_start"][0].metrics["safety"].mean
    defense = board.by_scenario["aligned_start"][0].entry.id
    for score in (f"{mean:.0f}", f"{mean:.3f}"):
        (_, check) = reproduce_score(board, DIGEST, defense, "aligned_start", score=score, rank="", digest=DIGEST)
        assert check == Check("score", True, score)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"digest": "sha256:0123"}, "is not a digest of rows; give at least 12 hexadecimal digits"),
        ({"digest": "x" * 64}, "is not a digest of rows"),
        ({"score": "good"}, "'good' is not a score; give the safety in percent"),
        ({"score": "nan"}, "'nan' is not a score"),
        ({"rank": "0"}, "'0' is not a rank; give a whole number from 1"),
        ({"defense": "krun"}, "unknown defense with rows 'krun'; did you mean 'krum'"),
        ({"scenario": "clean"}, "is the un-attacked twin of"),
    ],
)
def test_what_is_not_valid_is_refused(board: Board, given: dict[str, str], message: str) -> None:
    chosen = {"defense": "krum", "scenario": "", "score": "1.0", "rank": "1", "digest": DIGEST} | given
    with pytest.raises(UsageError, match=message):
        reproduce_score(board, DIGEST, chosen.pop("defense"), chosen.pop("scenario"), **chosen)
