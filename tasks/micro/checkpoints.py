"""The bundled models' folders, and the check that their files are those that the trainer wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from benchmark.errors import UsageError, unknown_name

ROLES: Final = ("raw", "chat", "external", "judge", "chat_2", "chat_3")
SIBLINGS: Final = ("chat_2", "chat_3")
"""Chat models pre-trained and aligned from other seeds, which show the dependence of scores on the base model."""

FOLDER: Final = Path(__file__).parent / "checkpoints"
PROVENANCE: Final = "checkpoint.json"
REMAKE: Final = "restore the file, or remake the models with: python -m tasks.micro.train"


def verified_folder(role: str, language: str, folder: Path = FOLDER) -> Path:
    """Return the folder of the checkpoint for ``role`` after comparing its files with their recorded digests.

    Args:
        role: One of :data:`ROLES`.
        language: Digest of the vocabulary that the checkpoint must have been trained for.
        folder: Where the checkpoints of all roles lie.

    Raises:
        UsageError: The role is unknown, a file is missing or differs from its digest, or the model was trained for
            another vocabulary.
    """
    if role not in ROLES:
        raise unknown_name("model of the micro world", role, ROLES)
    checkpoint = folder / role
    try:
        provenance = json.loads((checkpoint / PROVENANCE).read_text(encoding="utf-8"))
        recorded = dict(provenance["sha256"])
        spoken = provenance["language"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"micro checkpoint {role!r} has no readable {checkpoint / PROVENANCE}; {REMAKE}") from error
    for name, digest in recorded.items():
        if file_digest(checkpoint / name) != digest:
            raise UsageError(
                f"micro checkpoint {role!r}: {checkpoint / name} is missing or differs from the sha256 in "
                f"{PROVENANCE}; {REMAKE}"
            )
    if spoken != language:
        raise UsageError(
            f"micro checkpoint {role!r} was trained for vocabulary {spoken}, this version speaks {language}; {REMAKE}"
        )
    return checkpoint


def file_digest(path: Path) -> str | None:
    """Return the file's SHA-256 as hexadecimal digits, or ``None`` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
