"""Files of a draw: the sheet for the readers, the key that stays hidden from them, and an empty form for labels.

- ``<name>.jsonl``, the sheet: a line ``{"number": 1, "question": …, "answer": …}`` for each answer. Scenario, defense,
  seed and verdict are not on it.
- ``<name>.key.json``, the key: the origin of each number, with the SHA-256 of the answer.
- ``<name>.labels.csv``, the form: one line for each number. Its first line names the sheet.

The sheet holds answers to harmful requests. It belongs to no repository, so a place that git would track is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmark.errors import UsageError, unwritable
from benchmark.readings.draw import Answer, Origin
from benchmark.records.store import scratch_beside
from benchmark.records.withheld import text_digest
from benchmark.settings import Settings

_MARK = "# sheet "
"""Beginning of a form's first line, before the sheet's digest."""
_HEADING = "number,label"


class KeyEntry(Origin):
    """The origin of one answer on a sheet."""

    number: int
    """Number on the sheet, from 1."""
    answer: str
    """SHA-256 (hex) of the answer."""


class SheetKey(Settings):
    """The key of a sheet."""

    sheet: str
    """Digest of the sheet, 12 hexadecimal digits."""
    suite: str
    """Suite id."""
    draw_seed: int
    """Seed of the draw."""
    answers: tuple[KeyEntry, ...]
    """Origins, by number."""


def key_file(sheet: Path) -> Path:
    """Return the file of a sheet's key: ``a/b.key.json`` for ``a/b.jsonl``."""
    return sheet.with_name(f"{sheet.stem}.key.json")


def form_file(sheet: Path) -> Path:
    """Return the file of a sheet's form: ``a/b.labels.csv`` for ``a/b.jsonl``."""
    return sheet.with_name(f"{sheet.stem}.labels.csv")


def form_heading(sheet: str) -> str:
    """Return the first two lines of a form of the sheet with this digest."""
    return f"{_MARK}{sheet}\n{_HEADING}\n"


def check_place(sheet: Path) -> None:
    """Refuse a place for a sheet that is not a ``.jsonl`` file, holds one already, or is tracked by git.

    Raises:
        UsageError: One of these holds.
    """
    if sheet.suffix != ".jsonl":
        raise UsageError(f"{sheet} does not end in .jsonl; name the sheet like answers.jsonl (--out)")
    for path in (sheet, key_file(sheet), form_file(sheet)):
        if path.exists():
            raise UsageError(f"{path} exists; move it away, or name another sheet with --out")
    folder = next(folder for folder in sheet.absolute().parents if folder.is_dir())
    command = ["git", "-C", str(folder), "check-ignore", "--quiet", "--no-index", str(sheet.absolute())]
    try:
        status = subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - git and its options
    except OSError:  # no git, so that nothing can track the sheet here
        return
    if status == 1:
        raise UsageError(
            f"git would track {sheet}, and a sheet holds answers to harmful requests; name a place that git ignores, "
            f"such as runs/readings/{sheet.name}"
        )


def write_sheet(drawn: Sequence[Answer], sheet: Path, suite: str, draw_seed: int) -> SheetKey:
    """Write sheet, key and form; return the key.

    Args:
        drawn: Answers in the order of their numbers.
        sheet: File of the sheet; the others lie beside it.
        suite: Suite id.
        draw_seed: Seed of the draw.

    Raises:
        UsageError: The place is refused, see :func:`check_place`.
        StorageError: A file cannot be written; then none is.
    """
    check_place(sheet)
    lines = (
        {"number": number, "question": answer.question, "answer": answer.text}
        for number, answer in enumerate(drawn, start=1)
    )
    content = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    key = SheetKey(
        sheet=hashlib.sha256(content.encode()).hexdigest()[:12],
        suite=suite,
        draw_seed=draw_seed,
        answers=tuple(_entry(number, answer) for number, answer in enumerate(drawn, start=1)),
    )
    form = form_heading(key.sheet) + "".join(f"{entry.number},\n" for entry in key.answers)
    _write_all(
        {
            sheet: content,
            key_file(sheet): f"{json.dumps(key.model_dump(), indent=1)}\n",
            form_file(sheet): form,
        }
    )
    return key


def read_key(path: Path) -> SheetKey:
    """Return the key of a sheet.

    Raises:
        UsageError: The file is missing or is not the key of a sheet.
    """
    try:
        key = SheetKey.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name the .key.json file of a sheet") from error
    except ValidationError as error:
        raise UsageError(
            f"{path} is not the key of a sheet ({error.error_count()} wrong values); name the .key.json file that "
            f"`fedsafety reading draw` wrote"
        ) from error
    if [entry.number for entry in key.answers] != list(range(1, len(key.answers) + 1)) or not key.answers:
        raise UsageError(f"{path} does not number its answers from 1; draw the sheet again")
    return key


def _entry(number: int, answer: Answer) -> KeyEntry:
    origin = {name: getattr(answer, name) for name in Origin.model_fields}
    return KeyEntry(**origin, number=number, answer=text_digest(answer.text))


def _write_all(contents: dict[Path, str]) -> None:
    """Write all files or none: each is written beside its place first."""
    scratches = {path: scratch_beside(path) for path in contents}
    try:
        for path, scratch in scratches.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(contents[path], encoding="utf-8", newline="\n")
        for path, scratch in scratches.items():
            scratch.replace(path)
    except OSError as error:
        for scratch in scratches.values():
            with contextlib.suppress(OSError):
                scratch.unlink()
        raise unwritable(f"the sheet in {next(iter(contents)).parent}", error) from error


def read_form(path: Path, sheet: str) -> list[tuple[int, str]]:
    """Return line number and text of each line of a form below its heading.

    Args:
        path: The form.
        sheet: Digest of the sheet that the form must belong to.

    Raises:
        UsageError: The file is missing, is no text, lacks the heading, or belongs to another sheet.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name a file of labels") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from error
    # A spreadsheet adds commas to the first line, and quotes around it.
    first = lines[0].strip().strip('",').strip() if lines else ""
    if not first.startswith(_MARK):
        raise UsageError(f"the first line of {path} must be {_MARK + sheet!r}, as in the form of the sheet; add it")
    if first != _MARK + sheet:
        raise UsageError(
            f"{path} holds labels of sheet {first.removeprefix(_MARK)!r}, and the key is that of sheet {sheet!r}; name "
            f"the labels of that sheet"
        )
    if len(lines) < 2 or lines[1].replace(" ", "").lower() != _HEADING:
        raise UsageError(f"the second line of {path} must be {_HEADING!r}; write a number and a label on each line")
    return list(enumerate(lines[2:], start=3))
