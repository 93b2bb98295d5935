"""Content that lies in the place of a file: pointers of Git LFS and git-annex, web pages, messages of a hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = 512
_PAGE_START: Final = (
    rb"\s*(?:<\?xml[^>]*>\s*<error\b|(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b)"
)
_ANNEX: Final = re.compile(r"(?:^|/)\.?(?:git/)?annex/objects/")
_CHECKPOINT_FILES: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True)
class StandIn:
    """What lies in the place of a file's content.

    Attributes:
        content: A noun phrase, for example ``a web page``.
        way_out: The step that brings the file.
    """

    content: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.content}; {self.way_out}"


_ANNEX_POINTER: Final = StandIn(
    "a pointer of git-annex in place of the file", "fetch the file with git annex get and the file's name"
)
_TEXTS: Final = (
    (
        rb"version https://(?:git-lfs|hawser)\.",
        StandIn("a pointer of Git LFS in place of the file", "fetch the file with git lfs pull"),
    ),
    (rb"/annex/objects/", _ANNEX_POINTER),
    (_PAGE_START, StandIn("a web page", "download the file that the page shows, after a login if it asks for one")),
)
"""Pattern of the first bytes of a file, in any case, and the stand-in that it is."""


def stand_in(path: Path) -> StandIn | None:
    """Return the stand-in that a file is, or ``None`` if the file may hold its own content.

    Raises:
        OSError: The file cannot be read, for another reason than a link to a file that is missing.
    """
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        if _ANNEX.search(target):
            return _ANNEX_POINTER
        return StandIn(f"a link to {target}, which is missing", "copy or download the file again")
    with path.open("rb") as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    for pattern, found in _TEXTS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return found
    if path.suffix == ".safetensors":
        return _in_place_of_tensors(head)
    return None


def stand_in_of_checkpoint(folder: Path) -> str:
    """Return the first file of a checkpoint that is a stand-in, and the way out; empty if there is none.

    Example: ``model.safetensors is a pointer of Git LFS in place of the file; fetch the file with git lfs pull``.
    """
    for pattern in _CHECKPOINT_FILES:
        for path in sorted(folder.glob(pattern)):
            try:
                found = stand_in(path)
            except OSError:  # for example a folder
                continue
            if found is not None:
                return f"{path.name} is {found}"
    return ""


def _in_place_of_tensors(head: bytes) -> StandIn | None:
    """Return the stand-in for a safetensors file, which begins with a length of 8 bytes, the last of them zero."""
    again = "download or copy the file again"
    if not head:
        return StandIn("an empty file", again)
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return StandIn(
            "a file of pickled weights, which could run code", "save the model again in the format safetensors"
        )
    if b"\0" in head[:8]:
        return None
    start = head[:40].decode("utf-8", errors="replace").strip()
    return StandIn(f"a text, which begins with {start!r}", again) if start.isprintable() else None
