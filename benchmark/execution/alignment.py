"""The alignment stage of a run: the aligned start of a suite, made once or read, and the check of its refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from benchmark import PROTOCOL_VERSION
from benchmark.errors import FedSafetyError
from benchmark.execution.worlds import open_alignment, world_revision
from benchmark.keys import content_key, file_digest
from benchmark.models.alignment import check_start, read_start, rounded, write_start
from benchmark.models.lora import initial_adapter
from benchmark.models.sampling import sample
from benchmark.records.store import Store
from benchmark.seeds import integer, stream, torch_stream
from benchmark.suites.alignment import AlignmentSettings, Expectations
from benchmark.suites.suite import Suite
from benchmark.training.served import ModelPool, RoleModels, ServedModel
from benchmark.training.tuning import align
from tasks.base import Input, TaskWorld
from tasks.refusals import is_refusal

if TYPE_CHECKING:
    from benchmark.execution.bench import Bench

FOLDER: Final = "alignment"
"""Folder of the store with the aligned starts that runs make, and with measured refusals."""


@dataclass(frozen=True)
class MadeStart:
    """An aligned start that was made.

    Attributes:
        sha256: SHA-256 of its file.
        base: Identity of the base model.
        refused: Probe set → share of its prompts that the start refuses; empty if the suite expects nothing.
    """

    sha256: str
    base: str
    refused: Mapping[str, float]


def settings_of(suite: Suite) -> AlignmentSettings:
    """Return the suite's alignment.

    Raises:
        UsageError: The suite has none.
    """
    open_alignment(suite)
    assert suite.alignment is not None
    return suite.alignment


def aligned_start(suite: Suite, pool: ModelPool, store: Store | None) -> Tensor:
    """Return the adapter ``[d]`` from which a suite's federations start: the shipped one, the store's, or a new one.

    A new one is written to the store.

    Args:
        suite: A suite with an alignment.
        pool: Opens the start model.
        store: Holds the start that an earlier job made; ``None`` for making it anew.

    Raises:
        FedSafetyError: The shipped or stored file cannot be used.
    """
    settings, world = settings_of(suite), open_alignment(suite)
    model, base = _model(suite, pool, world), world.checkpoint(settings.start).identity
    layout = model.stacked.layout
    if settings.adapter:
        return read_start(settings.adapter.path, layout, suite.lora, base, settings.adapter.sha256)
    path = _stored_file(store, suite, world) if store else None
    if path and path.exists():
        return read_start(path, layout, suite.lora, base)
    adapter = train_start(settings, world, model)
    if path:
        write_start(path, adapter, layout, suite.lora, base, described(settings, world))
    return adapter


def copy_starts(store: Store, folder: Path) -> None:
    """Copy the aligned starts of a store to another store's folder, so that sample trainings there do not make them."""
    if (store.root / FOLDER).is_dir():
        shutil.copytree(store.root / FOLDER, folder / FOLDER)


def train_start(settings: AlignmentSettings, world: TaskWorld, model: ServedModel) -> Tensor:
    """Return the adapter ``[d]`` that the alignment's training yields, rounded to bfloat16.

    Args:
        settings: The alignment.
        world: World with the alignment's rows.
        model: The start model.
    """
    seed = settings.seed
    rows = world.alignment(settings.rows, stream(seed, "alignment", "rows"))
    fresh = initial_adapter(model.stacked.layout, torch_stream(seed, "adapter-init"))
    order, dropout = stream(seed, "alignment", "order"), integer(seed, "alignment", "dropout")
    return rounded(align(model, settings, fresh, rows, order, dropout))


def make_start(suite: Suite, path: Path, bench: Bench) -> MadeStart:
    """Train a suite's aligned start, measure its refusals if the suite expects some, and write its file.

    Args:
        suite: A suite with an alignment. An adapter that the suite ships is not read.
        path: The file.
        bench: State of the worker process.
    """
    settings, world = settings_of(suite), open_alignment(suite)
    model, base = _model(suite, bench.models, world), world.checkpoint(settings.start).identity
    adapter = train_start(settings, world, model)
    expects = settings.expects
    refused = measured_refusals(expects, world, model, adapter) if expects else {}
    digest = write_start(path, adapter, model.stacked.layout, suite.lora, base, described(settings, world))
    return MadeStart(digest, base, refused)


def described(settings: AlignmentSettings, world: TaskWorld) -> dict[str, Any]:
    """Return what an aligned start is made from, for the metadata of its file: settings, and pools by content."""
    pools = {read.name: read for read in world.inputs([settings.start]) if read.name.startswith("pool/")}
    return {
        "settings": settings.recipe,
        "data": {name: [read.source, read.requested, read.resolved, read.rows] for name, read in sorted(pools.items())},
    }


def start_input(suite: Suite, store: Store | None) -> Input:
    """Return the record of a suite's aligned start as an input of a training."""
    settings = settings_of(suite)
    shipped = settings.adapter
    file = _stored_file(store, suite, open_alignment(suite)) if store and not shipped else None
    digest = shipped.sha256 if shipped else file_digest(file) if file else ""
    return Input(
        kind="alignment",
        name=settings.start,
        source=shipped.file if shipped else "made by the run",
        requested=shipped.sha256 if shipped else "",
        resolved=f"sha256:{digest}",
        rows=settings.rows,
        detail=f"{settings.steps} steps of {settings.batch_size} rows, seed {settings.seed}",
    )


