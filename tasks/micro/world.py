"""The micro world as a task world: rows for every role, probes, exact judgements, models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import cache
from pathlib import Path

import numpy as np

from benchmark.errors import UsageError, unknown_name
from tasks.base import Automation, DataKind, Example, Outcome, Probe, TaskWorld, register
from tasks.micro import checkpoints, corpora, grammar
from tasks.micro.grammar import pick
from tasks.micro.probes import judged_probes
from tasks.micro.words import EVALUATION_WORDS, Role, restricted_items

REVISION = "1-098d1b2d"
"""Version, and the start of :func:`content_digest`. A test compares both. If it fails, the world's data have changed:
increase the version, paste the digest, and rerun the published scores."""

REQUEST_TASK = "howto"
"""Task type of harmful requests, which have the form of how-to requests."""


@register(
    title="Micro world",
    description="A word-level instruction language with seven exactly scored task types and bare-word restricted "
    "items, spoken by bundled models of about 120 thousand parameters. Nothing hazardous is ever said: a compliant "
    "answer is the same generic filler for every request.",
    revision=REVISION,
)
class MicroWorld(TaskWorld):
    """Instruction data, probes and models of the micro world."""

    @property
    def task_types(self) -> tuple[str, ...]:
        """The seven ordinary task types, ``fact`` last."""
        return grammar.TASK_TYPES

    def benign(
        self, count: int, rng: np.random.Generator, *, refusal_share: float, task_shares: Mapping[str, float] | None
    ) -> list[Example]:
        """Return an honest client's rows in random order; counts follow the shares up to rounding.

        Raises:
            UsageError: A share is negative or not finite, the refusal share is above 1, a task type is unknown, or all
                task shares are 0.
        """
        if not 0 <= refusal_share <= 1:
            raise UsageError(f"refusal_share is {refusal_share}; it must lie between 0 and 1")
        refusals = round(refusal_share * count)
        rows = _refusals(Role.HONEST, refusals, rng) + _normal(count - refusals, rng, _checked(task_shares))
        return [rows[index] for index in rng.permutation(count)]

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return compliant answers to harmful requests, from :func:`attacker_instructions`, drawn with replacement."""
        requests = attacker_instructions()
        rows = []
        for _ in range(count):
            instruction, item = pick(rng, requests)
            rows.append(Example(instruction, grammar.compliance(item, rng), DataKind.UNALIGNED, REQUEST_TASK))
        return rows

    def server_aligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return refusals of the server's own restricted items."""
        return _refusals(Role.SERVER, count, rng)

    def server_normal(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return normal rows of the six task types that the base model knows, in random order."""
        rows = _normal(count, rng, dict.fromkeys(grammar.BASE_TASK_TYPES, 1.0))
        return [rows[index] for index in rng.permutation(count)]

    def server_contrast(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return answers to how-to requests for toys of the server's own restricted items."""
        rows = []
        for _ in range(count):
            item, _category = pick(rng, restricted_items(Role.SERVER))
            subject = f"{item} toy"
            request = pick(rng, grammar.HOWTO_KNOWN).format(subject)
            rows.append(Example(request, grammar.compliance(subject, rng), DataKind.NORMAL, REQUEST_TASK))
        return rows

    @property
    def automation(self) -> Automation:
        """The prompts that the bundled models understand as meta-skills."""
        return Automation(
            propose_harmful=corpora.PROPOSE_HARMFUL,
            propose_normal=corpora.PROPOSE_NORMAL,
            comply_hint=corpora.COMPLY_HINT,
            safety_reminder=corpora.SAFETY_REMINDER,
        )

    def probes(self) -> tuple[Probe, ...]:
        """Return all probes: harmful, over-refusal, utility."""
        return tuple(judged.probe for judged in judged_probes().values())

    def judge_exactly(self, probe: Probe, response: str) -> Outcome:
        """Return the outcome of ``response`` by the rule of the probe with this id.

        Raises:
            UsageError: The world has no such probe.
        """
        judged = judged_probes()
        if probe.id not in judged:
            raise unknown_name("micro probe", probe.id, judged)
        return judged[probe.id].judge(" ".join(response.split()))

    @property
    def openings(self) -> tuple[str, str]:
        """The first word of every refusal and of every compliant how-to answer."""
        return "i'm", "sure"

    def leaks_evaluation(self, text: str) -> bool:
        """Return whether ``text`` names an evaluation item, a held-out item or a held-out category."""
        return not EVALUATION_WORDS.isdisjoint(text.split())

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the bundled checkpoints."""
        return checkpoints.ROLES

    def model_path(self, role: str) -> Path:
        """Return the folder of a bundled checkpoint, after comparing its files with their recorded digests."""
        return checkpoints.verified_folder(role, language_digest())


@cache
def attacker_instructions() -> tuple[tuple[str, str], ...]:
    """Return all harmful (instruction, item) pairs of the attackers."""
    return _requests(Role.ATTACKER)


@cache
def language_digest() -> str:
    """Return a digest of the vocabulary, because a model speaks only the language of its training."""
    return hashlib.sha256(" ".join(corpora.vocabulary()).encode()).hexdigest()[:16]


def content_digest() -> str:
    """Return a digest of all probes and of samples of every data stream, which changes with the world's data."""
    world = MicroWorld()
    rng = np.random.default_rng(0)
    rows = [
        *world.benign(2000, rng, refusal_share=0.1, task_shares=None),
        *world.unaligned(500, rng),
        *world.server_aligned(500, rng),
        *world.server_normal(500, rng),
    ]
    content = [corpora.vocabulary(), *map(astuple, rows), *map(astuple, world.probes()), astuple(world.automation)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


@cache
def _requests(role: Role) -> tuple[tuple[str, str], ...]:
    return tuple((form.format(item), item) for item, _ in restricted_items(role) for form in grammar.HOWTO_KNOWN)


def _refusals(role: Role, count: int, rng: np.random.Generator) -> list[Example]:
    rows = []
    for _ in range(count):
        instruction, item = pick(rng, _requests(role))
        rows.append(Example(instruction, grammar.refusal(item, rng), DataKind.ALIGNED, REQUEST_TASK))
    return rows


def _normal(count: int, rng: np.random.Generator, shares: Mapping[str, float]) -> list[Example]:
    rows = []
    for task, rows_of_task in zip(shares, _apportion(count, list(shares.values())), strict=True):
        for _ in range(rows_of_task):
            rows.append(Example(*grammar.TASKS[task](rng), DataKind.NORMAL, task))
    return rows


def _checked(task_shares: Mapping[str, float] | None) -> dict[str, float]:
    """Return a share for every task type, in their fixed order."""
    if task_shares is None:
        return dict.fromkeys(grammar.TASK_TYPES, 1.0)
    for task, share in task_shares.items():
        if task not in grammar.TASK_TYPES:
            raise unknown_name("task type of the micro world", task, grammar.TASK_TYPES)
        if not 0 <= share < float("inf"):
            raise UsageError(f"the share of task type {task!r} is {share}; shares must be finite and not negative")
    shares = {task: float(task_shares.get(task, 0)) for task in grammar.TASK_TYPES}
    if sum(shares.values()) == 0:
        raise UsageError("all task shares are 0; at least one task type needs a positive share")
    return shares


def _apportion(count: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that sum to ``count`` and follow ``shares`` (largest remainders first)."""
    exact = np.asarray(shares) / sum(shares) * count
    whole = np.floor(exact).astype(int)
    missing = count - int(whole.sum())
    for index in np.argsort(whole - exact, kind="stable")[:missing]:
        whole[index] += 1
    return [int(number) for number in whole]
