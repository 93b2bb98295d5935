"""Sentences on the three claims of Ye et al. 2025 (arXiv 2406.10630), from the evidence of a board.

A sentence draws a conclusion only where an interval or a test supports the conclusion. Elsewhere the sentence states
that the rows do not show a difference, or that there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leaderboard.page.formats import MINUS
from leaderboard.ranking.board import Board
from leaderboard.ranking.claims import AttackEffect, Change, Comparison, Rival, evidence
from leaderboard.scores.names import MetricKind
from leaderboard.scores.stats import EXACT, Difference
from leaderboard.scores.summaries import Entry, Scenario

Sentence = tuple[str | Entry, ...]
"""Texts, and the defenses that the page links between them."""
SHOWN = 4
"""Most repairs of a scenario that are described one by one."""


@dataclass(frozen=True)
class Finding:
    """The finding on one claim in one attacked scenario.

    Attributes:
        scenario: The scenario.
        conclusion: The finding in one or two sentences.
        numbers: The numbers behind the conclusion, one list item each.
    """

    scenario: Scenario
    conclusion: Sentence
    numbers: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim beside the rows.

    Attributes:
        question: The claim as a question.
        reported: The answer of the paper.
        answer: The answer that the rows give over all attacked scenarios.
        findings: The findings by scenario.
    """

    question: str
    reported: str
    answer: str
    findings: tuple[Finding, ...]


def claims(board: Board) -> tuple[Claim, ...]:
    """Return the three claims beside the rows of a board; none where no scenario is attacked."""
    found = evidence(board)
    if not found.attack:
        return ()
    return (
        Claim(
            "Does the attack take safety while utility stays?",
            "the attack takes safety, and utility stays.",
            _attack_answer(found.attack),
            tuple(map(_attack_finding, found.attack)),
        ),
        Claim(
            "Do aggregation rules help?",
            "existing aggregation rules give little safety back.",
            _answer(found.rules, "aggregation rule", _gains),
            tuple(_finding(each, "aggregation rule", _rule_numbers) for each in found.rules),
        ),
        Claim(
            "Does repair after the last round help, and at what price?",
            "fine-tuning after the last round gives safety back.",
            _answer(found.repairs, "post-hoc defense", _prices),
            tuple(_finding(each, "post-hoc defense", _repair_numbers) for each in found.repairs),
        ),
    )


@dataclass(frozen=True)
class _Unit:
    """Unit of a metric.

    Attributes:
        digits: Decimals of values.
        factor: Factor from a stored value to a shown one.
        of_values: Unit behind a value.
        of_differences: Unit behind a difference.
    """

    digits: int
    factor: float
    of_values: str
    of_differences: str

    def value(self, value: float) -> str:
        """Return a value with its unit."""
        return _number(value * self.factor, self.digits) + self.of_values

    def size(self, difference: float) -> str:
        """Return a difference with its sign and unit."""
        return _signed(difference * self.factor, self.digits) + self.of_differences

    def ends(self, low: float, high: float) -> str:
        """Return an interval; an end that is not zero is not shown as zero."""
        digits = self.digits
        # Zero is outside the interval where both ends have one sign, and then no end may be rounded to zero.
        while low * high > 0 and digits < _MOST_DIGITS and min(abs(low), abs(high)) * self.factor < 0.5 * 10**-digits:
            digits += 1
        return f"[{_signed(low * self.factor, digits)}, {_signed(high * self.factor, digits)}]"


_MOST_DIGITS = 6


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if text.strip("-0.") else text.lstrip("-")


