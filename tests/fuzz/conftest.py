"""Settings of the fuzz tests: few fixed examples in the test suite, many random ones by ``make fuzz``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = os.environ.get("FEDSAFETY_FUZZ_EXAMPLES", "")

settings.register_profile(
    "fuzz",
    max_examples=int(_EXAMPLES or 25),
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
