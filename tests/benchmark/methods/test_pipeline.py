"""Compositions of defenses: parsed, refused where they make no sense, divided into stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.errors import UsageError
from benchmark.methods.pipeline import method_digest, parse_pipeline
from defenses.base import Defense, Knowledge, Stage, defenses


def ids(entries: tuple[object, ...]) -> list[str]:
    return [entry.info.id for entry in entries]  # type: ignore[attr-defined]


def test_a_composition_is_read_in_order() -> None:
    pipeline = parse_pipeline(" krum + posthoc_self +refuse_all")
    assert pipeline.name == "krum+posthoc_self+refuse_all"
    assert pipeline.aggregator is not None
    assert pipeline.aggregator.info.id == "krum"
    assert ids(pipeline.finalizers) == ["posthoc_self"]
    assert ids(pipeline.servers) == ["refuse_all"]
    assert [stage.name for stage in pipeline.stages] == ["krum", "krum+posthoc_self", "krum+posthoc_self+refuse_all"]
    assert [stage.ranked for stage in pipeline.stages] == [True, True, False]


@pytest.mark.parametrize("name", ["fedavg", "posthoc_self", "refuse_all", "posthoc_public+posthoc_self"])
def test_without_a_rule_of_its_own_a_pipeline_trains_by_the_defaults(name: str) -> None:
    assert parse_pipeline(name).aggregator is None


def test_order_of_later_stages_is_kept() -> None:
    assert ids(parse_pipeline("posthoc_self+posthoc_public").finalizers) == ["posthoc_self", "posthoc_public"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("krumm", "unknown defense 'krumm'; did you mean 'krum'"),
        ("krum+posthoc_slef", "unknown defense 'posthoc_slef'; did you mean 'posthoc_self'"),
        ("krum+", "unknown defense ''"),
        ("", "unknown defense ''"),
        ("krum+posthoc_self+krum", "names 'krum' twice; name each defense once"),
        ("krum+median", "aggregates twice, by krum and by median; compose one of them"),
        ("krum+fedavg", "aggregates twice, by krum and by fedavg"),
        ("fedavg+krum", "aggregates twice, by fedavg and by krum"),
        ("posthoc_self+krum", "acts after the last round before it aggregates; write the aggregator first"),
        ("posthoc_self+fedavg", "acts after the last round before it aggregates; write the aggregator first"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        parse_pipeline(text)


@pytest.mark.parametrize(
    ("text", "knowledge"),
    [
        ("fedavg", Knowledge.NONE),
        ("posthoc_self", Knowledge.NONE),
        ("krum", Knowledge.DECLARED_BOUND),
        ("krum+posthoc_self", Knowledge.DECLARED_BOUND),
        ("attackers_removed+posthoc_self", Knowledge.TRUTH),
    ],
)
def test_knowledge_is_the_most_any_member_is_told(text: str, knowledge: Knowledge) -> None:
    assert parse_pipeline(text).knowledge is knowledge


def test_who_is_told_the_truth_cannot_be_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = defenses.get("attackers_removed")
    ranked = replace(entry, info=entry.info.model_copy(update={"ranked": True}))
    monkeypatch.setattr(defenses, "get", lambda name: ranked)
    with pytest.raises(UsageError, match="only reference rows are told"):
        parse_pipeline("attackers_removed")


@pytest.mark.parametrize("entry", defenses.entries(), ids=lambda entry: entry.info.id)
def test_every_defense_says_when_it_acts(entry: object) -> None:
    target, info = entry.target, entry.info  # type: ignore[attr-defined]
    acts = {stage for stage in Stage if getattr(target, stage.value) is not getattr(Defense, stage.value)}
    # FedAvg is the default, so it says that it aggregates and overrides nothing.
    assert acts == (set() if info.id == "fedavg" else set(info.stages))
    assert not info.variant_of or info.variant_of in defenses.names()


def test_methods_are_told_apart() -> None:
    digests = [method_digest([entry])[0] for entry in defenses.entries()]
    assert len({tuple(digest) for digest in digests}) == len(defenses.names())
    assert {digest[0] for digest in digests} == set(defenses.names())
