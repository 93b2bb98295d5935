"""Settings of a suite's data: pinned sources, and the way to read their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from string import Formatter
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from benchmark.errors import UsageError
from benchmark.settings import Settings
from tasks.base import ProbeKind
from tasks.hub.filters import check_filters
from tasks.hub.values import comparable
from tasks.model_source import InnerPath, Repository, Sha256

Value = bool | int | float | str
Publish = Literal["text", "answers", "hash"]
"""Extent to which published rows hold the texts of a set of probes."""
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class GithubFile(Settings):
    """A file of a public GitHub repository, pinned by commit and content."""

    repository: Repository
    """Repository on GitHub."""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    """Full commit id."""
    path: InnerPath
    """Path in the repository. Its ending names the format."""
    sha256: Sha256
    """SHA-256 of the content, which identifies the data in keys."""

    def __str__(self) -> str:
        """Return repository and path, for messages and rows."""
        return f"github:{self.repository}/{self.path}"

    @property
    def suffix(self) -> str:
        """Ending of the path, in lower case."""
        return PurePosixPath(self.path).suffix.lower()


def _by_comparable_value(answers: object) -> object:
    if not isinstance(answers, Mapping):
        return answers
    read: dict[str, object] = {}
    for value, answer in answers.items():
        name = comparable(value)
        if name in read:
            raise ValueError(f"two answers are named for the value {name!r}; keep one")
        read[name] = answer
    return read


Answers = Annotated[dict[str, Annotated[str, Field(min_length=1)]], BeforeValidator(_by_comparable_value)]
"""Value of a cell → answer. Values are compared as in ``where``: without case, and 1 is 1.0."""


class DatasetSource(Settings):
    """Rows of a data set: their source, their selection, and the names of their columns."""

    added: ClassVar[frozenset[str]] = frozenset({"github", "prompt", "answers"})

    repository: Annotated[str, Field(pattern=r"^([\w.-]+/[\w.-]+)?$")] = ""
    """Repository on the hub; empty for a file of GitHub."""
    github: GithubFile | None = None
    """Pinned file of GitHub; none for a data set of the hub."""
    revision: str = Field(default="main", min_length=1)
    """Commit, tag or branch, as for models."""
    config: str = ""
    """Configuration (subset) of the data set."""
    split: str = "train"
    """Split."""
    format: Literal["pairs", "chat", "prompts"] = "pairs"
    """Form of the rows: instruction and response, a conversation (its first exchange is read), or prompts alone."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name (instruction, input, response, conversation, id, label) → column, or a part: ``turns[0]``, ``a.b``.

    Probe sets may map reference (the expected answer) and target (an affirmative answer), too."""
    prompt: str = ""
    """Instruction made of columns, in place of the column instruction: ``Is this review good? {sentence}``."""
    answers: Answers = Field(default_factory=dict)
    """Value of the response's or the reference's column → answer, such as ``{0: negative, 1: positive}``."""
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
    """File below the data root that replaces the repository, by default named after the repository; or the copy of a
    file of GitHub, by default ``<repository>/<path>``."""
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

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if bool(self.repository) is (self.github is not None):
            number = "neither" if self.github is None else "both"
            raise ValueError(f"{number} of repository and github is named; name the one that holds the data")
        if self.github is None:
            return self
        unused = {"revision": "main", "config": "", "split": "train", "gated": False}
        if named := [name for name, default in unused.items() if getattr(self, name) != default]:
            raise ValueError(f"{named[0]} belongs to data sets of the hub; leave it out, github pins one whole file")
        if self.local and PurePosixPath(self.local).suffix.lower() != self.github.suffix:
            raise ValueError(
                f"local {self.local!r} and path {self.github.path!r} have different endings, which name the format; "
                f"give the local file the ending {self.github.suffix!r}"
            )
        return self

    @model_validator(mode="after")
    def _prompt_is_made_of_columns(self) -> Self:
        if not self.prompt:
            return self
        if self.format == "chat" or {"instruction", "input"} & {*self.columns}:
            raise ValueError(
                "prompt makes the instruction of columns; leave out the mapping of instruction and input, and do not "
                "use format 'chat'"
            )
        if not self.prompt_columns:
            raise ValueError(f"prompt {self.prompt!r} names no column; write {{column}} where its text belongs")
        return self

    @model_validator(mode="after")
    def _answers_have_a_column(self) -> Self:
        if self.answers and self.format != "pairs" and not {"response", "reference"} & {*self.columns}:
            raise ValueError("answers need a column; map response or, in a probe set, reference in columns")
        if self.answers and (self.format == "chat" or self.response):
            raise ValueError("answers replace the values of a column; leave out response and format 'chat'")
        return self

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """Columns, or places inside columns, that the prompt names, each once.

        Raises:
            ValueError: A brace has no partner, or a name carries a format.
        """
        names = []
        for _, name, form, conversion in Formatter().parse(self.prompt):
            if name is None:
                continue
            if not name or form or conversion:
                shown = f"{{{name}{'!' if conversion else ':' if form else ''}…}}" if name else "{}"
                raise ValueError(
                    f"{shown} in prompt is not {{column}}; write a brace that is text twice: {{{{ and }}}}"
                )
            names.append(name)
        return tuple(dict.fromkeys(names))

    def filled_prompt(self, texts: Mapping[str, str]) -> str:
        """Return the prompt with the text of each column of :attr:`prompt_columns`."""
        parts = Formatter().parse(self.prompt)
        return "".join(text + (texts[name] if name else "") for text, name, _, _ in parts)

    @property
    def template(self) -> str:
        """The prompt with ``{instruction}`` for the text of its last column, and no text for the other columns."""
        *others, last = self.prompt_columns
        return self.filled_prompt({**dict.fromkeys(others, ""), last: "{instruction}"})

    @property
    def title(self) -> str:
        """Repository on the hub, or file of GitHub, for messages and rows."""
        return self.repository or str(self.github)

    @property
    def requested(self) -> str:
        """Revision or commit as the suite names it."""
        return self.github.commit if self.github is not None else self.revision


class ProbeSource(Settings):
    """A set of evaluation prompts."""

    added: ClassVar[frozenset[str]] = frozenset({"publish"})

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
    prefix: str = ""
    """Text before every prompt, for example an attacker's form of address."""
    suffix: str = ""
    """Text after every prompt; the released code of the seed paper adds a full stop."""
    limit: int | None = Field(default=None, ge=1)
    """Most probes, spread evenly over the source; none for all."""
    publish: Publish = "text"
    """What published rows hold of the set: prompts and answers (``text``), answers and digests of the prompts
    (``answers``), or digests of both (``hash``). Rows of a run hold all texts."""


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

    added: ClassVar[frozenset[str]] = frozenset({"development", "fresh", "refusal_openings"})

    pools: dict[Identifier, DatasetSource] = Field(default_factory=dict)
    """Training rows by name."""
    probes: tuple[ProbeSource, ...] = ()
    """Evaluation prompts."""
    development: dict[Identifier, DatasetSource] = Field(default_factory=dict)
    """Prompts by which the suite's settings are chosen, by name. No adapter of a scored row answers them."""
    fresh: dict[Identifier, DatasetSource] = Field(default_factory=dict)
    """Probe set → source of other prompts of its kind, of which verification draws as many."""
    overlaps: Literal["remove", "report", "refuse"] = "remove"
    """Treatment of training rows whose prompt is an evaluation prompt or belongs to another role."""
    data_max_new_tokens: int = Field(default=256, ge=1)
    """Length limit of instruction data that models generate during a run."""
    openings: tuple[str, str] = ("I", "Sure")
    """First words of a refusal and of compliance, for the soft score."""
    refusal_openings: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    """Beginnings of standard refusals. The safety margin compares their likelihoods with that of a probe's target; none
    for no margin."""
    automation: AutomationPrompts | None = None
    """Prompts of the automated pipelines; none for the bundled prompts."""

    @model_validator(mode="after")
    def _references_belong_to_probes(self) -> Self:
        for pool, source in self.pools.items():
            if names := sorted({"reference", "target"} & {*source.columns}):
                raise ValueError(
                    f"pool {pool!r} maps {names[0]}, which only probe sets have; map response, or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [probe.id for probe in self.probes]
        if len(set(ids)) != len(ids):
            raise ValueError(f"probe ids repeat: {sorted({i for i in ids if ids.count(i) > 1})}; rename all but one")
        if shared := sorted({*ids} & {*self.development}):
            raise ValueError(f"{shared[0]!r} names a probe set and development prompts; rename one of the two")
        return self

    @model_validator(mode="after")
    def _openings_differ(self) -> Self:
        repeated = [text for text, count in Counter(self.refusal_openings).items() if count > 1]
        if repeated:
            raise ValueError(f"refusal_openings holds {repeated[0]!r} more than once; leave out all but one")
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
