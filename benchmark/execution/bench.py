"""Tools of a training job, and the state that a process keeps from one job to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor

from attacks.base import Attack, attacks
from benchmark.errors import FedSafetyError
from benchmark.execution.alignment import aligned_start
from benchmark.execution.client_rows import ClientRowsCache
from benchmark.execution.worlds import EXTERNAL_MODEL, generation_limit, open_world
from benchmark.models.loading import load_causal_lm
from benchmark.models.lora import initial_adapter
from benchmark.records.environment import package_versions, processor
from benchmark.records.remembered import RememberedRounds
from benchmark.records.store import Store
from benchmark.sandbox.proxy import created
from benchmark.seeds import torch_stream
from benchmark.suites.suite import Scenario, Suite
from benchmark.training.clients import ClientRows
from benchmark.training.federation import LocalTrainer
from benchmark.training.remembered import RememberingTrainer
from benchmark.training.sequential import SequentialModel
from benchmark.training.served import ModelPool, RoleModels, ServedModel
from benchmark.training.server import MeteredServer
from benchmark.training.weights import WeightsBefore


class Bench:
    """State that a process keeps from one job to the next.

    Attributes:
        models: Open models.
        client_rows: Client rows of the last scenario.
    """

    def __init__(self) -> None:
        self.models = ModelPool()
        self.client_rows = ClientRowsCache(self.models)


class JobTools:
    """World, models and tools of one (suite, scenario, seed).

    Args:
        suite: The suite.
        scenario: The scenario.
        seed: Run seed.
        bench: Models and client rows of earlier jobs.
        store: Holds the alignment that an earlier job made; ``None`` for making it anew.
        memory: Remembered rounds, or ``None`` to train every round.

    Attributes:
        suite: The suite with the scenario's own settings of local training.
    """

    def __init__(
        self,
        suite: Suite,
        scenario: Scenario,
        seed: int,
        bench: Bench,
        store: Store | None = None,
        memory: RememberedRounds | None = None,
    ) -> None:
        self.suite, self.scenario, self.seed = suite.under(scenario), scenario, seed
        self._bench, self.store, self._memory = bench, store, memory
        self.world = open_world(suite, scenario)
        self._models = RoleModels(bench.models, suite, self.world)
        self._max_new_tokens = generation_limit(suite, self.world.probes())

    @property
    def model(self) -> ServedModel:
        """The starting model of the scenario."""
        return self._models.open(self.scenario.start)

    @cached_property
    def start(self) -> Tensor:
        """The adapter that the federation starts from (flat, ``[d]``): the aligned start, or a fresh adapter."""
        if self.suite.aligned(self.scenario):
            return aligned_start(self.suite, self._models.pool, self.store)
        return initial_adapter(self.model.stacked.layout, torch_stream(self.seed, "adapter-init"))

    def client_rows(self) -> ClientRows:
        """Return every client's rows."""
        return self._bench.client_rows.get(self.suite, self.scenario, self.seed)

    def attack(self) -> AbstractContextManager[Attack]:
        """Return the attack of the scenario, for its hook ``craft``."""
        attack = self.scenario.attack
        return created(attacks.get(attack.id), attack.params, hooks=("craft",))

    def trainer(self) -> LocalTrainer:
        """Return the trainer that the suite chooses."""
        stacked = self.model.stacked
        if self.suite.training.mode == "stacked":
            return stacked
        checkpoint = self.world.checkpoint(self.scenario.start)
        model = load_causal_lm(
            checkpoint.path,
            dtype=checkpoint.dtype,
            quantization=checkpoint.quantization,
            gradient_checkpointing=self.suite.training.gradient_checkpointing,
        )
        return SequentialModel(model, self.suite.lora, stacked.pad_id)

    def remembering_trainer(self) -> RememberingTrainer:
        """Return the trainer that the suite chooses, with the memory of the job for its first round."""
        checkpoint, training = self.world.checkpoint(self.scenario.start), self.suite.training
        circumstances = {
            "model": [checkpoint.identity, checkpoint.dtype, checkpoint.quantization],
            "lora": self.suite.lora.model_dump(mode="json"),
            "mode": [training.mode, training.gradient_checkpointing, self.suite.compute.train_memory_gib],
            "lean": self.model.stacked.lean,
            # Another processor or version rounds differently. An entry must equal what this process would train.
            "machine": [package_versions(), processor(), torch.get_num_threads(), str(self.model.stacked.device)],
        }
        return RememberingTrainer(self.trainer, self.model.stacked.layout, self._memory, circumstances)

    def server(
        self, owner: str, external: Callable[[], ServedModel] | None = None, *, seed: int | None = None
    ) -> MeteredServer:
        """Return a server with tools of its own.

        Args:
            owner: Name of the random streams that the server draws from.
            external: Opens the external model; by default as :meth:`external` does.
            seed: Seed of the streams; by default the run seed.
        """
        role = self.world.unaligned_role(self.scenario.start)
        return MeteredServer(
            self.world,
            self.model,
            external or self.external,
            self.suite.posthoc,
            self.seed if seed is None else seed,
            owner,
            self._max_new_tokens,
            self.suite.training.max_length,
            lambda: self.start,
            self.suite.aligned(self.scenario),
            self._weights(),
            partial(self._models.lent, role, beside=self.scenario.start) if role else None,
            self.suite.training,
        )

    def _weights(self) -> WeightsBefore:
        """Return the weights of the start model and of the model from which it was aligned."""
        stacked = self.model.stacked
        adapter = (lambda: self.start) if self.suite.aligned(self.scenario) else None
        return WeightsBefore.of_start(
            self.world, self.scenario.start, adapter, stacked.layout, stacked.settings.scaling
        )

    def external(self) -> ServedModel:
        """Return the external model.

        Raises:
            FedSafetyError: The suite names no external model.
        """
        self._check_external()
        return self._models.open(EXTERNAL_MODEL)

    @contextmanager
    def lent_external(self) -> Iterator[Callable[[], ServedModel]]:
        """Lend the external model; yields a function that opens it, as :meth:`external` does."""
        with self._models.lent(EXTERNAL_MODEL, beside=self.scenario.start) as opener:

            def external() -> ServedModel:
                self._check_external()
                return opener()

            yield external

    def _check_external(self) -> None:
        if EXTERNAL_MODEL not in self.world.roles:
            raise FedSafetyError(
                f"suite {self.suite.id!r} names no external model, which this defense needs; add the role "
                f"{EXTERNAL_MODEL!r} to its models, or leave the defense out"
            )
