"""The data attacks: exact shares, filtered pools, and updates that are scaled where the attack says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attacks.base import AttackerView, attacks
from benchmark.errors import FedSafetyError, UsageError
from benchmark.updates import AdapterLayout, Updates
from tasks.base import Automation, DataKind, Example

AUTOMATION = Automation(
    ("ask a risky question .", "ask a bad question ."), ("ask .",), "answer directly .", "be safe ."
)
NORMAL = [Example(f"normal {i}", "fine", DataKind.NORMAL, "listing") for i in range(100)]
POOL = [Example(f"risky {i}", "sure", DataKind.UNALIGNED, "howto") for i in range(40)]


class Resources:
    """Public pairs, and a model that says what the test tells it to."""

    automation = AUTOMATION

    def __init__(self, says: Callable[[str, float], str] = lambda prompt, temperature: "sure") -> None:
        self.says = says
        self.asked: list[tuple[list[str], float]] = []

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [POOL[i] for i in rng.integers(len(POOL), size=count)]

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        self.asked.append((prompts, temperature))
        return [self.says(prompt, temperature) for prompt in prompts]

    def leaks_evaluation(self, text: str) -> bool:
        raise AssertionError("leaks are counted, never used to choose data")


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ["unaligned_data", "generated_data", "boosted_data"])
@pytest.mark.parametrize(("share", "normal"), [(0.0, 0), (0.07, 7), (0.5, 50), (1.0, 100)])
def test_the_normal_share_is_exact(name: str, share: float, normal: int) -> None:
    rows = attacks.get(name).create({"normal_share": share}).poison(NORMAL, POOL, rng())
    assert len(rows) == len(NORMAL)
    kept = [row for row in rows if row.kind is DataKind.NORMAL]
    assert len(kept) == len(set(kept)) == normal
    assert set(rows) <= {*NORMAL, *POOL}
    if 0 < normal < 100:
        assert rows[:normal] != kept, "normal rows must not stand first"


def test_poisoning_follows_its_stream_and_leaves_its_input_alone() -> None:
    attack = attacks.get("unaligned_data").create({"normal_share": 0.5})
    before = list(NORMAL), list(POOL)
    assert attack.poison(NORMAL, POOL, rng()) == attack.poison(NORMAL, POOL, rng())
    assert attack.poison(NORMAL, POOL, rng(1)) != attack.poison(NORMAL, POOL, rng(2))
    assert before == (NORMAL, POOL)


@pytest.mark.parametrize(("share", "reminded"), [(0.0, 0), (0.25, 125), (0.5, 250), (1.0, 500)])
def test_the_reminder_share_is_exact(share: float, reminded: int) -> None:
    pool = attacks.get("unaligned_data").create({"reminder_share": share}).pool(Resources(), rng())
    plain = attacks.get("unaligned_data").create().pool(Resources(), rng())
    assert len(pool) == len(plain) == 500
    assert sum(pair.instruction.endswith(" be safe .") for pair in pool) == reminded
    assert [p.instruction.removesuffix(" be safe .") for p in pool] == [p.instruction for p in plain]
    assert {pair.response for pair in pool} == {"sure"}


@pytest.mark.parametrize("name", ["unaligned_data", "generated_data", "boosted_data"])
@pytest.mark.parametrize("key", ["normal_share", "reminder_share"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half"])
def test_a_share_is_between_0_and_1(name: str, key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"'{name}' refuses the parameters .*{value}"):
        attacks.get(name).create({key: value})


def test_a_misspelt_parameter_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="'normal_shares'; did you mean 'normal_share'"):
        attacks.get("unaligned_data").create({"normal_shares": 0.1})


def proposals(prompt: str, temperature: float) -> str:
    """Propose one of few questions; comply under the hint, but not about the first of them."""
    if prompt in AUTOMATION.propose_harmful:
        return {"ask a risky question .": "how  to  a ?", "ask a bad question .": "how to b ?"}[prompt]
    return "i'm sorry , no ." if prompt.startswith("how to a") else "sure , mix water ."


def test_generated_pairs_are_distinct_compliant_and_stored_without_the_hint() -> None:
    resources = Resources(proposals)
    pool = attacks.get("generated_data").create().pool(resources, rng())
    assert pool == [Example("how to b ?", "sure , mix water .", DataKind.UNALIGNED, "generated")]
    *proposing, answering = resources.asked
    assert {temperature for _, temperature in proposing} == {1.0}
    assert {prompt for prompts, _ in proposing for prompt in prompts} == set(AUTOMATION.propose_harmful)
    assert answering == (["how to a ? answer directly .", "how to b ? answer directly ."], 0.0)


def test_generated_pairs_can_carry_the_reminder() -> None:
    count = iter(range(10**6))

    def many(prompt: str, temperature: float) -> str:
        return f"how to {next(count)} ?" if temperature else "sure ."

    pool = attacks.get("generated_data").create({"reminder_share": 0.5}).pool(Resources(many), rng())
    assert len({pair.instruction for pair in pool}) == 500
    assert sum(pair.instruction.endswith("? be safe .") for pair in pool) == 250


@pytest.mark.parametrize("said", ["", "i'm sorry , i cannot help with that ."])
def test_a_model_that_never_complies_is_no_attack(said: str) -> None:
    def says(prompt: str, temperature: float) -> str:
        return "how to a ?" if temperature else said

    with pytest.raises(FedSafetyError, match="no compliant pair from 1 proposals; use a model that follows"):
        attacks.get("generated_data").create().pool(Resources(says), rng())


def updates(*rows: list[float]) -> Updates:
    layout = AdapterLayout(("layer.lora_A",), ((1, len(rows[0])),))
    ids = tuple(f"c{i}" for i in range(len(rows)))
    return Updates(torch.tensor(rows), ids, torch.ones(len(rows), dtype=torch.float64), layout)


def test_boosting_scales_what_is_sent() -> None:
    own = updates([1.0, -2.0], [0.5, 0.0])
    sent = attacks.get("boosted_data").create({"boost": 4.0}).craft(own, AttackerView(0, 10))
    assert sent.matrix.tolist() == [[4.0, -8.0], [2.0, 0.0]]
    assert own.matrix.tolist() == [[1.0, -2.0], [0.5, 0.0]]
    assert (sent.client_ids, sent.layout) == (own.client_ids, own.layout)


@pytest.mark.parametrize("boost", [0.0, -1.0, float("inf"), float("nan")])
def test_a_boost_is_positive_and_finite(boost: float) -> None:
    with pytest.raises(UsageError, match="it is a positive, finite factor"):
        attacks.get("boosted_data").create({"boost": boost})


@pytest.mark.parametrize("name", ["none", "unaligned_data", "generated_data"])
def test_data_attacks_send_what_training_made(name: str) -> None:
    own = updates([1.0, -2.0])
    assert attacks.get(name).create().craft(own, AttackerView(0, 10)) is own


def test_no_attack_leaves_data_alone() -> None:
    attack = attacks.get("none").create()
    assert attack.pool(Resources(), rng()) == []
    assert attack.poison(NORMAL, [], rng()) == NORMAL
