"""Session of one instance of a submitted method: its process starts at first use, runs hooks, and ends.

For each hook the run gets either a checked answer or a :class:`SubmissionError` with the hook and the reason. After an
error the process is dead and the instance stays unusable.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError, NotApplicableError, StorageError, SubmissionError
from benchmark.methods.source import MethodSource
from benchmark.sandbox.channel import Arena, ChannelError, EndedError, Header, Pipe, TimedOutError, size_of
from benchmark.sandbox.isolation import IsolatedProcess, Isolation, find_isolation, start
from benchmark.sandbox.layout import SUBMISSION
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.untrusted import printable, text
from benchmark.sandbox.visible import visible_files

_ROOM = 1 << 16
"""Bytes for small tensors beside an answer's large ones."""
_MAX_ASKED = 1000
"""Uses of tools in one hook."""
_TOTAL_FACTOR = 30.0
"""Bound on a hook's time with tools, as a multiple of the bound on its own time."""
_LAST_WORDS = 200
_TEXT = 2000
"""Longest text of a tool's error, in characters."""


@dataclass(frozen=True)
class SandboxUsage:
    """Use of an instance so far.

    Attributes:
        peak_memory_bytes: Most memory at a time.
        cpu_seconds: Processor time.
        calls: Hooks that were called.
        asked: Uses of tools.
        start_seconds: From the start of the process until the method was loaded.
        call_seconds: Wall time in hooks, tools not counted.
    """

    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    calls: int = 0
    asked: int = 0
    start_seconds: float = 0.0
    call_seconds: float = 0.0


class Tools(Protocol):
    """Tools of the run that a hook may use."""

    def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """Return a tool's answer; its error is raised in the method's process."""


class RefusedError(Exception):
    """The method's constructor refuses its parameters."""


