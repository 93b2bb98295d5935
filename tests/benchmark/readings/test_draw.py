"""A draw is even, seeded and without repeats; what cannot be read or drawn is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.readings.draw import Answer, draw, stored_answers
from benchmark.records.store import Store
from benchmark.records.withheld import HASH, without_texts

from ...leaderboard.synthetic import LOCAL, cell_row, make_rows, table_of, write_tables


def answer(kind: str, scenario: str, defense: str, number: int, text: str = "") -> Answer:
    name = f"{kind}/{number}"
    return Answer(
        kind=kind,
        scenario=scenario,
        defense=defense,
        seed=1,
        probe_id=name,
        response_key=f"{scenario}{defense}",
        question="q",
        text=text or f"{name}{scenario}{defense}",
    )


def grid(scenarios: str = "abc", defenses: str = "xy", count: int = 10) -> list[Answer]:
    return [
        answer(kind, scenario, defense, number)
        for kind in ("harmful", "over_refusal")
        for scenario in scenarios
        for defense in defenses
        for number in range(count)
    ]


def test_every_cell_gets_the_same_number_where_the_size_allows() -> None:
    assert set(Counter(each.place for each in draw(grid(), 36, 5)).values()) == {3}


def test_a_rest_is_spread_evenly_over_kinds_scenarios_and_defenses() -> None:
    drawn = draw(grid(), 18, 5)
    assert set(Counter(each.place for each in drawn).values()) == {1, 2}
    for name, counts in (("kind", {9}), ("scenario", {6}), ("defense", {9})):
        assert set(Counter(getattr(each, name) for each in drawn).values()) == counts


def test_a_cell_that_runs_out_leaves_its_share_to_the_others() -> None:
    answers = [*grid("a", "x", 2), *grid("b", "x", 10)]
    counts = Counter(each.place for each in draw(answers, 20, 1))
    assert counts[("harmful", "a", "x")] == 2
    assert counts[("harmful", "b", "x")] == 8


def test_the_same_seed_gives_the_same_draw_and_another_seed_another_one() -> None:
    assert draw(grid(), 12, 3) == draw(grid(), 12, 3)
    assert set(draw(grid(), 12, 3)) != set(draw(grid(), 12, 4))


def test_the_order_of_a_draw_does_not_follow_the_cells() -> None:
    drawn = draw(grid(), 60, 3)
    assert [each.place for each in drawn] != sorted(each.place for each in drawn)


def test_one_text_for_one_probe_is_drawn_once_wherever_it_stands() -> None:
    same = [answer("harmful", scenario, "x", number, "no .") for scenario in "abcd" for number in range(3)]
    drawn = draw(same, 3, 1)
    assert sorted(each.probe_id for each in drawn) == ["harmful/0", "harmful/1", "harmful/2"]
    with pytest.raises(UsageError, match="only 3 different answers to draw from, not 4; give a smaller --size"):
        draw(same, 4, 1)


def test_a_draw_of_none_is_refused() -> None:
    with pytest.raises(UsageError, match="0 answers cannot be drawn"):
        draw(grid(), 0, 1)


def test_answers_are_those_of_whole_cells_to_probes_that_people_label(store: Store) -> None:
    answers = stored_answers(store, "micro")
    whole = {cell["response_key"] for cell in store.read_all("cells").to_pylist() if cell["final"]}
    # 36 harmful and 6 over-refusal probes in 10 cells; krum alone is a stage of krum+posthoc_self and stands by itself.
    assert len(answers) == 42 * 10
    assert {each.response_key for each in answers} == whole
    assert {each.kind for each in answers} == {"harmful", "over_refusal"}
    texts = {(row["response_key"], row["probe_id"]): row["response"] for row in store.read_all("responses").to_pylist()}
    assert all(texts[each.response_key, each.probe_id] == each.text for each in answers)
    assert {each.question.split()[0] for each in answers if each.kind == "over_refusal"} == {"benign_use"}


def test_scenarios_and_defenses_can_be_chosen_and_unknown_ones_are_named(store: Store) -> None:
    chosen = stored_answers(store, "micro", ["clean"], ["krum", "fedavg"])
    assert {(each.scenario, each.defense) for each in chosen} == {("clean", "krum"), ("clean", "fedavg")}
    with pytest.raises(UsageError, match="unknown scenario with finished cells of suite 'micro' 'cleen'; did you mean"):
        stored_answers(store, "micro", ["cleen"])


def test_other_suites_unfinished_cells_and_other_protocols_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'mikro'; did you mean 'micro'\?"):
        stored_answers(store, "mikro")
    with pytest.raises(
        UsageError, match=r"'pocket' exists, but there are no cells of it in .*, only of micro; .*--runs"
    ):
        stored_answers(store, "pocket")
    for changes in ({"status": "failed", "reason": "x"}, {"protocol_version": "0"}):
        name = next(iter(changes))
        root = write_tables(tmp_path / name, {"cells": table_of("cells", [cell_row(**changes)])})
        with pytest.raises(UsageError, match="has no finished cell of suite 'micro' and protocol"):
            stored_answers(Store(root), "micro")


def test_digests_in_place_of_texts_are_refused(tmp_path: Path) -> None:
    tables = make_rows(LOCAL)
    tables["responses"] = without_texts("responses", tables["responses"], {"harmful": HASH})
    with pytest.raises(UsageError, match=r"holds a digest in place of .* 'harmful/.*draw from the folder of the runs"):
        stored_answers(Store(write_tables(tmp_path, tables)), "micro")
