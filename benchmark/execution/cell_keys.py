"""Keys of a cell's artefacts: training, adapter and responses.

Each key is derived from the content that the artefact depends on, and from the key of the artefact below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from attacks.base import attacks
from benchmark import PROTOCOL_VERSION
from benchmark.errors import InputsMissingError, NotFetchedError
from benchmark.execution.worlds import (
    ATTACKER_MODEL,
    EXTERNAL_MODEL,
    attacker_role,
    open_chat,
    open_world,
    world_revision,
)
from benchmark.keys import content_key
from benchmark.methods.pipeline import Pipeline, default_aggregate_digest, method_digest
from benchmark.records.identity import probe_set_key
from benchmark.registry import Entry, Trait
from benchmark.suites.suite import Scenario, Suite
from defenses.base import Defense, DefenseInfo
from tasks.base import Probe, TaskWorld
from tasks.hub.fetching import without_fetching


@dataclass(frozen=True)
class ArtefactKeys:
    """Keys of the federated training, of the served adapter and of the responses.

    Attributes:
        training: Key of the federated training.
        adapter: Key of the served adapter.
        response: Key of the responses.
        local: Key of the local training in the first round, which rules share; empty if clients do not train.
    """

    training: str
    adapter: str
    response: str
    local: str


class CellKeys:
    """Content-derived keys of the cells of a suite, with caches of the parts that many cells share.

    Args:
        suite: The suite.
        world: Source of probes and models.
        generator: Kind of engine that answers the probes.
        unresolved: Whether a model or data set that is not available gets a placeholder in the keys.

    Attributes:
        missing: Reasons why models or data are not available, in order and each once.
        unfetched: Sentences on models and data that a run fetches before it starts, likewise.
    """

    def __init__(self, suite: Suite, world: TaskWorld, generator: str, *, unresolved: bool = False) -> None:
        self._suite, self._world, self._generator, self._unresolved = suite, world, generator, unresolved
        self.missing: dict[str, None] = {}
        self.unfetched: dict[str, None] = {}
        self._probe_set = self._resolved("probes", lambda: probe_set_digest(world.probes()))
        self._models: dict[str, str] = {}
        self._revisions: dict[str, str] = {}
        self._chats: dict[str, str] = {}

    def of(self, scenario: Scenario, stage: Pipeline, seed: int) -> ArtefactKeys:
        """Return the keys of the artefacts under a cell.

        Raises:
            InputsMissingError: A model or data set is not available, and the keys need its identity.
        """
        training = self.training(scenario, stage, seed)
        adapter = self._adapter(scenario, training, stage)
        if scenario.reattack_rounds:
            adapter = _reattacked(adapter, scenario.reattack_rounds)
        local = self._local(scenario, stage, seed) if stage.trains else ""
        return ArtefactKeys(training, adapter, self._response(adapter, stage, scenario), local)

    def has_unaligned(self, scenario: Scenario) -> bool:
        """Return whether a server has the model from which a scenario's start model was aligned."""
        return bool(self._suite.aligned(scenario) or self._world.unaligned_role(scenario.start))

    def training(self, scenario: Scenario, stage: Pipeline, seed: int) -> str:
        """Return the key of a federated training."""
        aggregator = [stage.aggregator] if stage.aggregator else []
        return content_key(
            {
                "artefact": "training",
                **self._federation(scenario, seed),
                "aggregator": method_digest(aggregator),
                "default_aggregate": default_aggregate_digest(),
                **self._unaligned(scenario, aggregator),
            }
        )

    def _unaligned(self, scenario: Scenario, entries: Sequence[Entry[DefenseInfo, Defense]]) -> dict[str, str]:
        """Return the identity of the unaligned model if one of the methods may read it or let it generate.

        A rule that asks for the server's tools in its rounds may act by whether there is such a model.
        """
        role = self._world.unaligned_role(scenario.start)
        reads = role and any(_may_read_unaligned(entry.info) for entry in entries)
        return {"unaligned": self.model(role)} if reads else {}

    def _local(self, scenario: Scenario, stage: Pipeline, seed: int) -> str:
        """Return the key of the local training in the first round, which depends on no rule and no declared bound."""
        content = self._federation(scenario, seed)
        shape = {name: value for name, value in content["shape"].items() if name != "declared_malicious"}
        preparing = method_digest([stage.aggregator]) if stage.aggregator and stage.prepares else []
        return content_key({"artefact": "local training", **content, "shape": shape, "preparing": preparing})

    def _federation(self, scenario: Scenario, seed: int) -> dict[str, Any]:
        """Return the parts of a training's key that do not depend on the aggregation rule."""
        attack = attacks.get(scenario.attack.id)
        shape = scenario.model_dump(
            include={"start", "clients", "participants", "malicious", "declared_malicious", "partition"}, mode="json"
        )
        attacker = attacker_role(self._world)
        roles = {ATTACKER_MODEL: attacker} if attacker in self._world.roles else {}
        return {
            "protocol": PROTOCOL_VERSION,
            "world": [self._suite.world, self._revision(scenario)],
            "models": {name: self.model(role) for name, role in {**roles, scenario.start: scenario.start}.items()},
            "lora": self._suite.lora.model_dump(mode="json"),
            "training": self._suite.under(scenario).training.model_dump(mode="json"),
            "shape": shape,
            "refusal_share": scenario.refusal_share,
            "attack": [attack.info.id, attack.source_digest, scenario.attack.params],
            "seed": seed,
            **({"alignment": aligned.identity} if (aligned := self._suite.aligned(scenario)) else {}),
        }

    def model(self, role: str) -> str:
        """Return the identity of a role's model; empty if the world lacks the role."""
        if role not in self._models:
            present = role in self._world.roles
            self._models[role] = (
                self._resolved(f"model {role}", lambda: self._world.checkpoint(role).identity) if present else ""
            )
        return self._models[role]

    def _revision(self, scenario: Scenario) -> str:
        """Return the identity of a scenario's data."""
        if scenario.id not in self._revisions:
            self._revisions[scenario.id] = self._resolved(
                f"data of {scenario.id}", lambda: world_revision(self._suite, open_world(self._suite, scenario))
            )
        return self._revisions[scenario.id]

    def _resolved(self, what: str, find: Callable[[], str]) -> str:
        """Return the result of ``find``, or a placeholder in a plan that is only shown."""
        try:
            with without_fetching() if self._unresolved else nullcontext():
                return find()
        except InputsMissingError as error:
            if not self._unresolved:
                raise
            reasons = self.unfetched if isinstance(error, NotFetchedError) else self.missing
            reasons.setdefault(str(error))
            return f"unresolved {what}"

    def _adapter(self, scenario: Scenario, training: str, stage: Pipeline) -> str:
        if not stage.finalizers:
            return training
        return content_key(
            {
                "artefact": "adapter",
                "training": training,
                "finalizers": method_digest(stage.finalizers),
                "posthoc": self._suite.posthoc.model_dump(mode="json"),
                "external": self.model(EXTERNAL_MODEL),
                **self._unaligned(scenario, stage.finalizers),
            }
        )

    def _response(self, adapter: str, stage: Pipeline, scenario: Scenario) -> str:
        decoding = self._suite.decoding
        sampled = {"decoding": decoding.model_dump(mode="json")} if decoding.temperature else {}
        # Merged weights are rounded, so that answers may differ. Rows from before the setting keep their keys.
        merged = {"adapters": decoding.adapters} if decoding.adapters != "lora" else {}
        return content_key(
            {
                "artefact": "responses",
                "adapter": adapter,
                "servers": method_digest(stage.servers),
                "probes": self._probe_set,
                "chat": self._chat(scenario.start),
                "generator": self._generator,
                **sampled,
                **merged,
                **self._world.response_choices,
            }
        )

    def _chat(self, role: str) -> str:
        if role not in self._chats:
            self._chats[role] = self._resolved(f"model {role}", lambda: open_chat(self._world, role).digest)
        return self._chats[role]


def _may_read_unaligned(info: DefenseInfo) -> bool:
    return info.needs_alignment or info.asks_server or Trait.GENERATES_UNALIGNED in info.traits


def _reattacked(adapter: str, rounds: int) -> str:
    """Return the key of an adapter after a second federation that starts from it and averages by the base class."""
    average = default_aggregate_digest()
    return content_key({"artefact": "reattacked", "adapter": adapter, "rounds": rounds, "default_aggregate": average})


def probe_set_digest(probes: Sequence[Probe]) -> str:
    """Return the digest of a probe set; see :func:`benchmark.records.identity.probe_set_key`."""
    return probe_set_key(
        (
            *(p.id, p.kind.value, p.stratum, p.scored, p.instruction, p.max_new_tokens),
            *(p.target, p.reference, p.publish),
        )
        for p in probes
    )
