"""The contract of `aggregate`: form, determinism, untouched inputs, order of clients, declared knowledge and condition.

Runs of three rounds are made up, in which ten of thirteen clients take part, and given to fresh instances of the
method. A second run with the same clients under other ids has the rows in another order; a third gives every client
another id in every round. What a rule returns must follow the clients, not their ids or places.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.records.adapters import Usage
from benchmark.registry import Trait
from benchmark.submission.contract.examination import Check, Outcome, Subject, fails, passes, warns
from benchmark.submission.contract.inputs import changed_inputs
from benchmark.submission.contract.report import Part, Verdict
from benchmark.submission.contract.rounds import (
    ROUNDS,
    Trial,
    client_names,
    copy_of,
    layout_of,
    participants,
    sent,
    trial,
)
from benchmark.submission.contract.usage import counted, in_words, meter
from benchmark.training.door import checked_aggregate
from benchmark.training.server import MeteredServer
from benchmark.updates import NO_SERVER, AdapterLayout, Aggregate
from defenses.base import Defense, DefenseInfo, Knowledge, defenses

DIMENSION = 4096
"""Numbers in an update of the small rounds."""

_SHAPES = ((10, 3), (10, 2), (10, 1), (10, 0), (7, 3), (7, 2), (7, 1), (7, 0), (3, 1), (3, 0))
"""Shapes (n, f) to look for one that the rule is defined in."""
_ABSENT = 3
"""Clients that sit out each round."""
_TOLERANCE = 1e-4
"""Largest difference that rounding may make, as a share of the largest number that was sent."""
_ORDER = "let nothing depend on a row's place: keep per-client state by client id, break ties by value"


@dataclass(frozen=True)
class ReadyRule:
    """A fresh instance of a rule that has been prepared, with the server of its rounds.

    Attributes:
        rule: The instance.
        server: The server that each round lends; ``None`` for a rule that does not declare to ask for one.
    """

    rule: Defense
    server: MeteredServer | None

    def aggregate(self, given: Trial) -> Aggregate:
        """Return the aggregate of a round, whose context gets the server."""
        began = time.perf_counter()
        aggregate = self.rule.aggregate(given.updates, replace(given.context, tools=self.server))
        if self.server is not None:
            self.server.usage.server_seconds += time.perf_counter() - began
        return aggregate


@dataclass(frozen=True)
class RuleRun:
    """Results of a fresh instance in a run.

    Attributes:
        results: The aggregate of each round.
        touched: Names of the inputs that the rule changed, sorted.
        used: Use of the rounds' server; ``None`` if the rounds lend none.
    """

    results: tuple[Aggregate, ...]
    touched: tuple[str, ...]
    used: Usage | None


@dataclass(frozen=True)
class AggregateTrials:
    """What the checks of `aggregate` have in common.

    Attributes:
        subject: The method.
        server: Makes the server of an instance, for `prepare` and for the rounds of a rule that asks for one; ``None``
            for a rule without both.
        layout: Layout of the updates; the server's where there is one, since the rule may count on it.
        metered: Use of the server's tools by name; the first run adds its own.
    """

    subject: Subject[DefenseInfo, Defense]
    server: Callable[[], MeteredServer] | None = None
    layout: AdapterLayout = field(default_factory=lambda: layout_of(DIMENSION))
    metered: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def ready(self) -> Iterator[ReadyRule]:
        """Give a fresh instance that has been prepared, with a server of its own if it uses one."""
        with self.subject.fresh("aggregate") as rule:
            server = None if self.server is None else self.server()
            if server is not None and self.subject.overrides("prepare", Defense):
                rule.prepare(server)
            yield ReadyRule(rule, server if self.subject.entry.info.asks_server else None)

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """The first of the shapes that the rule is defined in; ``None`` if there is none."""
        with self.subject.fresh() as rule:
            return next((shape for shape in _SHAPES if is_defined(rule, shape)), None)

    @cached_property
    def first(self) -> RuleRun:
        """What the rule returns in an ordinary run, which of its inputs it changed, and what it used."""
        return self.run(self.rounds())

    @property
    def told_truth(self) -> bool:
        """Whether the rule gets the identities of malicious clients."""
        return self.subject.entry.info.knowledge is Knowledge.TRUTH

    def rounds(self, names: Sequence[Sequence[str]] = (), declared: int | None = None) -> list[Trial]:
        """Return a run of rounds.

        Args:
            names: For each round the ids of all clients; the same ones in every round by default.
            declared: Another declared bound than the shape's.
        """
        assert self.shape is not None
        count, malicious = self.shape
        clients = count + _ABSENT
        made = []
        for index in range(ROUNDS):
            chosen = participants(clients, count, index)
            made.append(
                trial(
                    sent(clients, self.layout.dimension, malicious, f"round {index}")[list(chosen)],
                    self.layout,
                    malicious if declared is None else declared,
                    index=index,
                    clients=chosen,
                    names=names[index] if names else client_names(clients),
                    malicious=range(clients - malicious, clients) if self.told_truth else (),
                )
            )
        return made

    def run(self, rounds: Sequence[Trial]) -> RuleRun:
        """Return what a fresh instance makes of a run."""
        results, touched = [], set[str]()
        with self.ready() as ready:
            before = Usage() if ready.server is None else replace(ready.server.usage)
            for given in rounds:
                copy = copy_of(given)
                results.append(ready.aggregate(copy))
                touched |= changed_inputs(ready.rule, given, copy)
        used = None if ready.server is None else ready.server.usage.minus(before)
        return RuleRun(tuple(results), tuple(sorted(touched)), used)


def is_defined(rule: Defense, shape: tuple[int, int]) -> bool:
    """Whether the rule's condition holds at n, f = ``shape``."""
    try:
        rule.check_shape(*shape)
    except NotApplicableError:
        return False
    return True


