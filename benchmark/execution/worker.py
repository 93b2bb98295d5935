"""What one worker process does: one federated training and the adapters derived from it, written to the store.

Runs with one thread: results then do not depend on how many cores share the work, and two such processes use two
cores better than one process with two threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack, attacks
from benchmark.errors import FedSafetyError, StorageError, SubmissionError
from benchmark.execution.plan import TrainingJob
from benchmark.execution.worlds import EXTERNAL_MODEL, attacker_role, generation_limit, open_world
from benchmark.generation.canary import Canary
from benchmark.keys import content_key
from benchmark.methods.pipeline import Pipeline, parse_pipeline
from benchmark.methods.source import Submission
from benchmark.models.chat import ChatFormat
from benchmark.models.loading import load_causal_lm
from benchmark.models.lora import export_peft, import_peft, initial_adapter
from benchmark.records.environment import TRAINING_THREADS
from benchmark.records.store import Store, writing
from benchmark.sandbox.adopt import adopt
from benchmark.sandbox.description import Descriptions, known_descriptions, learn
from benchmark.sandbox.proxy import created
from benchmark.seeds import torch_stream
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Scenario, Suite
from benchmark.training.clients import Attacker, ClientRows, make_client_rows
from benchmark.training.federation import FederationResult, LocalTrainer, RoundRecord, Setting, run_federation
from benchmark.training.memory import free_memory
from benchmark.training.schedule import cast
from benchmark.training.sequential import SequentialModel
from benchmark.training.server import MeteredServer, ServedModel, Usage
from benchmark.training.stacked import StackedModel
from defenses.base import Defense, Knowledge
from tasks.base import TaskWorld

REATTACK = ("reattack",)
"""Phase of the streams of the federation that follows a repair."""

_CANARIES = 4
_CANARY_TOKENS = 512
_REASON_LENGTH = 2000


@dataclass(frozen=True)
class JobReport:
    """How a job ended.

    Attributes:
        training_key: Its key.
        failures: For each adapter key that could not be made, why; empty if all were.
    """

    training_key: str
    failures: dict[str, str]


def worker_start(submissions: Sequence[Submission], *, isolated: bool, isolation: str = "auto") -> Callable[[], None]:
    """Return what prepares a worker process.

    Args:
        submissions: Methods that this process has adopted.
        isolated: Whether their code runs in sandboxes of its own.
        isolation: Name of the way in which it is isolated.
    """
    return partial(_start_worker, tuple(submissions), isolated, isolation, known_descriptions())


def _start_worker(
    submissions: Sequence[Submission], isolated: bool, isolation: str, descriptions: Descriptions
) -> None:
    """Leave Ctrl-C to the parent, fix the thread count, keep freed memory, know the submissions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(TRAINING_THREADS)
    keep_freed_memory()
    # What the parent was told holds here, too: a method that is asked again may answer otherwise.
    learn(descriptions)
    adopt(submissions, isolated=isolated, isolation=isolation)


def _end_with_parent() -> None:
    """Wait for the parent process to end, however it ends, and end too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_freed_memory() -> None:
    """Tell glibc not to hand freed blocks back: training frees and takes the same megabytes at every step.

    Without this, page faults cost about a tenth of the time. Elsewhere than on glibc this does nothing.
    """
    name = ctypes.util.find_library("c")
    libc = ctypes.CDLL(name) if name else None
    if libc is not None and hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(top_pad, 64 << 20)
        libc.mallopt(mmap_threshold, 1 << 30)


def run_job(suite: Suite, job: TrainingJob, root: Path) -> JobReport:
    """Train, derive all adapters of the job that are missing, and write them.

    A failure of one adapter leaves the others alone; a failure of the training fails all of them.

    Raises:
        StorageError: The store cannot be written; that is no method's fault, so no cell fails for it.
    """
    store = Store(root)
    missing = {key: name for key, name in job.pipelines.items() if not adapter_is_complete(store, key)}
    failures: dict[str, str] = {}
    try:
        bench = _Bench(suite, job.scenario, job.seed)
        trained = bench.trained(store, job)
    except StorageError:
        raise
    except BaseException as error:  # a submitted method may raise anything, even SystemExit; the plan goes on
        failures = dict.fromkeys(missing, reason_of(error))
    else:
        for key in missing.keys() - {job.training_key}:
            try:
                bench.derive(store, trained, key, parse_pipeline(missing[key]), job.reattacks.get(key, 0))
            except StorageError:
                raise
            except BaseException as error:  # as above
                failures[key] = reason_of(error)
    return JobReport(job.training_key, failures)


def reason_of(error: BaseException) -> str:
    """Return why something failed, for a cell's row: text that can be stored, whatever a method put into it."""
    text = str(error) if isinstance(error, FedSafetyError) else f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "replace").decode()[:_REASON_LENGTH]


