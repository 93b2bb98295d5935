"""The metadata of all judges: what they judge, on which scale, and who is exact."""

from __future__ import annotations

from benchmark.judges.base import judges
from tasks.base import ProbeKind


def test_judges_that_rate_say_their_scale() -> None:
    scales = {entry.info.id: entry.info.scale for entry in judges.entries() if entry.info.scale}
    assert scales == {"mt_bench": (1.0, 10.0)}
    assert judges.get("reward_model").info.scale is None


def test_judges_that_are_models_do_not_claim_to_be_exact() -> None:
    claims = {entry.info.id for entry in judges.entries() if entry.target.exact}
    assert claims == {"exact", "micro_judge", "oracle", "rule", "rule_paper"}  # micro_judge is known by its engine
    assert {entry.info.id for entry in judges.entries() if entry.target.reads_world} == {"oracle"}


def test_identities_differ_and_are_stable() -> None:
    identities = [judges.get(name).create().identity for name in ("rule", "rule_paper", "oracle")]
    assert len(set(identities)) == 3
    assert identities == [judges.get(name).create().identity for name in ("rule", "rule_paper", "oracle")]


def test_every_judge_is_registered_with_what_it_judges() -> None:
    kinds = {entry.info.id: entry.info.judges for entry in judges.entries()}
    assert kinds == {
        "exact": (ProbeKind.UTILITY,),
        "harmbench": (ProbeKind.HARMFUL,),
        "harmbench_mistral": (ProbeKind.HARMFUL,),
        "llama_guard_3": (ProbeKind.HARMFUL,),
        "md_judge": (ProbeKind.HARMFUL,),
        "micro_judge": (ProbeKind.HARMFUL,),
        "mt_bench": (ProbeKind.UTILITY,),
        "oracle": (ProbeKind.HARMFUL, ProbeKind.OVER_REFUSAL, ProbeKind.UTILITY),
        "reward_model": (ProbeKind.HARMFUL,),
        "rule": (ProbeKind.HARMFUL, ProbeKind.OVER_REFUSAL),
        "rule_paper": (ProbeKind.HARMFUL, ProbeKind.OVER_REFUSAL),
        "strong_reject": (ProbeKind.HARMFUL,),
        "strong_reject_rubric": (ProbeKind.HARMFUL,),
        "xstest_judge": (ProbeKind.OVER_REFUSAL,),
    }
