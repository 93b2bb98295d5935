"""Detection of malicious clients, from the weights that a rule gave each client in each round.

Unit. The seed. Each number is formed on one seed, over all of its rounds, and estimated over seeds as in
:mod:`leaderboard.scores.stats`. Where seeds do not vary, the exact interval counts a client once for all of its rounds,
because a client's rounds are not independent. Clients of different seeds are different clients.

Definitions, for a round in which the rule saw n updates and gave weights that sum to 1 (or to 0: it discarded all):

- *flagged*: weight below 1 / (2 n), half of the uniform weight. A rule that selects m of n clients gives
  1 / m >= 1 / n or 0, so it flags exactly the clients of weight 0. A rule that reweights flags a client if it removes
  more than half of the client's uniform weight; a smaller loss shows in the AUC alone. In a round whose weights are
  all 0, every client is flagged.
- *precision*: flagged malicious over flagged; undefined where no client is flagged or none is malicious. Beside it
  stands the *prevalence*, malicious over all, which is the precision of flagging at random.
- *recall*: flagged malicious over malicious; undefined where no client is malicious.
- *false exclusion*: flagged benign over benign.
- *AUC*: probability that a random malicious client of a round gets less weight than a random benign one, a tie counting
  one half. Mean over the rounds in which both kinds take part; undefined if there is none.

An undefined seed is left out; the count of an estimate is that of the other seeds.

Three kinds of defenses are not measured: rules that report no weights (coordinate-wise rules), defenses that use no
update, and defenses that share the baseline's training, because its weights are the reported sample counts, which
detect no client. A pipeline has the detection of the rule that made its training.

The protocol, not the rule, refuses updates at the door (see ``rejected`` in the rows); the rule never sees them. They
count among the participants of a scenario, but neither in n nor in a metric. Their number is reported apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmark.records.schemas import ORIGIN_LOCAL, STATUS_DONE
from leaderboard.rows.rows import Rows
from leaderboard.scores.cells import STATUS_RETRACTED, CellScore
from leaderboard.scores.stats import Estimate, estimate
from leaderboard.scores.tallies import COLUMNS, Tally, tallies_of

Floats = npt.NDArray[np.float64]

MEASURED, NO_WEIGHTS, SAMPLE_COUNTS, NO_ROUNDS = "measured", "no_weights", "sample_counts", "no_rounds"
"""States of a detection."""

METRICS = ("precision", "recall", "auc", "false_exclusion", "prevalence")


@dataclass(frozen=True)
class Metrics:
    """Detection over a set of rounds.

    Attributes:
        rounds: Number of rounds, over all seeds.
        values: Value by seed, by name (:data:`METRICS`); undefined ones are absent.
        clients: Number of distinct clients behind each name, over all seeds. 0 where they are not a binomial sample:
            the prevalence, which the schedule fixes, and an AUC that is the same on all seeds but neither 0 nor 1.
    """

    rounds: int
    values: Mapping[str, Mapping[int, float]]
    clients: Mapping[str, int]

    @cached_property
    def metrics(self) -> Mapping[str, Estimate]:
        """Estimates over the seeds on which a metric is defined, by name; absent where there is none."""
        return {
            name: estimate(by_seed.values(), self.clients[name]) for name, by_seed in self.values.items() if by_seed
        }


@dataclass(frozen=True)
class Detection:
    """Weights that a defense gives malicious clients in a scenario.

    Attributes:
        defense: Defense id, for the whole pipeline.
        scenario: Scenario id, attacked or not.
        state: ``measured``, ``no_weights``, ``sample_counts`` or ``no_rounds``.
        reason: Why it is not ``measured``; empty if it is.
        rule: The defense itself, or the link of the pipeline whose training it uses.
        seeds: Seeds with weights.
        overall: Metrics over all rounds; ``None`` unless ``measured``, like the next two.
        by_malicious: Metrics by the number of malicious clients that the rule saw.
        by_majority: Metrics by whether these were more than half of n.
        discarded: Rounds whose weights are all 0, so that the adapter stayed as it was.
        rejected: Malicious updates refused at the door before the rule saw them.
    """

    defense: str
    scenario: str
    state: str
    reason: str
    rule: str
    seeds: tuple[int, ...] = ()
    overall: Metrics | None = None
    by_malicious: Mapping[int, Metrics] | None = None
    by_majority: Mapping[bool, Metrics] | None = None
    discarded: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Composition:
    """Participants of a scenario's rounds; all defenses of a seed share one schedule.

    Attributes:
        scenario: Scenario id.
        seeds: Seeds with rounds.
        rounds: Number of rounds, over all seeds.
        by_malicious: Number of rounds by the number of malicious participants, those refused at the door included.
        majority: Number of rounds in which they are more than half of the participants.
    """

    scenario: str
    seeds: tuple[int, ...]
    rounds: int
    by_malicious: Mapping[int, int]
    majority: int


@dataclass(frozen=True)
class DetectionView:
    """Detections by (defense, scenario) and compositions by scenario, in order of the ids."""

    detections: Mapping[tuple[str, str], Detection]
    compositions: Mapping[str, Composition]


def detection(rows: Rows, cells: Iterable[CellScore], baseline: str) -> DetectionView:
    """Return the detection of malicious clients by each defense of ``cells`` in each of their scenarios.

    Args:
        rows: The rows that hold the cells' rounds.
        cells: The shown cells; cells that are retracted, not final or not done are skipped.
        baseline: The defense that averages by sample count.
    """
    trainings: dict[tuple[str, str], dict[int, tuple[str, bool]]] = defaultdict(dict)
    # Keep the keys of retracted cells: a defense may share the training of a baseline whose score was retracted.
    keys: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    for cell in cells:
        row = cell.row
        if row["final"] and row["status"] == STATUS_DONE:
            place = row["scenario"], row["defense"]
            keys[place][row["seed"]] = row["training_key"]
            if cell.state == STATUS_RETRACTED:
                continue
            trainings[place][row["seed"]] = row["training_key"], row["origin"] == ORIGIN_LOCAL
            attackers = row["malicious"] if row["scenario"] != row["twin"] else 0
            sizes[place] = attackers, row["clients"] - attackers
    training_keys = {key for by_seed in trainings.values() for key, _ in by_seed.values()}
    pools = [tallies_of(part.rounds, training_keys) for part in (rows.published, rows.local)]

    def of_seeds(by_seed: Mapping[int, tuple[str, bool]]) -> dict[int, Tally]:
        found = {}
        for seed, (key, local) in sorted(by_seed.items()):
            for pool in pools if local else pools[::-1]:  # the last pool wins: the cell's own
                if key in pool:
                    found[seed] = pool[key]
        return found

    places = sorted(trainings, key=lambda place: (place[1], place[0]))
    tallies = {place: of_seeds(trainings[place]) for place in places}
    return DetectionView(
        {
            (defense, scenario): _detection(
                defense,
                scenario,
                tallies[scenario, defense],
                sizes[scenario, defense],
                _rule(defense, scenario, keys, baseline),
                baseline,
            )
            for scenario, defense in places
        },
        {
            scenario: _composition(scenario, [tallies[place] for place in places if place[0] == scenario])
            for scenario in sorted({scenario for scenario, _ in places})
        },
    )


def _rule(defense: str, scenario: str, keys: Mapping[tuple[str, str], Mapping[int, str]], baseline: str) -> str:
    """Return the baseline or pipeline link that has the same training as the defense; else the defense itself."""
    own_keys = keys[scenario, defense]
    for other in (baseline, *defense.split("+")):
        other_keys = keys.get((scenario, other), {})
        shared = own_keys.keys() & other_keys.keys()
        if other != defense and shared and all(own_keys[seed] == other_keys[seed] for seed in shared):
            return other
    return defense


def _detection(
    defense: str, scenario: str, tallies: Mapping[int, Tally], size: tuple[int, int], rule: str, baseline: str
) -> Detection:
    if not tallies:
        return Detection(defense, scenario, NO_ROUNDS, "it uses no client's update", rule)
    rejected = sum(tally.rejected for tally in tallies.values())
    if rule == baseline:
        reason = f"it averages by reported sample counts, as {baseline} does, which separate no clients"
        return Detection(defense, scenario, SAMPLE_COUNTS, reason, rule, rejected=rejected)
    weighed = {seed: tally.seen for seed, tally in tallies.items() if tally.seen}
    if not weighed:
        reason = "it works coordinate by coordinate or rescales updates, and gives no client a weight"
        return Detection(defense, scenario, NO_WEIGHTS, reason, rule, rejected=rejected)
    groups = sorted({group for by_group in weighed.values() for group in by_group})

    def over(chosen: Sequence[tuple[int, bool]]) -> Metrics:
        sums = {
            seed: sum((by_group[group] for group in chosen if group in by_group), np.zeros(len(COLUMNS)))
            for seed, by_group in weighed.items()
        }
        return _metrics(sums, size)

    whole = over(groups)
    return Detection(
        defense,
        scenario,
        MEASURED,
        "",
        rule,
        tuple(weighed),
        whole,
        {count: over([group for group in groups if group[0] == count]) for count in sorted({g[0] for g in groups})},
        {flag: over([group for group in groups if group[1] is flag]) for flag in sorted({g[1] for g in groups})},
        discarded=int(sum(total[7] for by_group in weighed.values() for total in by_group.values())),
        rejected=rejected,
    )


def _metrics(sums: Mapping[int, Floats], size: tuple[int, int]) -> Metrics:
    """Return the metrics of sums by seed, for a federation of ``size`` (malicious, benign) clients."""
    sums = {seed: total for seed, total in sums.items() if total[0]}
    values: dict[str, dict[int, float]] = {name: {} for name in METRICS}
    for seed, total in sums.items():
        _, malicious, benign, caught, excluded, area, area_rounds, _ = total.tolist()
        parts = (
            (caught, caught + excluded if malicious else 0.0),
            (caught, malicious),
            (area, area_rounds),
            (excluded, benign),
            (malicious, malicious + benign),
        )
        for name, (part, whole) in zip(METRICS, parts, strict=True):
            if whole:
                values[name][seed] = part / whole
    _, malicious, benign, caught, excluded, *_ = (int(part) for part in sum(sums.values(), np.zeros(len(COLUMNS))))
    attackers, benign_clients = (count * len(sums) for count in size)
    attackers, benign_clients = min(attackers, malicious), min(benign_clients, benign)
    areas = set(values["auc"].values())
    clients = {
        "precision": min(attackers, caught + excluded),
        "recall": attackers,
        "auc": attackers if len(areas) > 1 or areas <= {0.0, 1.0} else 0,
        "false_exclusion": benign_clients,
        "prevalence": 0,
    }
    return Metrics(int(sum(total[0] for total in sums.values())), values, clients)


def _composition(scenario: str, tallies: Sequence[Mapping[int, Tally]]) -> Composition:
    """Return the participants by seed, from the first defense that has rounds on the seed."""
    by_seed: dict[int, Tally] = {}
    for of_defense in tallies:
        for seed, tally in of_defense.items():
            by_seed.setdefault(seed, tally)
    counts: dict[int, int] = defaultdict(int)
    majority = 0
    for tally in by_seed.values():
        for (malicious, most), rounds in tally.drawn.items():
            counts[malicious] += rounds
            majority += rounds * most
    return Composition(scenario, tuple(sorted(by_seed)), sum(counts.values()), dict(sorted(counts.items())), majority)
