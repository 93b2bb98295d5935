"""Vaccine (Huang et al. 2024): alignment under the perturbation of the layers' outputs that raises the loss most."""

from __future__ import annotations

import math

from torch import Tensor

from defenses._alignment_rows import alignment_rows
from defenses.base import Defense, Knowledge, Objective, Server, Stage, register

PERTURBATION = 2.0
"""Vaccine's rho, for Llama-2-7B."""
WIDTH = 4096
"""Width of the hidden states of Llama-2-7B."""


@register(
    title="Vaccine",
    description=(
        "Before the first round the server aligns the start model once more, while the outputs of all layers are "
        "perturbed in the direction that raises the loss most. The model then refuses even after its hidden states "
        "drift. The rounds are plain FedAvg."
    ),
    paper="Huang et al. 2024, arXiv 2402.01109",
    stages=(Stage.PREPARE,),
    knowledge=Knowledge.NONE,
    resources="the alignment's data, or aligned and normal pairs; server-side fine-tuning",
)
class Vaccine(Defense):
    """Start from the suite's start after training on min_w max_e L(w, e) with ‖e‖ ≤ rho, to first order in e.

    e is added to the outputs of all blocks: e = rho · ∇L / ‖∇L‖, with one norm over all blocks. The loss is taken
    under it, so a step needs two forward and two backward passes.

    *Length of the perturbation.* The source has rho = 2 for Llama-2-7B. A perturbation is added to hidden states,
    whose norm grows with the root of their width if their entries keep their size. So rho = 2 · √(width / 4096), with
    the width of the inputs of the first adapted layer: 0.75 for a width of 576.

    *Rows and steps.* The rows of the suite's alignment, or owned rows, half of them refusals, where the suite does
    not align its start. The post-hoc settings of the suite set steps and rates. The source trains for 20 to 50 epochs
    from a model that is not aligned; most suites start from an aligned one, and the steps are those of one post-hoc
    repair.

    Source: Huang et al. 2024, arXiv 2402.01109, algorithm 1; rho of the released code.
    """

    def prepare(self, server: Server) -> Tensor:
        """Return the start (flat, ``[d]``) after the perturbed training."""
        length = PERTURBATION * math.sqrt(server.layout.shapes[0][1] / WIDTH)
        return server.finetune(server.start(), alignment_rows(server), objective=Objective(perturbation=length))
