from __future__ import annotations

import pytest

from benchmark.records.store import Store

from ...leaderboard.synthetic import LOCAL, write_rows


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Runs of five defenses in an attacked scenario and its twin, one seed, with texts. Read-only."""
    return Store(write_rows(tmp_path_factory.mktemp("runs"), LOCAL))
