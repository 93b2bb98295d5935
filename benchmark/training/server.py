"""Tools of the honest server. Every use of them by a defense is measured and recorded in the defense's row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.models.sampling import sample
from benchmark.records.adapters import Usage
from benchmark.seeds import integer, stream, torch_stream
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.suite import PosthocSettings
from benchmark.training.served import ServedModel
from benchmark.training.tuning import align, batches_of, cosine
from benchmark.updates import AdapterLayout
from tasks.base import Automation, DataKind, Example, TaskWorld


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
    ) -> None:
        self.usage = Usage()
        self.examples = settings.examples
        self.alignment_rows = alignment.rows if alignment else 0
        self._start, self._alignment = start, alignment
        self._world, self._model, self._external = world, model, external
        self._settings, self._seed, self._owner = settings, seed, owner
        self._max_new_tokens, self._max_length = max_new_tokens, max_length
        self.opening_seconds = 0.0
        """Seconds that opening the external model took; they do not count as time of the method."""
        self._calls = self._alignments = self._gradients = 0
        self._owned: set[Example] = set()

    @property
    def layout(self) -> AdapterLayout:
        """Layout of flat adapters."""
        return self._model.stacked.layout

    @property
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""
        return self._world.automation

    def start(self) -> Tensor:
        """Return the adapter that the federation starts from (flat, ``[d]``), before any defense replaces it."""
        return self._start().clone() if self._start else torch.zeros(self.layout.dimension)

    def owned_aligned(self, count: int) -> list[Example]:
        """Return ``count`` harmful-instruction → refusal pairs the server owns."""
        self.usage.owned_aligned += count
        return self._remembered(self._world.server_aligned(count, stream(self._seed, "server", "aligned")))

    def owned_normal(self, count: int) -> list[Example]:
        """Return ``count`` normal rows the server owns."""
        self.usage.owned_normal += count
        return self._remembered(self._world.server_normal(count, stream(self._seed, "server", "normal")))

    def owned_contrast(self, count: int) -> list[Example]:
        """Return ``count`` benign look-alikes of harmful requests that the server owns; they count as normal rows."""
        self.usage.owned_normal += count
        return self._remembered(self._world.server_contrast(count, stream(self._seed, "server", "contrast")))

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
        self.usage.extra_models = max(self.usage.extra_models, 1)
        began = time.perf_counter()
        external = self._external()
        self.opening_seconds += time.perf_counter() - began
        return self._sample(external, prompts, temperature)

    def finetune(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) fine-tuned on ``examples`` with the suite's post-hoc settings.

        Rows are drawn in passes without replacement from the defense's own stream. The rate falls along a cosine from
        the settings' ``learning_rate`` to ``learning_rate_floor``, step by step under one optimiser. With
        ``restart_every``, the optimiser starts anew after so many steps and the rate is constant in between. The
        cosine then goes from stretch to stretch, and the last stretch has the floor.

        Raises:
            FedSafetyError: ``examples`` is empty.
        """
        self._check_examples("finetune", examples)
        settings = self._settings
        self._count_generated(examples)
        self.usage.finetune_steps += settings.steps
        rows = [self._model.chat.row(example, self._max_length) for example in examples]
        rng = stream(self._seed, "defense", self._owner, "finetune")
        return self._finetuned(adapter, batches_of(rows, settings.steps, settings.batch_size, rng))

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""
        if self._alignment is None:
            return []
        rows = self._world.alignment(self._alignment.rows, stream(self._alignment.seed, "alignment", "rows"))
        refusals = sum(row.kind is DataKind.ALIGNED for row in rows)
        self.usage.owned_aligned += refusals
        self.usage.owned_normal += len(rows) - refusals
        return self._remembered(rows)

    def align(self, adapter: Tensor, examples: list[Example]) -> Tensor:
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
        )

    def gradient(self, adapter: Tensor, examples: list[Example]) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of the mean token loss of ``examples`` at ``adapter``, and the loss in nats.

        One call counts as one fine-tuning step.

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
        gradient, loss = self._model.stacked.gradient(adapter, rows, dropout_seed=seed)
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            raise FedSafetyError(
                f"the gradient for {self._owner!r} is not finite at a loss of {loss}; take smaller steps to the adapter"
            )
        return gradient, loss

    def _finetuned(self, adapter: Tensor, batches: list[list[TokenRow]]) -> Tensor:
        """Return ``adapter`` trained on ``batches``, with an optimiser and rates for each stretch."""
        settings = self._settings
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
                dropout_seed=integer(self._seed, "defense", self._owner, "dropout", first),
            )
            adapter = trained.adapters[0].to(adapter.device)
        return adapter

    def shuffle(self, examples: list[Example]) -> list[Example]:
        """Return the rows in an order drawn from the defense's own stream."""
        order = stream(self._seed, "defense", self._owner, "shuffle").permutation(len(examples))
        return [examples[i] for i in order]

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

    def _remembered(self, examples: list[Example]) -> list[Example]:
        """Record rows as owned. All other rows that a defense trains on count as generated."""
        self._owned.update(examples)
        return examples

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
