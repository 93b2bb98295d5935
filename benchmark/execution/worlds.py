"""A suite's task world: opening it, and the roles, chat formats and limits that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.errors import UsageError
from benchmark.models.chat import ChatFormat
from benchmark.suites.suite import Scenario, Suite
from tasks.base import Probe, TaskWorld, task_worlds

ATTACKER_MODEL = "raw"
"""Role of the attacker's checkpoint in worlds without a role ``attacker``. It is not aligned, so that it follows the
comply hint."""

EXTERNAL_MODEL = "external"
"""Role of the external aligned model."""


def open_world(suite: Suite, scenario: Scenario | None = None) -> TaskWorld:
    """Return the suite's task world, with the data that the scenario chooses if the suite has data.

    The data of a scenario that starts from the aligned model hold the rows of the alignment, too.

    Raises:
        UsageError: The suite names an unknown world, or gives models or data to a world that takes none.
    """
    entry = task_worlds.get(suite.world)
    if suite.data is None and not suite.models:
        return entry.create()
    choice = scenario.data if scenario else None
    params: dict[str, Any] = {"models": suite.models, "data": suite.data, "choice": choice}
    aligned = suite.aligned(scenario) if scenario else None
    return entry.create(params | ({"alignment": aligned.data} if aligned else {}))


def open_fresh(suite: Suite, seed: int) -> TaskWorld | None:
    """Return the suite's world with probes drawn from ``seed``, or ``None`` if the world has no sibling ``<id>_fresh``.

    Raises:
        UsageError: The suite names no source of fresh probes.
    """
    name = f"{suite.world}_fresh"
    if name not in task_worlds.names():
        return None
    sources = {"models": suite.models, "data": suite.data} if suite.data is not None or suite.models else {}
    return task_worlds.get(name).create({"seed": seed, **sources})


def open_alignment(suite: Suite) -> TaskWorld:
    """Return the suite's task world with the probes, the models and the rows of the alignment, without a scenario.

    Raises:
        UsageError: The suite has no alignment.
    """
    if suite.alignment is None:
        raise UsageError(
            f"suite {suite.id!r} has no alignment: its start models are used as they are; give a suite whose YAML file "
            f"has the key alignment, such as pocket"
        )
    params = {"models": suite.models, "data": suite.data, "alignment": suite.alignment.data}
    return task_worlds.get(suite.world).create(params)


def open_chat(world: TaskWorld, role: str) -> ChatFormat:
    """Return the chat format of a role's model: the same in training, generation and judging.

    Raises:
        UsageError: The tokenizer lacks a template, a pad token or an end-of-sequence token, and the suite names none,
            or one of them is not usable.
        InputsMissingError: The model is not on this machine and cannot be downloaded.
    """
    checkpoint = world.checkpoint(role)
    name = world.sources[role].template if role in world.sources else ""
    return ChatFormat(checkpoint.path, template=checkpoint.template, pad_token=checkpoint.pad_token, template_name=name)


def world_revision(suite: Suite, world: TaskWorld) -> str:
    """Return the identity of a world's training data in keys: its revision, and the digest of chosen data if any."""
    return "-".join(filter(None, (task_worlds.get(suite.world).info.revision, world.data_digest)))


def attacker_role(world: TaskWorld) -> str:
    """Return the role of the model that attackers control."""
    return "attacker" if "attacker" in world.roles else ATTACKER_MODEL


def generation_limit(suite: Suite, probes: Sequence[Probe]) -> int:
    """Return the most tokens of generated instruction data: the suite's own limit, or the longest limit of a probe."""
    return suite.data.data_max_new_tokens if suite.data else max(probe.max_new_tokens for probe in probes)