def _signed(value: float, digits: int) -> str:
    text = _number(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


_SHARE = _Unit(1, 100.0, " %", " points")
_SECONDS = _Unit(1, 1.0, " s", " s")
_OF_ATTACK = {
    "safety": ("Safety", _SHARE),
    "utility": ("Utility", _SHARE),
    MetricKind.MARGIN.value: ("The safety margin", _Unit(2, 1.0, " nats per token", " nats per token")),
    MetricKind.PERPLEXITY.value: ("Perplexity of held-out answers", _Unit(2, 1.0, "", "")),
}


def _attack_answer(effects: Sequence[AttackEffect]) -> str:
    compared = [effect.changes for effect in effects if effect.changes]
    if not compared:
        return f"The rows do not answer this question: {effects[0].reason}."
    tested = [changes for changes in compared if changes["safety"].has_interval]
    if not tested:
        return _NO_ANSWER
    falls = [changes for changes in tested if changes["safety"].direction < 0]
    if not falls:
        return f"The rows do not show that the attack takes safety from FedAvg {_in_any(len(tested))}."
    taken = f"The attack takes safety from FedAvg {_in(len(falls), len(tested))}."
    utility = [changes["utility"] for changes in falls if "utility" in changes]
    sizes = _sizes([("safety", [changes["safety"] for changes in falls]), ("utility", utility)])
    if not utility:
        return f"{taken} {sizes} Utility was not measured there."
    lost = sum(change.direction < 0 for change in utility)
    of_these = f"{lost or 'none'} of these {len(falls)} scenarios" if len(falls) > 1 else "this scenario"
    if len(falls) == 1 and not lost:
        return f"{taken} {sizes} The rows do not show a loss of utility."
    return f"{taken} {sizes} The rows show a loss of utility in {of_these}."


_NO_ANSWER = "The rows do not answer this question, because their seeds give no interval."


def _attack_finding(effect: AttackEffect) -> Finding:
    if effect.reason:
        return Finding(effect.scenario, (f"{effect.reason}, so nothing is compared.",))
    numbers = tuple((_with_and_without(*_OF_ATTACK[metric], change),) for metric, change in effect.changes.items())
    return Finding(effect.scenario, (_attack_conclusion(effect),), numbers)


def _with_and_without(name: str, unit: _Unit, change: Change) -> str:
    means = f"{unit.value(change.before)} without the attack and {unit.value(change.after)} under it"
    return f"{name} is {means}{_difference(change, unit)}"


def _attack_conclusion(effect: AttackEffect) -> str:
    safety, utility = effect.changes["safety"], effect.changes.get("utility")
    if not safety.has_interval:
        return f"{_no_interval(safety.difference)}, so the rows support no conclusion."
    first = {-1: "The attack takes safety", 1: "Safety is higher under the attack"}.get(
        safety.direction, "The rows do not show a difference in safety"
    )
    first = f"{first} ({_in_short(safety)})"
    if utility is None:
        return f"{first}. Utility was not measured."
    second = {-1: "utility falls", 1: "utility rises"}.get(
        utility.direction, "the rows do not show a difference in utility"
    )
    if safety.direction == utility.direction == 0:
        second = "none in utility"
    return f"{first}, and {second} ({_in_short(utility)})."


def _in_short(change: Change) -> str:
    """Return the difference of a share, its interval and the number of seeds."""
    difference = change.difference
    ends = f"95 % interval {_SHARE.ends(difference.low, difference.high)}" if change.has_interval else "no interval"
    return f"{_SHARE.size(difference.mean)}, {ends}, {_seeds([difference])}"


def _answer(comparisons: Sequence[Comparison], kind: str, describe: Callable[[Sequence[Rival]], str]) -> str:
    compared = [each for each in comparisons if each.rivals]
    if not compared:
        return f"The rows do not answer this question: {comparisons[0].reason}."
    tested = [each for each in compared if each.tested]
    if not tested:
        return _NO_ANSWER
    helped = [each.safer[0] for each in tested if each.safer]
    if not helped:
        return f"The rows do not show that any {kind} is safer than FedAvg {_in_any(len(tested))}."
    return f"At least one {kind} is safer than FedAvg {_in(len(helped), len(tested))}. {describe(helped)}"


def _gains(safest: Sequence[Rival]) -> str:
    return _sizes([("safety", [each.safety for each in safest])], "With the safest of them,")


def _prices(safest: Sequence[Rival]) -> str:
    changes = [
        ("safety", [each.safety for each in safest]),
        ("over-refusal", [each.over_refusal for each in safest if each.over_refusal]),
        ("utility", [each.utility for each in safest if each.utility]),
    ]
    return _sizes(changes, "With the safest of them,")


def _sizes(changes: Iterable[tuple[str, Sequence[Change]]], where: str = "There") -> str:
    """Return in one sentence by how many points each metric changes, from the lowest to the highest change."""
    parts = []
    for name, of_metric in changes:
        if of_metric:
            means = sorted(change.difference.mean for change in of_metric)
            low, high = (_signed(100 * mean, 1) for mean in (means[0], means[-1]))
            parts.append(f"{name} by {low if low == high else f'{low} to {high}'} points")
    listing = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{where} {listing.replace(' by ', ' changes by ', 1)}."


def _in(count: int, total: int) -> str:
    return "in the attacked scenario" if total == 1 else f"in {count} of {total} attacked scenarios"


def _in_any(total: int) -> str:
    return "in the attacked scenario" if total == 1 else f"in any of {total} attacked scenarios"


def _finding(comparison: Comparison, kind: str, describe: Callable[[Comparison], tuple[Sentence, ...]]) -> Finding:
    if comparison.reason:
        reason = comparison.reason[:1].upper() + comparison.reason[1:]
        return Finding(comparison.scenario, (f"{reason}, so nothing is compared.",))
    return Finding(comparison.scenario, _conclusion(comparison, kind), describe(comparison))


def _conclusion(comparison: Comparison, kind: str) -> Sentence:
    total = len(comparison.rivals)
    if not comparison.tested:
        reason = _no_interval(comparison.rivals[0].safety.difference)
        return (f"{reason}, so the rows do not show whether {_any_of(total, kind)} is safer than FedAvg.",)
    seeds = _seeds([rival.safety.difference for rival in comparison.rivals])
    basis = f"{seeds}, with Holm correction over the {total}" if total > 1 else seeds
    if not comparison.safer:
        made: Sentence = (f"The rows do not show that {_any_of(total, kind)} is safer than FedAvg ({basis}).",)
    elif total == 1:
        made = (f"The only {kind}, ", comparison.safer[0].entry, f", is safer than FedAvg ({basis}).")
    else:
        made = (*_counted(comparison.safer, f"of {total} {kind}s", f"safer than FedAvg ({basis})"),)
    if comparison.less_safe:
        made = (*made, " ", *_counted(comparison.less_safe, f"of {total}", "less safe"))
    return made


def _any_of(total: int, kind: str) -> str:
    return f"any of the {total} {kind}s" if total > 1 else f"the only {kind}"


def _counted(rivals: Sequence[Rival], of: str, what: str) -> Sentence:
    """Return how many defenses are what, followed by their list."""
    listing = [part for rival in rivals for part in (rival.entry, "; ")][:-1]
    return (f"{len(rivals)} {of} {'is' if len(rivals) == 1 else 'are'} {what}: ", *listing, ".")


def _rule_numbers(comparison: Comparison) -> tuple[Sentence, ...]:
    safest, total = comparison.rivals[0], len(comparison.rivals)
    role = ", the safest rule" if total > 1 else ""
    made = [_beside("Safety", _SHARE, safest.safety, safest.entry, role=role)]
    if safest.utility is not None:
        made.append(_beside("Utility", _SHARE, safest.utility, safest.entry))
    if total > 1 and comparison.average is not None:
        average = comparison.average
        text = f"Safety is {_SHARE.value(average.before)} with FedAvg and {_SHARE.value(average.after)} in the mean"
        made.append((f"{text} over the {total} rules", _difference(average, _SHARE)))
    return tuple(made)


def _repair_numbers(comparison: Comparison) -> tuple[Sentence, ...]:
    made = [sentence for rival in comparison.rivals[:SHOWN] for sentence in _price(rival)]
    rest = len(comparison.rivals) - SHOWN
    if rest > 0:
        made.append((f"The ranking has the numbers of {rest} more.",))
    return tuple(made)


def _price(rival: Rival) -> list[Sentence]:
    changes = (
        ("Safety", _SHARE, rival.safety, "FedAvg"),
        ("Over-refusal", _SHARE, rival.over_refusal, "un-attacked FedAvg"),
        ("Utility", _SHARE, rival.utility, "FedAvg"),
        ("The server time of a run", _SECONDS, rival.seconds, "FedAvg"),
    )
    return [
        _beside(name, unit, change, rival.entry, baseline)
        for name, unit, change, baseline in changes
        if change is not None
    ]


def _beside(
    name: str, unit: _Unit, change: Change, entry: Entry, baseline: str = "FedAvg", *, role: str = ""
) -> Sentence:
    """Return the sentence on a metric with FedAvg and with a defense under the same attack."""
    before = f"{name} is {unit.value(change.before)} with {baseline} and {unit.value(change.after)} with "
    return (before, entry, role + _difference(change, unit))


def _difference(change: Change, unit: _Unit) -> str:
    """Return the end of a sentence: the difference, its interval, the number of seeds and what follows from them."""
    difference = change.difference
    size = unit.size(difference.mean)
    if not change.has_interval:
        seeds = "1 seed" if difference.count == 1 else f"{difference.count} seeds with the same difference"
        return f": {size} ({seeds}, so there is no interval)."
    ends = unit.ends(difference.low, difference.high)
    kind, seeds = "95 % interval", _seeds([difference])
    if difference.method == EXACT:
        kind, seeds = "95 % interval over the probes", f"{seeds} with the same difference"
    if change.direction:
        return f": {size} ({kind} {ends}, which excludes zero; {seeds})."
    return f": {size} ({kind} {ends}, which includes zero; {seeds}). The rows do not show a difference."


def _no_interval(difference: Difference) -> str:
    if difference.count == 1:
        return "One seed gives no interval"
    return f"The {difference.count} seeds have the same difference and give no interval"


def _seeds(differences: Sequence[Difference]) -> str:
    counts = sorted({difference.count for difference in differences})
    text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} {'seed' if counts == [1] else 'seeds'}"
