"""Starts that defenses make in the place of a suite's alignment, each once for all seeds of the suite.

A defense of the alignment stage, such as Vaccine, trains as long as the suite's alignment does or longer. Its result
does not depend on the run seed, because its server draws from the seed of the alignment. So a run makes the result
before its trainings and keeps it in the store, under a key of everything on which it depends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from benchmark import PROTOCOL_VERSION
from benchmark.errors import FedSafetyError, StorageError
from benchmark.execution.alignment import FOLDER, described, settings_of
from benchmark.execution.bench import Bench, JobTools
from benchmark.execution.plan import TrainingJob
from benchmark.execution.worlds import open_world, world_revision
from benchmark.keys import content_key
from benchmark.methods.pipeline import method_digest, parse_pipeline
from benchmark.models.alignment import read_start, rounded, write_start
from benchmark.records.adapters import Usage
from benchmark.records.store import Store
from benchmark.registry import Entry
from benchmark.sandbox.proxy import created
from benchmark.suites.suite import Scenario, Suite
from benchmark.training.door import checked_start
from benchmark.training.server import SecondModel
from defenses.base import Defense, DefenseInfo
from tasks.base import TaskWorld

DefenseEntry = Entry[DefenseInfo, Defense]


@dataclass(frozen=True)
class PreparedStart:
    """A start that a defense made in the place of the alignment.

    Attributes:
        adapter: Flat adapter ``[d]``, rounded as an aligned start is.
        usage: What the hook used.
        opened: The second models that generated for the hook.
    """

    adapter: Tensor
    usage: Usage
    opened: frozenset[SecondModel]


def aligning_entry(suite: Suite, job: TrainingJob) -> DefenseEntry | None:
    """Return the defense that aligns the start of a job in the suite's place, or ``None``."""
    entries = {name: parse_pipeline(name).aggregator for name in job.pipelines.values()}
    # All pipelines of a job have the same aggregator.
    entry = next(iter(entries.values()))
    return entry if entry and replaces_alignment(suite, job.scenario, entry) else None


def replaces_alignment(suite: Suite, scenario: Scenario, entry: DefenseEntry) -> bool:
    """Return whether a defense aligns the start of a scenario in the suite's place."""
    return bool(entry.info.alignment_gradients and suite.aligned(scenario))


def lacking(suite: Suite, jobs: Iterable[TrainingJob], store: Store) -> dict[str, TrainingJob]:
    """Return for each start that jobs need and the store lacks one of the jobs, by the key of the start."""
    needed: dict[str, TrainingJob] = {}
    for job in jobs:
        if entry := aligning_entry(suite, job):
            needed.setdefault(_key(suite, open_world(suite, job.scenario), job.scenario, entry), job)
    return {key: job for key, job in needed.items() if not _usage_file(store, key).exists()}


def make_prepared(suite: Suite, job: TrainingJob, root: Path, bench: Bench) -> None:
    """Make the start that a job needs and write it to the store in ``root``.

    A method that fails makes none here. Its training calls the hook again and reports the reason.
    """
    entry = aligning_entry(suite, job)
    assert entry is not None
    try:
        prepared_start(JobTools(suite, job.scenario, job.seed, bench, Store(root)), entry)
    except StorageError:
        raise
    except BaseException:  # a submitted method may raise anything, even SystemExit
        return


def prepared_start(tools: JobTools, entry: DefenseEntry) -> PreparedStart:
    """Return the start that a defense makes in the place of the alignment, from the store or from its hook.

    Raises:
        FedSafetyError: The hook returns an unusable start, or a stored file cannot be read.
    """
    suite, store = tools.suite, tools.store
    if store is None:
        return _made(tools, entry)
    key = _key(suite, tools.world, tools.scenario, entry)
    layout, base = tools.model.stacked.layout, tools.world.checkpoint(tools.scenario.start).identity
    path, record = store.root / FOLDER / f"{key}.safetensors", _usage_file(store, key)
    if record.exists():
        return PreparedStart(read_start(path, layout, suite.lora, base), *_read_usage(record))
    made = _made(tools, entry)
    write_start(path, made.adapter, layout, suite.lora, base, described(settings_of(suite), tools.world))
    # The record is written last, so that it stands for both.
    store.write_json(record, {"usage": asdict(made.usage), "opened": sorted(made.opened)})
    return made


def _made(tools: JobTools, entry: DefenseEntry) -> PreparedStart:
    server = tools.server(entry.info.id, seed=settings_of(tools.suite).seed)
    with created(entry, hooks=("prepare",)) as defense:
        began = time.perf_counter()
        start = checked_start(defense.prepare(server), tools.start, entry.info.id)
    server.usage.server_seconds = time.perf_counter() - began - server.opening_seconds
    return PreparedStart(rounded(start), server.usage, frozenset(server.opened))


def _read_usage(path: Path) -> tuple[Usage, frozenset[SecondModel]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Usage(**record["usage"]), frozenset(record["opened"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FedSafetyError(f"cannot read {path} ({error}); delete it and run again") from error


def _usage_file(store: Store, key: str) -> Path:
    return store.root / FOLDER / f"{key}.usage.json"


def _key(suite: Suite, world: TaskWorld, scenario: Scenario, entry: DefenseEntry) -> str:
    """Return the content key of a start: protocol, method, data, models, adapter shape and settings; no run seed."""
    unaligned = world.unaligned_role(scenario.start)
    return content_key(
        {
            "artefact": "prepared start",
            "protocol": PROTOCOL_VERSION,
            "method": method_digest([entry]),
            "world": [suite.world, world_revision(suite, world)],
            "models": [world.checkpoint(role).identity for role in (scenario.start, unaligned) if role],
            "lora": suite.lora.model_dump(mode="json"),
            "alignment": settings_of(suite).identity,
            "posthoc": suite.posthoc.model_dump(mode="json"),
        }
    )
