"""The world of real models and data with evaluation prompts of other public sets, for verification.

A suite names a fresh source for each of its probe sets. As many rows of it as the set has probes are drawn from a seed.
Rows whose prompt is a committed probe or stands in a pool of training rows are not drawn, so that neither a method that
memorises committed probes nor one that saw a pool knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from tasks.base import Probe, ProbeKind, register
from tasks.hub.datasets import load_rows
from tasks.hub.probes import make_probes
from tasks.hub.settings import DataChoice, HubData, ProbeSource
from tasks.hub.world import REVISION, HubWorld
from tasks.model_source import ModelSource


@register(
    title="Models and data of the Hugging Face hub, fresh probes",
    description="The world of real models and data with probes drawn from a seed: the same sets, counts, lengths and "
    "models, but prompts of other sources. Verification asks them of a submission beside the committed ones.",
    revision=REVISION,
)
class HubFresh(HubWorld):
    """World of a suite's models whose probes come from the suite's fresh sources.

    Args:
        models: Role → checkpoint.
        data: Data of the suite.
        choice: As for :class:`tasks.hub.world.HubWorld`.
        seed: Stream of the draw; not negative.

    Raises:
        UsageError: A scored probe set has no fresh source, or a fresh source belongs to no probe set.
        ValueError: ``seed`` is negative.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource] | None = None,
        data: HubData | None = None,
        choice: DataChoice | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(models, data, choice)
        if seed < 0:
            raise ValueError(f"the seed of fresh probes is {seed}; it must not be negative")
        self._seed = seed
        sets = {probe.id: probe for probe in self._data.probes}
        for name in self._data.fresh:
            if name not in sets:
                raise unknown_name("probe set of fresh prompts", name, sets)
        # No verification compares perplexities, so that their probes need no fresh source.
        scored = [name for name, probe in sets.items() if probe.scored and probe.kind is not ProbeKind.PERPLEXITY]
        lacking = [name for name in scored if name not in self._data.fresh]
        if lacking:
            raise UsageError(
                f"the probe set {lacking[0]!r} has no fresh source, so the suite can be verified up to level checked "
                f"only; name one in the suite's data.fresh"
            )

    def probes(self) -> tuple[Probe, ...]:
        """Return the drawn probes of all sets that have a fresh source, set by set.

        Raises:
            InputsMissingError: A data set is not on this machine and cannot be downloaded.
            FedSafetyError: A source has too few prompts that no role uses.
        """
        known = self._known_prompts()
        rng = np.random.default_rng(self._seed)
        sets = [probe for probe in self._data.probes if probe.id in self._data.fresh]
        return tuple(probe for source in sets for probe in self._drawn_probes(source, known, rng))

    def item_of(self, probe: Probe) -> str:
        """Return the probe's id, because no two real prompts are about one item."""
        return probe.id

    def _known_prompts(self) -> npt.NDArray[np.uint64]:
        """Return the hashes of all prompts of committed probes, of development and of training rows."""
        data = self._data
        sources = [*(probe.source for probe in data.probes), *data.development.values(), *data.pools.values()]
        return np.unique(np.concatenate([load_rows(source).hashes for source in sources]))

    def _drawn_probes(
        self, committed: ProbeSource, known: npt.NDArray[np.uint64], rng: np.random.Generator
    ) -> list[Probe]:
        source = self._data.fresh[committed.id]
        count = min(len(load_rows(committed.source)), committed.limit or np.iinfo(np.int64).max)
        usable = np.flatnonzero(~np.isin(load_rows(source).hashes, known))
        if len(usable) < count:
            raise FedSafetyError(
                f"the fresh source of probe set {committed.id!r} has {len(usable)} prompts that no other set holds, "
                f"and the set has {count} probes; name a larger source in data.fresh"
            )
        all_probes = make_probes(committed.model_copy(update={"source": source, "limit": None}))
        drawn = sorted(rng.choice(usable, size=count, replace=False).tolist())
        return [replace(all_probes[row], id=f"{committed.id}/fresh_{row}") for row in drawn]
