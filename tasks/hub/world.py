"""The task world of real models and data: pools for a scenario's roles, evaluation prompts, checkpoints of the hub."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from tasks.base import (
    Automation,
    Checkpoint,
    ClientStreams,
    Example,
    Input,
    Outcome,
    Probe,
    TaskWorld,
    register,
)
from tasks.hub import shards
from tasks.hub.automation import automation_prompts
from tasks.hub.choices import check_choice
from tasks.hub.datasets import Rows, data_identity, load_rows
from tasks.hub.inputs import dataset_input, model_input
from tasks.hub.models import model_commit, source_checkpoint
from tasks.hub.overlaps import (
    OverlapReport,
    RowSet,
    find_overlaps,
    kept_mask,
    refuse_conflicts,
    row_sets,
)
from tasks.hub.probes import PromptFinder, make_probes
from tasks.hub.settings import DataChoice, DatasetSource, HubData
from tasks.model_source import ModelSource

UNALIGNED_MODEL: Final = "unaligned"
"""Role of the model from which the start model was aligned, for defenses that compare the two."""

REVISION: Final = "4"
"""Version of reading, filters, order, overlaps, dealing, and of the way in which chat formats write texts that spell
control tokens. A change that can alter rows of a source increases it."""

_NOT_OF_ROWS: Final = {"github", "local", "gated", "licence"}
_CLIENTS: Final = ("the clients need", "rows_per_client or the number of clients")
_ALIGNMENT: Final = ("the alignment needs", "or the rows of the alignment")


@register(
    title="Models and data of the Hugging Face hub",
    description="Real instruction data, safety prompts and language models, by pinned repository, package or file, or "
    "from local files. Prompts are disjoint between evaluation, server, attackers and clients by normalised-text "
    "hash. There is no exact judgement; judges decide.",
    revision=REVISION,
)
class HubWorld(TaskWorld):
    """Instruction data, probes and models of a suite on real data. The constructor reads no files.

    Args:
        models: Role → checkpoint.
        data: Pools, probe sets and the policy on shared prompts.
        choice: Pools from which the roles of a scenario draw. Without a choice the world has probes and models, and
            the alignment's rows, only.
        alignment: Pool → share of the rows on which the suite aligns the scenario's start model; none for a start model
            as its checkpoint has it.

    Raises:
        UsageError: The choice or the alignment names an unknown pool, one of another data type, or one pool for two
            roles.
    """

    models_are_large = True
    draws_prompt_by_prompt = True

    def __init__(
        self,
        models: Mapping[str, ModelSource] | None = None,
        data: HubData | None = None,
        choice: DataChoice | None = None,
        alignment: Mapping[str, float] | None = None,
    ) -> None:
        self._models = dict(models or {})
        self._data = data or HubData()
        self._choice = choice
        # Sorted, because keys do not hold the order either.
        self._alignment = dict(sorted((alignment or {}).items()))
        self._repeated: dict[str, int] = {}
        check_choice(self._data, choice, self._alignment)

    @property
    def task_types(self) -> tuple[str, ...]:
        """Pools of the honest clients, in the suite's order."""
        return tuple(self._choice.benign) if self._choice else ()

    @cached_property
    def data_digest(self) -> str:
        """Digest of everything that rows, generated ones too, are made from.

        Where revisions are full commits, the digest needs neither files nor the hub.

        Raises:
            InputsMissingError: A revision cannot be resolved.
        """
        pools = {pool: _identified(self._data.pools[pool]) for pool in self._pools_used}
        probes = {probe.id: _identified(probe.source) for probe in self._data.probes}
        roles = self._choice.model_dump(mode="json", exclude_defaults=True) if self._choice else {}
        # Attackers and servers may generate data during a training, from these prompts and up to this length.
        generation = [asdict(self.automation), self._data.data_max_new_tokens]
        content = [REVISION, roles, pools, probes, self._data.overlaps, generation]
        content += [self._alignment] if self._alignment else []
        development = {name: _identified(source) for name, source in sorted(self._data.development.items())}
        content += [{"development": development}] if development else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def benign(
        self, count: int, rng: np.random.Generator, *, refusal_share: float, task_shares: Mapping[str, float] | None
    ) -> list[Example]:
        """Return one honest client's rows. The clients of a run share pools by :meth:`benign_shards`.

        Raises:
            FedSafetyError: As for :meth:`benign_shards`.
        """
        return self._dealt(count, rng, refusal_share, [task_shares])[0]

    def benign_shards(
        self,
        count: int,
        streams: ClientStreams,
        *,
        refusal_share: float,
        shares: Mapping[str, Mapping[str, float] | None],
    ) -> dict[str, list[Example]]:
        """Return the rows of all clients of a run, dealt from the shared stream: no two clients hold the same row.

        Args:
            count: Number of rows for each client; each client's rows are in random order.
            streams: Random streams of client data.
            refusal_share: Share of rows (0 to 1) from the pool of refusals.
            shares: Client id → share of each pool among its other rows; ``None`` for the shares of the choice.

        Raises:
            UsageError: A share is out of range or of an unknown pool, or the pool of refusals is missing.
            FedSafetyError: A pool has fewer rows than the clients need together.
        """
        return dict(zip(shares, self._dealt(count, streams(), refusal_share, list(shares.values())), strict=True))

    def _dealt(
        self, count: int, rng: np.random.Generator, refusal_share: float, shares: Sequence[Mapping[str, float] | None]
    ) -> list[list[Example]]:
        default = self._chosen().benign
        parts = [shards.composition(count, refusal_share, pools, default) for pools in shares]
        needed = Counter[str]()
        for normal, _ in parts:
            needed.update(normal)
        dealt = {pool: self._dealer(pool, needed[pool], rng, _CLIENTS) for pool in default}
        refusals = sum(number for _, number in parts)
        deal_refusals = self._dealer(self._pool_of("refusals"), refusals, rng, _CLIENTS) if refusals else None
        result = []
        for normal, refused in parts:
            rows = [row for pool, number in normal.items() for row in dealt[pool](number)]
            rows += deal_refusals(refused) if deal_refusals else []
            result.append([rows[index] for index in rng.permutation(len(rows))])
        return result

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return pairs of the attackers' pool, without repetition where it has enough."""
        return self._drawn("unaligned", count, rng)

    def server_aligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return pairs of the server's pool of refusals, without repetition where it has enough."""
        return self._drawn("aligned", count, rng)

    def server_normal(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return pairs of the server's pool of normal rows, without repetition where it has enough."""
        return self._drawn("normal", count, rng)

    def server_contrast(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return pairs of the server's pool of benign look-alikes, without repetition where it has enough."""
        return self._drawn("contrast", count, rng)

    def alignment(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return rows of the alignment's pools by their shares, each row once, in random order.

        Raises:
            UsageError: The world was made without an alignment.
            FedSafetyError: A pool has fewer rows than its share.
        """
        if not self._alignment:
            raise UsageError("this world was made without an alignment; name the pools in the suite's alignment")
        numbers = shards.spread(count, list(self._alignment.values()))
        parts = dict(zip(self._alignment, numbers, strict=True))
        rows = [row for pool, number in parts.items() for row in self._dealer(pool, number, rng, _ALIGNMENT)(number)]
        return [rows[index] for index in rng.permutation(len(rows))]

    @property
    def automation(self) -> Automation:
        """The suite's prompts of the automated pipelines, or the bundled ones."""
        return automation_prompts(self._data.automation)

    @property
    def task_templates(self) -> tuple[str, ...]:
        """Prompts of the honest clients' pools that make instructions of columns, in the suite's order."""
        sources = (self._data.pools[pool] for pool in self.task_types)
        return tuple(dict.fromkeys(source.template for source in sources if source.prompt))

    def probes(self) -> tuple[Probe, ...]:
        """Return all probes, set by set.

        Raises:
            InputsMissingError: A data set is not on this machine and cannot be downloaded.
        """
        return self._probes

    def judge_exactly(self, probe: Probe, response: str) -> Outcome:
        """Refuse, because real prompts have no exact judgement.

        Raises:
            FedSafetyError: Always.
        """
        raise FedSafetyError(
            f"nothing judges answers to {probe.id!r} exactly: real prompts have no grammar; name judges such as rule, "
            f"or one that is a model, in the suite instead of oracle"
        )

    @property
    def openings(self) -> tuple[str, str]:
        """First words of a refusal and of compliance, from the suite."""
        return self._data.openings

    @property
    def refusal_openings(self) -> tuple[str, ...]:
        """Beginnings of standard refusals, from the suite."""
        return self._data.refusal_openings

    def development_prompts(self, name: str) -> tuple[str, ...]:
        """Return the development prompts of a name, in the order of their source; empty for an unknown name.

        Raises:
            InputsMissingError: The data set is not on this machine and cannot be downloaded.
        """
        source = self._data.development.get(name)
        return tuple(load_rows(source).table["instruction"].to_pylist()) if source else ()

    def leaks_evaluation(self, text: str) -> bool:
        """Return whether ``text`` is or contains an evaluation prompt, ignoring case, punctuation and spacing."""
        return self._finder.holds(text)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles for which the suite names models."""
        return tuple(self._models)

    def unaligned_role(self, start: str) -> str:
        """Return ``unaligned`` where the suite names a model of this role, unless it is the start itself."""
        return UNALIGNED_MODEL if UNALIGNED_MODEL in self._models and start != UNALIGNED_MODEL else ""

    @property
    def sources(self) -> Mapping[str, ModelSource]:
        """Models of the suite, by role."""
        return self._models

    def model_path(self, role: str) -> Path:
        """Return the folder of the checkpoint for ``role``, after downloading it if necessary.

        Raises:
            UsageError: The suite names no such model.
            InputsMissingError: The model is not on this machine and cannot be downloaded.
        """
        return self.checkpoint(role).path

    def checkpoint(self, role: str) -> Checkpoint:
        """Return the checkpoint of ``role``, in the number format and with the template that the suite names.

        Raises:
            UsageError: The suite names no such model (suggests the nearest), or its template cannot be read.
        """
        return source_checkpoint(self._source(role))

    @property
    def response_choices(self) -> dict[str, Any]:
        """Openings of the soft score and of the safety margin, because each suite chooses them."""
        margin = {"refusal_openings": list(self.refusal_openings)} if self.refusal_openings else {}
        return {"openings": list(self.openings), **margin}

    @property
    def repeated(self) -> Mapping[str, int]:
        """Pools of which a role requested more rows than they hold → most repetitions that it got at once."""
        return self._repeated

    def inputs(self, roles: Sequence[str] | None = None) -> list[Input]:
        """Return the models, pools and probe sets that this choice reads, with resolved revisions and row counts.

        Args:
            roles: Roles whose models are listed; ``None`` for all of the suite.

        Raises:
            InputsMissingError: A model or data set is not on this machine and cannot be downloaded.
        """
        sources = {role: self._source(role) for role in (self.roles if roles is None else roles)}
        inputs = [model_input(role, source, model_commit(source)) for role, source in sources.items()]
        limits = {f"probes/{probe.id}": probe.limit for probe in self._data.probes}
        for name, rows in ((row_set.name, row_set.rows) for row_set in self._sets):
            kept = int(self._kept[name].sum())
            used = min(kept, limits.get(name) or kept)
            removed = [("left out for shared prompts", len(rows) - kept)] if kept < len(rows) else []
            inputs.append(dataset_input(name, rows, used, removed, self._repeated.get(name, 0)))
        return inputs

    def overlaps(self) -> OverlapReport:
        """Return the prompts that the sets of this choice share and the rows that are left out."""
        return find_overlaps(self._sets, self._data.overlaps)

    @cached_property
    def _probes(self) -> tuple[Probe, ...]:
        return tuple(probe for source in self._data.probes for probe in make_probes(source))

    @cached_property
    def _finder(self) -> PromptFinder:
        return PromptFinder(
            text for source in self._data.probes for text in load_rows(source.source).table["instruction"].to_pylist()
        )

    @property
    def _pools_used(self) -> list[str]:
        return sorted({*(self._choice.pools.values() if self._choice else ()), *self._alignment})

    @cached_property
    def _sets(self) -> list[RowSet]:
        """Sets of rows of this choice and of the alignment: probe sets, then pools."""
        data = self._data if self._pools_used else self._data.model_copy(update={"pools": {}})
        return row_sets(data, self._choice, self._alignment)

    @cached_property
    def _kept(self) -> dict[str, shards.Kept]:
        """Set → mask of its usable rows.

        Raises:
            FedSafetyError: Roles share prompts and the suite's policy is ``refuse``, or no row of a pool remains.
        """
        refuse_conflicts(self.overlaps())
        removing = self._data.overlaps == "remove"
        masks = {}
        for row_set in self._sets:
            size = len(row_set.rows)
            kept = kept_mask(row_set, self._sets) if removing else np.ones(size, dtype=bool)
            masks[row_set.name] = kept
            if not kept.any():
                raise FedSafetyError(
                    f"{row_set.name} has {size} rows, and all their prompts belong to other roles or to "
                    f"evaluation; choose another pool"
                )
        return masks

    def _source(self, role: str) -> ModelSource:
        if role not in self._models:
            raise unknown_name("model of this suite", role, self._models)
        return self._models[role]

    def _chosen(self) -> DataChoice:
        if self._choice is None:
            raise UsageError("this world was made without a choice of pools; name the scenario's data")
        return self._choice

    def _pool_of(self, role: str) -> str:
        pool: str = getattr(self._chosen(), role)
        if not pool:
            raise UsageError(f"the scenario's data name no pool for {role!r}; add {role}: <pool> to data")
        return pool

    def _rows(self, pool: str) -> Rows:
        return next(row_set.rows for row_set in self._sets if row_set.name == f"pool/{pool}")

    def _drawn(self, role: str, count: int, rng: np.random.Generator) -> list[Example]:
        pool = self._pool_of(role)
        name, kept = f"pool/{pool}", self._kept[f"pool/{pool}"]
        if (repeated := count - int(kept.sum())) > 0:
            self._repeated[name] = max(repeated, self._repeated.get(name, 0))
        return self._rows(pool).examples(shards.draw(kept, count, rng), pool)

    def _dealer(
        self, pool: str, needed: int, rng: np.random.Generator, users: tuple[str, str]
    ) -> Callable[[int], list[Example]]:
        """Return a function that returns the next rows of a random order of ``pool``, each row once.

        Args:
            pool: The pool.
            needed: Number of rows that all calls together take.
            rng: Stream of the order.
            users: Who takes the rows, and what they can lower, for the error of a pool that is too small.
        """
        kept = self._kept[f"pool/{pool}"]
        if (usable := int(kept.sum())) < needed:
            raise FedSafetyError(
                f"pool {pool!r} has {usable} rows after filters and shared prompts, and {users[0]} "
                f"{needed} different ones; choose a larger pool, or lower its share, {users[1]}"
            )
        rows = iter(self._rows(pool).examples(shards.draw(kept, needed, rng), pool))

        def deal(count: int) -> list[Example]:
            return [next(rows) for _ in range(count)]

        return deal


def _identified(source: DatasetSource) -> list[object]:
    """Return everything on which the rows of a source depend."""
    settings = source.model_dump(mode="json", exclude=_NOT_OF_ROWS, exclude_defaults=True)
    # The ending names the format, in which the same content may have other rows.
    form = [source.github.suffix] if source.github is not None else []
    return [settings, data_identity(source), *form]
