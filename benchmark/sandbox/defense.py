"""Stand-in class of a submitted defense; each instance calls hooks in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from torch import Tensor

from benchmark.errors import NotApplicableError, SubmissionError
from benchmark.methods.source import MethodSource
from benchmark.registry import Entry
from benchmark.sandbox.channel import ChannelError
from benchmark.sandbox.description import describe
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.proxy import Sandboxed, stand_in
from benchmark.sandbox.session import Allowance
from benchmark.sandbox.tools import ServerTools, layout_of
from benchmark.sandbox.untrusted import items, text
from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from defenses.base import Defense, DefenseInfo, Knowledge, Prompt, Server

_WIDEST = 8
"""Bytes of the widest number that a tensor may hold."""
_RANKS = 8
"""Largest rank of a final adapter, as a multiple of the given adapter's."""


def sandboxed_defense(
    submission: MethodSource,
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    allowance: Allowance | None = None,
) -> Entry[DefenseInfo, Defense]:
    """Return a registry entry for a submitted defense, of which nothing is imported here.

    Each instance of the entry's class is a process of its own, started at first use and ended by ``close()``. Hooks
    return the same bits as in this process. Every failure of a hook is a :class:`SubmissionError`.

    Args:
        submission: The defense.
        limits: Bounds on each process.
        isolation: How processes are isolated; the best that this machine offers by default.
        allowance: Time that all its processes have together; without end by default.

    Raises:
        SubmissionError: It cannot be loaded, its metadata are not usable, or it declares knowledge ``truth``.
        SandboxUnavailableError: This machine offers no isolation.
    """
    limits = limits or Limits()
    description = describe(submission, DefenseInfo, frozenset(_HOOKS), limits, isolation, allowance)
    if description.info.knowledge is Knowledge.TRUTH:
        raise SubmissionError(
            f"{submission.id!r} wants to know who is malicious (knowledge 'truth'), which only the benchmark's own "
            f"reference rows are told; declare 'none' or 'declared_bound'"
        )
    target = stand_in(SandboxedDefense, submission, description, _HOOKS, limits, isolation, allowance)
    target.uses_updates = description.uses_updates
    target.remembered = {}
    return Entry(description.info, target, submission.origin, submission.digest)


