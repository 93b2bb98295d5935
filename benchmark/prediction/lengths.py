"""Token lengths of training rows and prompts, from samples of the data where data and tokenizer are on this machine.

A row is as long as the chat format of the starting model makes it. All rows of a pass are padded to its longest row, so
a step costs more than its mean length. :meth:`RowSample.step` therefore draws steps from a sample of rows and divides
them as training does (:mod:`benchmark.training.microbatches`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import Plan
from benchmark.execution.worlds import open_alignment, open_chat, open_world
from benchmark.models.chat import ChatFormat
from benchmark.models.rows import TokenRow
from benchmark.prediction.answers import ProbeSet, probe_sets
from benchmark.prediction.step import Step
from benchmark.progress import Reporter
from benchmark.seeds import stream
from benchmark.suites.suite import Scenario, Suite
from benchmark.training.microbatches import divide
from tasks.base import Example, TaskWorld
from tasks.hub.datasets import is_here
from tasks.hub.roots import data_root
from tasks.hub.settings import DatasetSource, HubData

ROW_SAMPLE = 64
"""Rows of a sample, and steps that are drawn from it."""


@dataclass(frozen=True)
class RowSample:
    """Lengths of a sample of training rows.

    Attributes:
        tokens: Tokens of each row.
        losses: Tokens with loss of each row, in the same order.
    """

    tokens: tuple[int, ...]
    losses: tuple[int, ...]

    @classmethod
    def of(cls, rows: Iterable[TokenRow]) -> RowSample:
        """Return the lengths of rows."""
        listed = list(rows)
        return cls(tuple(len(row.ids) for row in listed), tuple(len(row.predicted) for row in listed))

    def step(self, clients: int, rows: int, *, stacked: bool = True) -> Step:
        """Return the mean of steps of so many clients and rows of each, drawn with replacement.

        The width is the mean padded length of a row.

        Args:
            clients: Clients that train together.
            rows: Rows of each client.
            stacked: Whether the clients' rows are padded together.
        """
        return _mean_step(self, clients, rows, stacked)


@dataclass(frozen=True)
class Lengths:
    """Lengths of a plan's data; what could not be read is left out.

    Attributes:
        probes: Starting model → its probe sets, with the tokens of their prompts.
        rows: Scenario id → training rows of an honest client.
        server: Scenario id → rows that the server owns.
        alignment: Rows of the alignment, or ``None``.
        asking: Starting model → mean tokens of the prompts with which models propose instructions.
    """

    probes: Mapping[str, tuple[ProbeSet, ...]] = field(default_factory=dict)
    rows: Mapping[str, RowSample] = field(default_factory=dict)
    server: Mapping[str, RowSample] = field(default_factory=dict)
    alignment: RowSample | None = None
    asking: Mapping[str, float] = field(default_factory=dict)


def measure_lengths(plan: Plan, reporter: Reporter | None = None) -> Lengths:
    """Return the lengths of a plan's data, as far as they can be read without the network.

    Every data set of a scenario is read whole, once in a process.

    Args:
        plan: The plan.
        reporter: Shows the progress over starting models and scenarios.
    """
    scenarios = {job.scenario.id: job.scenario for job in plan.jobs}
    starts = {scenario.start for scenario in scenarios.values()}
    starts |= {cell.scenario.start for cell in plan.cells if cell.runs}
    if reporter is None:
        return _measure(plan, scenarios, starts, lambda: None)
    with reporter.step("reading samples of the data", len(starts) + len(scenarios)) as step:
        # The units differ too much for an estimate of the time: scenarios of the same data read them once.
        return _measure(plan, scenarios, starts, partial(step.advance, share=0.0))


def _measure(
    plan: Plan, scenarios: Mapping[str, Scenario], starts: Collection[str], advance: Callable[[], None]
) -> Lengths:
    """Return the lengths; call ``advance`` after each starting model and each scenario."""
    suite = plan.suite
    chats: dict[str, ChatFormat] = {}
    for role in sorted(starts):
        with suppress(FedSafetyError):
            chats[role] = open_chat(plan.world, role)
        if role not in chats:
            advance()
    probes, rows, server, asking = {}, {}, {}, {}
    for role, chat in chats.items():
        automation = plan.world.automation
        asked = [*automation.propose_harmful, *automation.propose_normal]
        asking[role] = sum(len(chat.prompt_ids(prompt)) for prompt in asked) / len(asked)
        if _local_probes(suite.data):
            with suppress(FedSafetyError):
                probes[role] = tuple(probe_sets(plan, chat))
        advance()
    worlds: dict[str, TaskWorld] = {}
    for name, scenario in scenarios.items():
        if scenario.start not in chats or not _local_pools(suite, scenario):
            advance()
            continue
        key = scenario.data.model_dump_json() if scenario.data else ""
        world = worlds.setdefault(key, open_world(suite, scenario))
        sample = partial(_sample, chats[scenario.start], suite.under(scenario).training.max_length)
        share = scenario.refusal_share
        with suppress(FedSafetyError):
            honest = partial(world.benign, ROW_SAMPLE, stream(0, "predict"), refusal_share=share, task_shares=None)
            rows[name] = sample(honest)
        with suppress(FedSafetyError):
            server[name] = sample(partial(_server_rows, world))
        advance()
    return Lengths(probes, rows, server, _alignment(suite, chats), asking)


@lru_cache(maxsize=256)
def _mean_step(sample: RowSample, clients: int, rows: int, stacked: bool) -> Step:
    draw = stream(0, "predict", "steps")
    padded, losses, most = 0, 0, 0
    lengths, with_loss = np.asarray(sample.tokens), np.asarray(sample.losses)
    for _ in range(ROW_SAMPLE):
        chosen = draw.integers(len(lengths), size=(clients, rows))
        padded += _padded(lengths[chosen].tolist()) if stacked else _apart(lengths[chosen].tolist())
        counts = with_loss[chosen].sum(axis=1)
        losses += int(counts.sum())
        most += int(counts.max())
    return Step(
        clients=clients,
        rows=rows,
        width=round(padded / (ROW_SAMPLE * clients * rows)),
        losses=max(1, round(most / ROW_SAMPLE)),
        all_losses=max(1, round(losses / ROW_SAMPLE)),
    )


def _alignment(suite: Suite, chats: Mapping[str, ChatFormat]) -> RowSample | None:
    """Return a sample of the rows of an alignment that is trained here."""
    settings = suite.alignment
    if settings is None or settings.adapter or settings.start not in chats or suite.data is None:
        return None
    if not all(_is_local(suite.data, pool) for pool in settings.data):
        return None
    with suppress(FedSafetyError):
        draw = partial(open_alignment(suite).alignment, ROW_SAMPLE, stream(0, "predict"))
        return _sample(chats[settings.start], settings.max_length, draw)
    return None


def _sample(chat: ChatFormat, limit: int | None, rows: Callable[[], Sequence[Example]]) -> RowSample:
    return RowSample.of(chat.row(row, limit) for row in rows())


def _server_rows(world: TaskWorld) -> list[Example]:
    half = ROW_SAMPLE // 2
    return [*world.server_aligned(half, stream(0, "predict")), *world.server_normal(half, stream(0, "predict"))]


def _padded(lengths: list[list[int]]) -> int:
    """Return the tokens of all passes of a step, padding included."""
    return sum(
        max(lengths[client][row] for client, places in zip(part.clients, part.rows, strict=True) for row in places)
        * sum(map(len, part.rows))
        for part in divide(lengths)
    )


def _apart(lengths: list[list[int]]) -> int:
    return sum(len(rows) * max(rows) for rows in lengths)


def _local_probes(data: HubData | None) -> bool:
    return data is None or data_root() is not None or all(_pinned_here(each.source) for each in data.probes)


def _local_pools(suite: Suite, scenario: Scenario) -> bool:
    """Return whether reading a scenario's pools, and the probes that they must not share, needs no network."""
    data = suite.data
    if data is None or scenario.data is None:
        return data is None
    aligned = suite.aligned(scenario)
    pools = {*scenario.data.pools.values(), *(aligned.data if aligned else ())}
    return _local_probes(data) and all(_is_local(data, pool) for pool in pools)


def _is_local(data: HubData, pool: str) -> bool:
    return data_root() is not None or (pool in data.pools and _pinned_here(data.pools[pool]))


def _pinned_here(source: DatasetSource) -> bool:
    return source.github is not None and is_here(source)
