"""What this environment lacks is not needed: of our requirements it holds torch, numpy and pydantic."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from defenses.base import Stage, defenses

ABSENT = ("transformers", "peft", "vllm", "pyarrow", "scipy", "safetensors", "byzfl")


@pytest.mark.parametrize("package", ABSENT)
def test_it_is_absent(package: str) -> None:
    assert importlib.util.find_spec(package) is None


def test_every_defense_can_be_deployed_or_says_why_not() -> None:
    script = """
from benchmark.errors import UsageError
from benchmark.interop.flower import to_flower
from defenses.base import defenses
refused = []
for name in defenses.names():
    try:
        to_flower(name, declared_malicious=1, rounds=1)
    except UsageError as error:
        refused.append(name)
print(",".join(refused))
"""
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    refused = set(said.strip().splitlines()[-1].split(","))
    references = {entry.info.id for entry in defenses.entries() if not entry.info.ranked}
    with_server = {
        entry.info.id
        for entry in defenses.entries()
        if entry.info.asks_server or {Stage.PREPARE, Stage.FINALIZE} & set(entry.info.stages)
    }
    assert refused == references | with_server
