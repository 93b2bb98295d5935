"""Channel between a run and a method's process: messages over pipes, tensors in shared memory.

A message is a JSON object with its length before it. Its tensors lie in an *arena*, memory that both sides map; the
message describes them by the header of the safetensors format: name, dtype, shape and offsets. Nothing is pickled in
either direction. What the other side sends is copied out of the arena before it is looked at, so that it cannot change
afterwards, and every size is checked before memory is taken.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import math
import mmap
import os
import select
import struct
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Types of tensors that travel, by their names in the safetensors format."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH: Final = struct.Struct("<Q")
_ALIGNMENT: Final = 64
"""Of tensors in an arena, in bytes: as torch aligns its own, so that rules compute the same bits."""
_GRAIN: Final = 1 << 20
_MAX_TENSORS: Final = 8
_MAX_SIZE: Final = 1 << 48
_MAX_VALUES: Final = 2_000_000
"""Values in one message; in memory each takes many times its length in the text."""
_PATIENCE: Final = 0.5
"""Seconds between two looks at whether the other side is still there."""

Header = dict[str, dict[str, Any]]


class ChannelError(Exception):
    """The other side broke the rules of the channel; the text names the rule."""


class EndedError(ChannelError):
    """The other side is gone."""


class TimedOutError(ChannelError):
    """The other side took too long."""


class Pipe:
    """Messages in both directions.

    Args:
        read_fd: Where the other side's messages come from.
        write_fd: Where ours go.
        max_bytes: Longest message.
        alive: Returns whether the other side still runs; called now and then while waiting.
    """

    def __init__(self, read_fd: int, write_fd: int, max_bytes: int, alive: Callable[[], bool] = lambda: True) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._max_bytes, self._alive = max_bytes, alive

    def send(self, message: Mapping[str, Any], deadline: float = math.inf) -> None:
        """Send ``message``.

        Args:
            message: JSON-like; numbers are finite.
            deadline: When to give up, on the monotonic clock.

        Raises:
            ChannelError: The message is too long, or the other side does not take it.
            ValueError: A number is not finite.
            TypeError: Something is not JSON-like.
        """
        text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        if len(text) > self._max_bytes:
            raise ChannelError(f"a message of {len(text):,} bytes is too long; at most {self._max_bytes:,} are sent")
        rest = memoryview(_LENGTH.pack(len(text)) + text)
        while rest:
            self._wait(self._write_fd, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._write_fd, rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EndedError("it reads no more messages") from error

    def receive(self, deadline: float = math.inf) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ChannelError: It is too long, is not a JSON object, or does not come before ``deadline``.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > self._max_bytes:
            raise ChannelError(f"it announced a message of {length:,} bytes; at most {self._max_bytes:,} are read")
        return parse(self._read(length, deadline))

    def close(self) -> None:
        """Close both ends."""
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)

    def _read(self, length: int, deadline: float) -> bytes:
        """Return exactly ``length`` bytes. Memory is taken as they come, not as they are announced."""
        data = bytearray()
        while len(data) < length:
            self._wait(self._read_fd, select.POLLIN, deadline)
            try:
                part = os.read(self._read_fd, min(length - len(data), _GRAIN))
            except BlockingIOError:
                continue
            if not part:
                raise EndedError("it closed the channel")
            data += part
        return bytes(data)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(fd, event)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError("it took too long")
            if poller.poll(min(left, _PATIENCE) * 1000):
                return
            if not self._alive():
                raise EndedError("it ended")


def parse(data: bytes) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Raises:
        ChannelError: It is not such an object, holds too many values or a key twice, or a number that is not finite.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise ChannelError(f"it sent a message of more than {_MAX_VALUES:,} values")
    try:
        message = json.loads(
            data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise ChannelError("it sent something that is not a message") from error
    if not isinstance(message, dict):
        raise ChannelError("it sent something that is not a message")
    return message


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is beyond what a number can be")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


class Arena:
    """Memory that two processes share, for the tensors that go one way.

    The one who makes it can enlarge it. It can never shrink: touching memory that is gone would kill the toucher.

    Args:
        fd: The memory file.
        size: Bytes that are in use; by default all that the file has, which is looked up whenever that may have grown.
    """

    def __init__(self, fd: int, size: int | None = None) -> None:
        self.fd = fd
        self._size = size
        self._map: mmap.mmap | None = None
        self._lent: tuple[weakref.ref[memoryview], mmap.mmap] | None = None

    @classmethod
    def create(cls, name: str) -> Arena:
        """Return a new, empty arena; ``name`` is what tools show."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(fd, 0)

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; what is mapped stays where it is.

        Raises:
            ChannelError: The other side is meddling with the file.
        """
        assert self._size is not None, "only its maker enlarges an arena"
        if size <= self._size:
            return
        size = -(-size // _GRAIN) * _GRAIN
        try:
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, size)
        except OSError as error:
            raise ChannelError("it changed the size of the shared memory") from error
        self._size = size

    def put(self, tensors: Mapping[str, Tensor], base: int = 0) -> Header:
        """Copy ``tensors`` in and return their description.

        Args:
            tensors: By name.
            base: Where they may begin; what lies before stays as it is.

        Raises:
            ValueError: They do not fit.
            TypeError: One of them has a type that does not travel.
        """
        header = _layout(tensors, base)
        needed = _end(header)
        if needed > self._length:
            raise ValueError(f"tensors of {needed:,} bytes are too large; at most {self._length:,} are taken here")
        for name, tensor in tensors.items():
            if tensor.numel():
                _view(self._mapped(), header[name]).copy_(tensor.detach())
        return header

    def take(self, header: object) -> dict[str, Tensor]:
        """Return copies of the tensors that the other side describes.

        Raises:
            ChannelError: The description is none, or lies outside the arena.
        """
        checked = check_header(header, self._length)
        return {name: self._tensor(self._mapped, entry).clone() for name, entry in checked.items()}

    def lend(self, header: Header) -> dict[str, Tensor]:
        """Return the tensors as views of the shared memory; :meth:`settle` ends that."""
        if not any(_bytes(entry) for entry in header.values()):
            return {name: self._tensor(self._mapped, entry) for name, entry in header.items()}
        shared = self._mapped()
        buffer = memoryview(shared)
        self._lent = weakref.ref(buffer), shared
        return {name: self._tensor(lambda: buffer, entry) for name, entry in header.items()}

    def settle(self) -> None:
        """Let what was lent be overwritten, except where somebody still holds a part of it: that keeps its values."""
        if self._lent is None:
            return
        (buffer, shared), self._lent = self._lent, None
        if buffer() is not None:
            gc.collect()  # free views that only a cycle of references holds
        if buffer() is not None:
            self._map = None
            _detach(shared)

    def close(self) -> None:
        """Give the memory back."""
        self._map = None
        os.close(self.fd)

    @property
    def _length(self) -> int:
        return os.fstat(self.fd).st_size if self._size is None else self._size

    def _mapped(self) -> mmap.mmap:
        if self._map is None or len(self._map) < self._length:
            # Views of an outgrown map keep it alive.
            self._map = mmap.mmap(self.fd, self._length)
        return self._map

    def _tensor(self, memory: Callable[[], mmap.mmap | memoryview], entry: dict[str, Any]) -> Tensor:
        if not _bytes(entry):
            return torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        return _view(memory(), entry)


def _detach(shared: mmap.mmap) -> None:
    """Put a private copy of a map's contents in its place, under the same addresses."""
    contents = shared[:]
    anchor = ctypes.c_char.from_buffer(shared)
    address = ctypes.addressof(anchor)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    placed = libc.mmap(address, len(contents), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if placed != address:
        raise OSError(ctypes.get_errno(), "cannot keep a tensor that the method still holds")
    shared[:] = contents


_MAP_FIXED: Final = 0x10
"""Flag of mmap(2) on Linux, which Python's module does not define."""


def size_of(tensors: Mapping[str, Tensor], base: int = 0) -> int:
    """Return where ``tensors`` end in an arena, if they begin at ``base`` or the next place after it."""
    return max(base, _end(_layout(tensors, base)))


def check_header(header: object, size: int) -> Header:
    """Return a description of tensors if it is one of tensors inside an arena of ``size`` bytes.

    Raises:
        ChannelError: It is not.
    """
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise ChannelError("it described its tensors wrongly")
    for entry in header.values():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ChannelError("it described its tensors wrongly")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES or not _counts(shape, 8) or not _counts(offsets, 2):
            raise ChannelError("it described its tensors wrongly")
        begin, end = (*offsets, 0, 0)[:2]
        if len(offsets) != 2 or begin % _ALIGNMENT or not begin <= end <= size:
            raise ChannelError("it described tensors that lie outside the shared memory")
        # Empty ones, too, have to have dimensions of an ordinary size.
        if math.prod(max(1, length) for length in shape) >= _MAX_SIZE:
            raise ChannelError("it described tensors that are too large")
        if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
            raise ChannelError("it described tensors whose shape and size contradict each other")
    return header


def _counts(values: object, at_most: int) -> bool:
    """Whether ``values`` is a list of up to ``at_most`` whole numbers of an ordinary size, none below 0."""
    return (
        isinstance(values, list)
        and len(values) <= at_most
        and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)
    )


def _layout(tensors: Mapping[str, Tensor], base: int) -> Header:
    header: Header = {}
    place = _aligned(base)
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name} is of {tensor.dtype}, which cannot be sent; convert it to {torch.float32}")
        end = place + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = _aligned(end)
    return header


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _end(header: Header) -> int:
    return max((entry["data_offsets"][1] for entry in header.values()), default=0)


def _bytes(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return int(end - begin)


def _view(memory: mmap.mmap | memoryview, entry: dict[str, Any]) -> Tensor:
    dtype = DTYPES[entry["dtype"]]
    count = _bytes(entry) // dtype.itemsize
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=entry["data_offsets"][0])
    return flat.view(entry["shape"])