class Allowance:
    """Wall time that all processes of a method have together for loading and hooks, for example in one check.

    Args:
        seconds: The time; without end by default.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self._spent = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - self._spent)

    def spend(self, seconds: float) -> None:
        """Count time that a process used."""
        self._spent += seconds


class Session:
    """The process of one instance.

    Args:
        submission: The method.
        limits: Bounds on its process.
        isolation: Isolation of the process; by default the best that this machine offers.
        allowance: Time that the process shares with others; without end by default.
        expected: Description that the method gave of itself before; any by default.
    """

    def __init__(
        self,
        submission: MethodSource,
        limits: Limits,
        isolation: Isolation | None,
        allowance: Allowance | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        self._submission, self._limits, self._isolation = submission, limits, isolation
        self._allowance, self._expected = allowance or Allowance(), expected
        self._process: IsolatedProcess | None = None
        self._channel: _Channel | None = None
        self._dead = ""
        self._made = False
        self._calls = self._asked = 0
        self._start_seconds = self._call_seconds = 0.0

    def ensure(self, params: Mapping[str, Any]) -> None:
        """Start the process and make the instance, unless that has been done.

        Raises:
            RefusedError: The constructor raised a ``TypeError`` or ``ValueError``.
            SubmissionError: The method cannot be loaded or made, or failed before.
        """
        if self._dead:
            raise SubmissionError(self._dead)
        if not self._made:
            self.load()
            self.call("create", {"params": dict(params)})
            self._made = True

    def load(self) -> dict[str, Any]:
        """Start the process and return the method's description of itself, unchecked.

        Raises:
            SubmissionError: It cannot be loaded, or describes itself in another way than before.
            SandboxUnavailableError: This machine offers no isolation.
        """
        if not self._allowance.left:
            self._fail("loading", self._too_long())
        began = time.monotonic()
        self._start()
        value, _ = self._exchange("loading", None, {}, None)
        self._start_seconds = time.monotonic() - began
        if not isinstance(value, dict):
            self._fail("loading", "gave no description")
        if self._expected is not None and (difference := _difference(self._expected, value)):
            self._fail("loading", difference)
        return value

    def call(
        self,
        hook: str,
        args: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        *,
        tools: Tools | None = None,
        room: int = 0,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return a hook's answer: a JSON-like value and tensors, neither of them checked for meaning.

        Args:
            hook: Its name.
            args: JSON-like arguments.
            tensors: Tensors among the arguments.
            tools: Tools that the hook may use.
            room: Bytes of the tensors that it may send.

        Raises:
            NotApplicableError: The method raised it when its shape was checked.
            SubmissionError: The hook raised, took too long, ended its process or answered with nonsense.
        """
        if self._dead:
            raise SubmissionError(self._dead)
        assert self._channel is not None, "load() comes first"
        self._calls += 1
        sent = dict(tensors or {})
        try:
            self._channel.requests.reserve(size_of(sent))
            self._channel.replies.reserve(room + _ROOM)
        except ChannelError as error:
            self._fail(hook, str(error))
        return self._exchange(hook, {"call": hook, "args": dict(args)}, sent, tools)

    def given(self) -> dict[str, Tensor]:
        """Return the tensors of the last call as they are now, with all that the method wrote into them."""
        return self._channel.given() if self._channel else {}

    def refuse(self, hook: str, reason: str) -> NoReturn:
        """End the process because a hook's answer is not usable.

        Raises:
            SubmissionError: Always.
        """
        self._fail(hook, reason)

    def usage(self) -> SandboxUsage:
        """Return the use so far."""
        process = self._process
        return SandboxUsage(
            process.peak_memory_bytes if process else 0,
            process.cpu_seconds if process else 0.0,
            self._calls,
            self._asked,
            self._start_seconds,
            self._call_seconds,
        )

    def close(self) -> None:
        """End the process if there is one."""
        if self._process is not None:
            self._process.kill()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._dead = self._dead or f"the process of {self._submission.id!r} was closed"

    def _start(self) -> None:
        isolation = self._isolation or find_isolation()
        channel, fds = _Channel.create(self._limits.message_bytes)
        arguments = {
            **fds,
            "kind": self._submission.kind.name,
            "id": self._submission.id,
            "module": self._submission.module,
            "origin": self._submission.origin,
            "folder": SUBMISSION,
            "threads": torch.get_num_threads(),
            "message_bytes": self._limits.message_bytes,
        }
        try:
            self._process = start(
                isolation,
                "benchmark.sandbox.child",
                [json.dumps(arguments)],
                visible=visible_files(self._submission),
                limits=self._limits,
                pass_fds=tuple(fds.values()),
            )
        except BaseException:
            channel.close()
            raise
        finally:
            for end in (fds["read"], fds["write"]):
                os.close(end)
        self._channel = channel
        channel.attach(self._process)

    def _exchange(
        self, hook: str, request: dict[str, Any] | None, tensors: dict[str, Tensor], tools: Tools | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Send a request and return its answer; meanwhile, answer the method's requests for tools."""
        assert self._channel is not None
        bound = self._limits.load_seconds if request is None else self._limits.call_seconds
        clock = _Clock(min(bound, self._allowance.left))
        try:
            return self._converse(self._channel, clock, hook, request, tensors, tools)
        except TimedOutError:
            self._fail(hook, self._too_long() if self._allowance.left < bound else clock.reason())
        except EndedError as error:
            self._fail(hook, self._last_words(str(error)))
        except ChannelError as error:
            self._fail(hook, f"broke the channel: {error}")
        finally:
            self._call_seconds += clock.own_seconds
            self._allowance.spend(clock.own_seconds)

    def _too_long(self) -> str:
        return (
            f"took longer than {self._allowance.seconds:g} s in all, with the loading and the hooks of every instance "
            f"so far; let its hooks wait for nothing"
        )

    def _converse(
        self,
        channel: _Channel,
        clock: _Clock,
        hook: str,
        request: dict[str, Any] | None,
        tensors: dict[str, Tensor],
        tools: Tools | None,
    ) -> tuple[Any, dict[str, Tensor]]:
        if request is not None:
            with clock:
                channel.ask(request, tensors, clock.deadline)
        uses = 0
        while True:
            with clock:
                message, sent = channel.answer(clock.deadline)
            if "error" in message:
                self._raise(hook, message["error"])
            if "ask" not in message:
                if "value" not in message:
                    raise ChannelError("it answered without a value")
                return message["value"], sent
            uses += 1
            self._asked += 1
            if tools is None or uses > _MAX_ASKED:
                reason = (
                    "asked for a tool that this hook does not have" if tools is None else "asks for tools endlessly"
                )
                self._fail(hook, reason)
            if clock.total_seconds > _TOTAL_FACTOR * self._limits.call_seconds:
                raise TimedOutError
            reply, reply_tensors = _answered(tools, message, sent)
            # Put the reply behind the hook's own tensors, which the method still reads.
            base = size_of(tensors)
            channel.requests.reserve(size_of(reply_tensors, base))
            with clock:
                channel.tell(reply, reply_tensors, clock.deadline, base)

    def _raise(self, hook: str, error: object) -> NoReturn:
        """Raise the method's error."""
        if not isinstance(error, dict) or error.keys() != {"type", "text", "where"}:
            raise ChannelError("it described an error wrongly")
        kind, detail = printable(text(error["type"], 200)), printable(text(error["text"], 4000))
        where = error["where"]
        if not isinstance(where, list) or len(where) > 4:
            raise ChannelError("it described an error wrongly")
        places = "; ".join(printable(text(place, 400)) for place in where)
        if kind == "NotApplicableError" and hook in ("create", "check_shape", "degenerate_as"):
            raise NotApplicableError(detail)
        if kind in ("TypeError", "ValueError") and hook == "create":
            raise RefusedError(detail)
        ours = kind in ("FedSafetyError", "UsageError", "NotApplicableError")
        self._fail(
            hook, (f"failed: {detail}" if ours else f"raised {kind}: {detail}") + (f" ({places})" if places else "")
        )

    def _last_words(self, problem: str) -> str:
        """Return why the process ended."""
        process = self._process
        assert process is not None
        patience = time.monotonic() + 2.0
        while process.alive() and time.monotonic() < patience:
            time.sleep(0.01)
        if process.alive():
            return f"broke the channel: {problem}"
        reason = f"ended its process: {process.died_of()}"
        lines = [line for line in process.output().splitlines() if line.strip()]
        return reason + (f"; its last words were: {printable(lines[-1])[:_LAST_WORDS]}" if lines else "")

    def _fail(self, hook: str, reason: str) -> NoReturn:
        """End the process.

        Raises:
            SubmissionError: Always; every later use raises the same error.
        """
        place = f"loading {self._submission.id!r}" if hook == "loading" else f"{hook}() of {self._submission.id!r}"
        message = f"{place} {reason}"
        self.close()
        self._dead = message
        raise SubmissionError(message) from None


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how two descriptions of one method differ; empty if they do not."""

    def flat(value: Mapping[str, Any]) -> dict[str, Any]:
        info = value.get("info")
        parts = {**value, **(info if isinstance(info, dict) else {}), "info": isinstance(info, dict)}
        # A set has another order in each process.
        return {name: sorted(part, key=repr) if isinstance(part, list) else part for name, part in parts.items()}

    first, second = flat(before), flat(now)
    differing = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if not differing:
        return ""
    name = sorted(map(str, differing))[0]
    shown = [printable(repr(each.get(name)), 80) for each in (first, second)]
    return (
        f"describes itself in another way than before: {printable(name, 40)} was {shown[0]} and is {shown[1]}; "
        f"metadata, hooks and parameters must be the same at every import"
    )


class _Channel:
    """The run's side of the channel."""

    def __init__(self, pipe: Pipe, requests: Arena, replies: Arena) -> None:
        self._pipe, self.requests, self.replies = pipe, requests, replies
        self._serial = 0
        self._asked: Header = {}
        self._process: IsolatedProcess | None = None

    @classmethod
    def create(cls, max_bytes: int) -> tuple[_Channel, dict[str, int]]:
        """Return a channel and the descriptors of the other side."""
        theirs_read, ours_write = os.pipe()
        ours_read, theirs_write = os.pipe()
        for fd in (ours_read, ours_write):
            os.set_blocking(fd, False)
        requests, replies = Arena.create("requests"), Arena.create("replies")
        channel = cls(Pipe(ours_read, ours_write, max_bytes, lambda: channel._alive()), requests, replies)
        return channel, {"read": theirs_read, "write": theirs_write, "requests": requests.fd, "replies": replies.fd}

    def attach(self, process: IsolatedProcess) -> None:
        self._process = process

    def ask(self, request: dict[str, Any], tensors: dict[str, Tensor], deadline: float) -> None:
        """Send a request."""
        self._serial += 1
        self._asked = self.tell({**request, "serial": self._serial}, tensors, deadline)

    def given(self) -> dict[str, Tensor]:
        """Return copies of the last request's tensors as they lie in the shared memory."""
        return self.requests.take(self._asked)

    def tell(self, message: dict[str, Any], tensors: dict[str, Tensor], deadline: float, base: int = 0) -> Header:
        """Send a message with tensors, for which there is room from ``base`` on, and return their description."""
        header = self.requests.put(tensors, base)
        self._pipe.send({**message, "tensors": header}, deadline)
        return header

    def answer(self, deadline: float) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the next message that belongs to the last request, with copies of its tensors."""
        message = self._pipe.receive(deadline)
        if message.get("serial") != self._serial:
            raise ChannelError("it answered something that was not asked")
        return message, self.replies.take(message.get("tensors"))

    def close(self) -> None:
        self._pipe.close()
        self.requests.close()
        self.replies.close()

    def _alive(self) -> bool:
        return self._process is None or self._process.alive()


class _Clock:
    """Clock of a hook's own time, in which the run waits for its process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._born = self._began = time.monotonic()
        self.own_seconds = 0.0

    @property
    def deadline(self) -> float:
        """End of the hook's own time, if the clock runs from now on."""
        return self._began + self._seconds - self.own_seconds

    @property
    def total_seconds(self) -> float:
        """Time since the hook began, time in tools included."""
        return time.monotonic() - self._born

    def reason(self) -> str:
        """Return why the time is over."""
        if self.own_seconds >= 0.99 * self._seconds:
            return f"took longer than {self._seconds:g} s"
        return f"took longer than {_TOTAL_FACTOR * self._seconds:g} s together with the tools that it used"

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.own_seconds += time.monotonic() - self._began


def _answered(
    tools: Tools, message: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a tool's answer, or what it raised, as a message."""
    try:
        value, reply_tensors = tools.answer(text(message["ask"], 100), message.get("args"), tensors)
    except (ChannelError, StorageError):
        raise
    except Exception as error:  # the method may have meant to catch it
        # Errors of other libraries may name files of this machine.
        detail = str(error)[:_TEXT] if isinstance(error, FedSafetyError) else type(error).__name__
        return {"error": {"type": type(error).__name__, "text": detail}}, {}
    return {"value": value}, reply_tensors
