"""Steps of the three levels of the post-hoc defense: half aligned, half normal pairs, then server fine-tuning."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from benchmark.automation import Generate, answer, fill, propose
from benchmark.errors import FedSafetyError
from defenses.base import Defense, Server
from tasks.base import DataKind, Example


class PosthocDefense(Defense):
    """Fine-tunes the aggregate on aligned and normal pairs after the last round [ye2024, section 5]."""

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the fine-tuned adapter (flat, ``[d]``).

        Raises:
            FedSafetyError: The data source yielded no aligned or no normal pair.
        """
        half = server.examples // 2
        aligned, normal = self.pairs(adapter, server, half, server.examples - half)
        for name, pairs in (("aligned", aligned), ("normal", normal)):
            if not pairs:
                raise FedSafetyError(
                    f"{type(self).__name__} obtained no {name} pair, so there is nothing to fine-tune on; "
                    f"the generating model does not follow the {name} prompts"
                )
        rows = fill(aligned, half) + fill(normal, server.examples - half)
        return server.finetune(adapter, server.shuffle(rows))

    @abstractmethod
    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return up to ``aligned`` aligned and ``normal`` normal pairs."""


def generated_pairs(
    generate: Generate, server: Server, aligned: int, normal: int
) -> tuple[list[Example], list[Example]]:
    """Return aligned and normal pairs that a model proposed and answered.

    Aligned answers are given under the safety reminder, normal ones plainly. As in the paper, whose released pairs
    contain many answers that refuse nothing, no answer is filtered: the method trusts the generating model.
    """
    automation = server.automation
    harmful = propose(generate, automation.propose_harmful, aligned)
    ordinary = propose(generate, automation.propose_normal, normal)
    return (
        answer(generate, harmful, automation.safety_reminder, DataKind.ALIGNED),
        answer(generate, ordinary, "", DataKind.NORMAL),
    )
