"""Dividing a step into passes: every row once, equally many of each client, within the limit, little padding."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmark.training.microbatches import MicroBatch, divide


def need(rows: int, width: int) -> int:
    return 10 * rows * width


def padded(lengths: list[list[int]], part: MicroBatch) -> tuple[int, int]:
    """Return the number of rows of a pass and its width."""
    own = [lengths[c][i] for c, rows in zip(part.clients, part.rows, strict=True) for i in rows]
    return len(own), max(own)


@st.composite
def steps(draw: st.DrawFn) -> list[list[int]]:
    clients, rows = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    row = st.lists(st.integers(1, 600), min_size=rows, max_size=rows)
    return draw(st.lists(row, min_size=clients, max_size=clients))


@given(steps(), st.one_of(st.none(), st.integers(1, 100_000)))
def test_every_row_goes_through_once_within_the_limit(lengths: list[list[int]], limit: int | None) -> None:
    parts = divide(lengths, need, limit)
    seen = [(c, i) for part in parts for c, rows in zip(part.clients, part.rows, strict=True) for i in rows]
    assert sorted(seen) == [(c, i) for c, own in enumerate(lengths) for i in range(len(own))]
    for part in parts:
        assert list(part.clients) == sorted(part.clients)
        assert len({len(rows) for rows in part.rows}) == 1
        assert limit is None or need(*padded(lengths, part)) <= limit or padded(lengths, part)[0] == 1
    assert parts == divide(lengths, need, limit)


def test_short_rows_stay_together_in_their_order() -> None:
    lengths = [[3, 90, 5], [127, 4, 6]]
    assert divide(lengths) == [MicroBatch((0, 1), ((0, 1, 2), (0, 1, 2)))]


def test_rows_of_one_length_stay_together() -> None:
    assert divide([[512] * 16] * 3) == [MicroBatch((0, 1, 2), (tuple(range(16)),) * 3)]


def test_what_does_not_fit_is_divided_by_clients_first() -> None:
    parts = divide([[512] * 16] * 4, need, need(2 * 16, 512))
    assert [part.clients for part in parts] == [(0, 1), (2, 3)]
    assert all(rows == tuple(range(16)) for part in parts for rows in part.rows)


def test_long_rows_of_uneven_length_lose_most_of_their_padding() -> None:
    rng = random.Random(0)
    lengths = [[rng.randint(30, 512) for _ in range(16)] for _ in range(3)]
    parts = divide(lengths)
    tokens = sum(map(sum, lengths))
    work = sum(rows * width for rows, width in (padded(lengths, part) for part in parts))
    assert 1.6 * tokens < 3 * 16 * 512
    assert work < 1.15 * tokens
    assert len(parts) <= 10


def test_a_client_with_short_rows_goes_apart() -> None:
    parts = divide([[500] * 8, [40] * 8, [500] * 8])
    assert [part.clients for part in parts] == [(0, 2), (1,)]
