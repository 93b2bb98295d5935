"""A suite's task world: opening it, and the roles, chat formats and limits that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

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

    Raises:
        UsageError: The suite names an unknown world, or gives models or data to a world that takes none.
    """
    entry = task_worlds.get(suite.world)
    if suite.data is None and not suite.models:
        return entry.create()
    choice = scenario.data if scenario else None
    return entry.create({"models": suite.models, "data": suite.data, "choice": choice})


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
