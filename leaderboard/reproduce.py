"""Reproduction of a release, a page or a cited score from rows, with every difference named.

No file is trusted: each is read as text and compared with the one that the rows give now. A differing digest
of the rows is reported apart, because it explains all that follows from it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import UsageError, unknown_name
from leaderboard.citation.cite import NO_SCORE, find_standing, find_view
from leaderboard.page.site import write_pages
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.release import MANIFEST, checked_version, file_digests, fill_release
from leaderboard.rows.rows import Rows

COMMITS = "commits.json"
"""File beside the releases: the commit of each, which no release can name, because it is part of that commit."""
SHORTEST_DIGEST = 12
"""Fewest hexadecimal digits of a digest that are compared."""
_SHOWN = 5
_AROUND = 40


@dataclass(frozen=True)
class Check:
    """One thing that was compared.

    Attributes:
        what: A file, or ``rows``, ``score`` or ``rank``.
        same: Whether it came out again.
        detail: What it is, or how it differs.
    """

    what: str
    same: bool
    detail: str


def reproduce_score(
    board: Board, rows_digest: str, defense: str, scenario: str, *, score: str, rank: str, digest: str
) -> list[Check]:
    """Compare a cited score with what the rows give.

    Args:
        board: The board of the cited suite.
        rows_digest: SHA-256 (hex) over the rows that the board was made from.
        defense: Registry id or pipeline.
        scenario: An attacked scenario; empty for the mean.
        score: Cited safety in percent, compared with as many decimals as it has; ``none`` if it had none.
        rank: Cited rank, ``none`` if it had none; empty to leave it out.
        digest: Cited digest of the rows, with or without ``sha256:``, at least :data:`SHORTEST_DIGEST` digits.

    Raises:
        UsageError: A name, number or digest is not valid.
    """
    wanted = digest.removeprefix("sha256:").lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_DIGEST},64}}", wanted):
        raise UsageError(
            f"{digest!r} is not a digest of rows; give at least {SHORTEST_DIGEST} hexadecimal digits, as in "
            f"sha256:0123456789ab"
        )
    if score != NO_SCORE and not re.fullmatch(r"-?\d{1,3}(\.\d{1,9})?", score):
        raise UsageError(f"{score!r} is not a score; give the safety in percent, for example 46.7, or {NO_SCORE!r}")
    if rank and rank != NO_SCORE and not re.fullmatch(r"[1-9]\d{0,5}", rank):
        raise UsageError(f"{rank!r} is not a rank; give a whole number from 1, or {NO_SCORE!r}")
    standing = find_standing(board, find_view(board, scenario), defense)
    safety = standing.metrics.get("safety")
    found = NO_SCORE
    if safety is not None and not math.isnan(safety.mean):
        found = f"{100 * safety.mean:.{len(score.partition('.')[2]) if score != NO_SCORE else 1}f}"
        found = found.lstrip("-") if not float(found) else found
    checks = [
        _equal("rows", f"sha256:{wanted}", f"sha256:{rows_digest[: len(wanted)]}"),
        _equal("score", score, found),
    ]
    if rank:
        checks.append(_equal("rank", rank, str(standing.rank or NO_SCORE)))
    return checks


def reproduce_page(page: Path, rows: Rows) -> list[Check]:
    """Compare a page, and its tables that lie beside it, with those that the rows give.

    Raises:
        UsageError: The page cannot be read, or the rows give no page of that name.
    """
    kept = _read(page)
    with TemporaryDirectory() as scratch:
        made = write_pages(boards(rows), rows, scratch).parent
        names = sorted(path.name for path in made.iterdir())
        if page.name not in names:
            raise unknown_name("page of these rows", page.name, [name for name in names if name.endswith(".html")])
        beside = [name for name in names if not name.endswith(".html") and (page.parent / name).is_file()]
        checks = [_file(page.name, kept, (made / page.name).read_bytes())]
        return checks + [_file(name, _read(page.parent / name), (made / name).read_bytes()) for name in beside]


def reproduce_release(folder: Path, rows: Rows) -> list[Check]:
    """Compare a release, file by file, with the one that the rows give.

    Other code wrote the page of a release of another version of this package or protocol. Its tables are
    compared by their bytes and numbers; its page is compared with the SHA-256 in its manifest alone.

    Raises:
        UsageError: The folder is not a release.
        RowsElsewhereError: The rows are not those of a release of another protocol.
    """
    manifest = _read_manifest(folder)
    _check_protocol(folder, manifest, rows)
    earlier = (manifest.get("package"), manifest.get("protocol")) != (__version__, PROTOCOL_VERSION)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    with TemporaryDirectory() as scratch:
        made = Path(scratch)
        fill_release(rows, checked_version(manifest["release"]), made)
        fresh = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
        digests = file_digests(folder)
        checks = [_equal("rows", f"sha256:{manifest['rows']['sha256']}", f"sha256:{rows.published_digest}")]
        for name in sorted(names | fresh, key=lambda name: (name != MANIFEST, name)):
            if name not in names:
                checks.append(Check(name, False, "is missing in the release"))
                continue
            if name not in fresh:
                checks.append(Check(name, False, "is in the release, but the rows do not give it"))
                continue
            unchanged = name == MANIFEST or manifest["files"].get(name) == digests[name]
            if earlier and unchanged and name.endswith(".html"):
                checks.append(Check(name, True, f"not made again, {_EARLIER_PAGE}"))
                continue
            check = _file(name, (folder / name).read_bytes(), (made / name).read_bytes(), earlier=earlier)
            if not unchanged:
                check = Check(
                    name, False, f"{check.detail} (changed after the release: {MANIFEST} has another SHA-256)"
                )
            checks.append(check)
        return checks


_EARLIER_PAGE = f"because another version wrote the page; its SHA-256 is that in {MANIFEST}"


class RowsElsewhereError(UsageError):
    """The rows of a release are not in the folder of rows; the text gives the commands that get them."""


def _check_protocol(folder: Path, manifest: Mapping[str, Any], rows: Rows) -> None:
    """Refuse rows that cannot give the numbers of a release.

    Raises:
        RowsElsewhereError: No row is of the release's protocol, or that is an earlier one and the rows are others.
    """
    released = manifest.get("protocol", PROTOCOL_VERSION)
    protocols = sorted(set(rows.published.cells.column("protocol_version").to_pylist()))
    others = released != PROTOCOL_VERSION and manifest["rows"]["sha256"] != rows.published_digest
    if not protocols or (released in protocols and not others):
        return
    commit = _commits(folder.parent).get(manifest["release"])
    if commit is None:
        place = manifest["rows"].get("where", "the commit that made the release")
        way = f"compare it with the rows of {place}, by `fedsafety reproduce {folder} --results FOLDER`"
    else:
        copy = Path("..") / f"release-{manifest['release']}"
        way = (
            f"get its rows with `git worktree add {copy} {commit['commit']}`, then compare its tables with `fedsafety "
            f"reproduce {folder} --results {copy / 'results'}`, or all its bytes with `cd {copy} && {commit['check']}`"
        )
    raise RowsElsewhereError(
        f"{folder} is made of rows of protocol {released}, and these are other rows, of protocol "
        f"{', '.join(protocols)}; {way}"
    )


def _commits(releases: Path) -> dict[str, dict[str, str]]:
    """Return by release its commit and the command that checks it there; empty if there is no list of commits."""
    path = releases / COMMITS
    try:
        commits = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; take it from the repository again") from error
    return dict(commits)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; give a page that `fedsafety leaderboard` wrote"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UsageError(
            f"{folder} is not a release: cannot read {path}: {reason}; give a folder under releases/"
        ) from error
    match manifest:
        case {"release": str(), "rows": {"sha256": str()}, "files": dict()}:
            return dict(manifest)
    raise UsageError(f"{folder} is not a release: {path} lacks release, rows or files; give a folder under releases/")


def _equal(what: str, cited: str, found: str) -> Check:
    return Check(what, cited == found, found if cited == found else f"is {found}, not {cited}")


def _file(name: str, kept: bytes, fresh: bytes, *, earlier: bool = False) -> Check:
    """Return how two files of one name compare.

    Args:
        name: Their name, whose ending is the format.
        kept: What is checked.
        fresh: What the rows give.
        earlier: Whether another version wrote ``kept``, so that its manifest names that version.
    """
    if kept == fresh:
        return Check(name, True, "byte-identical")
    suffix = name.rpartition(".")[2]
    try:
        match suffix:
            case "csv":
                found = _table_differences(kept.decode(), fresh.decode())
            case "json":
                found = _manifest_differences(json.loads(kept), json.loads(fresh), earlier=earlier)
                if earlier and not found:
                    return Check(name, True, "the same rows and suites, written by another version")
            case "parquet":
                equal = pq.read_table(pa.BufferReader(kept)).equals(pq.read_table(pa.BufferReader(fresh)))
                found = ["the same table in other bytes, as another version of pyarrow writes it"] if equal else []
            case _:
                found = [_first_difference(kept.decode(), fresh.decode())]
    except (ValueError, csv.Error, pa.ArrowException):  # not even the form of its kind
        found = []
    if not found:
        found = [f"differs from byte {_common(kept, fresh)} on"]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Check(name, False, "; ".join(found[:_SHOWN]) + more)


def _table_differences(kept: str, fresh: str) -> list[str]:
    """Return which values of two CSV tables differ, by the line's first names and the column."""
    old, new = (list(csv.reader(io.StringIO(text, newline=""))) for text in (kept, fresh))
    if not old or old[0] != new[0]:
        odd = sorted(set(old[0] if old else ()) ^ set(new[0]))
        return [f"the columns differ: {', '.join(odd) or 'in their order'}"]
    keys = [index for index, name in enumerate(new[0]) if name in ("scenario", "defense", "stage", "seed")]
    by_key = [{tuple(line[index] for index in keys): line for line in lines[1:]} for lines in (old, new)]
    found = []
    for key in dict.fromkeys([*by_key[1], *by_key[0]]):
        lines = [lines.get(key) for lines in by_key]
        if lines[0] is None or lines[1] is None:
            found.append(f"{', '.join(key)}: only in {'the rows' if lines[0] is None else 'the file'}")
            continue
        for name, one, other in zip(new[0], lines[0], lines[1], strict=True):
            if one != other:
                found.append(f"{', '.join(key)}, {name}: is {other or 'empty'}, not {one or 'empty'}")
    return found or ["the lines differ in order or form"]


