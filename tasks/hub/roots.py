"""Folders of local data sets and models that replace the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from benchmark.errors import UsageError

DATA_ROOT: Final = "FEDSAFETY_DATA_ROOT"
"""Environment variable of the data root; worker processes inherit it."""
MODEL_ROOT: Final = "FEDSAFETY_MODEL_ROOT"
"""Environment variable of the model root."""


def data_root() -> Path | None:
    """Return the folder of all data sets, or ``None`` if they come from the hub.

    Raises:
        UsageError: The named folder does not exist.
    """
    return _root(DATA_ROOT, "--data-root")


def model_root() -> Path | None:
    """Return the folder of all models, or ``None`` if they come from the hub.

    Raises:
        UsageError: The named folder does not exist.
    """
    return _root(MODEL_ROOT, "--model-root")


def _root(variable: str, option: str) -> Path | None:
    named = os.environ.get(variable, "")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{option} (or {variable}) names {named!r}, which is not a folder; name one or leave it out")
    return folder.absolute()
