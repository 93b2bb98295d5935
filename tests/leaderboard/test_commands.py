"""The commands that read rows: exit statuses, output and messages."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import PROTOCOL_VERSION
from benchmark.cli import main as cli
from leaderboard import commands
from leaderboard.rows.rows import load_rows

from .by_hand import FEDAVG4, KRUM4, cells
from .synthetic import exact_rows, write_submission, write_tables

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], committed: Path) -> Run:
    """Run the command as the shell does, in a folder whose ``results`` are committed rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("FEDSAFETY_RUNS", raising=False)
    (tmp_path / "results").symlink_to(committed)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsafety", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.mark.parametrize("command", ["leaderboard", "cite", "power", "reproduce"])
def test_every_command_has_help(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Usage:" in out


def test_the_printed_command_checks_the_printed_sentence(run: Run) -> None:
    status, out, err = run("cite", "krum", "--scenario", "aligned_start")
    assert (status, err) == (0, "")
    assert out.startswith(f"In FedSafetyBench (suite micro 1, protocol {PROTOCOL_VERSION}, rows sha256:")
    assert "@misc{fedsafetybench," in out
    assert "@misc{blanchard2017," in out
    _, _, command = out.rstrip().rpartition("To check it: ")
    status, out, _ = run(*shlex.split(command)[1:])
    assert status == 0
    assert out.splitlines()[-1] == "reproduced: the score of krum"
    assert out.count("same     ") == 3
    status, out, _ = run(*shlex.split(command.replace("--rank none", "--rank 9"))[1:])
    assert status == 1
    assert "DIFFERS  rank: is " in out
    assert out.splitlines()[-1] == "not reproduced: the score of krum; 1 of 3 differ"


def test_other_rows_than_the_cited_ones_are_explained(run: Run) -> None:
    status, out, _ = run("reproduce", "--defense", "krum", "--score", "12", "--rows", "sha256:" + "0" * 64)
    assert status == 1
    assert "DIFFERS  rows: is sha256:" in out
    assert "these are other rows than the cited ones: check out the release or commit that holds the cited ones" in out


def test_a_citation_as_json_and_as_bibtex(run: Run, committed: Path) -> None:
    status, out, _ = run("cite", "krum", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["rows"] == load_rows([committed]).published_digest
    assert (found["defense"], found["knowledge"], found["date"]) == ("krum", "declared_bound", "2030-01-01")
    status, out, _ = run("cite", "krum", "--bibtex")
    assert (status, out) == (0, found["bibtex"] + "\n")


def test_a_release_is_written_once_and_reproduced(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("leaderboard", "--release", "1.0")
    assert status == 0
    assert out == (
        "release 1.0 written to releases/1.0; commit it, tag the commit release-1.0, and add the commit to "
        "releases/commits.json\n"
    )
    status, out, _ = run("reproduce", "releases/1.0")
    assert status == 0
    assert "same     index.html: byte-identical" in out
    assert out.endswith("reproduced: releases/1.0\n")
    status, out, err = run("leaderboard", "--release", "1.0")
    assert (status, out) == (2, "")
    assert "the release releases/1.0 exists, and releases are frozen; give the next version" in err
    (tmp_path / "releases" / "1.0" / "index.html").write_text("other")
    status, out, _ = run("reproduce", "releases/1.0")
    assert status == 1
    assert "DIFFERS  index.html: differs from line 1 on" in out


RELEASES = Path(__file__).parents[2] / "releases"


def test_a_release_of_an_earlier_protocol_ends_with_2_and_the_commands_that_get_its_rows(run: Run) -> None:
    status, out, err = run("reproduce", str(RELEASES / "1.0"))
    assert (status, out) == (2, "")
    assert (
        f"1.0 is made of rows of protocol 1.0, and these are other rows, of protocol {PROTOCOL_VERSION}; get its" in err
    )
    assert "`git worktree add ../release-1.0 69a0ed51b7465f598ab13aadb96469468af01a9f`" in err
    assert "releases/1.0 --results ../release-1.0/results`" in err
    assert "`cd ../release-1.0 && python -m benchmark.cli reproduce releases/1.0`" in err
    assert err.count("\n") == 1


def test_every_listed_commit_is_one_of_a_release() -> None:
    commits = json.loads((RELEASES / "commits.json").read_text())
    folders = {path.name for path in RELEASES.iterdir() if path.is_dir()}
    assert set(commits) <= folders
    for version, entry in commits.items():
        assert re.fullmatch("[0-9a-f]{40}", entry["commit"]), version
        assert entry["check"].endswith(f"reproduce releases/{version}")


def test_a_page_is_reproduced_with_own_rows_as_well(run: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(runs)
    assert run("leaderboard")[0] == 0
    status, out, _ = run("reproduce", "--page", "site/index.html")
    assert status == 0
    assert "same     index.html: byte-identical" in out
    (tmp_path / "runs").unlink()
    assert run("reproduce", "--page", "site/index.html")[0] == 1


def test_power_tells_seeds_for_all_and_for_a_pair(run: Run) -> None:
    status, out, _ = run("power", "20", "--scenario", "aligned_start")
    assert status == 0
    assert out.startswith("Seeds that separate 20 points of safety in aligned_start")
    for words in ("median pair", "90 % of pairs", "seeds, in a board", "separable by 3"):
        assert words in out
    status, out, _ = run("power", "20", "--pair", "krum", "fedavg")
    assert status == 0
    assert "krum - fedavg" in out
    assert "in the mean over the compared scenarios" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cite", "krun"), "unknown defense with rows 'krun'; did you mean 'krum'?"),
        (("cite", "krum", "--scenario", "aligned"), "unknown attacked scenario with rows 'aligned'; did you mean"),
        (("cite", "krum", "--suite", "mikro"), "unknown suite 'mikro'; did you mean 'micro'?"),
        (("cite", "krum", "--suite", "pocket"), "suite 'pocket' exists, but there are no rows of it in the folders"),
        (("power", "10", "--suite", "paper_lite"), "only of micro; name a folder that has some with --results"),
        (("cite", "krum", "--results", "nowhere"), "nowhere' to read rows from"),
        (("cite", "krum", "--bibtex", "--json"), "--bibtex and --json exclude each other"),
        (("leaderboard", "--release", "one"), "'one' is not a release version; give two or three numbers"),
        (("reproduce",), "nothing to reproduce; name one thing: the folder of a release, --page, or --defense"),
        (("reproduce", "releases/1.0"), "releases/1.0 is not a release: cannot read releases/1.0/release.json"),
        (("reproduce", "x", "--page", "y"), "a release and --page to reproduce; name one thing"),
        (("reproduce", "--page", "none.html"), "cannot read none.html: No such file or directory; give a page"),
        (("reproduce", "--defense", "krum"), "a cited score needs --score and --rows; `fedsafety cite` prints"),
        (("reproduce", "--defense", "krum", "--score", "1", "--rows", "abc"), "'abc' is not a digest of rows; give at"),
        (("power", "0"), "a difference of 0 points cannot be planned for"),
        (("power", "10", "--pair", "krum", "krun"), "unknown defense 'krun'; did you mean 'krum'?"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_clear_line(
    run: Run, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_local_rows_alone_are_neither_cited_nor_released(run: Run, runs: Path) -> None:
    for arguments in (("cite", "krum"), ("leaderboard", "--release", "1.0")):
        status, out, err = run(*arguments, "--results", str(runs))
        assert (status, out) == (1, "")
        assert "holds no committed rows; name a folder that does with --results" in err


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, committed: Path, run: Run) -> Run:
    """Run the command in an empty folder, installed from a checkout whose ``results`` are committed rows."""
    checkout, empty = tmp_path / "checkout", tmp_path / "empty"
    for folder in (checkout, empty):
        folder.mkdir()
    (checkout / "results").symlink_to(committed)
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(commands, "CHECKOUT", checkout)
    monkeypatch.chdir(empty)
    return run


def test_in_an_empty_folder_committed_rows_are_those_of_the_checkout_and_that_is_said(
    elsewhere: Run, tmp_path: Path, committed: Path
) -> None:
    said = f"committed rows: {tmp_path / 'checkout' / 'results'} (no results/ here)\n"
    status, out, err = elsewhere("leaderboard")
    assert (status, err) == (0, said)
    assert "your own rows only" not in out
    status, out, err = elsewhere("cite", "krum", "--json")
    assert (status, err) == (0, said)
    assert json.loads(out)["rows"] == load_rows([committed]).published_digest
    for arguments in (("power", "20"), ("reproduce", "--page", "site/index.html")):
        status, _, err = elsewhere(*arguments)
        assert (status, err) == (0, said), arguments
    (tmp_path / "empty" / "results").symlink_to(committed)
    assert elsewhere("cite", "krum")[2] == ""


def test_what_is_named_or_lies_here_comes_before_the_checkout(elsewhere: Run, tmp_path: Path, committed: Path) -> None:
    assert elsewhere("cite", "krum", "--results", str(committed))[2] == ""
    status, _, err = elsewhere("leaderboard", "--results", "nowhere")
    assert status == 2
    assert "no folder" in err
    (tmp_path / "checkout" / "pyproject.toml").unlink()
    assert commands.results_folder(None) is None


def test_without_any_committed_rows_there_are_ones_own_only(
    elsewhere: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: Path
) -> None:
    monkeypatch.setattr(commands, "CHECKOUT", tmp_path / "nowhere")
    status, out, err = elsewhere("leaderboard", "--runs", str(runs))
    assert (status, err) == (0, "")
    assert "no folder results/ here, so these are your own rows only; name committed ones with --results" in out
    status, _, err = elsewhere("cite", "krum")
    assert status == 2
    assert "no folder" in err
    status, out, _ = elsewhere("leaderboard", "--diff", "--runs", str(runs))
    assert status == 0
    assert out.startswith("suite micro, a new board: if your own rows of fedavg, krum")


@pytest.fixture
def exact(run: Run, tmp_path: Path) -> Run:
    """Run the command where ``results`` are few committed rows with scores worked by hand."""
    (tmp_path / "results").unlink()
    write_tables(tmp_path / "results" / "micro", exact_rows(FEDAVG4 + KRUM4))
    return run


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of own runs of one new method."""
    return write_tables(tmp_path / "runs", exact_rows(cells("mine", [0.9] * 3, [1.0] * 3, origin="local")))


def test_a_diff_is_printed_in_three_forms_and_writes_nothing(exact: Run, own: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    status, out, err = exact("leaderboard", "--diff")
    assert (status, err) == (0, "")
    assert out.startswith(
        "suite micro: if your own rows of mine were published as reproduced\n\nMean over 1 scenario\n"
    )
    assert "Missing for a rank" in out
    status, out, _ = exact("leaderboard", "--diff", "--format", "markdown", "--defense", "mine")
    assert status == 0
    assert out.startswith("### What would change on the board\n\n**Suite `micro`**: if your own rows of `mine`")
    status, out, _ = exact("leaderboard", "--diff", "--format", "json")
    assert json.loads(out)["suites"][0]["previewed"] == {"mine": "local"}
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert own.is_dir()


def test_a_verified_folder_is_compared_in_place_of_own_rows(exact: Run, tmp_path: Path) -> None:
    rows = cells("mine", [0.9] * 3, [1.0] * 3)
    folder = write_submission(tmp_path / "verified", "mine", exact_rows(rows), "sampled")
    status, out, _ = exact("leaderboard", "--diff", "--with", str(folder))
    assert status == 0
    assert out.startswith("suite micro: if mine (sampled so far) were published as reproduced\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--with", "x"), "--with belongs to --diff; add it"),
        (("--format", "json"), "--format belongs to --diff; add it"),
        (("--defense", "mine"), "--defense belongs to --diff; add it"),
        (("--diff", "--out", "x"), "--diff and --out exclude each other; leave one out"),
        (("--diff", "--release", "1.0"), "--diff and --release exclude each other"),
        (("--diff", "--scenario", "sampled"), "--diff and --scenario exclude each other"),
        (("--diff", "--format", "html"), "unknown format 'html'; known: json, markdown, text"),
        (("--diff", "--with", "x", "--defense", "mine"), "--defense chooses among your own rows, and --with takes"),
        (("--diff", "--with", "nowhere"), "nowhere' to read rows from"),
        (("--diff", "--runs", "none"), "there are no own rows in none; make some with `fedsafety run`, or name a"),
        (("--diff", "--defense", "mina"), "unknown method with own rows 'mina'; did you mean 'mine'?"),
    ],
    ids=" ".join,
)
def test_a_diff_that_cannot_be_made_is_one_clear_line(
    run: Run, own: Path, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    status, out, err = run("leaderboard", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", own.name]


def test_submissions_are_no_part_of_a_release(exact: Run, tmp_path: Path) -> None:
    assert exact("leaderboard", "--release", "1.0")[0] == 0
    for rung in ("claimed", "reproduced"):
        write_submission(tmp_path / "results", "mine", exact_rows(cells("mine", [0.9] * 3, [1.0] * 3)), rung)
        assert exact("reproduce", "releases/1.0")[0] == 0
        assert exact("leaderboard", "--release", f"1.{len(rung)}")[0] == 0
        assert exact("reproduce", f"releases/1.{len(rung)}")[0] == 0
    status, out, _ = exact("cite", "mine")
    assert status == 0
    assert "(submitted, reproduced: every row was run again, bundle sha256:" in out
