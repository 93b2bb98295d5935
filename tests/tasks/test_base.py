"""The defaults of a task world, seen through a world that defines the abstract members alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import FedSafetyError
from benchmark.seeds import stream
from tasks.base import Automation, Checkpoint, DataKind, Example, Input, Outcome, Probe, TaskWorld

SHARES: dict[str, Mapping[str, float] | None] = {"client_0": {"only": 1.0}, "client_1": None}


class SmallWorld(TaskWorld):
    """A world of one task, with one model below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def task_types(self) -> tuple[str, ...]:
        return ("only",)

    def benign(
        self, count: int, rng: np.random.Generator, *, refusal_share: float, task_shares: Mapping[str, float] | None
    ) -> list[Example]:
        task = f"{refusal_share} {task_shares}"
        return [Example(f"row {number}", "", DataKind.NORMAL, task) for number in rng.integers(1 << 40, size=count)]

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return []

    def server_aligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return []

    def server_normal(self, count: int, rng: np.random.Generator) -> list[Example]:
        return []

    @property
    def automation(self) -> Automation:
        return Automation((), (), "", "")

    def probes(self) -> tuple[Probe, ...]:
        return ()

    def judge_exactly(self, probe: Probe, response: str) -> Outcome:
        return Outcome.OTHER

    @property
    def openings(self) -> tuple[str, str]:
        return "no", "yes"

    def leaks_evaluation(self, text: str) -> bool:
        return False

    @property
    def roles(self) -> tuple[str, ...]:
        return ("chat",)

    def model_path(self, role: str) -> Path:
        return self._folder / role


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return SmallWorld(tmp_path)


def test_a_world_of_the_abstract_members_alone_reads_nothing_from_outside(world: SmallWorld) -> None:
    assert world.sources == {}
    assert world.inputs() == world.inputs(["chat"]) == []
    assert world.repeated == {}


def test_such_a_world_adds_nothing_to_keys(world: SmallWorld) -> None:
    assert world.data_digest == ""
    assert world.response_choices == {}


def test_such_a_world_keeps_its_models_open_and_samples_batch_by_batch(world: SmallWorld) -> None:
    assert not world.models_are_large
    assert not world.draws_prompt_by_prompt


def test_each_client_draws_from_its_own_stream_by_default(world: SmallWorld) -> None:
    shards = world.benign_shards(3, lambda *name: stream(7, "client-data", *name), refusal_share=0.5, shares=SHARES)
    for client, shares in SHARES.items():
        rng = stream(7, "client-data", client)
        assert shards[client] == world.benign(3, rng, refusal_share=0.5, task_shares=shares)
    assert list(shards) == list(SHARES)
    assert {row.instruction for row in shards["client_0"]}.isdisjoint(row.instruction for row in shards["client_1"])


def test_the_default_checkpoint_is_the_folder_in_float32(world: SmallWorld, tmp_path: Path) -> None:
    checkpoint = world.checkpoint("chat")
    assert checkpoint.path == tmp_path / "chat"
    assert (checkpoint.dtype, checkpoint.quantization) == ("float32", "")
    assert (checkpoint.template, checkpoint.pad_token) == (None, "")


def test_a_checkpoint_is_identified_by_its_weights(world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "model.safetensors").write_bytes(b"weights")
    assert world.checkpoint("chat").identity == hashlib.sha256(b"weights").hexdigest()


def test_format_and_identity_are_readable_without_the_files() -> None:
    def absent() -> Path:
        raise FedSafetyError("not on this machine")

    checkpoint = Checkpoint(absent, identify=lambda: "owner/model@commit", dtype="bfloat16")
    assert (checkpoint.dtype, checkpoint.identity) == ("bfloat16", "owner/model@commit")
    with pytest.raises(FedSafetyError, match="not on this machine"):
        checkpoint.path  # noqa: B018


def test_a_world_without_look_alikes_refuses_them(world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(FedSafetyError, match="SmallWorld has no benign look-alikes"):
        world.server_contrast(1, stream(0))


@pytest.mark.parametrize(("repeated", "remark"), [(0, ""), (2, "pool/x has 5 rows, and 7 were asked for: 2 repeat")])
def test_an_input_remarks_on_repetitions(repeated: int, remark: str) -> None:
    assert Input("dataset", "pool/x", "owner/x", "main", "c" * 40, 5, "", repeated).remark == remark
