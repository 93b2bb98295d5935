"""Fixtures for the tests of a method: its instance, one small round, a server and the resources of an attacker.

The server and the resources have the classes that a run uses. Both act on the embedded world ``micro``. The server
trains with few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.base import Attack, attacks
from benchmark.execution.worlds import ATTACKER_MODEL, EXTERNAL_MODEL
from benchmark.methods.kinds import ATTACK, DEFENSE
from benchmark.methods.source import find_method
from benchmark.models.lora import initial_adapter
from benchmark.registry import Trait
from benchmark.sandbox.adopt import adopt
from benchmark.seeds import torch_stream
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.suite import PosthocSettings, TrainingSettings, find_suite
from benchmark.training.clients import Attacker
from benchmark.training.served import ModelPool, RoleModels
from benchmark.training.server import MeteredServer
from benchmark.training.weights import WeightsBefore
from benchmark.updates import AdapterLayout, RoundContext, Updates
from defenses.base import Defense, Server, defenses
from tasks.base import Example, task_worlds

PRACTICE_SEED = 1
"""Development seed, which no scored row uses."""

_POSTHOC = PosthocSettings(examples=32, steps=4, batch_size=8, learning_rate=1e-3)
_ALIGNMENT = AlignmentSettings(
    start="chat", data={"practice": 1.0}, rows=16, steps=4, batch_size=8, learning_rate=1e-3, seed=PRACTICE_SEED
)
_TRAINING = TrainingSettings(
    rounds=3, local_steps=4, batch_size=8, rows_per_client=32, learning_rate=1e-3, learning_rate_floor=1e-4
)
_NEW_TOKENS = 24


def load_defense(method: Path | str) -> Defense:
    """Return a new instance of a defense.

    Args:
        method: File of the defense, or its registry id.

    Raises:
        UsageError: The defense is unknown or cannot be imported.
    """
    submission = find_method(str(method), DEFENSE)
    adopt((submission,), isolated=False)
    return defenses.get(submission.id).create()


def load_attack(method: Path | str) -> Attack:
    """Return a new instance of an attack.

    Args:
        method: File of the attack, or its registry id.

    Raises:
        UsageError: The attack is unknown or cannot be imported.
    """
    submission = find_method(str(method), ATTACK)
    adopt((submission,), isolated=False)
    return attacks.get(submission.id).create()


def one_round(
    rows: Sequence[Sequence[float]] | Tensor,
    *,
    declared_malicious: int = 0,
    counts: Sequence[float] | None = None,
    seed: int = 0,
    server: Server | None = None,
) -> tuple[Updates, RoundContext]:
    """Return the updates and the context of the first round of a run that has one round.

    Args:
        rows: Updates of the clients, ``[n][d]``; with a server, d is the dimension of its layout.
        declared_malicious: Declared bound f on the number of malicious clients.
        counts: Number of training rows that each client reports. The default is 1 for every client.
        seed: Seed of the generator in the context.
        server: Server of the round, for a rule that asks for one. The clients then start from the server's start.
    """
    matrix = torch.as_tensor(rows, dtype=torch.float32)
    participants, dimension = matrix.shape
    updates = Updates(
        matrix=matrix,
        client_ids=tuple(f"c{index:04x}" for index in range(participants)),
        sample_counts=torch.tensor(list(counts or [1.0] * participants), dtype=torch.float64),
        layout=server.layout if server else AdapterLayout(names=("layer.lora_A",), shapes=((1, dimension),)),
    )
    context = RoundContext(
        index=0,
        rounds=1,
        declared_malicious=declared_malicious,
        broadcast=server.start() if server else torch.zeros(dimension),
        generator=torch.Generator().manual_seed(seed),
        tools=server,
    )
    return updates, context


class PracticeServer(MeteredServer):
    """Metered server that records which of its models generate.

    Args:
        observed: Set to which the server adds the trait of each call, for example ``Trait.GENERATES``.
        *arguments: Arguments of :class:`MeteredServer`.
    """

    def __init__(self, observed: set[Trait], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._observed = observed

    def alignment_examples(self) -> list[Example]:
        """Return rows that stand for the alignment's, which the world of this server lacks: half are refusals."""
        half = self.alignment_rows // 2
        return self.shuffle(self.owned_aligned(half) + self.owned_normal(self.alignment_rows - half))

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        """Return the answers of the global model with ``adapter`` (``[d]``), or of the starting model for ``None``."""
        self._observed.add(Trait.GENERATES)
        return super().generate(prompts, adapter=adapter, temperature=temperature)

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return the answers of the external model."""
        self._observed.add(Trait.GENERATES_EXTERNAL)
        return super().generate_external(prompts, temperature=temperature)

    def generate_unaligned(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return the answers of the model before the alignment."""
        self._observed.add(Trait.GENERATES_UNALIGNED)
        return super().generate_unaligned(prompts, temperature=temperature)


class PracticeAttacker(Attacker):
    """Resources of an attacker that record whether the attacker's model generates.

    Args:
        observed: Set to which a call of the model adds ``Trait.GENERATES``.
        *arguments: Arguments of :class:`Attacker`.
    """

    def __init__(self, observed: set[Trait], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._observed = observed

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        """Return the answers of the attacker's model, decoded greedily at temperature 0."""
        self._observed.add(Trait.GENERATES)
        return super().generate(prompts, rng, temperature=temperature)


def practice_server(
    seed: int = PRACTICE_SEED, owner: str = "practice", observed: set[Trait] | None = None
) -> PracticeServer:
    """Return a server with the data and the models of the world ``micro``, the chat model and the raw one before it.

    The server's attribute ``usage`` counts the data and the model calls that a method uses.

    Args:
        seed: Run seed of the server's data and of generated data.
        owner: Name of the defense in the names of seed streams.
        observed: Set to which the server adds a trait for each model that generates.
    """
    suite = find_suite("micro")
    world = task_worlds.get(suite.world).create()
    models = RoleModels(ModelPool(), suite, world)
    chat = models.open("chat")
    stacked = chat.stacked
    return PracticeServer(
        set() if observed is None else observed,
        world,
        chat,
        lambda: models.open(EXTERNAL_MODEL),
        _POSTHOC,
        seed,
        owner,
        _NEW_TOKENS,
        None,
        lambda: initial_adapter(stacked.layout, torch_stream(seed, "adapter-init")),
        _ALIGNMENT,
        WeightsBefore.of_start(world, "chat", None, stacked.layout, stacked.settings.scaling),
        partial(models.lent, world.unaligned_role("chat"), beside="chat"),
        _TRAINING,
    )


def practice_resources(observed: set[Trait] | None = None) -> PracticeAttacker:
    """Return the resources of the malicious clients in the world ``micro``.

    Args:
        observed: Set to which the resources add ``Trait.GENERATES`` if the attacker's model generates.
    """
    suite = find_suite("micro")
    world = task_worlds.get(suite.world).create()
    models = RoleModels(ModelPool(), suite, world)
    return PracticeAttacker(
        set() if observed is None else observed, world, lambda: models.open(ATTACKER_MODEL), _NEW_TOKENS
    )
