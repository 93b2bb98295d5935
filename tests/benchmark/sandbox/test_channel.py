"""Messages and tensors arrive as they were sent, and nothing else gets in."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.sandbox.channel import (
    DTYPES,
    Arena,
    ChannelError,
    EndedError,
    Pipe,
    TimedOutError,
    check_header,
    parse,
    size_of,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.fixture
def pipe() -> Iterator[tuple[Pipe, int, int]]:
    """A pipe, and the other side's ends: where to write what it reads, where to read what it writes."""
    read, write_to_it = os.pipe()
    read_from_it, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    yield Pipe(read, write, 10_000), write_to_it, read_from_it
    for fd in (read, write, write_to_it, read_from_it):
        with contextlib.suppress(OSError):
            os.close(fd)


def frame(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


@given(st.dictionaries(st.text(), JSON))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_message_arrives_as_it_was_sent(message: dict[str, object]) -> None:
    read, write = os.pipe()
    there = Pipe(read, write, 1 << 20)
    there.send(message)
    assert there.receive() == message
    there.close()


@given(st.binary(max_size=200))
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return
    with pytest.raises(ChannelError):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"1",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": [-1e999]}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a": [' + b"[]," * 2_000_000 + b"[]]}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\x80\x04]\x94.",
    ],
    ids=[
        "list",
        "number",
        "nan",
        "infinity",
        "overflow",
        "minus overflow",
        "twice",
        "bytes",
        "deep",
        "deeper",
        "many",
        "long number",
        "pickle",
    ],
)
def test_hostile_messages_are_refused(data: bytes) -> None:
    with pytest.raises(ChannelError, match="it sent"):
        parse(data)


def test_a_length_is_not_believed(pipe: tuple[Pipe, int, int]) -> None:
    there, write, _ = pipe
    os.write(write, struct.pack("<Q", 1 << 60))
    with pytest.raises(ChannelError, match=r"announced a message of 1,152,921,504,606,846,976 bytes; at most 10,000"):
        there.receive(time.monotonic() + 5)


def test_half_a_message_ends_in_time(pipe: tuple[Pipe, int, int]) -> None:
    there, write, _ = pipe
    os.write(write, frame(b'{"a": 1}')[:-2])
    began = time.monotonic()
    with pytest.raises(TimedOutError):
        there.receive(began + 0.2)
    assert time.monotonic() - began < 5


def test_silence_and_a_closed_end_are_told_apart(pipe: tuple[Pipe, int, int]) -> None:
    there, write, _ = pipe
    with pytest.raises(TimedOutError):
        there.receive(time.monotonic() + 0.05)
    os.close(write)
    with pytest.raises(EndedError):
        there.receive(time.monotonic() + 5)


def test_waiting_ends_when_the_other_side_is_gone_though_its_end_is_still_open() -> None:
    read, write = os.pipe()
    there = Pipe(read, write, 1000, alive=lambda: False)
    with pytest.raises(EndedError):
        there.receive(time.monotonic() + 30)
    there.close()


def test_a_reader_that_does_not_read_is_not_waited_for(pipe: tuple[Pipe, int, int]) -> None:
    there, _, _ = pipe

    def flood() -> None:
        for _ in range(100):
            there.send({"text": "x" * 9000}, time.monotonic() + 0.2)

    with pytest.raises(TimedOutError):
        flood()


def test_a_reader_that_is_gone_is_noticed(pipe: tuple[Pipe, int, int]) -> None:
    there, _, read = pipe
    os.close(read)
    with pytest.raises(EndedError):
        there.send({"text": "x"}, time.monotonic() + 5)


def test_what_is_sent_is_bounded_too(pipe: tuple[Pipe, int, int]) -> None:
    with pytest.raises(ChannelError, match="at most 10,000"):
        pipe[0].send({"text": "x" * 10_000})


def test_slow_pieces_are_put_together(pipe: tuple[Pipe, int, int]) -> None:
    there, write, _ = pipe
    whole = frame(b'{"a": "slow"}')

    def drip() -> None:
        for byte in whole:
            os.write(write, bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    assert there.receive(time.monotonic() + 10) == {"a": "slow"}
    thread.join()


def shared() -> tuple[Arena, Arena]:
    """Return an arena as its maker and as the other side have it."""
    ours = Arena.create("test")
    return ours, Arena(os.dup(ours.fd))


TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "counts": torch.tensor([1.5, 2.5], dtype=torch.float64),
    "empty": torch.zeros(0, 7),
    "state": torch.arange(9, dtype=torch.uint8),
    "number": torch.tensor(3.25, dtype=torch.bfloat16),
}


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[k].dtype == wanted[k].dtype and torch.equal(found[k], wanted[k]) for k in wanted
    )


def test_tensors_arrive_bit_by_bit_in_both_directions() -> None:
    ours, theirs = shared()
    ours.reserve(size_of(TENSORS))
    header = json.loads(json.dumps(ours.put(TENSORS)))
    assert equal(theirs.lend(header), TENSORS)
    assert equal(theirs.take(header), TENSORS)
    back = theirs.put({"update": TENSORS["matrix"] * 2})
    assert equal(ours.take(back), {"update": TENSORS["matrix"] * 2})


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_keeps_its_bits(dtype: torch.dtype) -> None:
    ours, theirs = shared()
    ours.reserve(100)
    tensor = torch.arange(10).to(dtype)
    assert equal(theirs.take(ours.put({"x": tensor})), {"x": tensor})


def test_tensors_begin_where_torch_would_have_them_begin() -> None:
    ours, theirs = shared()
    ours.reserve(1000)
    views = theirs.lend(ours.put({"a": torch.zeros(3), "b": torch.ones(5), "c": torch.ones(1)}))
    assert [view.data_ptr() % 64 for view in views.values()] == [0, 0, 0]