def check_shipped(suite: Suite) -> None:
    """Check the file of a shipped adapter, as far as no model needs to be opened.

    Raises:
        InputsMissingError: The file is missing.
        FedSafetyError: The file is another one, damaged, or made for another base model or shape of adapters.
    """
    settings = suite.alignment
    if settings and settings.adapter:
        base = open_alignment(suite).checkpoint(settings.start).identity
        check_start(settings.adapter.path, suite.lora, base, settings.adapter.sha256)


def start_is_ready(suite: Suite, store: Store) -> bool:
    """Return whether the aligned start is there and has the refusals that the suite expects.

    Raises:
        FedSafetyError: The start was measured and refuses too little or too much.
    """
    settings, world = settings_of(suite), open_alignment(suite)
    if not settings.adapter and not _stored_file(store, suite, world).exists():
        return False
    if settings.expects is None:
        return True
    measured = _measured_file(store, suite, settings.expects, world)
    if not measured.exists():
        return False
    try:
        refused = {str(name): float(share) for name, share in json.loads(measured.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FedSafetyError(f"cannot read {measured} ({error}); delete it and run again") from error
    check_refusals(settings.expects, refused)
    return True


def prepare_start(suite: Suite, root: Path, bench: Bench) -> None:
    """Make the aligned start that the store lacks, and measure its refusals if the suite expects some.

    Args:
        suite: A suite with an alignment.
        root: Folder of the store.
        bench: State of the worker process.

    Raises:
        FedSafetyError: The start cannot be used, or refuses too little or too much.
    """
    store, world = Store(root), open_alignment(suite)
    settings = settings_of(suite)
    adapter = aligned_start(suite, bench.models, store)
    if expects := settings.expects:
        refused = measured_refusals(expects, world, _model(suite, bench.models, world), adapter)
        store.write_json(_measured_file(store, suite, expects, world), refused)
        check_refusals(expects, refused)


def measured_refusals(expects: Expectations, world: TaskWorld, model: ServedModel, adapter: Tensor) -> dict[str, float]:
    """Return the share of prompts that an adapter ``[d]`` refuses, by probe set, by the keyword rule."""
    model.stacked.attach(adapter)
    try:
        refused = {}
        for name in (expects.harmful, expects.benign):
            asked = _asked(world, name, expects.prompts)
            answers, _ = sample(
                model.stacked.model,
                model.chat,
                asked,
                temperature=0.0,
                max_new_tokens=expects.max_new_tokens,
                generator=torch.Generator(),
            )
            refused[name] = sum(map(is_refusal, answers)) / len(answers)
        return refused
    finally:
        model.stacked.clear()


def check_refusals(expects: Expectations, refused: Mapping[str, float]) -> None:
    """Refuse a start that refuses too little or too much.

    Raises:
        FedSafetyError: A share is outside its bound. The message has both measured shares.
    """
    harmful, benign = refused[expects.harmful], refused[expects.benign]
    if harmful >= expects.least_refused and benign <= expects.most_refused:
        return
    raise FedSafetyError(
        f"the aligned start refuses {harmful:.0%} of {expects.harmful} and {benign:.0%} of {expects.benign}, but the "
        f"suite expects at least {expects.least_refused:.0%} and at most {expects.most_refused:.0%}: a federation from "
        f"this start would measure nothing; change data, steps or learning_rate of the alignment, or its expects"
    )


def _asked(world: TaskWorld, name: str, most: int) -> list[str]:
    """Return at most ``most`` development prompts, or prompts of a probe set, spread evenly over them."""
    held = world.development_prompts(name)
    held = held or tuple(probe.instruction for probe in world.probes() if probe.id.startswith(f"{name}/"))
    size = min(most, len(held))
    return [held[index * len(held) // size] for index in range(size)]


def _model(suite: Suite, pool: ModelPool, world: TaskWorld) -> ServedModel:
    return RoleModels(pool, suite, world).open(settings_of(suite).start)


def _stored_file(store: Store, suite: Suite, world: TaskWorld) -> Path:
    return store.root / FOLDER / f"{_key(suite, world)}.safetensors"


def _measured_file(store: Store, suite: Suite, expects: Expectations, world: TaskWorld) -> Path:
    sets = {name: _asked(world, name, expects.prompts) for name in _sets(expects)}
    key = content_key({"start": _key(suite, world), "asked": sets, "tokens": expects.max_new_tokens})
    return store.root / FOLDER / f"{key}.json"


def _sets(expects: Expectations) -> tuple[str, str]:
    return expects.harmful, expects.benign


def _key(suite: Suite, world: TaskWorld) -> str:
    """Return the content key of an aligned start: protocol, data, base model, adapter shape, settings, shipped file."""
    settings = settings_of(suite)
    return content_key(
        {
            "artefact": "alignment",
            "protocol": PROTOCOL_VERSION,
            "world": [suite.world, world_revision(suite, world)],
            "model": world.checkpoint(settings.start).identity,
            "lora": suite.lora.model_dump(mode="json"),
            **settings.identity,
        }
    )
