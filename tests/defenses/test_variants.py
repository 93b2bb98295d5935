"""The rules as the seed paper's released code runs them, beside the exact rules that they vary."""

from __future__ import annotations

import pytest
import torch

from defenses.base import defenses

RULES = {
    "krum_fedllm_attack": "krum",
    "foolsgold_no_history": "foolsgold",
    "residual_fedllm_attack": "residual",
    "median_fedllm_attack": "median",
    "trimmed_mean_fedllm_attack": "trimmed_mean",
}


@pytest.mark.parametrize("rule", RULES)
def test_they_differ_from_the_exact_rules_somewhere(aggregate, rule):
    rows = torch.randn(10, 60, generator=torch.Generator().manual_seed(3))
    # Far enough off the line that some values are moved at a threshold of 0.1 and left at 0.05.
    rows[0] *= 40
    if rule == "foolsgold_no_history":  # partial trust: two updates at 60 degrees and one at right angles to the first
        rows = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, -1.0]])
    ours, theirs = (aggregate(name, rows.tolist(), 3).update for name in (rule, RULES[rule]))
    assert not torch.allclose(ours, theirs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("left", [1, 2])
def test_a_round_made_small_goes_on(aggregate, rule, left):
    rows = torch.tensor([[1.0, -1.0], [2.0, 3.0]])[:left]
    update = aggregate(rule, rows, 4).update
    assert bool(((update >= rows.amin(dim=0)) & (update <= rows.amax(dim=0))).all()) or rule == "foolsgold_no_history"
    assert bool(torch.isfinite(update).all())


@pytest.mark.parametrize("rule", RULES)
def test_every_one_is_a_variant_named_after_its_rule(rule):
    info = defenses.get(rule).info
    assert info.variant_of == RULES[rule]
    assert "2406.10630" in info.paper
    assert info.knowledge == ("declared_bound" if rule == "krum_fedllm_attack" else "none")
