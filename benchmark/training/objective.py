"""Terms of a training objective: weights of tokens, perturbed states, the sign of the loss, and the proximal term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from defenses.base import Objective


@dataclass(frozen=True)
class Terms:
    """An objective that is ready for training from one start.

    Attributes:
        objective: The objective.
        anchor: Flat anchor ``[d]`` of the proximal term, or ``None`` without such a term.
    """

    objective: Objective
    anchor: Tensor | None

    @classmethod
    def of(cls, objective: Objective | None, start: Tensor) -> Terms:
        """Return the terms of an objective, by default those of the mean cross-entropy.

        Args:
            objective: The objective.
            start: Flat adapter ``[d]`` at the first step.

        Raises:
            FedSafetyError: A number of the objective is negative or not finite, or the anchor has another shape.
        """
        objective = objective or Objective()
        numbers = {"proximal": objective.proximal, "perturbation": objective.perturbation}
        numbers |= {f"token_weights[{i}]": weight for i, weight in enumerate(objective.token_weights)}
        for name, number in numbers.items():
            if not 0.0 <= number < float("inf"):
                raise FedSafetyError(f"{name} of the objective is {number}; give a finite number from 0")
        if not objective.proximal:
            return cls(objective, None)
        anchor = start if objective.anchor is None else objective.anchor
        if anchor.shape != start.shape:
            raise FedSafetyError(
                f"the anchor of the objective has shape {tuple(anchor.shape)}, and the adapter {tuple(start.shape)}; "
                f"give an adapter of the same layout"
            )
        return cls(objective, anchor.clone())

    def weighted(self, losses: Tensor, rows: Sequence[TokenRow]) -> Tensor:
        """Return the token losses ``[n]`` of ``rows``, row after row, times their weights."""
        if not self.objective.token_weights:
            return losses
        weights = [weight for row in rows for weight in self._weights_of(row)]
        return losses * torch.tensor(weights, device=losses.device, dtype=losses.dtype)

    def total_weight(self, rows: Sequence[TokenRow]) -> int | float:
        """Return the sum of the weights of all tokens of ``rows``, by which their losses are divided; above 0."""
        if not self.objective.token_weights:
            return max(1, sum(len(row.predicted) for row in rows))
        return sum(sum(self._weights_of(row)) for row in rows) or 1.0

    @contextmanager
    def perturbed(self, blocks: Callable[[], list[nn.Module]], losses: Callable[[], Tensor | None]) -> Iterator[None]:
        """Let a model's blocks add the perturbation that raises the loss most to first order, if there is one.

        All blocks' perturbations together have the length that the objective gives.

        Args:
            blocks: Returns the modules whose outputs are perturbed.
            losses: Runs the model forward and returns the losses, ``None`` without any.
        """
        if not self.objective.perturbation:
            yield
            return
        modules, outputs = blocks(), list[Tensor]()

        def kept(place: int, output: Tensor) -> Tensor:
            del place
            outputs.append(output)
            return output

        with _hooked(modules, kept):
            found = losses()
        if found is None:
            yield
            return
        # The first block's output need not depend on an adapter, for example if adapters follow later.
        gradients = torch.autograd.grad(found.sum(), outputs, allow_unused=True)
        present = [torch.zeros_like(o) if g is None else g for o, g in zip(outputs, gradients, strict=True)]
        norm = torch.stack([g.float().square().sum() for g in present]).sum().sqrt()
        factor = self.objective.perturbation / norm.clamp(min=torch.finfo(torch.float32).tiny)
        deltas = [(g.float() * factor).to(g.dtype) for g in present]
        with _hooked(modules, lambda place, output: output + deltas[place]):
            yield

    def add_to(self, gradient: Tensor, adapters: Tensor, clients: int) -> None:
        """Turn the gradient of the cross-entropy into that of the objective, in place.

        Args:
            gradient: Flat gradient of all clients.
            adapters: Flat adapters of all clients, in the same order.
            clients: Number of clients.

        Raises:
            FedSafetyError: There is a proximal term and more than one client.
        """
        if self.objective.ascend:
            gradient.neg_()
        if self.anchor is None:
            return
        if clients != 1:
            # The storage of several clients is factor by factor, so no part of it is an adapter.
            raise FedSafetyError(f"a proximal term pulls one adapter, but {clients} clients train; train them alone")
        gradient.add_(adapters - self.anchor.to(adapters.device), alpha=self.objective.proximal)

    def _weights_of(self, row: TokenRow) -> list[float]:
        first = self.objective.token_weights[: len(row.predicted)]
        return [*first, *[1.0] * (len(row.predicted) - len(first))]


PLAIN = Terms(Objective(), None)
"""Terms of the mean cross-entropy."""


@contextmanager
def _hooked(blocks: list[nn.Module], change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Let ``change`` replace the output of each block, given its place."""

    def hook(place: int) -> Callable[[nn.Module, object, object], object]:
        def changed(module: nn.Module, inputs: object, output: object) -> object:
            del module, inputs
            if isinstance(output, tuple):
                return (change(place, output[0]), *output[1:])
            assert isinstance(output, Tensor)
            return change(place, output)

        return changed

    handles = [block.register_forward_hook(hook(place)) for place, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
