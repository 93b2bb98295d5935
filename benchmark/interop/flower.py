"""Defenses as Flower strategies, so that what is proven here defends a real federation.

    strategy = to_flower("krum", declared_malicious=2, rounds=20)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()))

Flower is by Beutel et al. 2020, arXiv 2007.14390; it is imported when a strategy is made. Its pins contradict those of
vLLM, so it belongs into an environment of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.errors import UsageError
from benchmark.methods.pipeline import parse_pipeline
from defenses.base import Defense, Knowledge, Server, defenses

if TYPE_CHECKING:
    from benchmark.interop.flower_strategy import DefenseStrategy

NEEDED = "flwr[simulation]>=1.41,<2"


def to_flower(
    defense: str | Defense,
    *,
    declared_malicious: int,
    rounds: int,
    seed: int = 0,
    server: Server | None = None,
    **options: Any,
) -> DefenseStrategy:
    """Return a strategy of Flower's message API that aggregates as ``defense`` does.

    It is a ``flwr.serverapp.strategy.FedAvg`` in all but its aggregation: it samples nodes, sends messages and averages
    metrics in the same way. Clients send back their whole model and their number of training rows.

    Args:
        defense: Name of a defense or a composition, as on the command line, or an instance, which is copied.
        declared_malicious: Bound f on malicious clients among a round's participants, for rules that need one.
        rounds: Number of rounds; the default of the strategy's ``start``.
        seed: Of the defense's own random stream and of the clients' ids.
        server: The server's tools, for defenses that act before the first or after the last round or ask for tools in
            each round: your own object with the methods of :class:`defenses.base.Server`.
        **options: Of Flower's ``FedAvg``: ``fraction_train``, ``min_train_nodes``, ``weighted_by_key``, ….

    Raises:
        UsageError: The defense is unknown, needs the identities of malicious clients, ignores the updates, or needs a
            ``server`` that is not given; a number is out of range; or Flower is missing or too old.
    """
    if declared_malicious < 0 or rounds < 1:
        raise UsageError(
            f"declared_malicious = {declared_malicious} and rounds = {rounds}: the bound is 0 or more, and there is at "
            f"least one round"
        )
    deployed = deploy(defense)
    if server is None and deployed.needs_server:
        raise UsageError(
            f"{deployed.name} acts {deployed.needs_server}, with tools that a server must own (data, fine-tuning, "
            f"generation); give an object with the methods of defenses.base.Server as server=…"
        )
    try:
        from benchmark.interop.flower_strategy import DefenseStrategy
    except ImportError as error:
        raise UsageError(
            f"Flower is not installed, or is too old ({error}); run pip install '{NEEDED}' in an environment of its "
            f"own, because its pins contradict those of vLLM"
        ) from error
    return DefenseStrategy(deployed, declared_malicious, rounds, seed, server, **options)


@dataclass(frozen=True)
class Deployed:
    """A defense, or a composition of several, by the moments at which its members act.

    Attributes:
        name: As on the command line.
        aggregator: Acts before the first round and in each.
        finalizers: Act after the last round, in order.
        servers: Change how the model is asked, in order.
        asks_server: Whether the aggregator asks for the server's tools in each round.
    """

    name: str
    aggregator: Defense
    finalizers: tuple[Defense, ...]
    servers: tuple[Defense, ...]
    asks_server: bool = False

    @property
    def needs_server(self) -> str:
        """When it acts with tools of the server's own; empty if it does not."""
        moments = {
            "before the first round": type(self.aggregator).prepare is not Defense.prepare,
            "in each round": self.asks_server,
            "after the last round": bool(self.finalizers),
        }
        return " and ".join(moment for moment, acts in moments.items() if acts)


def deploy(defense: str | Defense) -> Deployed:
    """Return ``defense`` for a federation in which the malicious clients are unknown.

    Raises:
        UsageError: It is unknown, needs the identities of malicious clients, or ignores the updates.
    """
    if isinstance(defense, Defense):
        names = [name for name in defenses.names() if defenses.holder(name)[0] == type(defense).__module__]
        infos = [entry.info for entry in map(defenses.get, names) if entry.target is type(defense)]
        name, members = infos[0].id if infos else type(defense).__name__, [defense]
        aggregator = defense
    else:
        pipeline = parse_pipeline(defense)
        infos, name = [entry.info for entry in pipeline.entries], pipeline.name
        members = [entry.create() for entry in pipeline.entries]
        # Without an aggregator of its own a composition averages by the base class.
        aggregator = members[pipeline.entries.index(pipeline.aggregator)] if pipeline.aggregator else members[0]
    told = [info.id for info in infos if info.knowledge is Knowledge.TRUTH]
    if told:
        raise UsageError(f"{told[0]} must be told who is malicious, which no real server is; it is a reference only")
    if not aggregator.uses_updates or any(not info.ranked for info in infos):
        raise UsageError(f"{name} is a reference row and defends no federation; choose a defense that is ranked")
    return Deployed(
        name,
        aggregator,
        tuple(member for member in members if type(member).finalize is not Defense.finalize),
        tuple(member for member in members if type(member).serve is not Defense.serve),
        any(info.asks_server for info in infos),
    )
