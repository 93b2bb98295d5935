"""One attack situation and the settings around it, as a suite's YAML gives them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from benchmark.settings import Settings
from benchmark.suites.settings import Seed, rule
from tasks.hub.settings import DataChoice

ParamValue = Annotated[float | int | str | bool, rule("must be a finite number, a text, true or false")]
DefenseIds = Annotated[tuple[str, ...] | Literal["all"], rule("must be a list of defense ids, or 'all'")]


class TrainingSettings(Settings):
    """Local training of one client."""

    rounds: int = Field(ge=1)
    """Federated rounds."""
    local_steps: int = Field(ge=1)
    """Optimizer steps of a client in a round."""
    batch_size: int = Field(ge=1)
    """Rows a step."""
    rows_per_client: int = Field(ge=1)
    """Training rows of every client; equal, so that counts do not reveal attackers."""
    learning_rate: float = Field(gt=0)
    """Rate of the first round; cosine over rounds, constant inside a round."""
    learning_rate_floor: float = Field(ge=0)
    """Rate the cosine ends at."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of a client's gradient; none for no clipping."""
    mode: Literal["stacked", "sequential"] = "stacked"
    """Whether a round's clients train in one pass or one after the other with PEFT (the reference)."""
    schedule: Literal["seeded", "round_seeded"] = "seeded"
    """Choice of participants: ``seeded`` draws from the run's own stream. ``round_seeded`` draws by the round's number
    alone, with the last clients malicious, as the seed paper's released code does."""
    max_length: int | None = Field(default=None, ge=2)
    """Most tokens of a training row; longer rows are cut at their end."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of being kept."""

    added: ClassVar[frozenset[str]] = frozenset({"schedule", "max_length", "gradient_checkpointing"})

    @model_validator(mode="after")
    def _rate_falls(self) -> Self:
        if self.learning_rate_floor > self.learning_rate:
            raise ValueError(
                f"learning_rate_floor {self.learning_rate_floor} exceeds learning_rate {self.learning_rate}, but the "
                f"rate falls over the rounds; lower the floor"
            )
        return self


class TrainingChanges(Settings):
    """Settings of local training that a scenario may change; see :class:`TrainingSettings`."""

    rounds: int | None = Field(default=None, ge=1)
    """Federated rounds."""
    local_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a client in a round."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows a step."""
    rows_per_client: int | None = Field(default=None, ge=1)
    """Training rows of every client."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Rate of the first round."""
    learning_rate_floor: float | None = Field(default=None, ge=0)
    """Rate the cosine ends at."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"rounds", "local_steps", "batch_size", "rows_per_client", "learning_rate", "learning_rate_floor"}
    )


class PosthocSettings(Settings):
    """Server-side fine-tuning after the last round."""

    examples: int = Field(ge=2)
    """Training pairs, half aligned and half normal."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(ge=1)
    """Rows a step."""
    learning_rate: float = Field(gt=0)
    """Initial rate, cosine over the steps."""
    learning_rate_floor: float = Field(default=0.0, ge=0)
    """Rate the cosine ends at."""
    restart_every: int | None = Field(default=None, ge=1)
    """Steps after which the optimiser starts anew, with one rate for all of them, as federated rounds do; none for one
    optimiser throughout and a rate for each step."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of the gradient; none for no clipping."""

    added: ClassVar[frozenset[str]] = frozenset({"learning_rate_floor", "restart_every", "clip_norm"})

    @model_validator(mode="after")
    def _restarts_divide_steps(self) -> Self:
        if self.restart_every is not None and self.steps % self.restart_every:
            raise ValueError(
                f"restart_every {self.restart_every} does not divide steps {self.steps}; choose one that does"
            )
        return self


class Partition(Settings):
    """How task types are spread over clients."""

    kind: Literal["iid", "dirichlet"] = "iid"
    """Equal shares for all clients, or each client's shares drawn from a Dirichlet distribution."""
    alpha: float | None = Field(default=None, gt=0)
    """Concentration of the Dirichlet distribution; small is heterogeneous."""

    @model_validator(mode="after")
    def _alpha_belongs_to_dirichlet(self) -> Self:
        if (self.kind == "dirichlet") != (self.alpha is not None):
            way_out = "needs alpha; give it" if self.kind == "dirichlet" else "takes no alpha; leave it out"
            raise ValueError(f"partition {self.kind!r} {way_out}")
        return self


class AttackSettings(Settings):
    """Attack of the malicious clients."""

    id: str
    """Registry id."""
    params: dict[str, ParamValue] = Field(default_factory=dict)
    """Its parameters."""


class Scenario(Settings):
    """One standardized attack situation."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Registry id."""
    version: str
    """Changes with any setting."""
    title: str = Field(min_length=1)
    """Short human name."""
    description: str = Field(min_length=20)
    """One paragraph."""
    start: str
    """Role of the starting checkpoint."""
    clients: int = Field(ge=1)
    """Clients K in the federation."""
    participants: int = Field(ge=1)
    """Clients n drawn every round."""
    malicious: int = Field(ge=0)
    """Malicious clients among K."""
    declared_malicious: int = Field(ge=0)
    """Bound f on malicious clients among n, given to the server."""
    partition: Partition = Partition()
    """Spread of task types."""
    refusal_share: float = Field(ge=0, le=1)
    """Share of refusals among honest clients' rows."""
    reattack_rounds: int = Field(default=0, ge=0)
    """Rounds of a second federation that the same clients hold, by FedAvg, once the defense has done its last step."""
    data: DataChoice | None = None
    """Sources of each role's rows, in worlds that have several sources."""
    attack: AttackSettings
    """Attack of the malicious clients."""
    twin: str
    """Id of the un-attacked twin: same seeds, the same ids hold benign data. Un-attacked scenarios name themselves."""
    variants: tuple[str, ...] = ()
    """Variants of defenses that run in this scenario."""
    flags: tuple[str, ...] = ()
    """Remarks that every row of the scenario carries."""
    training: TrainingChanges = TrainingChanges()
    """Settings of local training that differ from the suite's."""
    seeds: tuple[Seed, ...] = ()
    """Run seeds; empty for the suite's."""
    defenses: Annotated[tuple[str, ...], rule("must be a list of defense ids or compositions")] = ()
    """Defenses and compositions that run here, each one of the suite's; empty for all of the suite's. Variants run
    besides."""

    added: ClassVar[frozenset[str]] = frozenset({"data", "training", "seeds", "defenses"})

    @property
    def attacked(self) -> bool:
        """Whether this is not its own un-attacked twin."""
        return self.twin != self.id

    @model_validator(mode="after")
    def _choices_are_clear(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"scenario {self.id!r} repeats a seed of {list(self.seeds)}; name each once")
        if "all" in self.defenses:
            raise ValueError(
                f"scenario {self.id!r} lists 'all' among its defenses {list(self.defenses)}, but a list holds ids; "
                f"leave defenses out for all of the suite's"
            )
        return self

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        if self.participants > self.clients:
            raise ValueError(
                f"participants {self.participants} exceed clients {self.clients}; draw at most all clients"
            )
        if self.malicious > self.clients:
            raise ValueError(
                f"malicious {self.malicious} exceed clients {self.clients}; at most all clients can be malicious"
            )
        if self.declared_malicious >= self.participants:
            raise ValueError(
                f"declared_malicious {self.declared_malicious} must be below participants {self.participants}; "
                f"lower the bound or draw more clients"
            )
        return self
