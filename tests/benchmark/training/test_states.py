"""States of a model under an adapter equal those that its own layers have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.served import ServedModel
from benchmark.training.stacked import StackedModel
from benchmark.training.states import feature_norms, first_token_scores, last_inputs

from .test_stacked import make_model, start_adapter

SETTINGS = LoraSettings(rank=4, alpha=8)
ROWS = [TokenRow(tuple(range(5, 5 + n)), 1) for n in (7, 3, 9, 4, 5, 6, 8, 3, 2, 11)]


@pytest.fixture(params=[False, True])
def served(request: pytest.FixtureRequest) -> ServedModel:
    model = make_model("llama", torch.float32)
    return ServedModel(StackedModel(model, SETTINGS, pad_id=0, lean=request.param), chat=None)  # type: ignore[arg-type]


@pytest.fixture
def adapter() -> Tensor:
    return start_adapter(make_model("llama", torch.float32), SETTINGS, torch.float32)


def merged(adapter: Tensor, stacked: StackedModel) -> Any:
    """Return the plain model with the adapter's products in its weights."""
    model = copy.deepcopy(make_model("llama", torch.float32))
    views = stacked.layout.views(adapter)
    for layer in stacked.layout.layers:
        product = SETTINGS.scaling * views[f"{layer}.lora_B"] @ views[f"{layer}.lora_A"]
        module = model.get_submodule(layer)
        assert isinstance(module, nn.Linear)
        module.weight.data += product
    return model


def inputs_of(model: Any, rows: list[tuple[int, ...]]) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, o, name=name: found.setdefault(name, []).append(i[0][0]))
    with torch.no_grad():
        for ids in rows:
            model(input_ids=torch.tensor([ids]))
    return found


def test_the_norms_of_features_are_those_of_all_real_tokens(served: ServedModel, adapter: Tensor) -> None:
    norms = feature_norms(served, adapter, ROWS)
    expected = inputs_of(merged(adapter, served.stacked), [row.ids for row in ROWS])
    assert list(norms) == list(served.stacked.layout.layers)
    for layer, norm in norms.items():
        reference = torch.cat(expected[layer]).square().sum(0).sqrt()
        torch.testing.assert_close(norm, reference, rtol=1e-4, atol=1e-4)


def test_the_norms_of_factors_are_those_of_x_and_of_a_x(served: ServedModel, adapter: Tensor) -> None:
    norms = feature_norms(served, adapter, ROWS, of_factors=True)
    layout, plain = served.stacked.layout, feature_norms(served, adapter, ROWS)
    views, expected = layout.views(adapter), inputs_of(merged(adapter, served.stacked), [row.ids for row in ROWS])
    assert tuple(norms) == layout.names
    for layer in layout.layers:
        assert torch.equal(norms[f"{layer}.lora_A"], plain[layer])
        hidden = torch.cat(expected[layer]) @ views[f"{layer}.lora_A"].T
        torch.testing.assert_close(norms[f"{layer}.lora_B"], hidden.norm(dim=0), rtol=1e-4, atol=1e-4)


def test_the_last_inputs_are_those_of_each_prompts_last_token(served: ServedModel, adapter: Tensor) -> None:
    layer = "model.layers.1.mlp.down_proj"
    inputs = last_inputs(served, adapter, [row.ids for row in ROWS], layer)
    expected = inputs_of(merged(adapter, served.stacked), [row.ids for row in ROWS])[layer]
    torch.testing.assert_close(inputs, torch.stack([x[-1] for x in expected]), rtol=1e-4, atol=1e-4)


def test_a_layer_without_an_adapter_is_named_with_the_nearest(served: ServedModel, adapter: Tensor) -> None:
    with pytest.raises(FedSafetyError, match=r"unknown adapted layer .* mean 'model\.layers\.1\.mlp\.down_proj'"):
        last_inputs(served, adapter, [(5, 6)], "model.layers.1.mlp.down")


def test_the_first_tokens_scores_are_the_models_log_probabilities(served: ServedModel, adapter: Tensor) -> None:
    scores = first_token_scores(served, adapter, [row.ids for row in ROWS], [3, 44])
    model = merged(adapter, served.stacked)
    with torch.no_grad():
        last = torch.stack([model(input_ids=torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(scores, torch.log_softmax(last, -1)[:, [3, 44]], rtol=1e-4, atol=1e-4)


def test_nothing_stays_attached(served: ServedModel, adapter: Tensor) -> None:
    feature_norms(served, adapter, ROWS[:1])
    assert all(layer.factor_a is None for layer in served.stacked._layers)
    assert served.stacked._current.observe is None
