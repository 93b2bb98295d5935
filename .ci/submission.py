"""What the workflow of submissions does around the commands: take the bundle, and write the comment.

    python .ci/submission.py take FROM     copies the one new bundle to results/inbox and prints its id
    python .ci/submission.py comment FOLDER STATUS     writes FOLDER/comment.md from what the commands left there

Needs nothing but Python, and trusts nothing of what it reads: a bundle's name must be an id, and what other people
wrote stands in the comment as code, which nothing in it can end.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

INBOX = Path("results/inbox")
ID = re.compile(r"[a-z][a-z0-9_]{0,63}")
MOST_BYTES = 64 << 20
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
        SystemExit: There is none or more than one, or it is no bundle that may be taken.
    """
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


def _same(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and path.read_bytes() == other.read_bytes()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _fenced(text: str) -> str:
    """Return ``text`` as a block of code that it cannot end."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


if __name__ == "__main__":
    main(sys.argv[1:])
