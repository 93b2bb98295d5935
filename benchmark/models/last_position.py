"""The position whose logits choose the next token, in the form in which a forward pass needs the least memory."""

from __future__ import annotations

import torch
from torch import Tensor


def last_position(device: torch.device) -> Tensor:
    """Return the argument ``logits_to_keep`` with which a causal model of transformers gives the last logits only.

    It is an index ``[1]``, because an index copies the last states. The number 1 would take a view of all states. With
    a view, the head's product holds one copy of the head's weights for each row of a batch.

    Args:
        device: Device of the model.
    """
    return torch.tensor([-1], device=device)
