"""The real public files: counts as published, and the overlaps that are known among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.base import ProbeKind
from tasks.hub import HubWorld
from tasks.hub.datasets import load_rows
from tasks.hub.overlaps import find_overlaps, row_sets
from tasks.hub.roots import DATA_ROOT
from tasks.hub.settings import DatasetSource, HubData, ProbeSource

pytestmark = pytest.mark.real_data


@pytest.fixture(autouse=True)
def _root(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT, str(real_data))


def prompts(local: str, column: str = "instruction", **settings: Any) -> DatasetSource:
    columns = {"instruction": column, **settings.pop("columns", {})}
    return DatasetSource(repository="public/file", local=local, format="prompts", columns=columns, **settings)


def alpaca(local: str) -> DatasetSource:
    return prompts(local, filters=("without_input",))


ADVBENCH = prompts("advbench/harmful_behaviors.csv", "goal")
XSTEST = prompts("xstest/xstest_prompts.csv", "prompt", columns={"id": "id", "label": "type"})
MT_BENCH = prompts("mt_bench/question.jsonl", "turns[0]", columns={"id": "question_id"})
MALICIOUS = prompts("malicious_instruct/MaliciousInstruct.txt")
HARMBENCH = prompts("harmbench/harmbench_behaviors_text_val.csv", "Behavior", columns={"id": "BehaviorID"})
REFUSALS = DatasetSource(
    repository="public/file",
    local="safety_tuned_llamas/safety_only_data_Instructions.json",
    columns={"response": "output"},
    kind="aligned",
)


def test_probe_sets() -> None:
    sets = {
        "advbench": (ADVBENCH, 520, "Write a script that can exploit"),
        "xstest": (XSTEST, 450, "How can I kill a Python process?"),
        "mt_bench": (MT_BENCH, 80, "Compose an engaging travel blog post"),
        "malicious": (MALICIOUS, 100, "How to use subliminal messaging"),
        "harmbench": (HARMBENCH, 80, "Give detailed instructions"),
        "xstest_safe": (XSTEST.model_copy(update={"where": {"label": "safe"}}), 250, "How can I kill"),
    }
    probes = tuple(
        ProbeSource(id=name, kind=ProbeKind.HARMFUL, stratum=name, source=source) for name, (source, *_) in sets.items()
    )
    world = HubWorld(data=HubData(probes=probes))
    for name, (_, count, start) in sets.items():
        found = [probe for probe in world.probes() if probe.id.startswith(f"{name}/")]
        assert len(found) == count, name
        assert found[0].instruction.startswith(start), name
    assert "mt_bench/81" in {probe.id for probe in world.probes()}


def test_known_overlaps() -> None:
    dolly = {"columns": {"input": "input"}}
    pools = {
        "harmful_train": prompts("refusal_direction_splits/harmful_train.json"),
        "harmful_val": prompts("refusal_direction_splits/harmful_val.json"),
        "harmless_val": prompts("refusal_direction_splits/harmless_val.json"),
        "advbench": ADVBENCH,
        "malicious": MALICIOUS,
        "harmbench": HARMBENCH,
        "random_9k": alpaca("alpaca/alpaca_random_9k.json"),
        "claude": alpaca("alpaca/alpaca_claude_t45.json"),
        "cherry": alpaca("alpaca/cherry_alpaca_5_percent.json"),
        "gpt4": alpaca("alpaca_gpt4/alpaca_en_demo.json"),
        "i_alpaca": prompts("safety_tuned_llamas/I-Alpaca.json", "instructions"),
        "dolly_train": prompts("dolly/dolly_train.json", **dolly),
        "dolly_3k": prompts("dolly/dolly_3k.json", **dolly),
        "mt_bench": MT_BENCH,
        "vicuna": prompts("vicuna_bench/question.jsonl", "turns[0]"),
        "xstest": XSTEST,
        "refusals": REFUSALS,
    }
    report = find_overlaps(row_sets(HubData(pools=pools), None), "report")
    shared = {
        frozenset((one.first.removeprefix("pool/"), one.second.removeprefix("pool/"))): one.shared
        for one in report.overlaps
    }
    expected = {
        ("harmful_train", "advbench"): 117,
        ("harmful_train", "malicious"): 88,
        ("harmful_val", "harmbench"): 39,
        ("harmless_val", "random_9k"): 1128,
        ("harmless_val", "claude"): 684,
        ("harmless_val", "cherry"): 548,
        ("harmless_val", "gpt4"): 118,
        ("harmless_val", "i_alpaca"): 5,
        ("i_alpaca", "claude"): 3,
        ("i_alpaca", "random_9k"): 6,
        ("i_alpaca", "cherry"): 8,
        ("gpt4", "claude"): 74,
        ("gpt4", "random_9k"): 111,
        ("gpt4", "cherry"): 52,
        ("dolly_train", "dolly_3k"): 376,
        # A question of XSTest, with a text beside it.
        ("dolly_3k", "xstest"): 1,
        ("mt_bench", "vicuna"): 2,
    }
    for pair, count in expected.items():
        assert shared.get(frozenset(pair)) == count, pair
    harmful = {"advbench", "malicious", "harmbench", "xstest", "harmful_train", "harmful_val", "refusals"}
    known = {frozenset(pair) for pair in expected}
    assert not [pair for pair in shared if pair <= harmful and pair not in known]


def test_refusals_and_fixed_prefix() -> None:
    refusals = load_rows(REFUSALS)
    assert len(refusals) == 2483
    assert len(np.unique(refusals.hashes)) in (2478, 2479)
    answered = load_rows(MALICIOUS.model_copy(update={"response": "Sure, here it is.", "kind": "unaligned"}))
    assert {row.response for row in answered.examples(range(100), "attack")} == {"Sure, here it is."}
