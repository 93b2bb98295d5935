"""Vaccine: the length of the perturbation, and the rows of the training before the federation."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.submission.practice import practice_server
from defenses.base import Objective, defenses
from tasks.base import DataKind, Example

from .server import FakeServer


def test_the_perturbation_follows_the_width() -> None:
    """The first adapted layer of the server here has three inputs; rho is 2 at 4,096."""
    server = FakeServer(6)
    start = defenses.get("vaccine").create().prepare(server)
    assert start is not None
    assert start.tolist() == [1.0, 1.0, 1.0]
    assert server.options == {"objective": Objective(perturbation=pytest.approx(2 * math.sqrt(3 / 4096)))}
    kinds = [row.kind for row in server.tuned]
    assert (kinds.count(DataKind.ALIGNED), kinds.count(DataKind.NORMAL), server.shuffled) == (3, 3, 1)


def test_where_the_suite_aligns_the_alignment_starts_afresh_under_the_perturbation() -> None:
    server, rows = FakeServer(), [Example("harm", "no", DataKind.ALIGNED, "x")]
    server.alignment_rows = 1
    server.alignment_examples = lambda: rows
    start = defenses.get("vaccine").create().prepare(server)
    assert start is not None
    assert start.tolist() == [3.0, 3.0, 3.0], "the fresh adapter of ones, after the alignment"
    assert server.tuned == rows
    assert server.options == {"objective": Objective(perturbation=pytest.approx(2 * math.sqrt(3 / 4096)))}
    assert server.sources == []


def test_it_is_another_training_than_the_plain_alignment() -> None:
    starts = []
    for perturbed in (True, False):
        server = practice_server()
        if perturbed:
            starts.append(defenses.get("vaccine").create().prepare(server))
        else:
            starts.append(server.align(server.fresh(), server.alignment_examples()))
        assert server.usage.finetune_steps == 4
    assert starts[0] is not None
    assert not torch.equal(starts[0], starts[1])