def aggregate_checks(trials: AggregateTrials) -> list[Check]:
    """Return the checks of `aggregate`, in order."""
    part, form = Part.CONTRACT, ("shape_condition", "aggregate_form")
    return [
        Check(
            part,
            "shape_condition",
            "check_shape() refuses shapes by NotApplicableError only, degenerate_as() names a known rule or nothing",
            lambda: _shape_condition(trials),
            "raise NotApplicableError with the condition and the numbers, and nothing else",
        ),
        Check(
            part,
            "aggregate_form",
            "aggregate() returns a finite update of the right shape and, if any, weights that are shares of trust",
            lambda: _form(trials),
            "an Aggregate holds a float tensor [d] and, if the rule weighs clients, a float tensor [n] that sums to 1",
            form[:1],
        ),
        Check(
            part,
            "determinism",
            "two fresh instances with the same random stream return the same bits",
            lambda: _determinism(trials),
            needs=form,
        ),
        Check(
            part,
            "inputs_unchanged",
            "aggregate() leaves updates, sample counts and the broadcast adapter as they were",
            lambda: _inputs(trials),
            needs=form,
        ),
        Check(
            part,
            "order_of_clients",
            "with other client ids, and so another order of rows, the same clients get the same result",
            lambda: _order(trials),
            needs=form,
        ),
        Check(
            part,
            "ids_mean_nothing",
            "ids that change hands between rounds change nothing, unless the rule declares to remember clients",
            lambda: _identity(trials),
            needs=(*form, "order_of_clients"),
        ),
        Check(
            part,
            "declared_knowledge",
            "a rule that declares no knowledge of malicious clients returns the same for another declared bound",
            lambda: _knowledge(trials),
            needs=form,
        ),
        Check(
            part,
            "smaller_rounds",
            "the rule goes on when updates were refused at the door and fewer are left than declared",
            lambda: _smaller(trials),
            "work with what is left: fewer updates, down to one, with a smaller bound",
            form,
        ),
    ]


def _shape_condition(trials: AggregateTrials) -> Outcome:
    remedy = "raise NotApplicableError with the condition and the numbers, and nothing else"
    name = trials.subject.entry.info.id
    refused: list[str] = []
    with trials.subject.fresh() as rule:
        for shape in _grid():
            where = f"at n = {shape[0]}, f = {shape[1]}"
            try:
                rule.check_shape(*shape)
            except NotApplicableError as error:
                if not str(error).strip():
                    return fails(f"check_shape() refuses {where} without a word", remedy)
                refused.append(f"n = {shape[0]}, f = {shape[1]}")
                continue
            except Exception as error:  # a submitted method may raise anything
                return fails(f"check_shape() {where}: {trials.subject.reason(error)}", remedy)
            same = rule.degenerate_as(*shape)
            if same is not None and (same == name or same not in defenses.names()):
                return fails(
                    f"degenerate_as() returned {same!r} {where}",
                    "return the id of another registered defense, or None",
                )
    if trials.shape is None:
        return warns(
            f"the rule is not defined at any of n = 3, 7, 10 with f from 0 to 3 (it refuses {len(refused)} of "
            f"{len(_grid())} shapes that were tried), so nothing else can be checked or run",
            "widen the condition if the rule allows it",
        )
    n, f = trials.shape
    return passes(f"{len(refused)} of {len(_grid())} shapes refused; the next checks use n = {n}, f = {f}")


