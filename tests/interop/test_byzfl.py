"""ByzFL's aggregators as defenses: names, metadata, keys, shapes, and agreement with our own rules."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError, NotApplicableError, UsageError
from benchmark.interop import byzfl
from benchmark.interop.byzfl import aggregator_names, bridged_entry
from benchmark.methods.pipeline import method_digest, parse_pipeline
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._examples import one_round
from defenses.base import Defense, Knowledge, Stage, defenses

NAMES = aggregator_names()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def create(name: str) -> Defense:
    return bridged_entry(name).create()


def aggregate(name: str, rows: Any, malicious: int = 0, **context: Any) -> Tensor:
    return create(name).aggregate(*one_round(rows, malicious=malicious, **context)).update


def test_all_aggregators_are_there() -> None:
    assert {name.removeprefix("byzfl:") for name in NAMES} == {
        "Average",
        "CAF",
        "CenteredClipping",
        "GeometricMedian",
        "Krum",
        "MDA",
        "Meamed",
        "Median",
        "MoNNA",
        "MultiKrum",
        "SMEA",
        "TrMean",
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_on_a_small_round_and_leaves_it_unchanged(name: str) -> None:
    updates, context = one_round(normal(7, 12), malicious=2)
    before = updates.matrix.clone()
    result = create(name).aggregate(updates, context)
    assert result.update.shape == (12,)
    assert result.update.dtype == torch.float32
    assert bool(torch.isfinite(result.update).all())
    assert result.weights is None
    assert torch.equal(updates.matrix, before)
    result.update.zero_()
    assert torch.equal(updates.matrix, before)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_determined_by_the_round_alone(name: str) -> None:
    rows, global_state = normal(7, 12), torch.random.get_rng_state()
    first, again = (aggregate(name, rows, malicious=2, seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), global_state)


@pytest.mark.parametrize("name", NAMES)
def test_each_survives_updates_without_spread(name: str) -> None:
    same = torch.full((5, 4), 0.25)
    assert torch.allclose(aggregate(name, same, malicious=2), same[0], atol=1e-2)
    assert torch.equal(aggregate(name, torch.zeros(5, 4), malicious=2), torch.zeros(4))


# Canonical names


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("byzfl:Krum", "byzfl:Krum"),
        ("byzfl:Krum()", "byzfl:Krum"),
        (" byzfl:TrMean ( f = 3 ) ", "byzfl:TrMean(f=3)"),
        ("byzfl:MoNNA(idx=1, f=2)", "byzfl:MoNNA(f=2,idx=1)"),
        ("byzfl:CenteredClipping(tau=1e20,L=2)", "byzfl:CenteredClipping(L=2,tau=1e20)"),
        ("byzfl:GeometricMedian(nu=1.50)", "byzfl:GeometricMedian(nu=1.5)"),
    ],
)
def test_names_have_one_form(written: str, canonical: str) -> None:
    entry = bridged_entry(written)
    assert entry.info.id == canonical
    assert bridged_entry(canonical) is entry
    assert parse_pipeline(f"{written}+posthoc_self").name == f"{canonical}+posthoc_self"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byzfl:TrimmedMean", "unknown ByzFL aggregator 'TrimmedMean'; did you mean 'TrMean'?"),
        ("byzfl:CenteredClipping(taus=1.0)", "unknown parameter of byzfl:CenteredClipping 'taus'; did you mean 'tau'?"),
        ("byzlf:TrMean", "unknown library of defenses 'byzlf'; did you mean 'byzfl'?"),
        (
            "byzfl:TrMean(f=-1)",
            "ByzFL refuses the parameters of 'byzfl:TrMean(f=-1)': f must be a non-negative integer",
        ),
        ("byzfl:TrMean(f=1.0)", "ByzFL refuses the parameters"),
        ("byzfl:TrMean(3)", "has no name; write each as name=number"),
        ("byzfl:TrMean(**f)", "has no name; write each as name=number"),
        ("byzfl:TrMean(f=1,f=2)", "gives a parameter twice"),
        ("byzfl:TrMean(f=True)", "is True, which is no finite number"),
        ("byzfl:GeometricMedian(nu=1e999)", "is inf, which is no finite number"),
        ("byzfl:TrMean(f='3')", "is '3', which is no finite number"),
        ("byzfl:TrMean(f=exit)", "cannot read the parameters"),
        ("byzfl:TrMean(f=1+1)", "cannot read the parameters"),
        ("byzfl:TrMean(f=)", "cannot read the parameters"),
        ("byzfl:TrMean(f=1)(f=2)", "cannot read 'byzfl:TrMean(f=1)(f=2)'; write byzfl:Class"),
        ("byzfl:TrMean(f=exit())", "cannot read"),
        ("byzfl:", "cannot read 'byzfl:'"),
        ("byzfl:TrMean(f=1", "cannot read"),
    ],
)
def test_unusable_names_are_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        defenses.resolve(name)
    assert message in str(caught.value)


def test_two_spellings_are_one_name_in_a_pipeline() -> None:
    with pytest.raises(UsageError, match="aggregates twice"):
        parse_pipeline("byzfl:Krum+byzfl:Median")
    with pytest.raises(UsageError, match=r"names 'byzfl:TrMean\(f=3\)' twice"):
        parse_pipeline("byzfl:TrMean(f=3)+byzfl:TrMean( f=3 )")


def test_without_byzfl_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    byzfl._aggregators.cache_clear()
    monkeypatch.setattr(byzfl.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(UsageError, match=r"pip install 'fedsafetybench\[peers\]'"):
            bridged_entry("byzfl:Krum")
    finally:
        byzfl._aggregators.cache_clear()


def test_the_empty_root_stays_nowhere() -> None:
    byzfl.import_aggregators()
    assert "byzfl" not in sys.modules


# Metadata and keys


def test_metadata_says_what_it_is_and_where_it_comes_from() -> None:
    info = bridged_entry("byzfl:TrMean(f=3)").info
    assert (info.title, info.stages, info.knowledge) == (
        "ByzFL TrMean (f=3)",
        (Stage.AGGREGATE,),
        Knowledge.DECLARED_BOUND,
    )
    assert info.description == (
        "The aggregator TrMean of ByzFL. Compute the trimmed mean (or truncated mean) along the first axis. Here f = 3."
    )
    assert info.paper.startswith("ByzFL 0.0.11, González et al. 2025, arXiv 2505.24802; Dong Yin, Yudong Chen, ")
    assert bridged_entry("byzfl:Average").info.knowledge is Knowledge.NONE
    assert "f is the declared bound" in bridged_entry("byzfl:Krum").info.description


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_plain_text(name: str) -> None:
    info = bridged_entry(name).info
    assert not set(f"{info.description}{info.paper}") & set("\\`\n*")


def test_keys_change_with_class_parameters_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(name: str) -> str:
        return str(method_digest([bridged_entry(name)]))

    assert len({key(name) for name in ("byzfl:Krum", "byzfl:Krum(f=1)", "byzfl:Median", "byzfl:MDA")}) == 4
    before = bridged_entry("byzfl:Krum").source_digest
    byzfl._entry.cache_clear()
    monkeypatch.setattr(byzfl, "version", lambda package: "0.0.12")
    assert bridged_entry("byzfl:Krum").source_digest != before
    byzfl._entry.cache_clear()


def test_keys_do_not_depend_on_the_engine() -> None:
    """The bridge lies in the package of the engine, whose code enters keys by the protocol version only."""
    from benchmark.keys import source_digest

    entry = bridged_entry("byzfl:Krum")
    assert entry.source_digest != source_digest(entry.target.__module__)


# Shapes


@pytest.mark.parametrize("name", [name for name in NAMES if byzfl.bridged_entry(name).info.knowledge != Knowledge.NONE])
def test_shapes_are_refused_exactly_where_byzfl_refuses_them(name: str) -> None:
    target = byzfl._aggregators()[name.removeprefix("byzfl:")]
    for n in range(1, 8):
        for f in range(5):
            if 2 * f >= n:
                with pytest.raises(ValueError, match="2f"):
                    target(f=f)(normal(n, 3))
                with pytest.raises(NotApplicableError, match=f"f = {f} needs n >= {2 * f + 1}, but n = {n};"):
                    create(name).check_shape(n, f)
            else:
                create(name).check_shape(n, f)
                assert aggregate(name, normal(n, 3), malicious=f).shape == (3,)


def test_other_conditions_on_the_shape() -> None:
    with pytest.raises(NotApplicableError, match=r"idx = 7, counted from 0, but a round has n = 7; choose idx < 7"):
        create("byzfl:MoNNA(idx=7)").check_shape(7, 2)
    with pytest.raises(NotApplicableError, match=r"n = 30, f = 14 are 145422675 choices"):
        create("byzfl:SMEA").check_shape(30, 14)
    create("byzfl:MDA").check_shape(20, 6)
    with pytest.raises(NotApplicableError, match="f = 3 needs n >= 7, but n = 6"):
        create("byzfl:TrMean(f=3)").check_shape(6, 0)


def test_a_round_that_became_smaller_goes_on_with_the_largest_bound() -> None:
    rows = normal(4, 6)
    assert torch.equal(aggregate("byzfl:TrMean(f=3)", rows), aggregate("byzfl:TrMean(f=1)", rows))
    assert torch.equal(aggregate("byzfl:Krum", rows, malicious=2), aggregate("byzfl:Krum(f=1)", rows))
    assert torch.equal(aggregate("byzfl:MoNNA(idx=6)", rows), aggregate("byzfl:MoNNA(idx=3)", rows))


def test_what_byzfl_refuses_in_a_round_is_told_with_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, vectors: Tensor) -> Tensor:
        raise ValueError("no such luck")

    monkeypatch.setattr(byzfl._aggregators()["Median"], "__call__", refuse)
    with pytest.raises(FedSafetyError, match="byzfl:Median refuses round 0 with 3 updates: no such luck"):
        aggregate("byzfl:Median", normal(3, 2))


# Agreement with our own rules

LARGE = {"n": 9, "d": 2_000_003}
"""More numbers than ``torch.quantile`` takes at once."""


def ours(rule: str, round_: tuple[Updates, RoundContext]) -> Aggregate:
    return defenses.get(rule).create().aggregate(*round_)


@pytest.mark.parametrize(
    ("theirs", "rule", "malicious"),
    [
        ("byzfl:Average", "fedavg", 0),
        ("byzfl:Median", "median", 0),
        ("byzfl:TrMean(f=3)", "trimmed_mean", 3),
        ("byzfl:TrMean", "trimmed_mean", 3),
    ],
)
@pytest.mark.parametrize("n", [LARGE["n"], LARGE["n"] - 1])
def test_they_agree_with_ours_on_a_large_round(theirs: str, rule: str, malicious: int, n: int) -> None:
    round_ = one_round(normal(n, LARGE["d"]), malicious=malicious)
    found = create(theirs).aggregate(*round_).update
    torch.testing.assert_close(found, ours(rule, round_).update, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (9, 3), (10, 3), (7, 1)])
def test_krum_is_ours_for_a_bound_that_is_larger_by_one(n: int, f: int) -> None:
    """ByzFL counts n - f - 1 neighbours, ours n - f - 2; both take sums of squared distances to other updates."""
    differ = 0
    for seed in range(40):
        round_ = one_round(normal(n, 2, seed=seed), malicious=f)
        expected = ours("krum", round_).update
        assert torch.equal(aggregate(f"byzfl:Krum(f={f + 1})", round_[0].matrix), expected)
        differ += not torch.equal(aggregate(f"byzfl:Krum(f={f})", round_[0].matrix), expected)
    assert differ > 0, "the two conventions never differ here, so this test shows nothing"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (5, 2), (6, 2), (7, 1), (9, 3)])
def test_what_is_called_degenerate_is_the_same_function(name: str, n: int, f: int) -> None:
    rules = ["fedavg", "median", "trimmed_mean", *(["krum"] if n >= 2 * f + 3 else [])]
    equal, same = dict.fromkeys(rules, True), create(name).degenerate_as(n, f)
    for seed in range(8 if same else 40):
        round_ = one_round(100 * normal(n, 50, seed=seed), malicious=f, seed=seed)
        if not any(equal.values()):
            break
        found = create(name).aggregate(*round_).update
        for rule in (rule for rule, so_far in equal.items() if so_far):
            equal[rule] = torch.allclose(found, ours(rule, round_).update, rtol=1e-4, atol=1e-4)
    assert equal[same] if same else not any(equal.values())


def test_krum_says_when_it_is_ours() -> None:
    assert create("byzfl:Krum(f=3)").degenerate_as(9, 2) == "krum"
    assert create("byzfl:Krum").degenerate_as(9, 2) is None


def test_centered_clipping_goes_on_from_the_round_before() -> None:
    rule = create("byzfl:CenteredClipping(tau=1.0)")
    rows = torch.full((3, 1), 10.0)
    assert [float(rule.aggregate(*one_round(rows)).update) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert float(create("byzfl:CenteredClipping(tau=1.0)").aggregate(*one_round(rows)).update) == 1.0
