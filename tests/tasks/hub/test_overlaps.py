"""Shared prompts: found whatever their punctuation, and kept by the role that comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import FedSafetyError, UsageError
from tasks.base import ProbeKind
from tasks.hub import HubWorld
from tasks.hub.overlaps import suite_overlaps
from tasks.hub.probes import PromptFinder
from tasks.hub.settings import DataChoice, DatasetSource, HubData, ProbeSource
from tasks.hub.text import LOSSES, normalised

Write = Callable[..., DatasetSource]
KINDS = {"benign": "normal", "attack": "unaligned", "refusals": "aligned", "aligned": "aligned", "normal": "normal"}
CHOICE = DataChoice(benign="benign", unaligned="attack", refusals="refusals", aligned="aligned", normal="normal")


def data_of(source: Write, prompts: dict[str, Sequence[str]], policy: str = "remove") -> HubData:
    """Pools with these prompts; what is not named gets prompts of its own. ``evaluation`` is the probe set."""
    names = [*KINDS, "evaluation"]
    rows = {
        name: [{"instruction": text, "response": name} for text in prompts.get(name, [f"{name} alone", f"{name} only"])]
        for name in names
    }
    probe = ProbeSource(
        id="probes",
        kind=ProbeKind.HARMFUL,
        stratum="all",
        source=source("evaluation", rows["evaluation"], format="prompts"),
    )
    pools = {name: source(name, rows[name], kind=kind) for name, kind in KINDS.items()}
    return HubData(pools=pools, probes=(probe,), overlaps=policy)  # type: ignore[arg-type]


def used(world: HubWorld) -> dict[str, set[str]]:
    """Normalised prompts that each role can ever get."""
    rng = np.random.default_rng(0)
    client = world.benign(int(world._kept["pool/benign"].sum()), rng, refusal_share=0, task_shares=None)
    refusing = world.benign(int(world._kept["pool/refusals"].sum()), rng, refusal_share=1, task_shares=None)
    rows = {
        "clients": [*client, *refusing],
        "attackers": world.unaligned(50, rng),
        "server": [*world.server_aligned(50, rng), *world.server_normal(50, rng)],
    }
    found = {owner: {normalised(row.instruction) for row in of_owner} for owner, of_owner in rows.items()}
    return {**found, "evaluation": {normalised(probe.instruction) for probe in world.probes()}}


def test_prompt_stays_with_the_first_owner(source: Write) -> None:
    data = data_of(
        source,
        {
            "evaluation": ["Shared by all", "x"],
            "aligned": ["shared, by all!", "Server and attacker", "s"],
            "attack": ["SHARED BY ALL", "server and attacker", "attacker and client", "a"],
            "benign": ["shared by  all", "attacker and client.", "Server-and-attacker", "b"],
        },
    )
    world = HubWorld(data=data, choice=CHOICE)
    report = world.overlaps()
    assert report.removed == {"pool/aligned": 1, "pool/attack": 2, "pool/benign": 3}
    shared = {(one.first, one.second): one.shared for one in report.overlaps}
    assert shared == {
        ("probes/probes", "pool/aligned"): 1,
        ("probes/probes", "pool/attack"): 1,
        ("probes/probes", "pool/benign"): 1,
        ("pool/aligned", "pool/attack"): 2,
        ("pool/aligned", "pool/benign"): 2,
        ("pool/attack", "pool/benign"): 3,
    }
    kept = used(world)
    assert kept["attackers"] == {"attackerandclient", "a"}
    assert kept["clients"] == {"b", "refusalsalone", "refusalsonly"}
    detail = {one.name: (one.rows, one.detail) for one in world.inputs()}
    assert detail["pool/attack"] == (2, "read: 4; left out for shared prompts: 2")
    assert "3 pool/attack and pool/benign".replace(" ", "") in report.text().replace(" ", "")


def test_development_prompts_are_in_no_training_row(source: Write) -> None:
    data = data_of(source, {"benign": ["Tried first", "b"], "attack": ["tried  second", "a"]})
    tried = [{"instruction": text} for text in ("tried first!", "tried second", "tried third")]
    developed = data.model_copy(update={"development": {"tried": source("tried", tried, format="prompts")}})
    world = HubWorld(data=developed, choice=CHOICE)
    assert world.development_prompts("tried") == ("tried first!", "tried second", "tried third")
    assert world.development_prompts("other") == ()
    assert world.overlaps().removed == {"pool/benign": 1, "pool/attack": 1}
    assert used(world)["clients"] == {"b", "refusalsalone", "refusalsonly"}
    assert not any(probe.id.startswith("tried") for probe in world.probes())
    assert HubWorld(data=data, choice=CHOICE).development_prompts("tried") == ()


def test_the_alignment_comes_after_evaluation_and_before_all_others(source: Write) -> None:
    data = data_of(
        source,
        {
            "evaluation": ["asked", "x"],
            "refusals": ["Asked!", "Taught one", "taught two"],
            "aligned": ["taught one", "s"],
            "attack": ["taught two", "a"],
            "benign": ["taught  one", "b"],
        },
    )
    choice = CHOICE.model_copy(update={"refusals": ""})
    world = HubWorld(data=data, choice=choice, alignment={"refusals": 1.0})
    assert world.overlaps().removed == {f"pool/{pool}": 1 for pool in ("refusals", "aligned", "attack", "benign")}
    taught = world.alignment(2, np.random.default_rng(0))
    assert {row.instruction for row in taught} == {"Taught one", "taught two"}
    # The rows do not depend on the scenario.
    alone = HubWorld(data=data, alignment={"refusals": 1.0})
    assert alone.alignment(2, np.random.default_rng(0)) == taught
    with pytest.raises(FedSafetyError, match=r"'refusals' has 2 rows .* and the alignment needs 3 different ones"):
        world.alignment(3, np.random.default_rng(0))
    assert world.data_digest != HubWorld(data=data, choice=choice).data_digest
    digests = [
        HubWorld(data=data, choice=choice, alignment=shares).data_digest
        for shares in ({"refusals": 1.0, "normal": 0.5}, {"normal": 0.5, "refusals": 1.0}, {"refusals": 1.0})
    ]
    assert digests[0] == digests[1] != digests[2]
    report = suite_overlaps(data, {"s": choice}, {"s": ("refusals",)})
    assert "left out: 1 rows of pool/refusals, 1 rows of pool/aligned, 1 rows of pool/attack" in report


def test_a_pool_of_the_alignment_may_be_the_servers_and_nobody_elses(source: Write) -> None:
    data = data_of(source, {})
    world = HubWorld(data=data, choice=CHOICE, alignment={"aligned": 1.0})
    assert len(world.server_aligned(2, np.random.default_rng(0))) == 2
    for pool, role in (("benign", "benign:benign"), ("refusals", "refusals")):
        with pytest.raises(UsageError, match=f"{pool!r} serves both the alignment and {role}"):
            HubWorld(data=data, choice=CHOICE, alignment={pool: 1.0})
    with pytest.raises(UsageError, match="has kind 'unaligned' and cannot serve as the alignment"):
        HubWorld(data=data, alignment={"attack": 1.0})
    with pytest.raises(UsageError, match="made without an alignment"):
        HubWorld(data=data, choice=CHOICE).alignment(1, np.random.default_rng(0))


def test_a_text_beside_a_prompt_does_not_hide_it(source: Write) -> None:
    data = data_of(source, {"evaluation": ["Who was that?", "x"]})
    rows = [
        {"instruction": text, "input": more, "response": "y"}
        for text, more in (("who was that", "A long text."), ("sum up", "one"), ("sum up", "two"), ("more", ""))
    ]
    servers = [{"instruction": "Sum up", "input": "three", "response": "z"}, {"instruction": "b", "response": "z"}]
    mapped = {"columns": {"input": "input"}}
    pools = {"benign": source("beside", rows, **mapped), "normal": source("owned", servers, **mapped)}
    world = HubWorld(data=data.model_copy(update={"pools": data.pools | pools}), choice=CHOICE)
    assert world.overlaps().removed == {"pool/benign": 1}
    assert [one.shared for one in world.overlaps().overlaps] == [1]
    assert used(world)["clients"] >= {"sumupone", "sumuptwo", "more"}
    assert "whowasthatalongtext" not in used(world)["clients"]


WORDS = st.lists(st.sampled_from(["a b", "A-B", "c", "d!", "e e", "f", "g", "h"]), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.fixed_dictionaries(dict.fromkeys([*KINDS, "evaluation"], WORDS)))
def test_owners_are_disjoint_after_removal(source: Write, prompts: dict[str, list[str]]) -> None:
    prompts = {name: [*texts, f"{name} of its own"] for name, texts in prompts.items()}
    kept = used(HubWorld(data=data_of(source, prompts), choice=CHOICE))
    owners = list(kept)
    for number, owner in enumerate(owners):
        for other in owners[number + 1 :]:
            assert not kept[owner] & kept[other], (owner, other)


def test_report_keeps_and_refuse_stops(source: Write) -> None:
    shared = {"evaluation": ["one", "two"], "attack": ["One!", "three"]}
    reporting = HubWorld(data=data_of(source, shared, "report"), choice=CHOICE)
    assert len({row.instruction for row in reporting.unaligned(2, np.random.default_rng(0))}) == 2
    assert reporting.overlaps().removed == {}
    refusing = HubWorld(data=data_of(source, shared, "refuse"), choice=CHOICE)
    assert len(refusing.overlaps().conflicts) == 1
    with pytest.raises(FedSafetyError, match=r"probes/probes and pool/attack: 1\); choose other data, or set overlaps"):
        refusing.unaligned(1, np.random.default_rng(0))
    HubWorld(data=data_of(source, {}, "refuse"), choice=CHOICE).unaligned(1, np.random.default_rng(0))


def test_pool_that_is_left_empty(source: Write) -> None:
    world = HubWorld(data=data_of(source, {"evaluation": ["one"], "attack": ["one"]}), choice=CHOICE)
    with pytest.raises(FedSafetyError, match=r"pool/attack has 1 rows, and all their prompts belong to other roles"):
        world.unaligned(1, np.random.default_rng(0))


def test_one_pool_for_two_roles(source: Write) -> None:
    twice = CHOICE.model_copy(update={"refusals": "aligned"})
    data = data_of(source, {})
    with pytest.raises(
        UsageError, match=r"'aligned' serves both refusals and aligned; make two pools .* offset and limit"
    ):
        HubWorld(data=data, choice=twice)
    HubWorld(data=data.model_copy(update={"overlaps": "report"}), choice=twice)
    HubWorld(data=data, choice=CHOICE.model_copy(update={"contrast": "normal"}))


def test_suite_report(source: Write) -> None:
    data = data_of(source, {"evaluation": ["one", "two"], "attack": ["One!", "three"]})
    text = suite_overlaps(
        data, {"first": CHOICE, "second": CHOICE, "third": CHOICE.model_copy(update={"unaligned": ""})}
    )
    assert "1  probes/probes and pool/attack" in text
    assert "first, second\n  left out: 1 rows of pool/attack" in text
    assert "third\n  left out: nothing" in text
    assert f"Prompts are compared by their normal form. {LOSSES}" in text
    alone = suite_overlaps(data_of(source, {}), {})
    assert "No two sets share a prompt" in alone


def test_suite_report_without_all_sets(source: Write, root: Path) -> None:
    data = data_of(source, {"attack": ["one", "two"], "benign": ["One!", "three"]})
    (root / "aligned.jsonl").unlink()
    text = suite_overlaps(data, {"first": CHOICE, "second": CHOICE.model_copy(update={"aligned": ""})})
    assert "1  pool/attack and pool/benign" in text
    assert "not compared: pool/aligned: data set test/aligned is not below the data root" in text
    assert "first\n  not known without pool/aligned" in text
    assert "second\n  left out: 1 rows of pool/benign" in text


def test_finding_prompts_in_texts() -> None:
    finder = PromptFinder(["Tell me how a loom works.", "Hello there"])
    assert finder.holds("well: TELL ME, how a loom works! answer")
    assert finder.holds("hello, there!")
    assert not finder.holds("hello there and more")  # too short to be looked for inside
    assert not finder.holds("Tell me how a loom")
    assert not finder.holds("")


@given(st.text(min_size=1, max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_long_prompts_are_found_anywhere(prompt: str, before: str, after: str) -> None:
    finder = PromptFinder([prompt])
    assert finder.holds(prompt)
    if len(normalised(prompt)) >= 16 and normalised(prompt).isalnum():
        assert finder.holds(f"{before} {prompt} {after}")
