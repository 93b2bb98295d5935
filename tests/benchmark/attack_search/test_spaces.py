"""Search spaces: every declared parameter is one that its attack takes, over the whole range."""

from __future__ import annotations

from dataclasses import fields

import pytest

from attacks.base import attacks
from benchmark.attack_search.spaces import DEFAULT, SPACES, Choice, Number
from benchmark.keys import source_files


@pytest.mark.parametrize("attack", sorted(SPACES))
def test_an_attack_takes_all_values_of_its_space(attack: str) -> None:
    entry, space = attacks.get(attack), SPACES[attack]
    names = {field.name for field in fields(entry.target)}  # type: ignore[arg-type]
    assert names >= space.keys() > set()
    for name, domain in space.items():
        values = domain.options if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in values:
            assert getattr(entry.create({name: value}), name) == value
            assert domain.holds(value)


def test_a_range_holds_numbers_between_its_bounds_alone() -> None:
    share = Number(0.0, 0.9, step=0.05)
    assert share.holds(0)
    assert not any(share.holds(value) for value in (0.95, -0.1, "0.5", True))
    assert Choice(("a", "b")).holds("a")
    assert not Choice(("a", "b")).holds("c")


def test_the_default_attacks_have_spaces_and_generate_nothing() -> None:
    assert set(DEFAULT) <= SPACES.keys()
    assert all(not attacks.get(name).info.traits for name in DEFAULT)


@pytest.mark.parametrize("attack", DEFAULT)
def test_the_spaces_are_no_part_of_an_attacks_keys(attack: str) -> None:
    assert "benchmark.attack_search.spaces" not in source_files(attacks.get(attack).target.__module__)
