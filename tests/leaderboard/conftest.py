from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.rows.rows import Rows, load_rows

from .synthetic import LOCAL, SMALL, write_rows


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the rows of one small suite. Read-only."""
    root = tmp_path_factory.mktemp("results")
    write_rows(root / "micro", SMALL)
    return root


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local runs of one scenario. Read-only."""
    return write_rows(tmp_path_factory.mktemp("runs"), LOCAL, seed=8)


@pytest.fixture(scope="session")
def rows(committed: Path, runs: Path) -> Rows:
    return load_rows([committed, runs])
