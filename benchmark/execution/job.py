"""One training job: a federated training and the adapters that are derived from it, written to the store.

A job trains, finalizes, attacks again and saves. Each step is a function that returns a :class:`Trained` adapter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import StorageError
from benchmark.execution.alignment import start_input
from benchmark.execution.bench import Bench, JobTools
from benchmark.execution.canaries import canary_of
from benchmark.execution.outcome import reason_of
from benchmark.execution.plan import TrainingJob
from benchmark.execution.prepared import prepared_start, replaces_alignment
from benchmark.execution.worlds import EXTERNAL_MODEL, attacker_role
from benchmark.methods.pipeline import Pipeline, parse_pipeline
from benchmark.models.lora import export_peft, import_peft
from benchmark.records.adapters import Usage, adapter_is_complete, read_record, write_record
from benchmark.records.remembered import RememberedRounds
from benchmark.records.store import Store, writing
from benchmark.sandbox.proxy import created
from benchmark.suites.suite import Suite
from benchmark.training.door import check_final
from benchmark.training.federation import FederationResult, RoundRecord, Setting, run_federation
from benchmark.training.schedule import cast
from defenses.base import Defense, Knowledge

REATTACK = ("reattack",)
"""Phase of the streams of the federation that follows a repair."""


@dataclass(frozen=True)
class JobReport:
    """Result of a job.

    Attributes:
        training_key: Key of the training.
        failures: For each adapter key that the job could not make, the reason; empty if the job made all adapters.
        remembered: Keys of the remembered rounds that the job read or made.
    """

    training_key: str
    failures: dict[str, str]
    remembered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """An adapter and its record.

    Attributes:
        adapter: Flat adapter, ``[d]``.
        record: Content of the adapter's record, without the inputs; see :mod:`benchmark.records.adapters`.
        repeated: Number of repetitions in the attackers' data by pool; see :attr:`tasks.base.TaskWorld.repeated`.
    """

    adapter: Tensor
    record: dict[str, Any]
    repeated: Mapping[str, int] = field(default_factory=dict)


def run_job(
    suite: Suite, job: TrainingJob, root: Path, bench: Bench, memory: RememberedRounds | None = None
) -> JobReport:
    """Train, derive all adapters of the job that the store lacks, and write them.

    A failure of one adapter does not affect the others. A failure of the training fails all of them.

    Args:
        suite: The suite.
        job: The job.
        root: Folder of the store.
        bench: Models and client rows of earlier jobs of this process.
        memory: Remembered rounds, or ``None`` to train every round.

    Raises:
        StorageError: The store cannot be written. No method is to blame, so no cell fails.
    """
    store = Store(root)
    missing = {key: name for key, name in job.pipelines.items() if not adapter_is_complete(store, key)}
    failures: dict[str, str] = {}
    finalized: dict[str, Trained] = {}  # by pipeline, because several re-attacks start from the same repaired adapter
    try:
        tools = JobTools(suite, job.scenario, job.seed, bench, store, memory)
        trained = load_or_train(tools, job, store)
    except StorageError:
        raise
    except BaseException as error:  # a submitted method may raise anything, even SystemExit; the plan goes on
        return JobReport(job.training_key, dict.fromkeys(missing, reason_of(error)), _used(memory))
    for key, name in missing.items():
        if key == job.training_key:
            continue
        try:
            if name not in finalized:
                finalized[name] = finalize(tools, trained, parse_pipeline(name))
            result = finalized[name]
            if rounds := job.reattacks.get(key, 0):
                result = reattack(tools, result, rounds)
            save(tools, store, key, result)
        except StorageError:
            raise
        except BaseException as error:  # as above
            failures[key] = reason_of(error)
    return JobReport(job.training_key, failures, _used(memory))


def training_is_stored(store: Store, key: str) -> bool:
    """Return whether the store holds the adapter and the rounds of a training."""
    return adapter_is_complete(store, key) and store.has("rounds", key)


def load_or_train(tools: JobTools, job: TrainingJob, store: Store) -> Trained:
    """Return the job's trained adapter, from the store or by training."""
    if training_is_stored(store, job.training_key):
        folder = store.adapter_folder(job.training_key)
        return Trained(import_peft(folder, tools.model.stacked.layout, tools.suite.lora), read_record(folder))
    trained, rounds = train(tools, parse_pipeline(next(iter(job.pipelines.values()))))
    store.write("rounds", job.training_key, [_round_row(job.training_key, i, r) for i, r in enumerate(rounds)])
    save(tools, store, job.training_key, trained)
    return trained


def train(tools: JobTools, pipeline: Pipeline) -> tuple[Trained, tuple[RoundRecord, ...]]:
    """Return the adapter of a federated training with the pipeline's aggregator, and the record of every round."""
    # Make the rows before the clock starts, because later jobs of the scenario reuse them.
    data = tools.client_rows()
    began = time.perf_counter()
    suite, scenario, seed, aggregator = tools.suite, tools.scenario, tools.seed, pipeline.aggregator
    owner = aggregator.info.id if aggregator else "default"
    server, prepared = tools.server(owner), None
    if aggregator and replaces_alignment(suite, scenario, aggregator):
        prepared = prepared_start(tools, aggregator)
        server.usage, server.opened = server.usage.plus(prepared.usage), {*prepared.opened}
        # Wall time plus these seconds is what the training takes anew, whichever job of a run made the start.
        began = time.perf_counter() - prepared.usage.server_seconds
    setting = Setting(
        scenario,
        suite.training,
        cast(scenario, suite.training, tools.world.task_types, seed),
        data.rows,
        seed,
        owner,
        reveals_malicious=aggregator is not None and aggregator.info.knowledge is Knowledge.TRUTH,
        lends_server=aggregator is not None and aggregator.info.asks_server,
        prepared=prepared.adapter if prepared else None,
    )
    # A pipeline without an aggregator trains by the defaults of its first member, which are FedAvg.
    created_defense = created(aggregator or pipeline.entries[0], hooks=("prepare", "aggregate"))
    with created_defense as defense, tools.attack() as attack:
        trainer = tools.remembering_trainer()
        result = run_federation(setting, trainer, tools.start, attack, defense, server)
    server.usage.server_seconds += result.prepare_seconds - server.opening_seconds
    server.usage.server_seconds += sum(record.aggregate_seconds for record in result.rounds)
    record = {
        "usage": asdict(server.usage),
        "second_models": sorted(server.opened),
        "malicious_rows": data.malicious_rows,
        "malicious_leaks": data.malicious_leaks,
        "spellings": data.spellings,
        "train_seconds": time.perf_counter() - began + trainer.owed_seconds,
        **_traffic(tools, result),
    }
    return Trained(result.adapter, record, data.repeated), result.rounds


