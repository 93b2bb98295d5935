"""Objectives of the server's training: each term changes the gradient as its formula states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.stacked import StackedModel
from defenses.base import Objective

from .test_stacked import make_model, start_adapter

ROWS = [TokenRow((5, 6, 7, 8, 9, 10, 11), 3), TokenRow((12, 13, 14, 15, 16), 2)]
SETTINGS = LoraSettings(rank=4, alpha=8)


@pytest.fixture
def stacked() -> StackedModel:
    return StackedModel(make_model("llama", torch.float64), SETTINGS, pad_id=0)


@pytest.fixture
def adapter() -> Tensor:
    return start_adapter(make_model("llama", torch.float64), SETTINGS, torch.float64)


def test_ascent_turns_the_gradient_and_keeps_the_loss(stacked: StackedModel, adapter: Tensor) -> None:
    gradient, loss = stacked.gradient(adapter, ROWS)
    turned, same = stacked.gradient(adapter, ROWS, objective=Objective(ascend=True))
    assert torch.equal(turned, -gradient)
    assert same == loss


def test_the_proximal_term_adds_the_distance_to_the_anchor(stacked: StackedModel, adapter: Tensor) -> None:
    anchor = adapter + torch.linspace(-1, 1, len(adapter), dtype=torch.float64)
    gradient, _ = stacked.gradient(adapter, ROWS)
    pulled, _ = stacked.gradient(adapter, ROWS, objective=Objective(proximal=0.5, anchor=anchor))
    torch.testing.assert_close(pulled, gradient + 0.5 * (adapter - anchor), rtol=0, atol=1e-12)


def test_without_an_anchor_the_start_is_the_anchor(stacked: StackedModel, adapter: Tensor) -> None:
    free = stacked.train(adapter, [[ROWS] * 6], learning_rate=1e-2).adapters[0]
    pulled = stacked.train(adapter, [[ROWS] * 6], learning_rate=1e-2, objective=Objective(proximal=1e4)).adapters[0]
    assert (pulled - adapter).norm() < 0.5 * (free - adapter).norm()


def test_tokens_of_weight_zero_have_no_loss(stacked: StackedModel, adapter: Tensor) -> None:
    weighted, loss = stacked.gradient(adapter, ROWS, objective=Objective(token_weights=(0.0, 0.0)))
    later = [TokenRow(row.ids, row.response_start + 2) for row in ROWS]
    expected, mean = stacked.gradient(adapter, later)
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-12)
    assert loss == pytest.approx(mean, abs=1e-12)


def test_weights_are_those_of_a_weighted_mean(stacked: StackedModel, adapter: Tensor) -> None:
    """Four tokens of the first row and three of the second: weights 3 and 1, then 1 each."""
    _, loss = stacked.gradient(adapter, ROWS, objective=Objective(token_weights=(3.0,)))
    stacked.attach(adapter)
    scores = [-s for row in ROWS for s in stacked.logprobs([row.ids])[0][row.response_start - 1 :]]
    stacked.clear()
    weights = [3.0, 1, 1, 1, 3.0, 1, 1]
    assert loss == pytest.approx(sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights), abs=1e-9)


@pytest.mark.parametrize("lean", [False, True])
def test_a_perturbation_raises_the_loss_by_its_length_times_the_slope(lean: bool, adapter: Tensor) -> None:
    """The first-order rise of the loss is the length times the norm of the gradient by all layers' outputs."""
    model = make_model("llama", torch.float64)
    stacked = StackedModel(model, SETTINGS, pad_id=0, lean=lean)
    _, plain = stacked.gradient(adapter, ROWS)
    outputs: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda m, i, o: outputs.append(o[0] if isinstance(o, tuple) else o))
        for layer in model.model.layers
    ]
    ids = torch.tensor([[*row.ids, *[0] * (7 - len(row.ids))] for row in ROWS])
    stacked._load(adapter[None], trainable=True)
    logprobs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits, -1)
    loss = -sum(logprobs[i, k - 1, row.ids[k]] for i, row in enumerate(ROWS) for k in row.predicted) / 7
    slope = torch.stack([g.square().sum() for g in torch.autograd.grad(loss, outputs)]).sum().sqrt()
    for handle in handles:
        handle.remove()
    stacked.clear()
    _, perturbed = stacked.gradient(adapter, ROWS, objective=Objective(perturbation=1e-4))
    assert (perturbed - plain) / 1e-4 == pytest.approx(float(slope), rel=1e-2)


def test_a_small_perturbation_changes_the_gradient_a_little(stacked: StackedModel, adapter: Tensor) -> None:
    objective = Objective(perturbation=1e-5)
    gradient, _ = stacked.gradient(adapter, ROWS, objective=objective)
    plain, _ = stacked.gradient(adapter, ROWS)
    assert 0 < (gradient - plain).norm() < 1e-2 * plain.norm()


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (Objective(proximal=-1.0), "proximal of the objective is -1.0"),
        (Objective(perturbation=float("nan")), "perturbation of the objective is nan"),
        (Objective(token_weights=(1.0, -2.0)), r"token_weights\[1\] of the objective is -2.0"),
        (Objective(proximal=1.0, anchor=torch.zeros(3)), r"anchor of the objective has shape \(3,\)"),
    ],
)
def test_a_number_out_of_range_is_named(
    objective: Objective, sentence: str, stacked: StackedModel, adapter: Tensor
) -> None:
    with pytest.raises(FedSafetyError, match=sentence):
        stacked.gradient(adapter, ROWS, objective=objective)


def test_a_proximal_term_trains_one_adapter_alone(stacked: StackedModel, adapter: Tensor) -> None:
    with pytest.raises(FedSafetyError, match="2 clients train"):
        stacked.train(adapter, [[ROWS], [ROWS]], learning_rate=1e-3, objective=Objective(proximal=1.0))


def test_an_adapter_of_a_higher_rank_trains_like_one_of_the_layouts(stacked: StackedModel, adapter: Tensor) -> None:
    """Factors padded by zeros are the same function, so their first four rows get the same gradient."""
    wide = stacked.layout.of_rank(6)
    padded = torch.zeros(wide.dimension, dtype=torch.float64)
    for name, view in wide.views(padded).items():
        narrow = stacked.layout.views(adapter)[name]
        view[: narrow.shape[0], : narrow.shape[1]] = narrow
    gradient, loss = stacked.gradient(adapter, ROWS)
    wider, same = stacked.gradient(padded, ROWS)
    assert same == pytest.approx(loss, abs=1e-12)
    for name, view in stacked.layout.views(gradient).items():
        part = wide.views(wider)[name][: view.shape[0], : view.shape[1]]
        torch.testing.assert_close(part, view, rtol=0, atol=1e-12)
