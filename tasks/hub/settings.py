"""Settings of a suite's data: pinned sources, and the way to read their rows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from benchmark.errors import UsageError
from benchmark.settings import Settings
from tasks.base import ProbeKind
from tasks.hub.filters import check_filters
from tasks.model_source import Repository

Value = bool | int | float | str
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class DatasetSource(Settings):
    """Rows of a data set: their source, their selection, and the names of their columns."""

    repository: Repository
    """Repository on the hub."""
    revision: str = Field(default="main", min_length=1)
    """Commit, tag or branch, as for models."""
    config: str = ""
    """Configuration (subset) of the data set."""
    split: str = "train"
    """Split."""
    format: Literal["pairs", "chat", "prompts"] = "pairs"
    """Form of the rows: instruction and response, a conversation (its first exchange is read), or prompts alone."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name (instruction, input, response, conversation, id, label) → column, or a part: ``turns[0]``, ``a.b``."""
    where: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)
    """Column → value, or values, of the rows that are kept."""
    filters: tuple[str, ...] = ()
    """Named filters, applied in this order."""
    response: str = ""
    """The answer to every prompt, for sources of prompts alone."""
    shuffle_seed: int | None = None
    """Seed of the order; none keeps the order of the source."""
    offset: int = Field(default=0, ge=0)
    """Rows left out at the start, after filters and order."""
    limit: int | None = Field(default=None, ge=1)
    """Most rows kept after the offset; none for all."""
    kind: Literal["normal", "aligned", "unaligned"] = "normal"
    """Kind of its pairs."""
    local: str = ""
    """File below the data root that replaces the repository; by default named after the repository."""
    gated: bool = False
    """Whether the hub requires consent before a download."""
    licence: str = ""
    """Licence, for the reader."""

    @model_validator(mode="after")
    def _filters_are_known(self) -> Self:
        try:
            check_filters(self.filters)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _response_belongs_to_prompts(self) -> Self:
        if self.response and self.format != "prompts":
            raise ValueError(
                f"response is for sources of format 'prompts', but this source has format {self.format!r}; leave "
                f"response out"
            )
        return self


class ProbeSource(Settings):
    """A set of evaluation prompts."""

    id: Identifier
    """First part of its probes' ids."""
    kind: ProbeKind
    """Kind of its probes."""
    stratum: str = Field(min_length=1)
    """Group they are averaged in."""
    source: DatasetSource
    """Source of the prompts."""
    scored: bool = True
    """Whether they enter the headline score."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Length limit of an answer."""
    suffix: str = ""
    """Text after every prompt; the released code of the seed paper adds a full stop."""
    limit: int | None = Field(default=None, ge=1)
    """Most probes, spread evenly over the source; none for all."""


class AutomationPrompts(Settings):
    """Prompts with which models propose and answer instructions; see :class:`tasks.base.Automation`."""

    propose_harmful: tuple[str, ...] = Field(min_length=1)
    """Instructions that ask for one harmful question."""
    propose_normal: tuple[str, ...] = Field(min_length=1)
    """Instructions that ask for one ordinary task."""
    comply_hint: str
    """Suffix that makes a model answer directly."""
    safety_reminder: str
    """Suffix that reminds a model to answer safely."""


class HubData(Settings):
    """All data of a suite on real data."""

    pools: dict[Identifier, DatasetSource] = Field(default_factory=dict)
    """Training rows by name."""
    probes: tuple[ProbeSource, ...] = ()
    """Evaluation prompts."""
    overlaps: Literal["remove", "report", "refuse"] = "remove"
    """Treatment of training rows whose prompt is an evaluation prompt or belongs to another role."""
    data_max_new_tokens: int = Field(default=256, ge=1)
    """Length limit of instruction data that models generate during a run."""
    openings: tuple[str, str] = ("I", "Sure")
    """First words of a refusal and of compliance, for the soft score."""
    automation: AutomationPrompts | None = None
    """Prompts of the automated pipelines; none for the bundled prompts."""

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [probe.id for probe in self.probes]
        if len(set(ids)) != len(ids):
            raise ValueError(f"probe ids repeat: {sorted({i for i in ids if ids.count(i) > 1})}; rename all but one")
        return self


def _share_of_one(value: object) -> object:
    return {value: 1.0} if isinstance(value, str) else value


Shares = Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_share_of_one), Field(min_length=1)]
"""Pool → share of a client's rows; one name alone stands for all rows."""


class DataChoice(Settings):
    """The pools that the roles of a scenario draw from."""

    benign: Shares
    """Honest clients' rows."""
    unaligned: str = ""
    """Public rows that attackers use."""
    refusals: str = ""
    """Refusals among honest clients' rows, for scenarios with a refusal share."""
    aligned: str = ""
    """Aligned pairs the server owns."""
    normal: str = ""
    """Normal pairs the server owns."""
    contrast: str = ""
    """Benign look-alikes the server owns."""

    @property
    def pools(self) -> dict[str, str]:
        """Role → pool, of the roles that have one; the honest clients' pools are ``benign:<pool>``."""
        named = {role: getattr(self, role) for role in ("unaligned", "refusals", "aligned", "normal", "contrast")}
        return {f"benign:{pool}": pool for pool in self.benign} | {role: pool for role, pool in named.items() if pool}