def test_what_is_lent_is_the_memory_itself_and_is_reused() -> None:
    ours, theirs = shared()
    ours.reserve(64)
    view = theirs.lend(ours.put({"x": torch.zeros(4)}))["x"]
    address = view.data_ptr()
    ours.put({"x": torch.ones(4)})
    assert view.tolist() == [1.0] * 4
    del view
    theirs.settle()
    assert theirs.lend(ours.put({"x": torch.full((4,), 2.0)}))["x"].data_ptr() == address


def test_what_the_method_keeps_stays_as_it_was() -> None:
    ours, theirs = shared()
    ours.reserve(1 << 21)
    kept = []
    for value in range(4):
        lent = theirs.lend(ours.put({"x": torch.full((1000,), float(value)), "y": torch.zeros(3)}))
        kept.append(lent["x"][10:20])  # a view is enough
        del lent
        theirs.settle()
    assert [part.tolist() for part in kept] == [[float(value)] * 10 for value in range(4)]
    kept[0].add_(5)  # and is the method's own
    assert kept[1].tolist() == [1.0] * 10


def test_what_only_a_cycle_keeps_is_not_kept() -> None:
    ours, theirs = shared()
    ours.reserve(64)
    lent = theirs.lend(ours.put({"x": torch.zeros(4)}))
    address = lent["x"].data_ptr()
    ring: list[object] = [lent["x"]]
    ring.append(ring)
    del lent, ring
    theirs.settle()
    assert theirs.lend(ours.put({"x": torch.ones(4)}))["x"].data_ptr() == address


def test_a_grown_arena_leaves_what_is_lent_in_its_place() -> None:
    ours, theirs = shared()
    ours.reserve(64)
    view = theirs.lend(ours.put({"x": torch.ones(4)}))["x"]
    base = size_of({"x": view})
    more = {"y": torch.full((1 << 20,), 2.0)}
    ours.reserve(size_of(more, base))
    assert equal(theirs.take(ours.put(more, base)), more)
    assert view.tolist() == [1.0] * 4


def test_no_side_can_take_memory_away_from_under_the_other() -> None:
    ours, theirs = shared()
    ours.reserve(1 << 20)
    with pytest.raises(PermissionError):
        os.ftruncate(theirs.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(theirs.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)


def test_an_arena_that_the_other_side_enlarged_is_not_read_further() -> None:
    ours, theirs = shared()
    ours.reserve(1 << 20)
    os.ftruncate(theirs.fd, 1 << 40)
    header = {"x": {"dtype": "U8", "shape": [1 << 39], "data_offsets": [0, 1 << 39]}}
    with pytest.raises(ChannelError, match="outside"):
        ours.take(header)
    ours.reserve(1 << 22)


def test_what_does_not_fit_or_does_not_travel_is_not_put() -> None:
    ours, theirs = shared()
    ours.reserve(64)
    with pytest.raises(ValueError, match=r"4,194,304 bytes are too large; at most 1,048,576"):
        theirs.put({"x": torch.zeros(1 << 20)})
    with pytest.raises(TypeError, match=r"torch\.bool"):
        theirs.put({"x": torch.zeros(4, dtype=torch.bool)})


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
WRONG = [
    None,
    [],
    {"x": None},
    {"x": {}},
    {"x": {**ENTRY, "more": 1}},
    {"x": {**ENTRY, "dtype": "F128"}},
    {"x": {**ENTRY, "dtype": ["F32"]}},
    {"x": {**ENTRY, "shape": 4}},
    {"x": {**ENTRY, "shape": [4.0]}},
    {"x": {**ENTRY, "shape": [True, 4]}},
    {"x": {**ENTRY, "shape": [-4]}},
    {"x": {**ENTRY, "shape": [5]}},
    {"x": {**ENTRY, "shape": [1] * 9}},
    {"x": {**ENTRY, "data_offsets": [0]}},
    {"x": {**ENTRY, "data_offsets": []}},
    {"x": {**ENTRY, "data_offsets": [0, 16, 16]}},
    {"x": {**ENTRY, "data_offsets": [16, 0]}},
    {"x": {**ENTRY, "data_offsets": [4, 20]}},
    {"x": {**ENTRY, "data_offsets": [-64, -48]}},
    {"x": {**ENTRY, "data_offsets": [1024, 1040]}},
    {"x": {**ENTRY, "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
    {"x": {"dtype": "F32", "shape": [0, 1 << 47, 1 << 47], "data_offsets": [0, 0]}},
    {f"x{i}": ENTRY for i in range(9)},
]


@pytest.mark.parametrize("header", WRONG, ids=range(len(WRONG)))
def test_wrong_descriptions_are_refused(header: object) -> None:
    assert check_header({"x": ENTRY}, 1024)
    with pytest.raises(ChannelError):
        check_header(header, 1024)


NUMBERS = st.integers(-10, 2000) | st.sampled_from([0, 64, 128, 1 << 48, 1 << 63, 1 << 70]) | st.floats() | st.none()


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*DTYPES, "x"]),
                "shape": st.lists(NUMBERS, max_size=9),
                "data_offsets": st.lists(NUMBERS, max_size=3),
            }
        ),
        max_size=9,
    )
)
@settings(deadline=None)
def test_whatever_is_described_is_copied_or_refused(header: dict[str, object]) -> None:
    arena = Arena.create("test")
    arena.reserve(1024)
    try:
        found = arena.take(header)
    except ChannelError:
        pass
    else:
        assert sum(t.numel() * t.dtype.itemsize for t in found.values()) <= 8 * (1 << 20)
        assert all(math.prod(t.shape) == t.numel() for t in found.values())
    finally:
        arena.close()
