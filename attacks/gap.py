"""Malicious clients keep each LoRA factor near a benign one and let only the product of both be harmful."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attacks.base import AttackerView, register
from attacks.unaligned_data import UnalignedData
from benchmark.updates import Updates

# The list of attacks is read without PyTorch.
if TYPE_CHECKING:
    from torch import Tensor

STEPS = 50
"""Steps of the search in each layer, as in the public re-implementation."""


@register(
    title="GAP on unaligned data",
    description="Malicious clients train on unaligned pairs, then look for LoRA factors that each stay near the last "
    "change of the global adapter while their product comes as near as possible to the harmful one. Rules that look at "
    "the factors see little; the model computes with the product.",
    paper="arXiv 2601.00566",
    knowledge="public unaligned pairs; the adapters that the server sent",
)
@dataclass(frozen=True)
class Gap(UnalignedData):
    """Data poisoning with min ‖BA - B*A*‖ over ‖A - A0 - a‖ ≤ δ‖A* - A0‖ and ‖B - B0 - b‖ ≤ δ‖B* - B0‖, layer by layer.

    A0, B0 are the received factors, A*, B* the factors after training on the pairs, and a, b the last change of the
    received factors, zero in the first round. The search takes 50 alternating steps of projected gradient descent from
    A0 + a, B0 + b, each as long as the curvature allows (1 / ‖BᵀB‖, 1 / ‖AAᵀ‖ in the spectral norm).

    The source's text was not available; the definition follows its public re-implementation in ``dgm-bench``, which
    takes fixed radii and Adam. Radii relative to the trained change suit adapters of any scale. δ = 1 with no last
    change allows the trained factors themselves.

    Attributes:
        normal_share: Share of a malicious client's rows that stay normal (0 to 1).
        reminder_share: Share of malicious instructions that carry the server's safety reminder (0 to 1).
        radius: δ, above 0.
    """

    radius: float = 0.5
    _received: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.radius < float("inf"):
            raise ValueError(f"radius is {self.radius}; it is a positive, finite factor")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the updates whose factors are near the benign change, and keep the received adapter."""
        if view.broadcast is None:
            return updates
        earlier, self._received[:] = list(self._received), [view.broadcast.clone()]
        change = view.broadcast - earlier[0] if earlier else view.broadcast.new_zeros(view.broadcast.shape)
        start, moved, layout = updates.layout.views(view.broadcast), updates.layout.views(change), updates.layout
        matrix = updates.matrix.clone()
        for row in matrix:
            trained = layout.views(row)
            # A layout of tests may hold a factor without its partner, which then stays as it is.
            for layer in (name.removesuffix(".lora_A") for name in layout.names if name.endswith(".lora_A")):
                a, b = f"{layer}.lora_A", f"{layer}.lora_B"
                if b not in trained:
                    continue
                near_a, near_b = nearest_product(
                    (start[a] + trained[a], start[b] + trained[b]),
                    (start[a] + moved[a], start[b] + moved[b]),
                    (self.radius * float(trained[a].norm()), self.radius * float(trained[b].norm())),
                )
                trained[a].copy_(near_a - start[a])
                trained[b].copy_(near_b - start[b])
        return replace(updates, matrix=matrix)


def nearest_product(
    target: tuple[Tensor, Tensor], center: tuple[Tensor, Tensor], radii: tuple[float, float], steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Return factors in balls around a center whose product is near a target's.

    Args:
        target: Factors A* ``[rank, in]`` and B* ``[out, rank]``.
        center: Centers of the balls, in the same shapes. They are also where the search starts.
        radii: Radii of the balls, in the Frobenius norm.
        steps: Number of steps of each factor.
    """
    target_a, target_b, center_a, center_b = (part.double() for part in (*target, *center))
    a, b = center_a, center_b
    for _ in range(steps):
        # The gradient of ½‖BA - B*A*‖² needs no product of the size of the layer.
        gram = b.T @ b
        a = _inside(a - _rate(gram) * (gram @ a - (b.T @ target_b) @ target_a), center_a, radii[0])
        gram = a @ a.T
        b = _inside(b - _rate(gram) * (b @ gram - target_b @ (target_a @ a.T)), center_b, radii[1])
    return a.to(target[0].dtype), b.to(target[1].dtype)


def _rate(gram: Tensor) -> float:
    """Return the inverse of the spectral norm of a symmetric matrix; 0 for the zero matrix."""
    largest = float(gram.svd().S[0])
    return 1.0 / largest if largest else 0.0


def _inside(point: Tensor, center: Tensor, radius: float) -> Tensor:
    """Return the point of a ball that is nearest to ``point``."""
    step = point - center
    length = float(step.norm())
    return point if length <= radius else center + step * (radius / length)
