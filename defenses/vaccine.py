"""Vaccine (Huang et al. 2024): alignment under the perturbation of the layers' outputs that raises the loss most."""

from __future__ import annotations

import math

from torch import Tensor

from defenses._alignment_rows import owned_rows
from defenses.base import Defense, Knowledge, Objective, Server, Stage, register

PERTURBATION = 2.0
"""Vaccine's rho, for Llama-2-7B."""
WIDTH = 4096
"""Width of the hidden states of Llama-2-7B."""


@register(
    title="Vaccine",
    description=(
        "Before the first round the server aligns the start model itself, while the outputs of all layers are "
        "perturbed in the direction that raises the loss most. The model then refuses even after its hidden states "
        "drift. Where the suite has no alignment, the perturbed training follows the start. The rounds are plain "
        "FedAvg."
    ),
    paper="Huang et al. 2024, arXiv 2402.01109",
    stages=(Stage.PREPARE,),
    knowledge=Knowledge.NONE,
    resources="the alignment's data, or aligned and normal pairs; server-side fine-tuning",
    alignment_gradients=2,
)
class Vaccine(Defense):
    """Start from an alignment by min_w max_e L(w, e) with ‖e‖ ≤ rho, to first order in e.

    e is added to the outputs of all blocks: e = rho · ∇L / ‖∇L‖, with one norm over all blocks and all tokens of a
    batch, or of each part of the batch that memory allows at once. The loss is taken under it, so a step needs two
    forward and two backward passes. The paper's text perturbs the output of every layer, as is done here. The released
    code perturbs the outputs of the attention modules, with the norm over the batch.

    *Length of the perturbation.* The source has rho = 2 for Llama-2-7B. A perturbation is added to hidden states,
    whose norm grows with the root of their width if their entries keep their size. So rho = 2 · √(width / 4096), with
    the width of the inputs of the first adapted layer: 0.75 for a width of 576.

    *Where the suite aligns its start*, the training takes the place of that alignment: a fresh adapter, and the
    alignment's rows, steps, batch size, rates and clipping. It draws from the alignment's seed, so all runs of a suite
    share the result. The source trains for 20 to 50 epochs.

    *Where it does not*, as in ``micro``, the training follows the start model, which may be aligned already, on rows
    that the server owns, half of them refusals, with the post-hoc steps and rates. Such a row shows a short perturbed
    training after the alignment, and not an alignment by Vaccine.

    Source: Huang et al. 2024, arXiv 2402.01109, algorithm 1; rho of the released code.
    """

    def prepare(self, server: Server) -> Tensor:
        """Return the start (flat, ``[d]``) after the perturbed training."""
        objective = Objective(perturbation=PERTURBATION * math.sqrt(server.layout.shapes[0][1] / WIDTH))
        if server.alignment_rows:
            return server.align(server.fresh(), server.alignment_examples(), objective=objective)
        return server.finetune(server.start(), owned_rows(server), objective=objective)
