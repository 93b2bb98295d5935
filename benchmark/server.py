"""Tools of an honest server, as defenses see them, and the objectives of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tasks.base import Automation, Example

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.updates import AdapterLayout


@dataclass(frozen=True)
class Objective:
    """Loss that the server's training minimises: by default the mean cross-entropy of the responses' tokens.

    Attributes:
        ascend: Turns the sign of the cross-entropy, so that training makes the rows less likely.
        proximal: Factor c of the term c/2 · ‖w - anchor‖², which pulls the adapter w to ``anchor``; at least 0.
        anchor: Flat adapter ``[d]`` of the proximal term; ``None`` for the adapter at the first step.
        perturbation: Length of the perturbation of the layers' outputs that raises the loss most to first order
            (Huang et al. 2024, arXiv 2402.01109); the loss is taken under it. At least 0.
        token_weights: Weights of the first tokens of each response in the mean; later tokens weigh 1.
    """

    ascend: bool = False
    proximal: float = 0.0
    anchor: Tensor | None = None
    perturbation: float = 0.0
    token_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class AlignmentSchedule:
    """Steps of the training by which a suite aligns its start model, with AdamW.

    Attributes:
        rates: Learning rate of each step.
        batch_size: Rows of each step.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest L2 norm of the gradient; ``None`` for no clipping.
    """

    rates: tuple[float, ...]
    batch_size: int
    weight_decay: float
    clip_norm: float | None


class Server(Protocol):
    """The metered tools of an honest server. The row records every use of them."""

    @property
    def layout(self) -> AdapterLayout:
        """Layout of flat adapters."""

    @property
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""

    @property
    def task_templates(self) -> tuple[str, ...]:
        """Fixed texts of the clients' tasks, each with ``{instruction}`` in the place of the content.

        Empty where no task of the suite has a fixed text. The federation agrees on them, so a server knows them.
        """

    @property
    def examples(self) -> int:
        """How many training pairs the suite lets a post-hoc defense use."""

    @property
    def steps(self) -> int:
        """Number of steps of the suite's post-hoc training."""

    @property
    def learning_rate(self) -> float:
        """Rate with which the suite's post-hoc training begins."""

    @property
    def alignment_rows(self) -> int:
        """Number of rows on which the suite aligns its start model; 0 if it does not align it."""

    @property
    def alignment_schedule(self) -> AlignmentSchedule | None:
        """Steps of the suite's alignment; ``None`` if the suite does not align its start model."""

    @property
    def has_unaligned(self) -> bool:
        """Whether the server has the model from which the start was aligned.

        Without this model, the start counts as unaligned, and ``weights(layer, aligned=False)`` raises an error.
        """

    @property
    def scaling(self) -> float:
        """LoRA's factor s: an adapter adds s · B A to a layer's weights."""

    def weights(self, layer: str, *, aligned: bool = True) -> Tensor:
        """Return the weights of a layer before the federation.

        Args:
            layer: Name in ``layout.layers``.
            aligned: The start model's weights, or those of the model from which it was aligned.

        Returns:
            Float32 tensor ``[out, in]``.

        Raises:
            FedSafetyError: The layer is unknown, or the suite has no unaligned model.
        """

    def feature_norms(self, adapter: Tensor, examples: list[Example], *, of_factors: bool = False) -> dict[str, Tensor]:
        """Return the L2 norms of each adapted layer's input features x over all tokens of the examples.

        Args:
            adapter: Flat adapter that acts, of any rank r.
            examples: The rows.
            of_factors: Whether to return the norms of each LoRA factor's input: x for A, and A x for B.

        Returns:
            Name of the layer → float32 tensor ``[in]``. With ``of_factors``, name of the factor in the layout →
            ``[in]`` for A and ``[r]`` for B.
        """

    def activations(self, adapter: Tensor, prompts: list[str], layer: str) -> Tensor:
        """Return the inputs ``[prompts, in]`` (float32) of an adapted layer at the last token of each prompt."""

    def first_token_scores(self, adapter: Tensor, prompts: list[str], openings: list[str]) -> Tensor:
        """Return the log-probabilities with which answers begin as the openings do.

        Only the first token of an opening counts, so that one pass over the prompts suffices.

        Returns:
            Float32 tensor ``[prompts, openings]`` of natural logarithms.
        """

    def start(self) -> Tensor:
        """Return the adapter that the federation starts from (flat, ``[d]``), aligned if the suite aligns it.

        A fresh adapter of a suite without an alignment has no effect on answers: its factors B are zero.
        """

    def fresh(self) -> Tensor:
        """Return the adapter without effect from which the suite's alignment trains (flat, ``[d]``).

        Without an alignment in the suite, it is the start.
        """

    def owned_aligned(self, count: int) -> list[Example]:
        """Return harmful-instruction → refusal pairs the server owns."""

    def owned_normal(self, count: int) -> list[Example]:
        """Return normal rows the server owns."""

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        """Return answers of the global model with ``adapter`` (flat, ``[d]``).

        ``None`` stands for the starting model, aligned if the suite aligns it. Zeros stand for the bare base model.
        """

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return answers of an external aligned model."""

    def generate_unaligned(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return answers of the model from which the start model was aligned.

        In a suite without such a model the bare start model answers. An adapter that aligns the start is no part of it.
        """

    def finetune(
        self,
        adapter: Tensor,
        examples: list[Example],
        *,
        objective: Objective | None = None,
        steps: int | None = None,
        rate: float = 1.0,
        template: str = "",
    ) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) fine-tuned on ``examples`` with the suite's post-hoc settings.

        Args:
            adapter: Flat adapter before the first step.
            examples: Training rows, at least one.
            objective: The loss; by default the mean cross-entropy.
            steps: Number of steps in place of the suite's.
            rate: Factor on the suite's learning rates.
            template: Text around each instruction, which stands where ``{instruction}`` is; none by default.
        """

    def train_as_client(self, adapter: Tensor, examples: list[Example], index: int) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` as a client trains in a round.

        The steps, the rows of a step, the rate of the round, the largest gradient and the weight decay are a client's.

        Args:
            adapter: Flat adapter before the first step, such as ``context.broadcast``.
            examples: Training rows, at least one.
            index: Number of the round, from 0, such as ``context.index``.
        """

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""

    def align(self, adapter: Tensor, examples: list[Example], *, objective: Objective | None = None) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of the suite's alignment.

        The default objective is the mean cross-entropy.
        Without an alignment in the suite, ``adapter`` comes back as it is.
        """

    def gradient(
        self, adapter: Tensor, examples: list[Example], *, objective: Objective | None = None
    ) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of an objective on ``examples`` at ``adapter``, and the cross-entropy in nats.

        The default objective is the mean token loss.
        """

    def shuffle(self, examples: list[Example]) -> list[Example]:
        """Return the rows in an order drawn from the defense's own stream."""