def adapter_is_complete(store: Store, key: str) -> bool:
    """Whether an adapter and its record are there; the record is written last."""
    return (store.adapter_folder(key) / "run.json").exists()


def read_record(folder: Path) -> dict[str, Any]:
    """Return what was recorded when an adapter was made.

    Raises:
        FedSafetyError: The record is missing, damaged or incomplete.
    """
    path = folder / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = record.keys() >= _RECORDED and set(record["usage"]) == {f.name for f in fields(Usage)}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FedSafetyError(f"cannot read {path} ({error}); delete its folder and run again") from error
    if not complete:
        raise FedSafetyError(f"{path} is incomplete; delete its folder and run again")
    return record


_RECORDED = {"usage", "malicious_rows", "malicious_leaks", "rejected_updates", "train_seconds", "upload_bytes"}


@dataclass(frozen=True)
class _Trained:
    adapter: Tensor
    record: dict[str, Any]


class _Bench:
    """The models, data and tools of one (suite, scenario, seed)."""

    def __init__(self, suite: Suite, scenario: Scenario, seed: int) -> None:
        self.suite, self.scenario, self.seed = suite, scenario, seed
        self.world: TaskWorld = open_world(suite, scenario)
        self.max_new_tokens = generation_limit(suite, self.world.probes())
        self._finalized: dict[str, _Trained] = {}
        self._repeated_by_attackers: Mapping[str, int] = {}

    @property
    def model(self) -> ServedModel:
        return open_role(self.suite, self.world, self.scenario.start)

    def trained(self, store: Store, job: TrainingJob) -> _Trained:
        """Return the job's trained adapter, from the store or by training."""
        folder = store.adapter_folder(job.training_key)
        if adapter_is_complete(store, job.training_key) and store.has("rounds", job.training_key):
            record = read_record(folder)
            return _Trained(import_peft(folder, self.model.stacked.layout, self.suite.lora), record)
        pipeline = parse_pipeline(next(iter(job.pipelines.values())))
        # Kept for the scenario's next jobs; whoever comes first must not pay for all.
        _client_rows(self.suite, self.scenario, self.seed)
        began = time.perf_counter()
        result, usage, data = self._federate(pipeline)
        self._repeated_by_attackers = data.repeated
        rounds = [_round_row(job.training_key, i, record) for i, record in enumerate(result.rounds)]
        store.write("rounds", job.training_key, rounds)
        record = {
            "usage": asdict(usage),
            "malicious_rows": data.malicious_rows,
            "malicious_leaks": data.malicious_leaks,
            "train_seconds": time.perf_counter() - began,
            **self._sent(result),
        }
        self._save(store, job.training_key, result.adapter, record)
        return _Trained(result.adapter, record)

    def derive(self, store: Store, trained: _Trained, key: str, pipeline: Pipeline, reattack_rounds: int) -> None:
        """Apply the pipeline's later stages to the trained adapter, attack it again if asked, and write the result."""
        # Kept, since several re-attacks start from the same repaired adapter.
        if pipeline.name not in self._finalized:
            self._finalized[pipeline.name] = self._finalize(trained, pipeline)
        result = self._finalized[pipeline.name]
        if reattack_rounds:
            result = self._reattack(result, reattack_rounds)
        self._save(store, key, result.adapter, result.record)

    def _finalize(self, trained: _Trained, pipeline: Pipeline) -> _Trained:
        """Return the trained adapter after the pipeline's later stages, with the record of both."""
        adapter, usage = trained.adapter, Usage(**trained.record["usage"])
        if EXTERNAL_MODEL in self.world.roles and not self.world.models_are_large:
            self._external()  # opened once a process; the first defense to ask must not pay for all
        for entry in pipeline.finalizers:
            with self._lent_external() as external, created(entry, hooks=("finalize",)) as defense:
                server = self._server(entry.info.id, external)
                began = time.perf_counter()
                adapter = defense.finalize(adapter.clone(), server)
                server.usage.server_seconds = time.perf_counter() - began - server.opening_seconds
            if adapter.shape != trained.adapter.shape or not torch.isfinite(adapter).all():
                raise FedSafetyError(
                    f"finalize() of {entry.info.id!r} returned shape {tuple(adapter.shape)} or values that are not "
                    f"finite; an adapter is a finite vector of shape {tuple(trained.adapter.shape)}"
                )
            usage = usage.plus(server.usage)
        return _Trained(adapter, {**trained.record, "usage": asdict(usage)})

    def _reattack(self, repaired: _Trained, rounds: int) -> _Trained:
        """Return the adapter after a second federation of the same clients, attackers among them, that starts from it.

        It averages by FedAvg, with a learning-rate schedule and streams of its own. What it sends and how long it takes
        is added to the record; its rounds are not, since the rounds table tells how the defense weighted its clients.
        """
        training = self.suite.training.model_copy(update={"rounds": rounds})
        federation = cast(self.scenario, training, self.world.task_types, self.seed, REATTACK)
        rows = _client_rows(self.suite, self.scenario, self.seed).rows
        setting = Setting(self.scenario, training, federation, rows, self.seed, owner=REATTACK[0], phase=REATTACK)
        with self._attack() as attack:
            began = time.perf_counter()
            result = run_federation(
                setting, self._trainer(), repaired.adapter, attack, Defense(), self._server(REATTACK[0])
            )
            seconds = time.perf_counter() - began
        added = self._sent(result) | {"train_seconds": seconds}
        return _Trained(result.adapter, repaired.record | {k: repaired.record[k] + v for k, v in added.items()})

    def _federate(self, pipeline: Pipeline) -> tuple[FederationResult, Usage, ClientRows]:
        aggregator = pipeline.aggregator
        owner = aggregator.info.id if aggregator else "default"
        server = self._server(owner)
        federation = cast(self.scenario, self.suite.training, self.world.task_types, self.seed)
        data = _client_rows(self.suite, self.scenario, self.seed)
        setting = Setting(
            self.scenario,
            self.suite.training,
            federation,
            data.rows,
            self.seed,
            owner,
            reveals_malicious=aggregator is not None and aggregator.info.knowledge is Knowledge.TRUTH,
        )
        # Without an aggregator of its own a pipeline trains by the defaults of its first member, which are FedAvg.
        trained = created(aggregator or pipeline.entries[0], hooks=("prepare", "aggregate"))
        with trained as defense, self._attack() as attack:
            start = initial_adapter(self.model.stacked.layout, torch_stream(self.seed, "adapter-init"))
            result = run_federation(setting, self._trainer(), start, attack, defense, server)
        server.usage.server_seconds += result.prepare_seconds
        server.usage.server_seconds += sum(record.aggregate_seconds for record in result.rounds)
        return result, server.usage, data

    def _attack(self) -> AbstractContextManager[Attack]:
        attack = self.scenario.attack
        return created(attacks.get(attack.id), attack.params, hooks=("craft",))

    def _trainer(self) -> LocalTrainer:
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

    def _sent(self, result: FederationResult) -> dict[str, int]:
        """Return how many updates were refused at the door, and the bytes that clients sent."""
        sent = sum(len(record.clients) for record in result.rounds)
        return {
            "rejected_updates": sum(len(record.rejected) for record in result.rounds),
            "upload_bytes": sent * self.model.stacked.layout.dimension * 4,
        }

    def _external(self) -> ServedModel:
        if EXTERNAL_MODEL not in self.world.roles:
            raise FedSafetyError(
                f"suite {self.suite.id!r} names no external model, which this defense needs; add the role "
                f"{EXTERNAL_MODEL!r} to its models, or leave the defense out"
            )
        return open_role(self.suite, self.world, EXTERNAL_MODEL)

    def _lent_external(self) -> AbstractContextManager[Callable[[], ServedModel]]:
        return lent(self._external, self.suite, self.world, beside=self.scenario.start)

    def _server(self, owner: str, external: Callable[[], ServedModel] | None = None) -> MeteredServer:
        return MeteredServer(
            self.world,
            self.model,
            external or self._external,
            self.suite.posthoc,
            self.seed,
            owner,
            self.max_new_tokens,
            self.suite.training.max_length,
        )

    def _save(self, store: Store, key: str, adapter: Tensor, record: dict[str, object]) -> None:
        folder = store.adapter_folder(key)
        stacked = self.model.stacked
        export_peft(adapter, stacked.layout, self.suite.lora, self.scenario.start, folder)
        sequences = canary_sequences(self.world, self.model.chat)
        plain = stacked.logprobs(sequences)
        stacked.attach(adapter)
        adapted = stacked.logprobs(sequences)
        stacked.clear()
        with writing(folder):
            Canary(tuple(sequences), _nested(plain), _nested(adapted)).save(folder)
        store.write_json(folder / "run.json", {**record, "chat": self.model.chat.digest, **self._read(record)})

    def _read(self, record: Mapping[str, Any]) -> dict[str, object]:
        """Return the models and data from outside that were read for an adapter; see :class:`tasks.base.Input`."""
        roles = [self.scenario.start]
        roles += [attacker_role(self.world)] if self.scenario.malicious else []
        roles += [EXTERNAL_MODEL] if record["usage"]["extra_models"] else []
        known = [role for role in dict.fromkeys(roles) if role in self.world.roles]
        # The attackers sampled from their own world object, which counted its own repetitions.
        inputs = [
            replace(read, repeated=max(read.repeated, self._repeated_by_attackers.get(read.name, 0)))
            for read in self.world.inputs(known)
        ]
        return {"inputs": [asdict(read) for read in inputs]} if inputs else {}