_OF_VERSION = ("package: ", "protocol: ", "schema: ")


def _manifest_differences(kept: Any, fresh: Any, *, earlier: bool) -> list[str]:
    """Return which entries of two manifests differ; a file's digest is reported with the file.

    Args:
        kept: The manifest of the release.
        fresh: The manifest that the rows give.
        earlier: Whether another version wrote ``kept``; its version does not count as a difference then.
    """
    found = [text for text in _tree_differences(kept, fresh, "") if not text.startswith("files.")]
    if earlier:
        return [text for text in found if not text.startswith(_OF_VERSION)]
    return found or ["has other SHA-256 for files named here"]


def _tree_differences(kept: Any, fresh: Any, path: str) -> Iterable[str]:
    if isinstance(kept, Mapping) and isinstance(fresh, Mapping):
        for name in dict.fromkeys([*fresh, *kept]):
            yield from _tree_differences(kept.get(name), fresh.get(name), f"{path}.{name}" if path else str(name))
    elif kept != fresh:
        yield f"{path}: is {json.dumps(fresh)}, not {json.dumps(kept)}"


def _first_difference(kept: str, fresh: str) -> str:
    at = _common(kept, fresh)
    line = fresh.count("\n", 0, at) + 1
    one, other = (" ".join(text[max(0, at - _AROUND) : at + _AROUND].split()) for text in (fresh, kept))
    return f"differs from line {line} on: is …{one}…, not …{other}…"


def _common(one: bytes | str, other: bytes | str) -> int:
    """Return the length of the common beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