def _grid() -> list[tuple[int, int]]:
    return [(n, f) for n in (1, 2, 3, 4, 5, 7, 10, 50) for f in range(min(n, 5))]


def _form(trials: AggregateTrials) -> Outcome:
    if trials.shape is None:
        return Outcome(Verdict.NOT_APPLICABLE, "the rule is not defined in any shape that was tried")
    try:
        results = trials.first.results
    except Exception as error:  # a submitted method may raise anything
        if trials.subject.entry.info.asks_server or NO_SERVER not in str(error):
            raise
        return fails(
            "aggregate() asks for context.server, and the metadata do not declare this",
            "declare asks_server=True in @register(...)",
        )
    kinds = set()
    for result, given in zip(results, trials.rounds(), strict=True):
        checked_aggregate(result, given.updates)
        kinds.add(str(result.update.dtype).removeprefix("torch."))
    weighs = results[0].weights is not None
    if len({result.weights is None for result in results}) > 1:
        return warns(
            "the rule gives client weights in some rounds and none in others",
            "give them in every round or never: the detection columns are computed from them",
        )
    found = f"update of {', '.join(sorted(kinds))}; " + ("with client weights" if weighs else "without client weights")
    if (used := trials.first.used) is not None:
        meter(trials.metered, used)
        found += f"; used {in_words(used)} in {ROUNDS} rounds"
    return passes(found)


def _determinism(trials: AggregateTrials) -> Outcome:
    again = trials.run(trials.rounds())
    for index, (one, other) in enumerate(zip(trials.first.results, again.results, strict=True)):
        for name in ("update", "weights"):
            before, after = getattr(one, name), getattr(other, name)
            if (before is None) != (after is None) or (before is not None and not torch.equal(before, after)):
                return fails(
                    f"{name} differ in round {index}{_by(before, after)}",
                    "draw random numbers from context.generator only, and depend on no clock, hash or global state",
                )
    first, second = trials.first.used, again.used
    if first is not None and second is not None and counted(first) != counted(second):
        return fails(
            f"used {in_words(first)} and then {in_words(second)}",
            "ask the server for the same in every run with the same updates",
        )
    return passes(f"equal over {ROUNDS} rounds")


def _inputs(trials: AggregateTrials) -> Outcome:
    touched = trials.first.touched
    if touched:
        return fails(
            f"changed in place: {', '.join(touched)}",
            "work on copies: updates.matrix.clone(), or operations without a trailing underscore",
        )
    return passes()


def _order(trials: AggregateTrials) -> Outcome:
    assert trials.shape is not None
    other = client_names(trials.shape[0] + _ABSENT, "other")
    renamed = trials.rounds([other] * ROUNDS)
    difference = _difference(trials, renamed)
    if not difference:
        return passes(f"equal over {ROUNDS} rounds with three of {len(other)} clients absent in each")
    if _is_random(trials):
        return warns(
            f"{difference}; the rule is random, so this need not be an effect of the order",
            "if it draws something for each client, let the draw follow the client's update instead of its place",
        )
    return fails(difference, _ORDER)


def _identity(trials: AggregateTrials) -> Outcome:
    assert trials.shape is not None
    clients = trials.shape[0] + _ABSENT
    changing = trials.rounds([client_names(clients, f"round {index}") for index in range(ROUNDS)])
    declares = Trait.STATEFUL_PER_CLIENT in trials.subject.entry.info.traits
    difference = _difference(trials, changing)
    if declares:
        seen = "it does" if difference else "none of it showed in three rounds"
        return passes(f"declares to remember clients between rounds; {seen}")
    if not difference:
        return passes(f"equal over {ROUNDS} rounds")
    if _is_random(trials):
        return warns(
            f"{difference}; the rule is random, so this need not be an effect of the ids",
            "if it remembers clients between rounds, declare traits=(Trait.STATEFUL_PER_CLIENT,)",
        )
    return fails(
        f"{difference}: the rule remembers clients between rounds",
        "declare traits=(Trait.STATEFUL_PER_CLIENT,) in @register(...), from benchmark.registry, or forget clients",
    )


