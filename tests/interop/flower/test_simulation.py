"""Real Flower simulations: the strategy trains, and does what the defense does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from .conftest import Simulate


def test_krum_trains_where_fedavg_is_destroyed(simulate: Simulate) -> None:
    defended, undefended = simulate("krum", "large")["losses"], simulate("fedavg", "large")["losses"]
    assert defended[0] == undefended[0]
    assert all(later < earlier for earlier, later in pairwise(defended))
    assert defended[-1] < 0.3 * defended[0]
    assert undefended[-1] > 2 * undefended[0]


def test_krum_keeps_one_honest_update_a_round(simulate: Simulate) -> None:
    for number, metrics in simulate("krum", "large")["metrics"].items():
        outcome = simulate("krum", "large")["outcomes"][number]
        assert sorted(outcome["weights"]) == [0.0] * 6 + [1.0]
        assert metrics["refused-updates"] == 0


def test_our_fedavg_is_flowers_fedavg(simulate: Simulate) -> None:
    ours, flowers = simulate("fedavg", "none"), simulate("flwr", "none")
    np.testing.assert_allclose(ours["losses"], flowers["losses"], rtol=1e-4)
    for name in flowers["arrays"].keys() - {"steps"}:
        np.testing.assert_allclose(ours["arrays"][name], flowers["arrays"][name], rtol=1e-4, atol=1e-6)
    assert ours["losses"][-1] < 0.3 * ours["losses"][0]
    assert ours["arrays"]["steps"] == 0
    for number, metrics in flowers["metrics"].items():
        assert ours["metrics"][number]["partition"] == pytest.approx(metrics["partition"])
    assert ours["evaluated"] == flowers["evaluated"] == [1, 2, 3]


def test_clients_that_send_nan_are_refused_and_the_round_goes_on(simulate: Simulate) -> None:
    found = simulate("foolsgold", "nan")
    assert [metrics["refused-updates"] for metrics in found["metrics"].values()] == [2, 2, 2]
    assert found["losses"][-1] < found["losses"][0]
    reasons = {reason for outcome in found["outcomes"].values() for reason in outcome["refused"].values()}
    assert reasons == {"its update is not finite, or so large that its norm is not"}


def test_ids_are_stable_and_foolsgold_keeps_history_by_them(simulate: Simulate) -> None:
    found = simulate("foolsgold", "nan")
    first, *later = found["outcomes"].values()
    assert len(first["clients"]) == 5
    assert first["clients"] == sorted(first["clients"])
    assert all(outcome["clients"] == first["clients"] for outcome in later)
    assert all(outcome["refused"].keys() == first["refused"].keys() for outcome in later)
    assert sorted(found["history"]) == first["clients"]
    # A sum of three rounds' updates is longer than the last round's model is far from the first's.
    assert all(np.linalg.norm(total) > 0 for total in found["history"].values())
    assert len({tuple(total) for total in found["history"].values()}) == 5
