"""Rows of every client of a run: benign rows, or the rows with which the attack replaces them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from attacks.base import Attack
from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.models.sampling import sample
from benchmark.seeds import stream, torch_stream
from benchmark.suites.suite import Scenario, TrainingSettings
from benchmark.training.schedule import Federation
from benchmark.training.served import ServedModel
from tasks.base import Automation, Example, TaskWorld


@dataclass(frozen=True)
class ClientRows:
    """Training rows of all clients of a run.

    Attributes:
        rows: For each client id its rows, tokenised.
        malicious_rows: Number of distinct malicious rows that the attackers share.
        malicious_leaks: Number of malicious rows that name an evaluation item.
        repeated: Repetitions in the attackers' data; see :attr:`tasks.base.TaskWorld.repeated`.
        spellings: Spellings of control tokens in the rows; see :mod:`benchmark.models.control`.
    """

    rows: dict[str, list[TokenRow]]
    malicious_rows: int
    malicious_leaks: int
    repeated: Mapping[str, int] = field(default_factory=dict)
    spellings: int = 0


class Attacker:
    """Resources of malicious clients; implements :class:`attacks.base.AttackerResources`.

    Args:
        world: Source of public unaligned pairs and prompts.
        model: Opens the off-the-shelf model that the attacker controls, on its first use.
        max_new_tokens: Length limit of generated data.
    """

    def __init__(self, world: TaskWorld, model: Callable[[], ServedModel], max_new_tokens: int) -> None:
        self._world, self._open, self._max_new_tokens = world, model, max_new_tokens
        self.automation: Automation = world.automation

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return public harmful-instruction → compliance pairs."""
        return self._world.unaligned(count, rng)

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        """Return the attacker-controlled model's answers; temperature 0 is greedy."""
        model = self._open()
        answers, _ = sample(
            model.stacked.model,
            model.chat,
            prompts,
            temperature=temperature,
            max_new_tokens=self._max_new_tokens,
            generator=torch_stream(int(rng.integers(1 << 62)), "attack", "generate"),
            per_prompt=self._world.draws_prompt_by_prompt,
        )
        return answers

    def leaks_evaluation(self, text: str) -> bool:
        """Return whether ``text`` names an evaluation item."""
        return self._world.leaks_evaluation(text)


def make_client_rows(
    scenario: Scenario,
    training: TrainingSettings,
    federation: Federation,
    world: TaskWorld,
    attack: Attack,
    attacker: Attacker,
    model: ServedModel,
    seed: int,
) -> ClientRows:
    """Return every client's rows. All clients hold the same number, so that counts do not reveal attackers.

    Honest rows depend on the seed and the client alone, so the honest clients of a twin hold the same rows.

    Raises:
        FedSafetyError: An attack changed the number of a client's rows.
    """
    pool = attack.pool(attacker, stream(seed, "attack", "pool")) if scenario.malicious else []
    rows: dict[str, list[TokenRow]] = {}
    spellings = 0
    honest = world.benign_shards(
        training.rows_per_client,
        partial(stream, seed, "client-data"),
        refusal_share=scenario.refusal_share,
        shares={client: federation.task_shares[client] for client in federation.client_ids},
    )
    for client, examples in honest.items():
        if client in federation.compromised:
            examples = attack.poison(examples, pool, stream(seed, "attack", "poison", client))
            if len(examples) != training.rows_per_client:
                raise FedSafetyError(
                    f"attack {scenario.attack.id!r} gave a client {len(examples)} rows, but every client holds "
                    f"{training.rows_per_client}; return as many rows from poison() as it receives"
                )
        rows[client] = [model.chat.row(example, training.max_length) for example in examples]
        spellings += sum(model.chat.control.count(example.instruction, example.response) for example in examples)
    distinct = {f"{pair.instruction} {pair.response}" for pair in pool}
    leaks = sum(map(world.leaks_evaluation, distinct))
    return ClientRows(rows, len(distinct), leaks, dict(world.repeated), spellings)