class SandboxedDefense(Sandboxed, Defense):
    """Base of the classes that stand for submitted defenses.

    Attributes:
        remembered: Answers about shapes, shared by all instances: (hook, parameters, n, f) → answer or error.
    """

    remembered: dict[tuple[str, str, int, int], str | Exception | None]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.tools: ServerTools | None = None
        self.layout: AdapterLayout | None = None

    def ask(self, hook: str, args: dict[str, Any], tensors: dict[str, Tensor] | None = None, room: int = 0) -> Any:
        """Return a hook's answer: a value and tensors. Tools that a hook was given stay at hand in later ones.

        Raises:
            SubmissionError: The hook failed.
        """
        self.start()
        return self._session.call(hook, args, tensors, tools=self.tools, room=room)

    def about_shape(self, hook: str, participants: int, declared_malicious: int) -> str | None:
        """Return the submission's answer about a shape; each shape is sent once.

        Raises:
            NotApplicableError: The submission refuses the shape.
            SubmissionError: The hook failed.
        """
        key = hook, self._identity, participants, declared_malicious
        if key not in self.remembered:
            try:
                shape = {"participants": participants, "declared_malicious": declared_malicious}
                said, _ = self.ask(hook, shape)
                self.remembered[key] = None if said is None else text(said, 100)
            except (NotApplicableError, SubmissionError) as error:
                self.remembered[key] = error
            except ChannelError as error:
                self.refuse(hook, f"gave no name of a defense: {error}")
        answer = self.remembered[key]
        if isinstance(answer, Exception):
            raise type(answer)(str(answer))
        return answer

    def serve_all(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return the served form of each prompt, all in one message.

        Raises:
            SubmissionError: The hook failed for one of them.
        """
        value, _ = self.ask("serve", {"prompts": [[prompt.instruction, prompt.system] for prompt in prompts]})
        try:
            served = [_prompt(items(parts, 3)) for parts in items(value)]
        except ChannelError as error:
            self.refuse("serve", f"gave no prompts: {error}")
        if len(served) != len(prompts):
            self.refuse("serve", f"answered {len(served)} prompts of {len(prompts)}")
        return served

    def only(self, hook: str, tensors: dict[str, Tensor], *names: str) -> list[Tensor | None]:
        """Return the tensors called ``names``; the first is there.

        Raises:
            SubmissionError: It is missing, or the answer holds a tensor of another name.
        """
        if names[0] not in tensors or not tensors.keys() <= set(names):
            self.refuse(hook, f"gave no {names[0]}")
        return [tensors.get(name) for name in names]

    def refuse(self, hook: str, reason: str) -> NoReturn:
        """End the process because a hook's answer is not usable.

        Raises:
            SubmissionError: Always.
        """
        self._session.refuse(hook, reason)


def _prompt(parts: list[Any]) -> Prompt:
    """Return the prompt of an instruction, an answer or ``None``, and a system turn or ``None``."""
    instruction, answer, system = (*parts, None, None, None)[:3]
    return Prompt(text(instruction), *(None if part is None else text(part) for part in (answer, system)))


def _check_shape(self: SandboxedDefense, participants: int, declared_malicious: int) -> None:
    """Ask the submission; see :meth:`defenses.base.Defense.check_shape`."""
    self.about_shape("check_shape", participants, declared_malicious)


def _degenerate_as(self: SandboxedDefense, participants: int, declared_malicious: int) -> str | None:
    """Ask the submission; see :meth:`defenses.base.Defense.degenerate_as`."""
    return self.about_shape("degenerate_as", participants, declared_malicious)


def _prepare(self: SandboxedDefense, server: Server) -> Tensor | None:
    """Ask the submission; see :meth:`defenses.base.Defense.prepare`."""
    self.tools = ServerTools(server, self.budget)
    _, answer = self.ask("prepare", {"server": self.tools.known}, room=_WIDEST * server.layout.dimension)
    return self.only("prepare", answer, "start")[0] if answer else None


def _aggregate(self: SandboxedDefense, updates: Updates, context: RoundContext) -> Aggregate:
    """Ask the submission; see :meth:`defenses.base.Defense.aggregate`."""
    known, self.layout = self.layout, updates.layout
    args = {
        "layout": None if updates.layout == known else layout_of(updates.layout),
        "client_ids": list(updates.client_ids),
        "index": context.index,
        "rounds": context.rounds,
        "declared_malicious": context.declared_malicious,
        "server": None,
    }
    if context.tools is not None:
        self.tools = ServerTools(context.tools, self.budget)
        args["server"] = {name: value for name, value in self.tools.known.items() if name != "layout"}
    tensors = {
        "matrix": updates.matrix,
        "broadcast": context.broadcast,
        "sample_counts": updates.sample_counts,
        "generator": context.generator.get_state(),
    }
    # A tool's adapter and anchor have no more bytes than an update of the widest numbers.
    _, answer = self.ask("aggregate", args, tensors, room=_WIDEST * (updates.layout.dimension + len(updates)))
    update, weights = self.only("aggregate", answer, "update", "weights")
    assert update is not None
    return Aggregate(update, weights)


def _finalize(self: SandboxedDefense, adapter: Tensor, server: Server) -> Tensor:
    """Ask the submission; see :meth:`defenses.base.Defense.finalize`."""
    self.tools = ServerTools(server, self.budget)
    room = _WIDEST * adapter.numel() * _RANKS
    _, answer = self.ask("finalize", {"server": self.tools.known}, {"adapter": adapter}, room)
    (repaired,) = self.only("finalize", answer, "adapter")
    assert repaired is not None
    return repaired


def _serve(self: SandboxedDefense, prompt: Prompt) -> Prompt:
    """Ask the submission; see :meth:`defenses.base.Defense.serve`."""
    return self.serve_all([prompt])[0]


_HOOKS: Final[dict[str, Callable[..., Any]]] = {
    "check_shape": _check_shape,
    "degenerate_as": _degenerate_as,
    "prepare": _prepare,
    "aggregate": _aggregate,
    "finalize": _finalize,
    "serve": _serve,
}
