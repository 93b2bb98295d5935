"""Properties of all rules on any updates: order, shift, scale, bounds, untouched input, claimed identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import NotApplicableError
from defenses._examples import one_round
from defenses.base import defenses

from .rounds import LARGEST

COORDINATE_WISE = ["median", "trimmed_mean"]
SELECTING = ["krum", "multi_krum", "krum_one_neighbour", "dnc"]
WEIGHING = [*SELECTING, "fedavg", "foolsgold", "residual", "geometric_median", "freqfed"]
WITHOUT_WEIGHTS = [
    *COORDINATE_WISE, "norm_clipping", "norm_clipping_noise", "centered_clipping", "nearest_neighbour_mixing"
]  # fmt: skip
ALL = [*WITHOUT_WEIGHTS, *WEIGHING, "bulyan", "flame", "lasa", "keep_initial", "refuse_all"]
NOT_BETWEEN = ["norm_clipping", "centered_clipping"]
"""Rules that shorten updates, so that their aggregate may lie outside the range of a small round."""


def aggregate(rule, matrix, malicious=1, **options):
    return defenses.get(rule).create().aggregate(*one_round(matrix, malicious=malicious, **options))


@st.composite
def matrices(draw, smallest=5, largest=9):
    """Integer updates in general position: no ties, and exact in float32 and float64."""
    participants = draw(st.integers(smallest, largest))
    dimension = draw(st.integers(2, 6))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    columns = [torch.randperm(1999, generator=chance)[:participants] - 999 for _ in range(dimension)]
    return torch.stack(columns, dim=1).float()


@pytest.mark.parametrize("rule", ALL)
@settings(deadline=None, max_examples=25)
@given(matrix=matrices(), seed=st.integers(0, 1000))
def test_order_of_clients_does_not_matter(rule, matrix, seed):
    order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(seed))
    ids = [f"client_{int(index):02d}" for index in order]
    straight, shuffled = aggregate(rule, matrix), aggregate(rule, matrix[order], ids=ids)
    torch.testing.assert_close(shuffled.update, straight.update, rtol=1e-4, atol=2e-2)
    if straight.weights is not None:
        torch.testing.assert_close(shuffled.weights, straight.weights[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "rule", [*COORDINATE_WISE, *SELECTING, "fedavg", "geometric_median", "bulyan", "nearest_neighbour_mixing"]
)
@settings(deadline=None, max_examples=25)
@given(matrix=matrices(), shift=st.integers(-4096, 4096))
def test_a_common_shift_shifts_the_aggregate(rule, matrix, shift):
    moved = aggregate(rule, matrix + shift).update
    torch.testing.assert_close(moved, aggregate(rule, matrix).update + shift, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    "rule", [*WITHOUT_WEIGHTS, *SELECTING, "fedavg", "foolsgold", "bulyan", "flame", "freqfed", "lasa"]
)
@settings(deadline=None, max_examples=25)
@given(matrix=matrices(), power=st.integers(-60, 60))
def test_a_common_scale_scales_the_aggregate(rule, matrix, power):
    """By powers of two far beyond where float32 squares overflow or vanish; exact but for the weights' rounding."""
    scale = 2.0**power
    torch.testing.assert_close(
        aggregate(rule, matrix * scale).update / scale, aggregate(rule, matrix).update, rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("rule", COORDINATE_WISE)
@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=9,
    )
)
def test_coordinate_wise_rules_stay_between_what_the_honest_majority_sent(rule, rows):
    matrix = torch.tensor(rows)
    malicious = (len(rows) - 1) // 2
    ordered = matrix.sort(dim=0).values
    result = aggregate(rule, matrix, malicious).update
    assert bool((result >= ordered[malicious]).all())
    assert bool((result <= ordered[len(rows) - 1 - malicious]).all())


@pytest.mark.parametrize("rule", ALL)
def test_inputs_stay_unchanged(rule):
    matrix = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))
    updates, context = one_round(matrix.clone(), malicious=2)
    result = defenses.get(rule).create().aggregate(updates, context)
    result.update.add_(1)
    assert torch.equal(updates.matrix, matrix)
    assert torch.equal(updates.sample_counts, torch.ones(7, dtype=torch.float64))
    assert not context.broadcast.any()


