"""Where a rule is defined, where it is another rule, and what it says otherwise."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import defenses as package
from benchmark.errors import FedSafetyError, NotApplicableError
from defenses._columns import weighted_sum
from defenses._examples import one_round
from defenses.base import Knowledge, Prompt, defenses
from defenses.refuse_all import REFUSAL

REFUSED = [
    ("krum", 8, 3, "2f + 3"),
    ("krum", 3, 1, "krum_one_neighbour"),
    ("multi_krum", 4, 1, "n >= 5"),
    ("krum_one_neighbour", 1, 0, "n >= 2"),
    ("trimmed_mean", 4, 2, "2f + 1"),
    ("dnc", 3, 3, "n > f"),
    ("foolsgold", 1, 0, "n >= 2"),
    ("residual", 2, 0, "n >= 3"),
]


@pytest.mark.parametrize(("rule", "participants", "malicious", "words"), REFUSED)
def test_shapes_below_the_condition_are_refused(rule, participants, malicious, words):
    with pytest.raises(NotApplicableError) as error:
        defenses.get(rule).create().check_shape(participants, malicious)
    message = str(error.value)
    assert words in message
    assert rule in message
    assert f"n = {participants}" in message


@pytest.mark.parametrize(("rule", "participants", "malicious"), [
    ("krum", 9, 3), ("multi_krum", 5, 1), ("krum_one_neighbour", 2, 5), ("trimmed_mean", 5, 2), ("dnc", 4, 3),
    ("foolsgold", 2, 9), ("residual", 3, 9), ("median", 1, 9), ("fedavg", 1, 9), ("norm_clipping", 1, 9),
])  # fmt: skip
def test_shapes_at_the_condition_are_accepted(aggregate, rule, participants, malicious):
    defenses.get(rule).create().check_shape(participants, malicious)
    matrix = torch.randn(participants, 4, generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(aggregate(rule, matrix, malicious).update).all())


DEGENERATE = [
    ("trimmed_mean", 3, 1, "median"),
    ("trimmed_mean", 4, 1, "median"),
    ("trimmed_mean", 5, 1, None),
    ("trimmed_mean", 7, 3, "median"),
    ("trimmed_mean", 1, 0, "median"),
    ("trimmed_mean", 10, 0, "fedavg"),
    ("dnc", 10, 0, "trimmed_mean"),
    ("dnc", 10, 1, None),
    ("multi_krum", 3, 0, "krum"),
    ("multi_krum", 4, 0, None),
    ("krum", 3, 0, None),
    ("krum_one_neighbour", 5, 1, "krum"),
    ("krum_one_neighbour", 4, 1, None),
    ("median", 1, 0, "fedavg"),
    ("median", 2, 0, None),
    ("norm_clipping", 1, 0, "fedavg"),
    ("norm_clipping", 2, 0, None),
]


@pytest.mark.parametrize(("rule", "participants", "malicious", "other"), DEGENERATE)
def test_identities_are_named(rule, participants, malicious, other):
    assert defenses.get(rule).create().degenerate_as(participants, malicious) == other


def test_every_claimed_identity_holds(aggregate):
    names = [name for name in defenses.names() if not name.startswith("posthoc")]
    claims = 0
    for name in names:
        rule = defenses.get(name).create()
        for participants in range(1, 11):
            for malicious in range(participants):
                other = rule.degenerate_as(participants, malicious)
                try:
                    rule.check_shape(participants, malicious)
                except NotApplicableError:
                    continue
                if other is None:
                    continue
                claims += 1
                matrix = torch.randn(participants, 20, generator=torch.Generator().manual_seed(claims))
                ours, theirs = (aggregate(one, matrix, malicious).update for one in (name, other))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert claims > 30


@pytest.mark.parametrize("rule", ["krum", "multi_krum", "trimmed_mean", "dnc", "foolsgold", "residual",
                                  "krum_one_neighbour", "median", "norm_clipping"])  # fmt: skip
@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_a_round_made_small_by_rejected_updates_still_aggregates(aggregate, rule, left):
    matrix = torch.randn(left, 4, generator=torch.Generator().manual_seed(left))
    result = aggregate(rule, matrix, 4)
    low, high = matrix.amin(dim=0) - 1e-6, matrix.amax(dim=0) + 1e-6
    assert bool(((result.update >= low) & (result.update <= high)).all()) or rule == "norm_clipping"
    if left == 1:
        torch.testing.assert_close(result.update, matrix[0])


def test_ties_go_to_the_earlier_client(aggregate):
    square = [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 9.0]]
    assert aggregate("krum", square, 1).weights.tolist() == [1, 0, 0, 0, 0]
    assert aggregate("krum_one_neighbour", [[3.0], [5.0]], 0).weights.tolist() == [1, 0]
    assert aggregate("dnc", [[1.0], [-1.0]], 1).weights.tolist() == [1, 0]


def test_equal_updates_tie_bitwise(aggregate):
    """Float rounding must not decide which of several copies wins."""
    matrix = torch.randn(9, 40_000, generator=torch.Generator().manual_seed(0))
    matrix[7] = matrix[4] = matrix[2]
    assert aggregate("krum", matrix, 3).weights.nonzero().tolist() == [[2]]
    assert aggregate("krum", 1000 + matrix, 3).weights.nonzero().tolist() == [[2]]


def test_krum_sees_small_differences_beside_a_boosted_client(aggregate):
    """A huge row or a large common part must not swallow the honest updates' distances."""
    matrix = torch.zeros(5, 3)
    matrix[:, 0] = torch.tensor([0.0, 1.0, 3.0, 9.0, 0.0])
    matrix[4] = 1e30
    expected = [0, 1, 0, 0, 0]
    assert aggregate("krum", matrix, 1).weights.tolist() == expected
    assert aggregate("krum", matrix * 1e-25, 1).weights.tolist() == expected
    matrix[:, 1] += 65536.0
    assert aggregate("krum", matrix, 1).weights.tolist() == expected


LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("rule", ["fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc",
                                  "foolsgold", "residual", "norm_clipping"])  # fmt: skip
@pytest.mark.parametrize("huge", [1e20, 1e30, LARGEST])
@pytest.mark.parametrize("attackers", [1, 3, 6])
def test_huge_updates_never_make_the_aggregate_overflow(aggregate, rule, huge, attackers):
    matrix = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))
    matrix[:attackers] = huge
    matrix[0] *= -1
    result = aggregate(rule, matrix, 2)
    assert bool(torch.isfinite(result.update).all())
    assert result.weights is None or bool(torch.isfinite(result.weights).all())


def test_norm_clipping_keeps_the_direction_of_a_huge_update(aggregate):
    result = aggregate("norm_clipping", [[3.0, 0.0], [0.0, 3.0], [-LARGEST, -LARGEST]])
    length = 3 / 2**0.5
    assert result.update.tolist() == pytest.approx([(3 - length) / 3] * 2, rel=1e-5)


def test_zero_and_equal_updates_are_no_special_case(aggregate):
    for rows in ([[0.0, 0.0]] * 5, [[1.0, 2.0]] * 5):
        for rule in ("median", "trimmed_mean", "krum", "multi_krum", "dnc", "residual", "norm_clipping"):
            assert aggregate(rule, rows, 1).update.tolist() == pytest.approx(rows[0])


def test_sample_counts_weigh_only_fedavg_and_norm_clipping(aggregate):
    matrix = torch.randn(7, 6, generator=torch.Generator().manual_seed(4))
    counts = [1.0, 1, 1, 1, 1, 1, 50]
    for rule in ("fedavg", "norm_clipping"):
        assert not torch.equal(aggregate(rule, matrix, 1).update, aggregate(rule, matrix, 1, counts=counts).update)
    for rule in ("median", "trimmed_mean", "krum", "multi_krum", "dnc", "foolsgold", "residual"):
        assert torch.equal(aggregate(rule, matrix, 1).update, aggregate(rule, matrix, 1, counts=counts).update)


