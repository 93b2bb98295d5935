"""Base of the classes that stand for submitted methods, and the life of their instances."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from benchmark.methods.source import MethodSource
from benchmark.registry import Entry
from benchmark.sandbox.budget import Budget
from benchmark.sandbox.description import Description
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.session import Allowance, RefusedError, SandboxUsage, Session

T = TypeVar("T")


class Sandboxed:
    """Base of the classes that stand for a submission's class. An instance is one process, started at first use.

    Args:
        **params: The constructor's parameters. They are tried at once, in the process, the first time that they occur.

    Attributes:
        hooks: The hooks that the submission overrides.
        budget: What the instance may have tools do, over all its hooks.

    Raises:
        TypeError: A parameter is missing, unknown or not JSON-like.
        ValueError: The method refuses its parameters.
        SubmissionError: It fails otherwise while it is made.
    """

    hooks: ClassVar[frozenset[str]] = frozenset()
    _submission: ClassVar[MethodSource]
    _description: ClassVar[Description[Any]]
    _limits: ClassVar[Limits]
    _isolation: ClassVar[Isolation | None]
    _allowance: ClassVar[Allowance | None]
    _accepted: ClassVar[set[str]]

    def __init__(self, **params: Any) -> None:
        self._description.signature.bind(**params)
        self._params = params
        self.budget = Budget()
        told = self._description.told or None
        self._session = Session(self._submission, self._limits, self._isolation, self._allowance, told)
        weakref.finalize(self, self._session.close)
        self._identity = json.dumps(params, sort_keys=True, allow_nan=False)
        if params and self._identity not in self._accepted:
            try:
                self._session.ensure(params)
            except RefusedError as error:
                self._session.close()
                raise ValueError(str(error)) from None
            self._accepted.add(self._identity)

    def start(self) -> None:
        """Start the process if that has not been done.

        Raises:
            SubmissionError: The method cannot be loaded or made, or failed before.
        """
        try:
            self._session.ensure(self._params)
        except RefusedError as error:
            self._session.refuse("create", f"refuses its parameters: {error}")

    def close(self) -> None:
        """End the process."""
        self._session.close()

    def given(self) -> dict[str, Tensor]:
        """Return copies of the tensors that the last hook was given, with what the method wrote into them."""
        return self._session.given()

    def usage(self) -> SandboxUsage:
        """Return what the process used so far."""
        return self._session.usage()


def stand_in(
    base: type[T],
    submission: MethodSource,
    description: Description[Any],
    implementations: Mapping[str, Callable[..., Any]],
    limits: Limits,
    isolation: Isolation | None,
    allowance: Allowance | None = None,
) -> type[T]:
    """Return a class derived from ``base`` that overrides exactly the hooks that the submission overrides."""
    members: dict[str, Any] = {hook: implementations[hook] for hook in sorted(description.hooks)}
    members |= {
        "__module__": submission.module,
        "__doc__": f"Stands for the submitted {submission.kind} {submission.id!r}.",
        "__signature__": description.signature,
        "hooks": description.hooks,
        "_submission": submission,
        "_description": description,
        "_limits": limits,
        "_isolation": isolation,
        "_allowance": allowance,
        "_accepted": set(),
    }
    return type(f"Sandboxed_{submission.id}", (base,), members)


@contextmanager
def created(entry: Entry[Any, T], params: Mapping[str, Any] | None = None, hooks: tuple[str, ...] = ()) -> Iterator[T]:
    """Give an instance of a registered class; a process that stands for it is ended afterwards.

    Args:
        entry: The registered class.
        params: Its parameters.
        hooks: Hooks that will be timed: a process for one of them is started before.

    Raises:
        UsageError: A parameter is unknown, or its value is refused.
        SubmissionError: The process cannot be started.
    """
    instance = entry.create(params)
    if not isinstance(instance, Sandboxed):
        yield instance
        return
    try:
        if instance.hooks.intersection(hooks):
            instance.start()
        yield instance
    finally:
        instance.close()