@pytest.mark.parametrize("rule", ALL)
def test_results_have_the_promised_form(rule):
    result = aggregate(rule, torch.randn(7, 50, generator=torch.Generator().manual_seed(2)), 2)
    assert result.update.shape == (50,)
    assert result.update.dtype == torch.float32
    assert not result.update.is_inference()
    assert (result.weights is None) == (rule in WITHOUT_WEIGHTS)
    if result.weights is not None:
        assert result.weights.dtype == torch.float64
        assert bool((result.weights >= 0).all())
        assert float(result.weights.sum()) == pytest.approx(0 if rule == "keep_initial" else 1)


@pytest.mark.parametrize("rule", WEIGHING)
def test_weights_are_those_of_the_aggregate(rule):
    matrix = torch.randn(8, 50, generator=torch.Generator().manual_seed(3))
    result = aggregate(rule, matrix, 2)
    # Residual also moves outlying values; everything else is exactly the weighted sum.
    tolerance = 0.5 if rule == "residual" else 1e-6
    torch.testing.assert_close(result.weights @ matrix.double(), result.update.double(), rtol=0, atol=tolerance)


def test_every_claimed_identity_holds():
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
                                  "krum_one_neighbour", "median", "norm_clipping", "geometric_median", "bulyan",
                                  "centered_clipping", "nearest_neighbour_mixing", "freqfed"])  # fmt: skip
@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_a_round_made_small_by_rejected_updates_still_aggregates(rule, left):
    matrix = torch.randn(left, 4, generator=torch.Generator().manual_seed(left))
    result = aggregate(rule, matrix, 4)
    low, high = matrix.amin(dim=0) - 1e-6, matrix.amax(dim=0) + 1e-6
    assert bool(((result.update >= low) & (result.update <= high)).all()) or rule in NOT_BETWEEN
    if left == 1:
        torch.testing.assert_close(result.update, matrix[0])


@pytest.mark.parametrize("rule", ["fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc",
                                  "foolsgold", "residual", "norm_clipping", "geometric_median", "centered_clipping",
                                  "bulyan", "nearest_neighbour_mixing", "norm_clipping_noise", "flame", "freqfed",
                                  "lasa"])  # fmt: skip
@pytest.mark.parametrize("huge", [1e20, 1e30, LARGEST])
@pytest.mark.parametrize("attackers", [1, 3, 6])
def test_huge_updates_never_make_the_aggregate_overflow(rule, huge, attackers):
    matrix = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))
    matrix[:attackers] = huge
    matrix[0] *= -1
    result = aggregate(rule, matrix, 2)
    assert bool(torch.isfinite(result.update).all())
    assert result.weights is None or bool(torch.isfinite(result.weights).all())


def test_zero_and_equal_updates_are_no_special_case():
    for rows in ([[0.0, 0.0]] * 5, [[1.0, 2.0]] * 5):
        for rule in ("median", "trimmed_mean", "krum", "multi_krum", "dnc", "residual", "norm_clipping", "bulyan",
                     "geometric_median", "centered_clipping", "nearest_neighbour_mixing", "freqfed"):  # fmt: skip
            assert aggregate(rule, rows, 1).update.tolist() == pytest.approx(rows[0])


def test_sample_counts_weigh_only_in_four_rules():
    matrix = torch.randn(7, 6, generator=torch.Generator().manual_seed(4))
    counts = [1.0, 1, 1, 1, 1, 1, 50]
    for rule in ("fedavg", "norm_clipping", "norm_clipping_noise", "geometric_median"):
        assert not torch.equal(aggregate(rule, matrix, 1).update, aggregate(rule, matrix, 1, counts=counts).update)
    for rule in ("median", "trimmed_mean", "krum", "multi_krum", "dnc", "foolsgold", "residual", "centered_clipping",
                 "bulyan", "nearest_neighbour_mixing", "flame", "freqfed", "lasa"):  # fmt: skip
        assert torch.equal(aggregate(rule, matrix, 1).update, aggregate(rule, matrix, 1, counts=counts).update)
