"""Safe LoRA on every update, against the published rule on a fresh start and against the definition later."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.submission.practice import one_round, practice_server
from benchmark.training.server import MeteredServer
from defenses.base import defenses
from defenses.safe_lora import projected_layers
from defenses.safe_lora_each import projected


def expected(server: MeteredServer, matrix: Tensor, broadcast: Tensor) -> Tensor:
    """Return the updates after the projection, with every matrix formed."""
    result = matrix.clone()
    for row in result:
        change, start = server.layout.views(row), server.layout.views(broadcast)
        scores, projections = {}, {}
        for layer in server.layout.layers:
            a, b = start[f"{layer}.lora_A"].double(), start[f"{layer}.lora_B"].double()
            moved_a, moved_b = change[f"{layer}.lora_A"].double(), change[f"{layer}.lora_B"].double()
            difference = (server.weights(layer) - server.weights(layer, aligned=False)).double()
            weights = difference @ difference.T / difference.square().sum().sqrt()
            product = (b + moved_b) @ (a + moved_a) - b @ a
            flat = (weights @ product).flatten(), product.flatten()
            scores[layer] = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
            projections[layer] = (weights @ moved_b).float()
        for layer in projected_layers(scores):
            change[f"{layer}.lora_B"].copy_(projections[layer])
    return result


def test_it_equals_the_definition_from_a_fresh_start_and_later() -> None:
    server = practice_server()
    generator = torch.Generator().manual_seed(1)
    fresh = server.start()
    assert not fresh[server.layout.mask("B")].any(), "from here the rule is the published one, B becomes C B"
    for broadcast in (fresh, fresh + 0.05 * torch.randn(fresh.shape, generator=generator)):
        matrix = 0.02 * torch.randn(3, len(fresh), generator=generator)
        updates, _ = one_round(matrix.clone(), server=server)
        changed = projected(updates, broadcast, server)
        torch.testing.assert_close(changed, expected(server, matrix, broadcast), rtol=1e-4, atol=1e-6)
        assert torch.equal(updates.matrix, matrix)
        moved = changed != matrix
        assert moved.any(dim=1).all()
        assert not moved[:, server.layout.mask("A")].any()


def test_the_mean_is_that_of_fedavg() -> None:
    server = practice_server()
    matrix = 0.02 * torch.randn(2, server.layout.dimension, generator=torch.Generator().manual_seed(2))
    updates, context = one_round(matrix, counts=[3, 1], server=server)
    result = defenses.get("safe_lora_each").create().aggregate(updates, context)
    changed = projected(updates, context.broadcast, server)
    torch.testing.assert_close(result.update, 0.75 * changed[0] + 0.25 * changed[1])
    assert result.weights is not None
    assert result.weights.tolist() == [0.75, 0.25]
