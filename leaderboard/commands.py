"""The part of the command line that reads rows: ``fedsafety leaderboard | cite | power | reproduce``.

Committed rows are those of ``--results``, else of ``results/`` in the working directory, else those of the checkout
that the package is installed from, so that a user in an empty folder sees the present board. The folder is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.screen import Fitted, Screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leaderboard.ranking.board import Board
    from leaderboard.reproduce import Check
    from leaderboard.rows.rows import Rows

console = Screen()
errors = Screen(stderr=True)

CHECKOUT = Path(__file__).resolve().parents[1]
"""Where the repository lies, if the package is installed from one."""

ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results", help="Folder of committed rows; default: results/ here, else in the checkout of the package."
    ),
]
RunsOption = Annotated[Path, typer.Option("--runs", envvar="FEDSAFETY_RUNS", help="Folder of your own runs.")]
SuiteOption = Annotated[str, typer.Option("--suite", help="Id of the suite.")]
ScenarioOption = Annotated[
    str, typer.Option("--scenario", help="Attacked scenario; default: the mean over the compared scenarios.")
]
DefenseArgument = Annotated[str, typer.Argument(help="Defense, or a composition such as krum+posthoc_self.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("leaderboard")(leaderboard)
    app.command("cite")(cite_command)
    app.command("power")(power_command)
    app.command("reproduce")(reproduce_command)


def leaderboard(
    suite: Annotated[str, typer.Option("--suite", help="Suite whose table is printed.")] = "micro",
    scenario: Annotated[
        str, typer.Option(help="Attacked scenario to print; default: the mean over the compared scenarios.")
    ] = "",
    results: ResultsOption = None,
    runs: RunsOption = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the page (default: site), or of all releases (default: releases)."),
    ] = None,
    release: Annotated[
        str,
        typer.Option(
            "--release", help="Freeze the page and tables of the committed rows under this version, e.g. 1.0."
        ),
    ] = "",
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what would change if your own rows were published as reproduced.")
    ] = False,
    added: Annotated[
        list[Path] | None,
        typer.Option("--with", help="With --diff: a folder that `fedsafety verify` wrote, instead of your own rows."),
    ] = None,
    defense: Annotated[
        str, typer.Option("--defense", help="With --diff: one method among your own rows; default: all.")
    ] = "",
    form: Annotated[str, typer.Option("--format", help="With --diff: text (default), markdown or json.")] = "",
) -> None:
    """Build the static page from committed rows and your own, and print the ranking.

    With --release, write an immutable folder from committed rows alone instead. With --diff, write nothing and
    print what your rows would change on the board: lines, ranks, ties, best-known values, and what a rank still lacks.
    """
    if diff:
        _no_others("--diff", {"--release": release, "--out": out, "--scenario": scenario})
        _print_diff(results, runs, added or [], defense, form or "text")
        return
    for name, given in (("--with", added), ("--defense", defense), ("--format", form)):
        if given:
            raise UsageError(f"{name} belongs to --diff; add it")
    if release:
        from leaderboard.release import checked_version, write_release

        checked_version(release)
        folder = write_release(_rows(results, submitted=False), release, out or Path("releases"))
        console.say(
            f"release {release} written to {folder}; commit it, tag the commit release-{release}, and add the commit "
            f"to {folder.parent / 'commits.json'}"
        )
        return
    from leaderboard.build import build
    from leaderboard.text import render_table

    root = results_folder(results)
    report = build([root] if root else [], [runs], out or Path("site"))
    console.print(render_table(report.boards, suite, scenario))
    _note_versions(report.boards)
    console.say(f"{report.cells} rows of cells read, page built in {report.seconds:.1f} s: {report.page}")
    if root is None:
        console.say("no folder results/ here, so these are your own rows only; name committed ones with --results")


def results_folder(results: Path | None) -> Path | None:
    """Return the folder of committed rows: the one named, else ``results/`` here, else the checkout's (printed).

    Returns:
        ``None`` if none was named and there is neither.
    """
    if results is not None:
        return results
    if Path("results").is_dir():
        return Path("results")
    found = CHECKOUT / "results"
    if not (found.is_dir() and (CHECKOUT / "pyproject.toml").is_file()):
        return None
    # Beside the output, which may be JSON that a machine reads.
    errors.say(f"committed rows: {found} (no results/ here)")
    return found


def _note_versions(boards: Iterable[Board]) -> None:
    """Print on the error stream which rows are of other versions; the output may be JSON that a machine reads."""
    for notice in dict.fromkeys(notice for board in boards for notice in board.version_notices):
        errors.say(f"note: {notice}")


def _no_others(name: str, others: dict[str, object]) -> None:
    for other, given in others.items():
        if given:
            raise UsageError(f"{name} and {other} exclude each other; leave one out")


def _print_diff(results: Path | None, runs: Path, added: list[Path], defense: str, form: str) -> None:
    from leaderboard.diff import as_json, diff_boards
    from leaderboard.diff_text import as_markdown, as_text
    from leaderboard.ranking.boards import boards
    from leaderboard.rows.rows import load_rows

    forms = ("text", "markdown", "json")
    if form not in forms:
        raise unknown_name("format", form, forms)
    if defense and added:
        raise UsageError("--defense chooses among your own rows, and --with takes a verified folder instead of them")
    if not added and not runs.is_dir():
        raise UsageError(f"there are no own rows in {runs}; make some with `fedsafety run`, or name a folder by --with")
    root = results_folder(results)
    roots = [root] if root else []
    before = boards(load_rows(roots, without=added))
    after = boards(load_rows(roots, reproduced=added or [runs], only=defense))
    _note_versions(after)
    found = diff_boards(before, after)
    if form == "json":
        console.say_json(as_json(found))
    else:
        console.say(as_markdown(found) if form == "markdown" else as_text(found))


def cite_command(
    defense: DefenseArgument,
    scenario: ScenarioOption = "",
    suite: SuiteOption = "micro",
    results: ResultsOption = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print only the BibTeX entries.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all fields as JSON.")] = False,
) -> None:
    """Print the citation of a defense's score: a sentence, BibTeX, and the command that checks the score."""
    if bibtex and as_json:
        raise UsageError("--bibtex and --json exclude each other; the JSON holds the BibTeX")
    from leaderboard.citation.cite import cite_score, find_board

    rows = _rows(results)
    board = find_board(rows, suite)
    _note_versions([board])
    found = cite_score(board, rows, defense, scenario)
    if as_json:
        console.say_json(found.as_dict())
    elif bibtex:
        console.say(found.bibtex)
    else:
        console.say(f"{found.sentence}\n\n{found.bibtex}\n\nTo check it: {found.command}")