def canary_sequences(world: TaskWorld, chat: ChatFormat) -> list[tuple[int, ...]]:
    """Return the fixed token sequences on which engine and training code must agree."""
    probes = world.probes()
    chosen = [probes[i * (len(probes) - 1) // (_CANARIES - 1)] for i in range(_CANARIES)]
    longest = min(chat.max_length - 1, _CANARY_TOKENS)
    prompts = [chat.prompt_ids(p.instruction, name=p.id) for p in chosen]
    return [(*ids, *ids[:-1])[:longest] for ids in prompts]


def open_role(suite: Suite, world: TaskWorld, role: str) -> ServedModel:
    """Return the model of a role, ready for training and sampling, in the number format that its world asks for."""
    return open_model(*_wanted(suite, world, role))


def _wanted(suite: Suite, world: TaskWorld, role: str) -> tuple[str, LoraSettings, ModelFormat]:
    """Return what the model of a role is opened with."""
    checkpoint, budget = world.checkpoint(role), suite.compute.train_memory_gib
    form = ModelFormat(
        dtype=checkpoint.dtype,
        quantization=checkpoint.quantization,
        gradient_checkpointing=suite.training.gradient_checkpointing,
        template=checkpoint.template,
        pad_token=checkpoint.pad_token,
        memory_bytes=None if budget is None else int(budget * 2**30),
    )
    return str(checkpoint.path), suite.lora, form


@contextlib.contextmanager
def lent(
    opener: Callable[[], ServedModel], suite: Suite, world: TaskWorld, *, beside: str
) -> Iterator[Callable[[], ServedModel]]:
    """Lend a model that only a part of a job needs; afterwards it is let go where a world's models may be large.

    Args:
        opener: Opens it.
        suite: The suite.
        world: Its world.
        beside: Role of the model that is trained. It stays, even if it is the very model that is lent.

    Yields:
        ``opener``, noting what it opens.
    """
    used: set[tuple[str, LoraSettings, ModelFormat]] = set()

    def opened() -> ServedModel:
        served = opener()
        used.update(key for key, other in _opened.items() if other is served)
        return served

    try:
        yield opened
    finally:
        if used and world.models_are_large:
            for key in used - {_wanted(suite, world, beside)}:
                _opened.pop(key, None)
            free_memory()


@dataclass(frozen=True)
class ModelFormat:
    """How a checkpoint is loaded.

    Attributes:
        dtype: Number format of its weights.
        quantization: Format of its frozen linear layers, or nothing.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        template: Chat template in the place of the tokenizer's own.
        pad_token: Pad token where the tokenizer names none.
        memory_bytes: Memory for the activations of a training step; ``None`` for the trainer's own rule.
    """

    dtype: str = "float32"
    quantization: str = ""
    gradient_checkpointing: bool = False
    template: str | None = None
    pad_token: str = ""
    memory_bytes: int | None = None


def open_model(path: str, settings: LoraSettings, form: ModelFormat = ModelFormat()) -> ServedModel:
    """Return a checkpoint ready for stacked training, with its chat format. A process keeps few of them open."""
    key = (path, settings, form)
    if key in _opened:
        _opened.move_to_end(key)
        return _opened[key]
    while len(_opened) >= (_KEPT if form == ModelFormat() else _KEPT_LARGE):
        _opened.popitem(last=False)
        free_memory()
    chat = ChatFormat(Path(path), template=form.template, pad_token=form.pad_token)
    model = load_causal_lm(
        Path(path),
        dtype=form.dtype,
        quantization=form.quantization,
        gradient_checkpointing=form.gradient_checkpointing,
    )
    _opened[key] = ServedModel(StackedModel(model, settings, chat.pad_id, memory_bytes=form.memory_bytes), chat)
    return _opened[key]


_opened: OrderedDict[tuple[str, LoraSettings, ModelFormat], ServedModel] = OrderedDict()
_KEPT = 4
_KEPT_LARGE = 2
"""The model that is trained, and one that made data or will make some: more would not fit beside each other."""


def _client_rows(suite: Suite, scenario: Scenario, seed: int) -> ClientRows:
    """Return every client's rows; the last ones are kept, since a plan's jobs come scenario by scenario."""
    key = content_key([suite.model_dump(mode="json"), scenario.model_dump(mode="json"), seed])
    if key not in _kept_rows:
        world = open_world(suite, scenario)
        federation = cast(scenario, suite.training, world.task_types, seed)
        max_new_tokens = generation_limit(suite, world.probes())
        opener = partial(open_role, suite, world, attacker_role(world))
        model = open_role(suite, world, scenario.start)
        _kept_rows.clear()
        try:
            with (
                lent(opener, suite, world, beside=scenario.start) as lent_model,
                created(attacks.get(scenario.attack.id), scenario.attack.params) as attack,
            ):
                attacker = Attacker(world, lent_model, max_new_tokens)
                _kept_rows[key] = make_client_rows(
                    scenario, suite.training, federation, world, attack, attacker, model, seed
                )
        except SubmissionError as error:
            # Kept as well, in words: an attack that ran out of time for one defense would do so for all.
            _kept_rows[key] = str(error)
    kept = _kept_rows[key]
    if isinstance(kept, str):
        raise SubmissionError(kept)
    return kept


_kept_rows: dict[str, ClientRows | str] = {}


def _round_row(key: str, index: int, record: RoundRecord) -> dict[str, object]:
    return {"training_key": key, "round": index, **{k: _plain(v) for k, v in asdict(record).items()}}


def _nested(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
