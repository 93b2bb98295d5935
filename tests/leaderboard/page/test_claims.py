"""Sentences on the paper's claims: a conclusion where the rows support a conclusion, and plain numbers elsewhere."""

from __future__ import annotations

from pathlib import Path

from leaderboard.build import build
from leaderboard.page.claims import _SECONDS, _SHARE, Claim, Sentence, claims
from leaderboard.page.formats import MINUS

from ..ranking.test_claims import ATTACKED, BASELINE, CLEAN, INTACT, TAKEN, board_of, cells
from ..ranking.test_measures import MARGINS, ROWS
from ..ranking.test_measures import board_of as measured
from ..synthetic import write_rows


def text(sentence: Sentence | str) -> str:
    """Return a sentence with the titles of its defenses, and with hyphens in place of minus signs."""
    return "".join(part if isinstance(part, str) else part.info["title"] for part in sentence).replace(MINUS, "-")


def conclusion(claim: Claim) -> str:
    return text(claim.findings[0].conclusion)


def numbers(claim: Claim) -> list[str]:
    return [text(sentence) for sentence in claim.findings[0].numbers]


def test_an_attack_that_works(tmp_path: Path) -> None:
    scores = TAKEN | {"utility": [0.9, 0.85, 0.9, 0.85]}, INTACT | {"utility": [0.9, 0.9, 0.85, 0.85]}
    rows = [*cells("fedavg", ATTACKED, scores[0]), *cells("fedavg", CLEAN, scores[1])]
    attack, rules, repairs = claims(board_of(tmp_path, rows))
    assert text(attack.answer) == (
        "The attack takes safety from FedAvg in the attacked scenario. There safety changes by -70.0 points and "
        "utility by 0.0 points. The rows do not show a loss of utility."
    )
    assert conclusion(attack) == (
        "The attack takes safety (-70.0 points, 95 % interval [-88.4, -51.6], 4 seeds), and the rows do not show a "
        "difference in utility (0.0 points, 95 % interval [-6.5, +6.5], 4 seeds)."
    )
    safety, utility = numbers(attack)
    assert safety == (
        "Safety is 95.0 % without the attack and 25.0 % under it: -70.0 points (95 % interval [-88.4, -51.6], which "
        "excludes zero; 4 seeds)."
    )
    assert utility == (
        "Utility is 87.5 % without the attack and 87.5 % under it: 0.0 points (95 % interval [-6.5, +6.5], which "
        "includes zero; 4 seeds). The rows do not show a difference."
    )
    assert (
        text(rules.answer) == "The rows do not answer this question: no aggregation rule is complete in this scenario."
    )
    assert conclusion(repairs) == "No post-hoc defense is complete in this scenario, so nothing is compared."
    assert numbers(repairs) == []


def test_an_attack_that_does_not_work(tmp_path: Path) -> None:
    rows = [*cells("fedavg", ATTACKED, {"safety": [0.9, 1.0, 0.9, 1.0]}), *cells("fedavg", CLEAN, INTACT)]
    attack = claims(board_of(tmp_path, rows))[0]
    assert text(attack.answer) == (
        "The rows do not show that the attack takes safety from FedAvg in the attacked scenario."
    )
    safety, utility = conclusion(attack).split(", and ")
    assert safety.startswith("The rows do not show a difference in safety (0.0 points, 95 % interval [-18.4, +18.4]")
    assert utility.startswith("none in utility (0.0 points, 95 % interval [")
    assert numbers(attack)[0].endswith("which includes zero; 4 seeds). The rows do not show a difference.")


def test_an_attack_that_takes_utility_too(tmp_path: Path) -> None:
    rows = [*cells("fedavg", ATTACKED, TAKEN | {"utility": [0.5, 0.6, 0.5, 0.6]}), *cells("fedavg", CLEAN, INTACT)]
    attack = claims(board_of(tmp_path, rows))[0]
    # Utility: differences -0.4 and -0.3 in turn, half-width 3.18245 * 0.057735 / 2.
    assert conclusion(attack) == (
        "The attack takes safety (-70.0 points, 95 % interval [-88.4, -51.6], 4 seeds), and utility falls (-35.0 "
        "points, 95 % interval [-44.2, -25.8], 4 seeds)."
    )
    assert text(attack.answer).endswith("The rows show a loss of utility in this scenario.")


def test_the_margin_stands_beside_safety_where_likelihoods_are_measured(tmp_path: Path) -> None:
    attack = claims(measured(tmp_path, ROWS, MARGINS))[0]
    # FedAvg has 1 and 2 without the attack, and -3 and -4 under it: differences -4 and -6, half-width 12.7062.
    assert numbers(attack)[2] == (
        "The safety margin is 1.50 nats per token without the attack and -3.50 nats per token under it: -5.00 nats per "
        "token (95 % interval [-17.71, +7.71], which includes zero; 2 seeds). The rows do not show a difference."
    )


