"""Records of adapters: the file beside an adapter's weights, and the amounts that a defense used for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmark.errors import FedSafetyError
from benchmark.records.store import Store

_FILE = "run.json"
_REQUIRED = {"usage", "malicious_rows", "malicious_leaks", "rejected_updates", "train_seconds", "upload_bytes"}


@dataclass
class Usage:
    """Amounts that a defense used over all its stages: counts, tokens, steps and seconds."""

    owned_aligned: int = 0
    owned_normal: int = 0
    generated_pairs: int = 0
    generated_leaks: int = 0
    generated_tokens: int = 0
    finetune_steps: int = 0
    extra_models: int = 0
    server_seconds: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Return the sum of two records."""
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def minus(self, earlier: Usage) -> Usage:
        """Return the difference from an earlier record of the same server."""
        return Usage(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})


def adapter_is_complete(store: Store, key: str) -> bool:
    """Whether the store holds an adapter and its record. The record is written last."""
    return has_record(store.adapter_folder(key))


def has_record(folder: Path) -> bool:
    """Whether a run wrote the adapter in ``folder``. Folders of other programs have no record."""
    return (folder / _FILE).exists()


def write_record(store: Store, key: str, record: Mapping[str, Any]) -> None:
    """Write the record of an adapter, after its other files."""
    store.write_json(store.adapter_folder(key) / _FILE, record)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record in an adapter's folder.

    Raises:
        FedSafetyError: The record is missing, damaged or incomplete.
    """
    path = folder / _FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = record.keys() >= _REQUIRED and set(record["usage"]) == {f.name for f in fields(Usage)}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FedSafetyError(f"cannot read {path} ({error}); delete its folder and run again") from error
    if not complete:
        raise FedSafetyError(f"{path} is incomplete; delete its folder and run again")
    return record
