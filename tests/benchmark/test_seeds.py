"""Streams are determined by seed and name, and independent of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.seeds import stream, torch_stream

ROLES = [8, 5, 9, 1, 7, 4, 0, 3, 2, 6]
ADAPTER = [468, 925, 277, 671]
"""What the streams drew when the first rows were scored: other draws would silently change every published score."""


def test_a_stream_is_reproducible() -> None:
    assert stream(11, "roles").random(4).tolist() == stream(11, "roles").random(4).tolist()
    assert torch.equal(
        torch.rand(4, generator=torch_stream(11, "roles")), torch.rand(4, generator=torch_stream(11, "roles"))
    )


def test_streams_stay_as_they_were() -> None:
    assert stream(11, "roles").permutation(10).tolist() == ROLES
    assert torch.randint(1000, (4,), generator=torch_stream(11, "adapter-init")).tolist() == ADAPTER


@pytest.mark.parametrize("other", [(12, "roles"), (11, "schedule"), (11, "roles", 0), (11, "role")])
def test_seed_and_name_tell_streams_apart(other: tuple[int, str]) -> None:
    seed, *name = other
    assert stream(11, "roles").random(4).tolist() != stream(seed, *name).random(4).tolist()
    assert not torch.equal(
        torch.rand(4, generator=torch_stream(11, "roles")), torch.rand(4, generator=torch_stream(seed, *name))
    )


def test_streams_are_uncorrelated() -> None:
    rows = [stream(seed, name).standard_normal(4000) for seed in range(5) for name in ("a", "b", "c")]
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)


def test_drawing_from_a_stream_leaves_global_state_and_other_streams_alone() -> None:
    before = torch.get_rng_state()
    other = stream(1, "b").random(3).tolist()
    stream(1, "a").random(1000)
    torch.rand(10, generator=torch_stream(1, "a"))
    assert torch.equal(torch.get_rng_state(), before)
    assert stream(1, "b").random(3).tolist() == other
