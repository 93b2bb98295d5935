"""The examples in the docstrings of all defenses, and the small round that they are tried on."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import defenses as package
from defenses._examples import one_round


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(package.__path__, "defenses.")])
def test_examples_in_the_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("rule", [
    "fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc", "foolsgold", "residual",
    "geometric_median", "centered_clipping", "bulyan", "nearest_neighbour_mixing", "flame", "freqfed", "lasa",
    "norm_clipping", "norm_clipping_noise", "keep_initial", "refuse_all", "attackers_removed",
])  # fmt: skip
def test_every_rule_has_a_worked_example(rule):
    assert doctest.testmod(importlib.import_module(f"defenses.{rule}")).attempted > 0


def test_the_stream_of_one_round_is_reproducible():
    _, context = one_round([[1.0]], seed=3)
    assert torch.rand(1, generator=context.generator) == torch.rand(1, generator=torch.Generator().manual_seed(3))