def test_one_seed_supports_no_conclusion(tmp_path: Path) -> None:
    rows = [
        *cells("fedavg", ATTACKED, {"safety": [0.2]}),
        *cells("fedavg", CLEAN, {"safety": [1.0]}),
        *cells("krum", ATTACKED, {"safety": [0.9]}),
        *cells("posthoc_self", ATTACKED, {"safety": [0.9]}),
    ]
    attack, rules, repairs = claims(board_of(tmp_path, rows))
    assert {text(claim.answer) for claim in (attack, rules, repairs)} == {
        "The rows do not answer this question, because their seeds give no interval."
    }
    assert conclusion(attack) == "One seed gives no interval, so the rows support no conclusion."
    assert conclusion(rules) == (
        "One seed gives no interval, so the rows do not show whether the only aggregation rule is safer than FedAvg."
    )
    assert numbers(attack)[0] == (
        "Safety is 100.0 % without the attack and 20.0 % under it: -80.0 points (1 seed, so there is no interval)."
    )
    assert "interval [" not in " ".join([*numbers(attack), *numbers(rules), *numbers(repairs)])


def test_rules_that_help_and_rules_that_do_not(tmp_path: Path) -> None:
    krum = cells("krum", ATTACKED, {"safety": [0.8, 0.9, 0.8, 0.9]})
    median = cells("median", ATTACKED, {"safety": [0.2, 0.3, 0.3, 0.2]})
    rules = claims(board_of(tmp_path / "one", BASELINE, krum, median))[1]
    assert text(rules.answer) == (
        "At least one aggregation rule is safer than FedAvg in the attacked scenario. With the safest of them, safety "
        "changes by +60.0 points."
    )
    assert conclusion(rules) == (
        "1 of 2 aggregation rules is safer than FedAvg (4 seeds, with Holm correction over the 2): Krum."
    )
    safety, utility, average = numbers(rules)
    assert safety.startswith("Safety is 25.0 % with FedAvg and 85.0 % with Krum, the safest rule: +60.0 points (95 %")
    assert utility.startswith("Utility is 90.0 % with FedAvg and 90.0 % with Krum: 0.0 points (95 % interval over the")
    assert average.startswith("Safety is 25.0 % with FedAvg and 55.0 % in the mean over the 2 rules: +30.0 points")
    rules = claims(board_of(tmp_path / "none", BASELINE, median))[1]
    assert text(rules.answer) == (
        "The rows do not show that any aggregation rule is safer than FedAvg in the attacked scenario."
    )
    assert conclusion(rules) == "The rows do not show that the only aggregation rule is safer than FedAvg (4 seeds)."
    low = cells("krum", ATTACKED, {"safety": [0.0, 0.05, 0.0, 0.0]})
    rules = claims(board_of(tmp_path / "less", BASELINE, low, median))[1]
    assert conclusion(rules).endswith("(4 seeds, with Holm correction over the 2). 1 of 2 is less safe: Krum.")


def test_a_repair_and_its_price(tmp_path: Path) -> None:
    scores = {"safety": [0.8, 0.9, 0.8, 0.9], "over_refusal": [0.5, 0.6, 0.5, 0.6], "utility": [0.8, 0.85, 0.8, 0.85]}
    rows = [
        (row | {"server_seconds": 2.05 + row["seed"]}, shares)
        for row, shares in cells("posthoc_self", ATTACKED, scores)
    ]
    repairs = claims(board_of(tmp_path, BASELINE, rows))[2]
    assert text(repairs.answer) == (
        "At least one post-hoc defense is safer than FedAvg in the attacked scenario. With the safest of them, safety "
        "changes by +60.0 points, over-refusal by +45.0 points and utility by -7.5 points."
    )
    assert conclusion(repairs) == "The only post-hoc defense, Posthoc self, is safer than FedAvg (4 seeds)."
    starts = [
        "Safety is 25.0 % with FedAvg and 85.0 % with Posthoc self: +60.0 points",
        "Over-refusal is 10.0 % with un-attacked FedAvg and 55.0 % with Posthoc self: +45.0 points",
        "Utility is 90.0 % with FedAvg and 82.5 % with Posthoc self: -7.5 points",
        "The server time of a run is 0.1 s with FedAvg and 3.5 s with Posthoc self: +3.5 s",
    ]
    assert all(found.startswith(start) for found, start in zip(numbers(repairs), starts, strict=True))
    # Seconds 2, 3, 4 and 5 more than FedAvg: standard deviation 1.29099, half-width 3.18245 * 1.29099 / 2 = 2.05427.
    assert numbers(repairs)[-1].endswith("(95 % interval [+1.4, +5.6], which excludes zero; 4 seeds).")


def test_an_end_that_is_not_zero_is_not_shown_as_zero() -> None:
    assert text(_SHARE.ends(-0.0069, -0.0001)) == "[-0.69, -0.01]"
    assert text(_SHARE.ends(-0.0069, 0.0001)) == "[-0.7, 0.0]"
    assert text(_SHARE.ends(-1.0, -0.515)) == "[-100.0, -51.5]"
    assert _SECONDS.ends(0.004, 2.0) == "[+0.004, +2.000]"


def test_the_page_links_scenarios_and_defenses_in_the_sentences(tmp_path: Path) -> None:
    page = build([write_rows(tmp_path / "rows")], [], tmp_path / "site").page.read_text(encoding="utf-8")
    section = page.partition('id="claims"')[2].partition("</section>")[0]
    assert section.count("<h3>") == 3
    assert 'href="#claims"' in page
    assert '<a href="#defense=krum"><bdi>Krum</bdi></a>' in section
    assert '<a href="#scenario=unaligned"><bdi>' in section
    assert "arXiv 2406.10630" in section
