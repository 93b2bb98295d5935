"""What the workflow of submissions does around the commands: take the bundle, and write the comment.

    python .ci/submission.py take FROM     copies the one new bundle to results/inbox and prints its id
    python .ci/submission.py comment FOLDER STATUS     writes FOLDER/comment.md from what the commands left there

Needs nothing but Python, and trusts nothing of what it reads: a bundle's name must be an id, and what other people
wrote stands in the comment as code, which nothing in it can end.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import zipfile
import zlib
from pathlib import Path

INBOX = Path("results/inbox")
ID = re.compile(r"[a-z][a-z0-9_]{0,63}")
MOST_BYTES = 64 << 20
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 4 << 20
LONGEST_COMMENT = 60_000
"""Characters; GitHub takes 65,536."""
LONGEST_LOG = 4_000


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["take", source]:
            print(take(Path(source), INBOX))  # noqa: T201 - the workflow reads it
        case ["comment", folder, status]:
            (Path(folder) / "comment.md").write_text(comment(Path(folder), status), encoding="utf-8")
        case _:
            raise SystemExit(__doc__)


def take(source: Path, inbox: Path) -> str:
    """Copy the one bundle that ``source`` has and ``inbox`` has not (or has with other bytes), and return its id.

    Raises:
        SystemExit: There is none or more than one, it is no bundle that may be taken, or others are gone.
    """
    # Both folders are the pull request's: as links they would show files of this machine.
    if source.is_symlink() or source.parent.is_symlink():
        raise SystemExit("results/inbox is a link; a pull request brings one bundle, results/inbox/<id>.zip")
    gone = [path.name for path in sorted(inbox.glob("*")) if not _is_there(source / path.name)]
    if gone:
        names = ", ".join(repr(name[:80]) for name in gone[:10])
        raise SystemExit(
            f"results/inbox lacks {names}, which the base has; bring it back, or merge the base's newest commit"
        )
    new = [path for path in sorted(source.glob("*")) if not _same(path, inbox / path.name)]
    if len(new) != 1:
        names = ", ".join(repr(path.name[:80]) for path in new[:10]) or "none"
        raise SystemExit(f"a pull request brings one bundle, results/inbox/<id>.zip; this one brings {names}")
    (bundle,) = new
    if bundle.is_symlink() or not bundle.is_file():
        raise SystemExit(
            f"{bundle.name[:80]!r} in results/inbox is no file; give the file that `fedsafety submit` wrote"
        )
    if bundle.suffix != ".zip" or not ID.fullmatch(bundle.stem):
        raise SystemExit(
            f"{bundle.name[:80]!r} in results/inbox is not named as an id with .zip (lower-case letters, digits and "
            f"underscores, at most 64); keep the name that `fedsafety submit` gave"
        )
    if bundle.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{bundle.name} has {bundle.stat().st_size} bytes; {MOST_BYTES} are allowed")
    named = _id_in(bundle)
    if named != bundle.stem:
        raise SystemExit(
            f"{bundle.name} is the bundle of {named[:80]!r}; keep the name that `fedsafety submit` gave, <id>.zip"
        )
    inbox.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle, inbox / bundle.name)
    return bundle.stem


def comment(folder: Path, status: str) -> str:
    """Return the comment on a verification.

    Args:
        folder: Holds ``log.txt``, what the commands printed, and ``board.md``, the difference on the board, if it came
            to that.
        status: ``success``, or how the job ended otherwise.
    """
    verified = status == "success"
    heading = "## The bundle was verified" if verified else "## The bundle was not verified"
    log = _read(folder / "log.txt")[-LONGEST_LOG:].strip() or "nothing was printed; the workflow's log says more"
    opening = "<details>" if verified else "<details open>"
    shown = f"{opening}<summary>What the commands said</summary>\n\n{_fenced(log)}\n\n</details>"
    board = _read(folder / "board.md").strip() if verified else ""
    closing = (
        "_Ranked rows come from the verifier's own runs: those of the artifact `verified` of this workflow's run._"
    )
    room = LONGEST_COMMENT - len(heading) - len(shown) - len(closing)
    if len(board) > room:
        board = "The change on the board is too long for a comment; it is in the artifact `submission-report`."
    return "\n\n".join(filter(None, [heading, board, shown, closing if verified else ""])) + "\n"


def _id_in(bundle: Path) -> str:
    """Return the id in a bundle's manifest; whether the rest is right is for ``fedsafety verify`` to say."""
    broken = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
    try:
        with zipfile.ZipFile(bundle) as archive:
            entry = archive.getinfo(MANIFEST)
            # Other methods unpack in steps that nothing bounds.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SystemExit(f"{MANIFEST} in {bundle.name} is packed by another method than deflate")
            with archive.open(entry) as stream:
                text = stream.read(MOST_MANIFEST_BYTES + 1)
        if len(text) > MOST_MANIFEST_BYTES:
            raise SystemExit(f"{MANIFEST} in {bundle.name} has more than {MOST_MANIFEST_BYTES} bytes")
        manifest = json.loads(text)
    except KeyError:
        raise SystemExit(f"{bundle.name} holds no {MANIFEST}; make bundles with `fedsafety submit`") from None
    except broken as error:
        reason = str(error)[:200]
        raise SystemExit(f"{bundle.name} is no zip archive with a {MANIFEST} that can be read: {reason}") from None
    named = manifest.get("id") if isinstance(manifest, dict) else None
    if not isinstance(named, str):
        raise SystemExit(f"{MANIFEST} in {bundle.name} names no id; make bundles with `fedsafety submit`")
    return named


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _same(path: Path, other: Path) -> bool:
    return not path.is_symlink() and path.is_file() and other.is_file() and path.read_bytes() == other.read_bytes()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _fenced(text: str) -> str:
    """Return ``text`` as a block of code that it cannot end."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


if __name__ == "__main__":
    main(sys.argv[1:])
