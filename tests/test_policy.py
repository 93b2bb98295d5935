"""The policy of docs/policy.md is enforced: by the tests it names, and by those below."""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmark import COMPARABLE_PROTOCOLS, PROTOCOL_VERSION
from benchmark.execution.plan import make_plan
from benchmark.records.schemas import READABLE_VERSIONS, SCHEMA_VERSION, TABLES
from benchmark.suites.suite import Suite, find_suite
from leaderboard.rows.rungs import FOLDER

ROOT = Path(__file__).resolve().parents[1]

COLUMNS = {
    # table: SHA-256 over the names, types and nullability of its columns, in schema version 2
    "catalog": "7ea771210a0ba9e33469051873b21f69253f9ffb8131f660a32a983d2392ea83",
    "cells": "e6437dad643d3776ed12abfa0fe5b96ecb0e73206edeae96665a6677d7c6e91d",
    "inputs": "1be0bb27218190307cdf3a52a5bd73fbfe1bffa00dfda50c1d2bb42fb83df8d1",
    "likelihoods": "98a574b1250ef23903860dde6f5b0d75c9914569fe8043c1c3c8fb2756478d39",
    "probes": "a12e4e8027536afce164218e4b01f8e1c4a159739176318fc395bc0254ce974d",
    "readings": "260c87693398d9c1e7465926b692178a5644efa159dd973004962097cb428948",
    "responses": "83a897bbbc98bb8a087f54d0080fc8468c634467d2bf646d994f5b0c74b1b0a4",
    "rounds": "d5dc089e764e1b23fe939be49b35727c3afcc970c6ea46687023c5bd709cdb82",
    "task_scores": "b3137fc72098a72c104ecac2dfc80f4d21ce014db5ad3b606c5fe198bef7539d",
    "verifications": "987156ff2eecdd77c3d10ab6d5e42b4e7f9cf1ceda3f7cdcee3628f6bc0a16f9",
    "verdicts": "ddfc96a7fba21d4348c507ab46bda4002a0e441b37f587b7a9526e5f73dd595d",
}


def test_every_rule_names_tests_that_exist() -> None:
    named: dict[str, set[str]] = defaultdict(set)
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs" / "policy.md").read_text()):
        named[path].add(name)
    assert sum(map(len, named.values())) > 30
    for path, names in named.items():
        tree = ast.parse((ROOT / path).read_text())
        assert names <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, path


def test_every_section_of_the_policy_is_enforced_by_some_test() -> None:
    _, *sections = (ROOT / "docs" / "policy.md").read_text().split("\n## ")
    assert len(sections) == 9
    for section in sections:
        assert "(tests/" in section, section.splitlines()[0]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_changed_column_needs_a_new_schema_version(table: str) -> None:
    described = [f"{field.name}: {field.type}, {field.nullable}" for field in TABLES[table]]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    assert (SCHEMA_VERSION, digest) == (2, COLUMNS[table]), "raise SCHEMA_VERSION, then state the new columns here"


def test_committed_rows_have_the_versions_of_the_code() -> None:
    for folder in sorted(path for path in (ROOT / "results").iterdir() if path.is_dir() and path.name != FOLDER):
        suite = find_suite(folder.name)
        scenarios = {scenario.id: scenario.version for scenario in suite.scenarios}
        for path in sorted((folder / "cells").glob("*.parquet")):
            file = pq.ParquetFile(path)
            assert file.schema_arrow.metadata[b"fedsafety.schema_version"].decode() in READABLE_VERSIONS
            for cell in file.read().to_pylist():
                found = (cell["protocol_version"], cell["suite"], cell["suite_version"])
                assert found[0] in {PROTOCOL_VERSION, *COMPARABLE_PROTOCOLS}
                assert found[1:] == (suite.id, suite.version)
                if cell["scenario"] in scenarios:  # a point of a sensitivity set carries its own
                    assert cell["scenario_version"] == scenarios[cell["scenario"]]


def test_additions_to_a_suite_change_no_key() -> None:
    suite = find_suite("micro")
    before = Suite.model_validate(suite.model_dump() | {"defenses": ("fedavg", "median"), "pipelines": ()})
    content = copy.deepcopy(suite.model_dump())
    added = next(entry for entry in content["scenarios"] if entry["id"] == "aligned_start") | {"id": "added"}
    after = Suite.model_validate(content | {"scenarios": [*content["scenarios"], added]})
    chosen = ["aligned_start", "blended"]
    few = {cell.cell_key for cell in make_plan(before, "vllm", scenarios=chosen, seeds=[11]).cells}
    many = {cell.cell_key for cell in make_plan(after, "vllm", scenarios=[*chosen, "added"], seeds=[11, 999]).cells}
    assert few < many
    assert len(many) > 4 * len(few)
