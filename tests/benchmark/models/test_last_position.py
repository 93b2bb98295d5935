"""The last logits alone: the same values, from a copy of the last states."""

from __future__ import annotations

import pytest
import torch

from benchmark.models.last_position import last_position
from tests.benchmark.tiny_models import CONFIGS, make_model


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_the_last_logits_come_from_a_copy_of_the_last_states(architecture: str) -> None:
    model = make_model(architecture, torch.float32)
    ids = torch.arange(12).reshape(3, 4)
    copied: list[bool] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: copied.append(inputs[0].is_contiguous())
    )
    try:
        with torch.no_grad():
            whole = model(input_ids=ids).logits
            last = model(input_ids=ids, logits_to_keep=last_position(model.device)).logits
            model(input_ids=ids, logits_to_keep=1)
    finally:
        handle.remove()
    assert last.shape == (3, 1, whole.shape[-1])
    torch.testing.assert_close(last[:, 0], whole[:, -1])
    assert copied == [True, True, False], "if the number copies too, the index is not needed any more"
