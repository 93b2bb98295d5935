"""Tools of the honest server. Every use of them by a defense is measured and recorded in the defense's row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.models.sampling import sample
from benchmark.records.adapters import Usage
from benchmark.seeds import integer, stream, torch_stream
from benchmark.suites.suite import PosthocSettings
from benchmark.training.served import ServedModel
from benchmark.updates import AdapterLayout
from tasks.base import Automation, Example, TaskWorld


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
    ) -> None:
        self.usage = Usage()
        self.examples = settings.examples
        self._world, self._model, self._external = world, model, external
        self._settings, self._seed, self._owner = settings, seed, owner
        self._max_new_tokens, self._max_length = max_new_tokens, max_length
        self.opening_seconds = 0.0
        """Seconds that opening the external model took; they do not count as time of the method."""
        self._calls = 0
        self._owned: set[Example] = set()

    @property
    def layout(self) -> AdapterLayout:
        """Layout of flat adapters."""
        return self._model.stacked.layout

    @property
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""
        return self._world.automation

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
        """Return answers of the global model with ``adapter`` (flat, ``[d]``; ``None``: the starting model)."""
        self._model.stacked.attach(adapter)
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
        if not examples:
            raise FedSafetyError(f"{self._owner!r} called finetune() with no example; give it at least one")
        settings = self._settings
        generated = [example for example in examples if example not in self._owned]
        self.usage.generated_pairs += len(generated)
        self.usage.generated_leaks += sum(
            self._world.leaks_evaluation(f"{e.instruction} {e.response}") for e in generated
        )
        self.usage.finetune_steps += settings.steps
        rows = [self._model.chat.row(example, self._max_length) for example in examples]
        rng = stream(self._seed, "defense", self._owner, "finetune")
        order: list[int] = []
        while len(order) < settings.steps * settings.batch_size:
            order += rng.permutation(len(rows)).tolist()
        size = settings.batch_size
        batches = [[rows[i] for i in order[k * size : (k + 1) * size]] for k in range(settings.steps)]
        return self._finetuned(adapter, batches)

    def _finetuned(self, adapter: Tensor, batches: list[list[TokenRow]]) -> Tensor:
        """Return ``adapter`` trained on ``batches``, with an optimiser and rates for each stretch."""
        settings = self._settings
        stretch = settings.restart_every or settings.steps
        for first in range(0, settings.steps, stretch):
            if settings.restart_every is None:
                rates = [_cosine(settings, step / settings.steps) for step in range(settings.steps)]
            else:
                last = settings.steps // stretch - 1
                rates = [_cosine(settings, first // stretch / max(1, last))] * stretch
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


def _cosine(settings: PosthocSettings, progress: float) -> float:
    """Return the learning rate at ``progress`` (0 to 1) of a cosine from the initial rate to the floor."""
    span = settings.learning_rate - settings.learning_rate_floor
    return settings.learning_rate_floor + span * 0.5 * (1 + math.cos(math.pi * progress))