def power_command(
    points: Annotated[
        float, typer.Argument(help="Difference in points of a share, for example 10 for 40 % against 50 %.")
    ],
    scenario: ScenarioOption = "",
    suite: SuiteOption = "micro",
    pair: Annotated[
        tuple[str, str] | None, typer.Option("--pair", help="Two defenses; default: all pairs of ranked defenses.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="A score that is a share, such as utility.")] = "safety",
    results: ResultsOption = None,
) -> None:
    """Print how many seeds separate two defenses that differ by so many points, at the spread of these rows."""
    from leaderboard.power import power_report

    found = power_report(_rows(results), suite, scenario or None, points, pair, metric=metric)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("difference")
    for heading in ("SD", "seeds, pair alone", "seeds, in a board", f"separable by {found.seeds}"):
        table.add_column(heading, justify="right")
    for spread in found.spreads:
        detectable = "none" if spread.detectable is None else f"{spread.detectable:.1f}"
        table.add_row(Text(spread.name), f"{spread.sd:.1f}", str(spread.alone), str(spread.board), detectable)
    where = scenario or "the mean over the compared scenarios"
    console.say(
        f"Seeds that separate {found.points:g} points of {found.metric} in {where}: chance {found.power:.0%}, "
        f"error rate {found.alpha:.0%}."
    )
    console.print(Fitted(table))
    console.say(
        f"SD: of the paired differences, in points. pair alone: if this is the only comparison. in a board: among all "
        f"pairs of ranked defenses ({found.comparisons}), by Holm's first step, an upper bound. separable by "
        f"{found.seeds}: the least difference in points that the present seeds separate in a board."
    )
    if found.constant:
        console.say(
            f"{found.constant} pairs do not vary between seeds and are left out; the exact test over probes is theirs."
        )


def reproduce_command(
    release: Annotated[Path | None, typer.Argument(help="Folder of a release, such as releases/1.0.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="A page that `fedsafety leaderboard` wrote.")] = None,
    defense: Annotated[str, typer.Option("--defense", help="Defense of a cited score.")] = "",
    scenario: ScenarioOption = "",
    suite: SuiteOption = "micro",
    score: Annotated[str, typer.Option("--score", help="Cited safety in percent; none if it has no score.")] = "",
    rank: Annotated[str, typer.Option("--rank", help="Cited rank; none if it has no rank.")] = "",
    digest: Annotated[
        str, typer.Option("--rows", help="Cited digest of the rows (sha256:…), at least 12 digits.")
    ] = "",
    results: ResultsOption = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Compute a release, a page or a cited score again from rows.

    Exits 0 if it is the same, 1 if it differs, and 2 if it cannot be compared, for example because the rows of a
    release lie at an earlier commit; the message names the commands that get them.
    """
    chosen = [name for name, given in (("a release", release), ("--page", page), ("--defense", defense)) if given]
    if len(chosen) != 1:
        raise UsageError(
            f"{' and '.join(chosen) or 'nothing'} to reproduce; name one thing: the folder of a release, --page, or "
            f"--defense with --score and --rows"
        )
    if defense and not (score and digest):
        raise UsageError("a cited score needs --score and --rows; `fedsafety cite` prints the whole command")
    from leaderboard.citation.cite import cite_score, cited_digest, find_board
    from leaderboard.reproduce import reproduce_page, reproduce_release, reproduce_score

    if release is not None:
        _report(reproduce_release(release, _rows(results, submitted=False)), str(release))
    elif page is not None:
        from leaderboard.rows.rows import load_rows

        local, root = [runs] if runs.exists() else [], results_folder(results)
        _report(reproduce_page(page, load_rows([root] if root and root.is_dir() else [], local=local)), str(page))
    else:
        rows = _rows(results)
        board = find_board(rows, suite)
        _note_versions([board])
        found = cited_digest(board, rows, defense)
        checks = reproduce_score(board, found, defense, scenario, score=score, rank=rank, digest=digest)
        console.say(f"from these rows: {cite_score(board, rows, defense, scenario).sentence}")
        _report(checks, f"the score of {defense}")


def _rows(results: Path | None, *, submitted: bool = True) -> Rows:
    """Return committed rows, with submitted ones unless that is False.

    Raises:
        FedSafetyError: The folder holds no committed rows.
    """
    from leaderboard.rows.rows import load_rows

    root = results_folder(results) or Path("results")
    rows = load_rows([root], submitted=submitted)
    if not rows.published.cells.num_rows:
        raise FedSafetyError(f"{root} holds no committed rows; name a folder that does with --results")
    return rows


def _report(checks: Sequence[Check], what: str) -> None:
    """Print what was compared; stop with status 1 if something differs."""
    for check in checks:
        console.say(f"{'same   ' if check.same else 'DIFFERS'}  {check.what}: {check.detail}")
    different = [check for check in checks if not check.same]
    if not different:
        console.say(f"reproduced: {what}")
        return
    if any(check.what == "rows" for check in different):
        console.say(
            "these are other rows than the cited ones: check out the release or commit that holds the cited ones"
        )
    console.say(f"not reproduced: {what}; {len(different)} of {len(checks)} differ")
    raise typer.Exit(1)
