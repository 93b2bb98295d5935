"""Whatever a method's process says or does, the run gets a checked answer or a reason, and goes on."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.errors import FedSafetyError, NotApplicableError, SubmissionError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import MethodSource
from benchmark.sandbox import session as session_module
from benchmark.sandbox.channel import Arena, EndedError, Pipe
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.session import Allowance, RefusedError, Session

SUBMISSION = MethodSource(DEFENSE, "fake", "defenses.fake", (("defenses.fake", Path(__file__)),), "file fake.py")
QUICK = Limits(call_seconds=0.3, load_seconds=0.3, message_bytes=100_000)
PATIENT = Limits(call_seconds=10.0, load_seconds=10.0, message_bytes=100_000)
"""For plays whose reason is another one than time, on a machine that is busy with other tests."""

Play = Callable[["Inside"], object]


@dataclass
class Inside:
    """The other side of the channel, played by the test in a thread."""

    read: int
    write: int
    requests: Arena
    replies: Arena

    @property
    def pipe(self) -> Pipe:
        return Pipe(self.read, self.write, 1 << 26)

    def next(self) -> dict[str, Any]:
        return self.pipe.receive(time.monotonic() + 10)

    def say(self, **message: Any) -> None:
        self.pipe.send({"tensors": {}, **message})

    def raw(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.write, rest) :]

    def frame(self, content: bytes) -> None:
        self.raw(struct.pack("<Q", len(content)) + content)


@dataclass
class FakeProcess:
    """A process as the session sees it, whose inside is a thread of the test."""

    play: Play
    fds: dict[str, int]
    killed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    peak_memory_bytes: int = 1
    cpu_seconds: float = 0.5

    def run(self) -> None:
        inside = Inside(self.fds["read"], self.fds["write"], Arena(self.fds["requests"]), Arena(self.fds["replies"]))
        try:
            self.play(inside)
            self.killed.wait(20)
        except (EndedError, OSError):
            pass  # the run has hung up
        finally:
            self.ended.set()
            for fd in self.fds.values():
                os.close(fd)

    def alive(self) -> bool:
        return not self.ended.is_set()

    def kill(self) -> None:
        self.killed.set()

    def died_of(self) -> str:
        return "" if self.alive() else "exited with status 9"

    def output(self) -> str:
        return "first line\nlast \x07words\n"


class EndsError(OSError):
    """Raised by a play to end the process."""


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(session_module, "visible_files", lambda submission: {})
        yield monkeypatch


@pytest.fixture(scope="module")
def opened(patch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """Open a session whose other side is played by a function: ``opened(play, limits)``."""

    def make(play: Play, limits: Limits = QUICK, **rest: Any) -> Session:
        def start(isolation: Any, module: str, args: list[str], **settings: Any) -> FakeProcess:
            assert module == "benchmark.sandbox.child"
            told = json.loads(args[0])
            assert set(settings["pass_fds"]) == {told[name] for name in ("read", "write", "requests", "replies")}
            fds = {name: os.dup(told[name]) for name in ("read", "write", "requests", "replies")}
            process = FakeProcess(play, fds)
            threading.Thread(target=process.run, daemon=True).start()
            return process

        patch.setattr(session_module, "start", start)
        return Session(SUBMISSION, limits, "fake", **rest)  # type: ignore[arg-type]

    return make


def loaded(inside: Inside) -> None:
    inside.say(serial=0, value={})


def answering(**message: Any) -> Play:
    def play(inside: Inside) -> None:
        loaded(inside)
        request = inside.next()
        inside.say(**{"serial": request["serial"], **message})

    return play


def describing(**description: Any) -> Play:
    return lambda inside: inside.say(serial=0, value=description)


def test_a_description_is_the_same_in_every_process(opened: Any) -> None:
    before = {"info": {"title": "One", "stages": ["serve", "aggregate"]}, "hooks": ["aggregate"], "parameters": []}
    again = {**before, "info": {"title": "One", "stages": ["aggregate", "serve"]}}  # a set has no order
    assert opened(describing(**again), expected=before).load() == again
    for now, said in (
        ({**before, "info": {**before["info"], "title": "Two"}}, "title was 'One' and is 'Two'"),
        ({**before, "hooks": []}, r"hooks was \['aggregate'\] and is \[\]"),
        ({**before, "info": 7}, "info was True and is False"),
    ):
        with pytest.raises(SubmissionError, match=rf"describes itself in another way than before: {said}; metadata"):
            opened(describing(**now), expected=before).load()


def test_all_processes_of_a_method_share_one_allowance(opened: Any) -> None:
    allowance = Allowance(0.05)
    said = r"loading 'fake' took longer than 0\.05 s in all, with the loading and the hooks of every instance so far"
    with pytest.raises(SubmissionError, match=said):
        opened(lambda inside: None, PATIENT, allowance=allowance).load()
    assert allowance.left == 0
    with pytest.raises(SubmissionError, match=said):  # without a process
        opened(loaded, PATIENT, allowance=allowance).load()


def asked(opened: Any, play: Play, **rest: Any) -> tuple[Any, dict[str, Tensor]]:
    session = opened(play)
    session.load()
    try:
        result: tuple[Any, dict[str, Tensor]] = session.call("aggregate", {}, **rest)
        return result
    finally:
        session.close()


def test_an_answer_comes_back(opened: Any) -> None:
    assert asked(opened, answering(value=[1, "two"])) == ([1, "two"], {})


def test_tensors_are_copied_so_that_they_cannot_change_afterwards(opened: Any) -> None:
    inside_of: list[Inside] = []

    def play(inside: Inside) -> None:
        inside_of.append(inside)
        loaded(inside)
        request = inside.next()
        sent = inside.requests.take(request["tensors"])["matrix"]
        inside.pipe.send(
            {"serial": request["serial"], "value": None, "tensors": inside.replies.put({"update": sent.sum(dim=0)})}
        )

    session = opened(play)
    session.load()
    matrix = torch.arange(6.0).reshape(2, 3)
    _, found = session.call("aggregate", {}, {"matrix": matrix}, room=1000)
    inside_of[0].replies.put({"update": torch.full((3,), float("nan"))})
    assert torch.equal(found["update"], matrix.sum(dim=0))
    session.close()


DESCRIBED = {"type": "ValueError", "text": "too\nbad \x1b[31m", "where": ["fake.py, line 3, in aggregate"]}


def test_what_a_hook_raises_is_told_with_the_place(opened: Any) -> None:
    with pytest.raises(SubmissionError) as caught:
        asked(opened, answering(error=DESCRIBED))
    assert str(caught.value) == (
        "aggregate() of 'fake' raised ValueError: too bad [31m (fake.py, line 3, in aggregate)"
    )


def test_only_where_shapes_are_checked_a_method_may_say_that_it_does_not_apply(opened: Any) -> None:
    error = {"type": "NotApplicableError", "text": "n is too small", "where": []}
    session = opened(answering(error=error))
    session.load()
    with pytest.raises(NotApplicableError, match="n is too small"):
        session.call("check_shape", {})
    with pytest.raises(SubmissionError, match=r"aggregate\(\) of 'fake' failed: n is too small"):
        asked(opened, answering(error=error))


def test_a_constructor_may_refuse_its_parameters(opened: Any) -> None:
    session = opened(answering(error=DESCRIBED))
    with pytest.raises(RefusedError, match="too bad"):
        session.ensure({"boost": -1})
    session.close()


def dying(inside: Inside) -> None:
    loaded(inside)
    inside.next()
    raise EndsError


def silent(inside: Inside) -> None:
    loaded(inside)
    inside.next()


def flooding(inside: Inside) -> None:
    loaded(inside)
    serial = inside.next()["serial"]
    while True:
        inside.say(serial=serial, ask="owned_normal", args={"count": 1})


def swamping(inside: Inside) -> None:
    loaded(inside)
    while True:
        inside.raw(b"\xff" * 65536)


def trickling(inside: Inside) -> None:
    loaded(inside)
    inside.raw(struct.pack("<Q", 50_000))
    while True:
        inside.raw(b" ")
        time.sleep(0.01)


def twice(inside: Inside) -> None:
    loaded(inside)
    serial = inside.next()["serial"]
    inside.say(serial=serial, value="mine")
    inside.say(serial=serial, value="mine")


class Generous:
    """Tools that always answer."""

    def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        return [], {}


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (dying, r"ended its process: exited with status 9; its last words were: last words$"),
        (silent, r"took longer than 0.3 s$"),
        (trickling, r"took longer than 0.3 s$"),
        (flooding, r"asks for tools endlessly$"),
        (swamping, r"broke the channel: it announced a message of"),
        (answering(serial=7, value=1), r"broke the channel: it answered something that was not asked$"),
        (answering(), r"broke the channel: it answered without a value$"),
        (answering(value=1, tensors=None), r"broke the channel: it described its tensors wrongly$"),
        (answering(error="oh"), r"broke the channel: it described an error wrongly$"),
        (answering(error={**DESCRIBED, "where": "x" * 9}), r"broke the channel: it described an error wrongly$"),
        (answering(error={**DESCRIBED, "text": "\ud800"}), r"broke the channel: it sent a text that is not Unicode$"),
        (answering(error={**DESCRIBED, "text": "x" * 5000}), r"broke the channel: it sent a text of 5,000 characters"),
        (answering(ask=["x"]), r"broke the channel: it sent list where a text belongs$"),
        (answering(value="x" * 200_000), r"broke the channel: it announced a message of 200,"),
    ],
)
def test_misbehaviour_ends_the_process_with_a_reason_that_stays(opened: Any, play: Play, reason: str) -> None:
    session = opened(play, QUICK if "took longer" in reason else PATIENT)
    session.load()
    process = session._process
    began = time.monotonic()
    with pytest.raises(SubmissionError, match=r"^aggregate\(\) of 'fake' " + reason) as first:
        session.call("aggregate", {}, tools=Generous())
    assert time.monotonic() - began < 20
    assert process.killed.is_set()
    with pytest.raises(SubmissionError) as second:
        session.call("finalize", {})
    assert str(second.value) == str(first.value)


def test_an_answer_too_many_is_not_taken_for_the_next_one(opened: Any) -> None:
    session = opened(twice)
    session.load()
    assert session.call("aggregate", {})[0] == "mine"
    with pytest.raises(SubmissionError, match="something that was not asked"):
        session.call("aggregate", {})


def test_a_tool_that_a_hook_does_not_have_is_refused(opened: Any) -> None:
    with pytest.raises(SubmissionError, match="asked for a tool that this hook does not have"):
        asked(opened, answering(ask="generate", args={}))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (FedSafetyError("give at least one"), {"type": "FedSafetyError", "text": "give at least one"}),
        (
            OSError(2, "No such file", "/somewhere/secret"),
            {"type": "FileNotFoundError", "text": "FileNotFoundError"},
        ),
    ],
)
def test_what_a_tool_raises_goes_back_without_words_of_the_machine(
    opened: Any, raised: Exception, told: dict[str, str]
) -> None:
    class Failing:
        def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
            raise raised

    def play(inside: Inside) -> None:
        loaded(inside)
        serial = inside.next()["serial"]
        inside.say(serial=serial, ask="generate", args={})
        inside.say(serial=serial, value=inside.next()["error"])

    assert asked(opened, play, tools=Failing())[0] == told


def test_time_in_tools_is_not_the_methods_own(opened: Any) -> None:
    class Slow:
        def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
            time.sleep(0.5)
            return "done", {}

    def play(inside: Inside) -> None:
        loaded(inside)
        serial = inside.next()["serial"]
        inside.say(serial=serial, ask="generate", args={})
        inside.say(serial=serial, value=inside.next()["value"])

    assert asked(opened, play, tools=Slow())[0] == "done"


def test_a_tools_tensors_lie_behind_those_of_the_hook(opened: Any) -> None:
    class Tuning:
        def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
            return None, {"adapter": torch.full((1 << 19,), 2.0)}

    def play(inside: Inside) -> None:
        loaded(inside)
        request = inside.next()
        view = inside.requests.lend(request["tensors"])["adapter"]
        inside.say(serial=request["serial"], ask="finetune", args={})
        tuned = inside.requests.take(inside.next()["tensors"])["adapter"]
        inside.say(serial=request["serial"], value=[view.tolist(), tuned.mean().item()])

    value, _ = asked(opened, play, tensors={"adapter": torch.ones(5)}, tools=Tuning())
    assert value == [[1.0] * 5, 2.0]


def test_a_closed_session_says_so(opened: Any) -> None:
    session = opened(loaded)
    session.load()
    assert session.usage().start_seconds > 0
    session.close()
    session.close()
    with pytest.raises(SubmissionError, match="was closed"):
        session.call("aggregate", {})


def test_no_descriptor_is_left_open(opened: Any) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def once() -> None:
        session = opened(silent)
        session.load()
        process = session._process
        with pytest.raises(SubmissionError):
            session.call("aggregate", {}, {"matrix": torch.ones(3)})
        assert process.ended.wait(10)

    once()
    before = count()
    for _ in range(3):
        once()
    time.sleep(0.1)
    assert count() <= before


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "U8"]) | VALUES,
        "shape": st.lists(st.integers(-1, 20), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-64, 256), max_size=3) | VALUES,
    }
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "serial": st.sampled_from([0, 1, 2]) | VALUES,
        "value": VALUES,
        "error": VALUES | st.just(DESCRIBED),
        "ask": st.sampled_from(["generate", "finetune", "nonsense"]) | VALUES,
        "args": VALUES,
        "tensors": st.just({}) | st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3) | VALUES,
        "more": VALUES,
    },
)
FRAMES = st.binary(max_size=40) | MESSAGES.map(
    lambda message: (lambda text: struct.pack("<Q", len(text)) + text)(json.dumps(message).encode())
)


@given(st.lists(FRAMES, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_garbage_is_answered_or_refused_and_nothing_else(opened: Any, frames: list[bytes], ends: bool) -> None:
    def play(inside: Inside) -> None:
        loaded(inside)
        inside.next()
        for data in frames:
            inside.raw(data)
        if ends:
            raise EndsError

    session = opened(play, Limits(call_seconds=0.1, load_seconds=0.1, message_bytes=1000))
    session.load()
    reason = refusal(lambda: session.call("aggregate", {}, {"matrix": torch.ones(3)}, tools=Generous()))
    session.close()
    assert not reason or reason.startswith("aggregate() of 'fake' ")
    assert not reason or reason.isprintable()


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except SubmissionError as error:
        return str(error)
    return ""


@given(st.lists(FRAMES, max_size=3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_garbage_instead_of_a_description_is_refused(opened: Any, frames: list[bytes], ends: bool) -> None:
    def play(inside: Inside) -> None:
        for data in frames:
            inside.raw(data)
        if ends:
            raise EndsError

    session = opened(play, Limits(call_seconds=0.1, load_seconds=0.1, message_bytes=1000))
    reason = refusal(session.load)
    session.close()
    # A lucky message may be a mapping.
    assert not reason or reason.startswith("loading 'fake' ")
