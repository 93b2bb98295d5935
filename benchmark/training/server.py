"""Tools of the honest server. Every use of them by a defense is measured and recorded in the defense's row."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.models.lora import initial_adapter
from benchmark.models.rows import TokenRow
from benchmark.models.sampling import sample
from benchmark.records.adapters import Usage
from benchmark.seeds import integer, stream, torch_stream
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.suite import PosthocSettings, TrainingSettings
from benchmark.training.schedule import learning_rate
from benchmark.training.served import ServedModel
from benchmark.training.states import feature_norms, first_token_scores, last_inputs, layer_number
from benchmark.training.tuning import align, batches_of, cosine, rates_of
from benchmark.training.weights import WeightsBefore
from benchmark.updates import AdapterLayout
from defenses.base import AlignmentSchedule, Objective
from tasks.base import Automation, DataKind, Example, TaskWorld

LendsModel = Callable[[], AbstractContextManager[Callable[[], ServedModel]]]
"""Returns a context that lends a model to a part of a job; see :meth:`benchmark.training.served.RoleModels.lent`."""

SecondModel = Literal["external", "unaligned"]
"""A model beside the trained one that generates for a defense."""


class MeteredServer:
    """The tools of one run's server; implements :class:`defenses.base.Server`.

    Args:
        world: Source of owned data and prompts.
        model: The global model.
        external: Opens the external aligned model on first use.
        settings: Post-hoc settings of the suite.
        seed: Run seed.
        owner: Name of the defense's own random streams.
        max_new_tokens: Length limit of generated data.
        max_length: Largest number of tokens of a training row; longer rows are cut.
        start: Returns the adapter that the federation starts from; by default one without effect.
        alignment: Settings by which the start model is aligned; ``None`` if the suite does not align it.
        weights: Weights of the start model and of the unaligned model; ``None`` if no method reads them.
        unaligned: Lends a function that opens the model before the alignment; ``None`` if this is the bare start model.
        training: Local training of clients; ``None`` if no method trains as a client.

    Attributes:
        usage: What the methods used.
        opened: The second models that generated: ``external``, ``unaligned``, or both.
        opening_seconds: Seconds that opening these models took; they do not count as time of the method.
    """

    def __init__(
        self,
        world: TaskWorld,
        model: ServedModel,
        external: Callable[[], ServedModel],
        settings: PosthocSettings,
        seed: int,
        owner: str,
        max_new_tokens: int,
        max_length: int | None = None,
        start: Callable[[], Tensor] | None = None,
        alignment: AlignmentSettings | None = None,
        weights: WeightsBefore | None = None,
        unaligned: LendsModel | None = None,
        training: TrainingSettings | None = None,
    ) -> None:
        self.usage = Usage()
        self.opened: set[SecondModel] = set()
        self.examples, self.steps, self.learning_rate = settings.examples, settings.steps, settings.learning_rate
        self.alignment_rows = alignment.rows if alignment else 0
        self.alignment_schedule = _schedule(alignment) if alignment else None
        self._start, self._alignment = start, alignment
        self._world, self._model, self._external = world, model, external
        self._settings, self._seed, self._owner = settings, seed, owner
        self._max_new_tokens, self._max_length = max_new_tokens, max_length
        self.opening_seconds = 0.0
        self._weights, self._unaligned, self._training = weights, unaligned, training
        self._calls = self._alignments = self._gradients = self._finetunes = self._client_trainings = 0
        self._owned: set[Example] = set()
        self._sources: dict[str, Counter[Example]] = {}

    @property
    def layout(self) -> AdapterLayout:
        """Layout of flat adapters."""
        return self._model.stacked.layout

    @property
    def has_unaligned(self) -> bool:
        """Whether the server has the model from which the start was aligned."""
        return self._alignment is not None or (self._weights is not None and self._weights.differ)

    @property
    def scaling(self) -> float:
        """LoRA's factor s: an adapter adds s · B A to a layer's weights."""
        return self._model.stacked.settings.scaling

    def weights(self, layer: str, *, aligned: bool = True) -> Tensor:
        """Return the weights ``[out, in]`` (float32) of an adapted layer before the federation.

        Args:
            layer: Name in ``layout.layers``.
            aligned: The start model's weights, or those of the model from which it was aligned.

        Raises:
            FedSafetyError: The layer carries no adapter, or the suite has no unaligned model.
        """
        layer_number(self._model, layer)
        if self._weights is None or not (aligned or self._weights.differ):
            raise FedSafetyError(
                f"{self._owner!r} asks for the weights before alignment, and the suite has no unaligned model beside "
                f"the start model; give the suite an alignment or a model of role 'unaligned'"
            )
        return self._weights.of(layer, aligned=aligned)

    def feature_norms(self, adapter: Tensor, examples: list[Example], *, of_factors: bool = False) -> dict[str, Tensor]:
        """Return the L2 norms of each adapted layer's input features x over all tokens of the examples.

        Args:
            adapter: Flat adapter that acts, of any rank r.
            examples: The rows.
            of_factors: Whether to return the norms of each LoRA factor's input: x for A, and A x for B.

        Returns:
            Name of the layer → float32 tensor ``[in]``. With ``of_factors``, name of the factor in the layout →
            ``[in]`` for A and ``[r]`` for B.

        Raises:
            FedSafetyError: ``examples`` is empty.
        """
        self._check_examples("feature_norms", examples)
        self._count_generated(examples)
        longest = self._alignment.max_length if self._alignment else self._max_length
        rows = [self._model.chat.row(each, longest) for each in examples]
        return feature_norms(self._model, adapter, rows, of_factors=of_factors)

    def activations(self, adapter: Tensor, prompts: list[str], layer: str) -> Tensor:
        """Return the inputs ``[prompts, in]`` (float32) of an adapted layer at the last token of each prompt.

        Raises:
            FedSafetyError: ``prompts`` is empty, or the layer carries no adapter.
        """
        return last_inputs(self._model, adapter, self._prompt_ids("activations", prompts), layer)

    def first_token_scores(self, adapter: Tensor, prompts: list[str], openings: list[str]) -> Tensor:
        """Return the log-probabilities ``[prompts, openings]`` with which answers begin as the openings do.

        Only the first token of an opening counts.

        Raises:
            FedSafetyError: ``prompts`` or ``openings`` is empty.
        """
        if not openings:
            raise FedSafetyError(f"{self._owner!r} called first_token_scores() with no opening; give at least one")
        tokens = [self._model.chat.token_id(opening) for opening in openings]
        return first_token_scores(self._model, adapter, self._prompt_ids("first_token_scores", prompts), tokens)

    @property
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""
        return self._world.automation

    @property
    def task_templates(self) -> tuple[str, ...]:
        """Fixed texts of the clients' tasks, each with ``{instruction}`` in the place of the content."""
        return self._world.task_templates

    def start(self) -> Tensor:
        """Return the adapter that the federation starts from (flat, ``[d]``), before any defense replaces it."""
        return self._start().clone() if self._start else torch.zeros(self.layout.dimension)

    def fresh(self) -> Tensor:
        """Return the adapter without effect from which the suite's alignment trains, or else the start."""
        if self._alignment is None:
            return self.start()
        return initial_adapter(self.layout, torch_stream(self._alignment.seed, "adapter-init"))

    def owned_aligned(self, count: int) -> list[Example]:
        """Return ``count`` harmful-instruction → refusal pairs the server owns."""
        rows = self._world.server_aligned(count, stream(self._seed, "server", "aligned"))
        self.usage.owned_aligned += self._handed_out("aligned", rows).total()
        return rows

    def owned_normal(self, count: int) -> list[Example]:
        """Return ``count`` normal rows the server owns."""
        rows = self._world.server_normal(count, stream(self._seed, "server", "normal"))
        self.usage.owned_normal += self._handed_out("normal", rows).total()
        return rows

    def owned_contrast(self, count: int) -> list[Example]:
        """Return ``count`` benign look-alikes of harmful requests that the server owns; they count as normal rows."""
        rows = self._world.server_contrast(count, stream(self._seed, "server", "contrast"))
        self.usage.owned_normal += self._handed_out("contrast", rows).total()
        return rows

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        """Return answers of the global model with ``adapter`` (flat, ``[d]``).

        ``None`` stands for the starting model, aligned if the suite aligns it. Zeros stand for the bare base model.
        """
        # An adapter that is not aligned has no effect, so the base model answers faster alone.
        self._model.stacked.attach(self.start() if adapter is None and self._alignment else adapter)
        try:
            return self._sample(self._model, prompts, temperature)
        finally:
            self._model.stacked.clear()

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return answers of an external aligned model."""
        return self._sample(self._second("external", self._external), prompts, temperature)

    def generate_unaligned(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return answers of the model from which the start model was aligned, or else of the bare start model."""
        if self._unaligned is None:
            self._model.stacked.attach(None)
            return self._sample(self._model, prompts, temperature)
        with self._unaligned() as open_model:
            return self._sample(self._second("unaligned", open_model), prompts, temperature)

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

        Rows are drawn in passes without replacement from the defense's own stream. The rate falls along a cosine from
        the settings' ``learning_rate`` to ``learning_rate_floor``, step by step under one optimiser. With
        ``restart_every``, the optimiser starts anew after so many steps and the rate is constant in between. The
        cosine then goes from stretch to stretch, and the last stretch has the floor.

        Args:
            adapter: Flat adapter before the first step.
            examples: Training rows, at least one.
            objective: The loss; by default the mean cross-entropy.
            steps: Number of steps in place of the suite's, which then are one stretch.
            rate: Factor on the suite's learning rates.
            template: Text around each instruction, which stands where ``{instruction}`` is; none by default.

        Raises:
            FedSafetyError: ``examples`` is empty, ``steps`` or ``rate`` is not positive, or ``template`` has not one
                place for the instruction.
        """
        self._check_examples("finetune", examples)
        if steps is not None:
            if steps < 1:
                raise FedSafetyError(f"{self._owner!r} fine-tunes for {steps} steps; take at least one")
            restart = self._settings.restart_every if steps == self._settings.steps else None
            settings = self._settings.model_copy(update={"steps": steps, "restart_every": restart})
        else:
            settings = self._settings
        if not 0.0 < rate < math.inf:
            raise FedSafetyError(f"{self._owner!r} fine-tunes with {rate} times the rate; take a positive factor")
        if rate != 1.0:
            rates = {name: getattr(settings, name) * rate for name in ("learning_rate", "learning_rate_floor")}
            settings = settings.model_copy(update=rates)
        self._count_generated(examples)
        self.usage.finetune_steps += settings.steps
        self._finetunes += 1
        again = () if self._finetunes == 1 else (self._finetunes,)
        filled = [_filled(example, template, self._owner) for example in examples] if template else examples
        rows = [self._model.chat.row(example, self._max_length) for example in filled]
        rng = stream(self._seed, "defense", self._owner, "finetune", *again)
        batches = batches_of(rows, settings.steps, settings.batch_size, rng)
        return self._finetuned(adapter, batches, settings, objective, again)

    def train_as_client(self, adapter: Tensor, examples: list[Example], index: int) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` as a client trains in a round.

        Rows are drawn from the defense's own stream, in passes without replacement where they are fewer than a client
        reads in a round. Every call draws anew.

        Args:
            adapter: Flat adapter before the first step.
            examples: Training rows, at least one.
            index: Number of the round, from 0.

        Raises:
            FedSafetyError: ``examples`` is empty, the federation has no round ``index``, or this server was made
                without the settings of the clients' training.
        """
        self._check_examples("train_as_client", examples)
        training = self._training
        if training is None:
            raise FedSafetyError(
                f"{self._owner!r} trains as a client, and this server was made without the settings of the clients' "
                f"training; pass training=..."
            )
        if not 0 <= index < training.rounds:
            raise FedSafetyError(
                f"{self._owner!r} trains as a client of round {index}, and the {training.rounds} rounds are counted "
                f"from 0; pass context.index"
            )
        self._count_generated(examples)
        self.usage.finetune_steps += training.local_steps
        self._client_trainings += 1
        names = ("defense", self._owner, "train as client", self._client_trainings)
        rows = [self._model.chat.row(example, self._max_length) for example in examples]
        batches = batches_of(rows, training.local_steps, training.batch_size, stream(self._seed, *names))
        trained = self._model.stacked.train(
            adapter,
            [batches],
            learning_rate=learning_rate(training, index),
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
            dropout_seed=integer(self._seed, *names, "dropout"),
        )
        return trained.adapters[0].to(adapter.device)

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""
        if self._alignment is None:
            return []
        rows = self._world.alignment(self._alignment.rows, stream(self._alignment.seed, "alignment", "rows"))
        new = self._handed_out("alignment", rows)
        refusals = sum(count for row, count in new.items() if row.kind is DataKind.ALIGNED)
        self.usage.owned_aligned += refusals
        self.usage.owned_normal += new.total() - refusals
        return rows

    def align(self, adapter: Tensor, examples: list[Example], *, objective: Objective | None = None) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of the suite's alignment.

        Without an alignment in the suite, ``adapter`` comes back as it is.

        Raises:
            FedSafetyError: ``examples`` is empty, and the suite has an alignment.
        """
        if self._alignment is None:
            return adapter
        self._check_examples("align", examples)
        self._count_generated(examples)
        self.usage.finetune_steps += self._alignment.steps
        self._alignments += 1
        names = ("defense", self._owner, "align", self._alignments)
        return align(
            self._model,
            self._alignment,
            adapter,
            examples,
            stream(self._seed, *names),
            integer(self._seed, *names, "dropout"),
            objective,
        )

    def gradient(
        self, adapter: Tensor, examples: list[Example], *, objective: Objective | None = None
    ) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of an objective on ``examples`` at ``adapter``, and the cross-entropy in nats.

        The default objective is the mean token loss. One call counts as one fine-tuning step.

        Raises:
            FedSafetyError: ``examples`` is empty, or the gradient or the loss is not finite.
        """
        self._check_examples("gradient", examples)
        self._count_generated(examples)
        self.usage.finetune_steps += 1
        self._gradients += 1
        longest = self._alignment.max_length if self._alignment else self._max_length
        rows = [self._model.chat.row(example, longest) for example in examples]
        seed = integer(self._seed, "defense", self._owner, "gradient", self._gradients)
        gradient, loss = self._model.stacked.gradient(adapter, rows, dropout_seed=seed, objective=objective)
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            raise FedSafetyError(
                f"the gradient for {self._owner!r} is not finite at a loss of {loss}; take smaller steps to the adapter"
            )
        return gradient, loss

    def _finetuned(
        self,
        adapter: Tensor,
        batches: list[list[TokenRow]],
        settings: PosthocSettings,
        objective: Objective | None,
        again: tuple[int, ...],
    ) -> Tensor:
        """Return ``adapter`` trained on ``batches``, with an optimiser and rates for each stretch.

        Args:
            adapter: Flat adapter before the first step.
            batches: Rows of each step.
            settings: Steps and rates.
            objective: The loss; ``None`` for the mean cross-entropy.
            again: Number of the fine-tuning, part of the names of its random streams; empty for the first.
        """
        if objective is not None and objective.proximal and objective.anchor is None:
            objective = replace(objective, anchor=adapter)  # else each stretch would have an anchor of its own
        stretch = settings.restart_every or settings.steps
        for first in range(0, settings.steps, stretch):
            if settings.restart_every is None:
                rates = [cosine(settings, step / settings.steps) for step in range(settings.steps)]
            else:
                last = settings.steps // stretch - 1
                rates = [cosine(settings, first // stretch / max(1, last))] * stretch
            trained = self._model.stacked.train(
                adapter,
                [batches[first : first + stretch]],
                learning_rate=rates,
                clip_norm=settings.clip_norm,
                dropout_seed=integer(self._seed, "defense", self._owner, "dropout", first, *again),
                objective=objective,
            )
            adapter = trained.adapters[0].to(adapter.device)
        return adapter

    def shuffle(self, examples: list[Example]) -> list[Example]:
        """Return the rows in an order drawn from the defense's own stream."""
        order = stream(self._seed, "defense", self._owner, "shuffle").permutation(len(examples))
        return [examples[i] for i in order]

    def _prompt_ids(self, tool: str, prompts: list[str]) -> list[tuple[int, ...]]:
        if not prompts:
            raise FedSafetyError(f"{self._owner!r} called {tool}() with no prompt; give it at least one")
        return [self._model.chat.prompt_ids(prompt, name=f"prompt {i}") for i, prompt in enumerate(prompts)]

    def _check_examples(self, tool: str, examples: list[Example]) -> None:
        if not examples:
            raise FedSafetyError(f"{self._owner!r} called {tool}() with no example; give it at least one")

    def _count_generated(self, examples: list[Example]) -> None:
        """Record the rows that the server does not own."""
        generated = [example for example in examples if example not in self._owned]
        self.usage.generated_pairs += len(generated)
        self.usage.generated_leaks += sum(
            self._world.leaks_evaluation(f"{e.instruction} {e.response}") for e in generated
        )

    def _handed_out(self, source: str, examples: list[Example]) -> Counter[Example]:
        """Record rows as owned, and return those that their source had not handed out before, with multiplicity.

        A method that asks in every round gets the same rows each time, and the server owns them once. All rows that no
        source handed out count as generated when a defense trains on them.
        """
        before, rows = self._sources.get(source, Counter()), Counter(examples)
        self._sources[source] = before | rows
        self._owned.update(rows)
        return rows - before

    def _second(self, name: SecondModel, open_model: Callable[[], ServedModel]) -> ServedModel:
        """Return a model beside the trained one, and record that it was used."""
        self.opened.add(name)
        self.usage.extra_models = len(self.opened)
        began = time.perf_counter()
        model = open_model()
        self.opening_seconds += time.perf_counter() - began
        return model

    def _sample(self, model: ServedModel, prompts: Sequence[str], temperature: float) -> list[str]:
        self._calls += 1
        answers, tokens = sample(
            model.stacked.model,
            model.chat,
            prompts,
            temperature=temperature,
            max_new_tokens=self._max_new_tokens,
            generator=torch_stream(self._seed, "defense", self._owner, "generate", self._calls),
            per_prompt=self._world.draws_prompt_by_prompt,
        )
        self.usage.generated_tokens += tokens
        return answers


def _schedule(settings: AlignmentSettings) -> AlignmentSchedule:
    rates = tuple(rates_of(settings))
    return AlignmentSchedule(rates, settings.batch_size, settings.weight_decay, settings.clip_norm)


_SLOT = "{instruction}"


def _filled(example: Example, template: str, owner: str) -> Example:
    """Return the example with its instruction in the template."""
    places = template.count(_SLOT)
    if places != 1:
        raise FedSafetyError(
            f"{owner!r} fine-tunes with the template {template!r:.80}, which has {places} places for the instruction; "
            f"write {_SLOT} once"
        )
    return replace(example, instruction=template.replace(_SLOT, example.instruction))