def _knowledge(trials: AggregateTrials) -> Outcome:
    assert trials.shape is not None
    if trials.subject.entry.info.knowledge is not Knowledge.NONE:
        return Outcome(Verdict.NOT_APPLICABLE, f"declares knowledge {trials.subject.entry.info.knowledge.value}")
    count, malicious = trials.shape
    with trials.subject.fresh() as rule:
        other = next((f for f in (1, 2, 0) if f != malicious and is_defined(rule, (count, f))), None)
    if other is None:
        return Outcome(Verdict.NOT_APPLICABLE, f"defined at n = {count} with f = {malicious} only")
    results = trials.run(trials.rounds(declared=other)).results
    for index, (one, changed) in enumerate(zip(trials.first.results, results, strict=True)):
        if not torch.equal(one.update, changed.update):
            return fails(
                f"the update of round {index} differs between f = {malicious} and f = {other}"
                f"{_by(one.update, changed.update)}",
                "declare knowledge=Knowledge.DECLARED_BOUND in @register(...), or do not read declared_malicious",
            )
    return passes(f"equal for f = {malicious} and f = {other}")


def _smaller(trials: AggregateTrials) -> Outcome:
    assert trials.shape is not None
    count, malicious = trials.shape
    given = trials.rounds()[0]
    sizes = [*((count - k, malicious - k) for k in range(1, malicious + 1)), (1, 0)]
    with trials.ready() as ready:
        for left, declared in dict.fromkeys(sizes):
            copy = _first_rows(copy_of(given), left, declared)
            where = f"with {left} of {count} updates left and f = {declared}"
            try:
                checked_aggregate(ready.aggregate(copy), copy.updates)
            except Exception as error:  # a submitted method may raise anything
                within = left >= count - malicious
                text = f"{where}: {trials.subject.reason(error)}"
                remedy = "work with what is left: fewer updates, down to one, with a smaller bound"
                if within:
                    return fails(
                        f"{text}. An attacker who sends numbers that are not finite could stop the run", remedy
                    )
                return warns(f"{text}. Only a scenario with a mis-declared bound can come to that", remedy)
    return passes(f"{', '.join(str(left) for left, _ in dict.fromkeys(sizes))} of {count} updates left")


def _first_rows(given: Trial, count: int, declared: int) -> Trial:
    """Return the round as it is when only its first ``count`` updates are let in."""
    updates = given.updates
    return Trial(
        replace(
            updates,
            matrix=updates.matrix[:count].clone(),
            client_ids=updates.client_ids[:count],
            sample_counts=updates.sample_counts[:count].clone(),
        ),
        replace(given.context, declared_malicious=declared),
        given.clients[:count],
    )


def _difference(trials: AggregateTrials, other: Sequence[Trial]) -> str:
    """Return how the rule's results on another run of the same clients differ; empty if they do not."""
    results = trials.run(other).results
    straight = trials.rounds()
    for index, (one, another) in enumerate(zip(trials.first.results, results, strict=True)):
        largest = float(straight[index].updates.matrix.abs().max())
        if not _close(one.update, another.update, _TOLERANCE * largest):
            return f"the update of round {index} differs{_by(one.update, another.update)}"
        if one.weights is None or another.weights is None:
            continue
        place = {client: row for row, client in enumerate(other[index].clients)}
        follows = another.weights[[place[client] for client in straight[index].clients]]
        if not _close(one.weights, follows, _TOLERANCE):
            return f"the weights of round {index} do not follow the clients{_by(one.weights, follows)}"
    return ""


def _is_random(trials: AggregateTrials) -> bool:
    """Whether the rule returns something else with another random stream."""
    rounds = [
        replace(given, context=replace(given.context, generator=torch.Generator().manual_seed(index)))
        for index, given in enumerate(trials.rounds())
    ]
    results = trials.run(rounds).results
    return any(not torch.equal(a.update, b.update) for a, b in zip(trials.first.results, results, strict=True))


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and float((one.double() - other.double()).abs().max()) <= tolerance


def _by(one: Tensor | None, other: Tensor | None) -> str:
    """Return by how much two results differ, in words."""
    if one is None or other is None or one.shape != other.shape:
        return ""
    difference = (one.double() - other.double()).abs()
    at = int(difference.argmax())
    return f": number {at} is {float(one.flatten()[at]):.6g} and then {float(other.flatten()[at]):.6g}"