def finalize(tools: JobTools, trained: Trained, pipeline: Pipeline) -> Trained:
    """Return the trained adapter after the pipeline's later stages, with the record of both."""
    adapter, usage, opened = trained.adapter, Usage(**trained.record["usage"]), _second_models(trained)
    if EXTERNAL_MODEL in tools.world.roles and not tools.world.models_are_large:
        tools.external()  # opened before the clock starts, because later defenses of the process reuse it
    for entry in pipeline.finalizers:
        with tools.lent_external() as external, created(entry, hooks=("finalize",)) as defense:
            server = tools.server(entry.info.id, external)
            began = time.perf_counter()
            adapter = defense.finalize(adapter.clone(), server)
            server.usage.server_seconds = time.perf_counter() - began - server.opening_seconds
        check_final(adapter, tools.model.stacked.layout, entry.info.id)
        usage, opened = usage.plus(server.usage), opened | server.opened
    added = {"usage": asdict(usage), "second_models": sorted(opened)}
    return replace(trained, adapter=adapter, record=trained.record | added)


def reattack(tools: JobTools, repaired: Trained, rounds: int) -> Trained:
    """Return the adapter after a second federation of the same clients, attackers among them, that starts from it.

    The second federation aggregates by FedAvg and has its own learning-rate schedule and random streams. Its traffic
    and time are added to the record. Its rounds are not stored, because the rounds table shows how the defense weighted
    its clients.
    """
    training = tools.suite.training.model_copy(update={"rounds": rounds})
    federation = cast(tools.scenario, training, tools.world.task_types, tools.seed, REATTACK)
    rows, owner = tools.client_rows().rows, REATTACK[0]
    setting = Setting(tools.scenario, training, federation, rows, tools.seed, owner, phase=REATTACK)
    with tools.attack() as attack:
        began = time.perf_counter()
        result = run_federation(setting, tools.trainer(), repaired.adapter, attack, Defense(), tools.server(owner))
        seconds = time.perf_counter() - began
    added = _traffic(tools, result) | {"train_seconds": seconds}
    record = repaired.record | {key: repaired.record[key] + value for key, value in added.items()}
    return replace(repaired, adapter=result.adapter, record=record)


def save(tools: JobTools, store: Store, key: str, trained: Trained) -> None:
    """Write an adapter with its canary and its record."""
    folder, model = store.adapter_folder(key), tools.model
    export_peft(trained.adapter, model.stacked.layout, tools.suite.lora, tools.scenario.start, folder)
    canary = canary_of(trained.adapter, model, tools.world)
    with writing(folder):
        canary.save(folder)
    write_record(store, key, {**trained.record, "chat": model.chat.digest, **_inputs(tools, trained)})


def _used(memory: RememberedRounds | None) -> tuple[str, ...]:
    return tuple(sorted(memory.used)) if memory else ()


def _traffic(tools: JobTools, result: FederationResult) -> dict[str, int]:
    """Return the number of updates that the server rejected, and the bytes that clients sent."""
    sent = sum(len(record.clients) for record in result.rounds)
    return {
        "rejected_updates": sum(len(record.rejected) for record in result.rounds),
        "upload_bytes": sent * tools.model.stacked.layout.dimension * 4,
    }


def _second_models(trained: Trained) -> set[str]:
    """Return the second models that generated for an adapter; records of earlier releases count them only."""
    return {*trained.record.get("second_models", ["external"] * trained.record["usage"]["extra_models"])}


def _inputs(tools: JobTools, trained: Trained) -> dict[str, object]:
    """Return the models and data from outside that were read for an adapter; see :class:`tasks.base.Input`."""
    roles = [tools.scenario.start]
    roles += [attacker_role(tools.world)] if tools.scenario.malicious else []
    named = {"external": EXTERNAL_MODEL, "unaligned": tools.world.unaligned_role(tools.scenario.start)}
    roles += [named[name] for name in sorted(_second_models(trained))]
    present = [role for role in dict.fromkeys(roles) if role in tools.world.roles]
    # The attackers sampled from their own world object, which counted its own repetitions.
    inputs = [
        replace(read, repeated=max(read.repeated, trained.repeated.get(read.name, 0)))
        for read in tools.world.inputs(present)
    ]
    if tools.suite.aligned(tools.scenario):
        inputs.append(start_input(tools.suite, tools.store))
    return {"inputs": [asdict(read) for read in inputs]} if inputs else {}


def _round_row(key: str, index: int, record: RoundRecord) -> dict[str, object]:
    columns = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(record).items()}
    return {"training_key": key, "round": index, **columns}