def test_dnc_samples_from_its_own_stream(aggregate):
    """A client that differs from the others in 5 of 60,000 coordinates is dropped only if they are drawn."""
    matrix = torch.randn(6, 60_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    matrix[3, ::12_000] = 100.0
    dropped = [aggregate("dnc", matrix, 1, seed=seed).weights.argmin().item() for seed in range(12)]
    assert dropped == [aggregate("dnc", matrix, 1, seed=seed).weights.argmin().item() for seed in range(12)]
    assert {3} < set(dropped)


def test_attackers_removed_averages_the_honest(aggregate):
    rows, ids = [[1.0], [99.0], [5.0]], ["a", "b", "c"]
    removed = aggregate("attackers_removed", rows, ids=ids, malicious_ids=frozenset({"b", "absent"}))
    assert removed.update.tolist() == [3.0]
    nobody = aggregate("attackers_removed", rows, ids=ids, malicious_ids=frozenset(ids))
    assert nobody.update.tolist() == [0.0]
    assert nobody.weights.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(FedSafetyError, match="malicious_ids = None"):
        aggregate("attackers_removed", rows)


def test_refuse_all_answers_without_the_model(aggregate):
    assert defenses.get("refuse_all").create().serve(Prompt("anything at all")) == Prompt("anything at all", REFUSAL)
    assert REFUSAL.lower() == REFUSAL
    assert aggregate("refuse_all", [[1.0], [3.0]]).update.tolist() == [2.0]


def test_reference_rows_are_unranked_and_only_they_may_know_the_truth():
    infos = {entry.info.id: entry.info for entry in defenses.entries()}
    assert not any(infos[name].ranked for name in ("keep_initial", "refuse_all", "attackers_removed"))
    assert infos["attackers_removed"].knowledge is Knowledge.TRUTH
    assert not any(info.ranked for info in infos.values() if info.knowledge is Knowledge.TRUTH)
    assert infos["krum_one_neighbour"].variant_of == "krum"


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(package.__path__, "defenses.")])
def test_examples_in_the_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("rule", [
    "fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc", "foolsgold", "residual",
    "norm_clipping", "keep_initial", "refuse_all", "attackers_removed",
])  # fmt: skip
def test_every_rule_has_a_worked_example(rule):
    assert doctest.testmod(importlib.import_module(f"defenses.{rule}")).attempted > 0


def test_the_stream_of_one_round_is_reproducible():
    _, context = one_round([[1.0]], seed=3)
    assert torch.rand(1, generator=context.generator) == torch.rand(1, generator=torch.Generator().manual_seed(3))


def test_krum_sees_differences_of_one_float_step_beside_a_large_common_part(aggregate):
    """Inner products of such rows agree in all digits, so only the differences themselves can tell."""
    step = 2.0**-13  # the spacing of float32 between 1024 and 2048
    offsets = torch.tensor([[9.0], [0.0], [1.0], [3.0], [50.0]]) * step
    matrix = (1024.0 + 1000 * torch.rand(1, 5000, generator=torch.Generator().manual_seed(0))).repeat(5, 1)
    matrix[:, 7:8] += offsets
    assert aggregate("krum", matrix, 1).weights.tolist() == [0, 0, 1, 0, 0]


def test_weighted_sums_near_the_largest_float_stay_finite():
    equal_rows = torch.full((10, 3), LARGEST)
    assert weighted_sum(equal_rows, torch.full((10,), 0.1, dtype=torch.float64)).tolist() == [LARGEST] * 3


def test_weights_too_small_for_float32_still_count():
    weights = torch.tensor([1e-44, 0.5], dtype=torch.float64)
    assert weighted_sum(torch.tensor([[1e30], [0.0]]), weights).item() == pytest.approx(1e-14, rel=1e-6, abs=0)
