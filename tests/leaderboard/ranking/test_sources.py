"""Which cells a board shows where rows of several protocol versions are stored."""

from __future__ import annotations

import pytest

from benchmark import COMPARABLE_PROTOCOLS, PROTOCOL_VERSION
from leaderboard.ranking.sources import Version, version_notices

EARLIER = min(COMPARABLE_PROTOCOLS)
