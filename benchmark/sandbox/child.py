"""Main program of a method's own process: loads the method, describes it, and runs its hooks on request.

Nothing here can be trusted once the method's code is loaded. What protects the run is the isolation around this process
and the checks on the other side of the channel.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.registry import Entry, Registry
from benchmark.sandbox import remote, seccomp
from benchmark.sandbox.channel import Arena, ChannelError, Pipe
from benchmark.updates import AdapterLayout, RoundContext, Updates

_TEXT = 2000
"""Longest text of an error, in characters."""
_BASES = ("defenses.base", "attacks.base")

Tensors = dict[str, Tensor]


def main() -> None:
    """Serve one instance of one method until the run closes the channel."""
    start: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(start["threads"])
    channel = Channel(
        Pipe(start["read"], start["write"], start["message_bytes"]), Arena(start["requests"]), Arena(start["replies"])
    )
    for base in _BASES:
        importlib.import_module(base)
    seccomp.install()
    _find_submission(start["folder"])
    method = _Method(start, channel)
    try:
        channel.send(channel.answer(method.describe()))
    except BaseException as error:  # send any error of loading; the run ends this process
        channel.send(channel.failure(error, start["module"]))
    gc.collect()
    gc.freeze()
    while True:
        try:
            request, tensors = channel.next()
        except ChannelError:
            # Not sys.exit, which would run exit handlers of the method.
            os._exit(0)
        try:
            value, result = method.run(request["call"], request["args"], tensors)
            answer = channel.answer(value, result)
            del value, result
        except BaseException as error:  # a hook may raise anything, SystemExit too
            answer = channel.failure(error, start["module"])
            traceback.clear_frames(error.__traceback__)
        del tensors
        # Before the answer goes: with it, the run may write its next request over what the method still holds.
        channel.settle()
        channel.send(answer)


def _find_submission(folder: str) -> None:
    """Let imports find the method's own files, from now on: no line of them ran before the filter was there.

    They come before installed packages, since a plug-in's own place among these is covered by something empty.
    """
    library = os.path.dirname(importlib.import_module("defenses").__path__[0])
    sys.path.insert(sys.path.index(library) + 1, folder)
    for base in _BASES:
        package = base.partition(".")[0]
        importlib.import_module(package).__path__.append(f"{folder}/{package}")
    importlib.invalidate_caches()


class Channel:
    """The child's side of the channel."""

    def __init__(self, pipe: Pipe, requests: Arena, replies: Arena) -> None:
        self._pipe, self._requests, self._replies = pipe, requests, replies
        self._serial = 0

    def next(self) -> tuple[dict[str, Any], Tensors]:
        """Return the next request with its tensors, which are views of shared memory."""
        request = self._pipe.receive()
        self._serial = request["serial"]
        return request, self._requests.lend(request["tensors"])

    def settle(self) -> None:
        """Let the request's tensors be overwritten, except what the method kept."""
        self._requests.settle()

    def answer(self, value: Any, tensors: Tensors | None = None) -> dict[str, Any]:
        """Return the answer to the request; its tensors are copied into shared memory."""
        return self._message({"value": value}, tensors or {})

    def failure(self, error: BaseException, module: str) -> dict[str, Any]:
        """Return the answer that describes a failure."""
        return self._message(
            {"error": {"type": type(error).__name__, "text": _text(error), "where": _where(error, module)}}, {}
        )

    def send(self, message: dict[str, Any]) -> None:
        """Send an answer."""
        self._pipe.send(message)

    def ask(self, tool: str, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        """Return the answer of one of the run's tools.

        Raises:
            Exception: What the tool raised.
        """
        self.send(self._message({"ask": tool, "args": args}, tensors))
        answer = self._pipe.receive()
        if "error" in answer:
            raise remote.exception_from(answer["error"]["type"], answer["error"]["text"])
        return answer["value"], self._requests.take(answer["tensors"])

    def _message(self, message: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} is of type {type(tensor).__name__}; it must be a torch tensor")
        return {**message, "serial": self._serial, "tensors": self._replies.put(tensors)}


class _Method:
    """One instance of the method, with the hooks by name."""

    def __init__(self, start: dict[str, Any], channel: Channel) -> None:
        self._start, self._ask = start, channel.ask
        self._kind = _HOOKS_OF[start["kind"]]()
        self._entry: Entry[Any, Any] | None = None
        self._instance: Any = None

    def describe(self) -> dict[str, Any]:
        """Load the method and return its metadata, the hooks it overrides and the parameters it takes."""
        registry, name = self._kind.registry(), self._start["id"]
        if name not in registry.names():
            # The module of another package; its entry point does not reach into this process.
            module = self._start["module"]
            spec = importlib.util.find_spec(module)
            if spec is None or spec.origin is None:
                raise FedSafetyError(f"module {module!r} cannot be found")
            registry.adopt(name, module, self._start["origin"], Path(spec.origin))
        self._entry = registry.get(name)
        target, base = self._entry.target, self._kind.base()
        parameters = inspect.signature(target).parameters.values()
        return {
            "info": self._entry.info.model_dump(mode="json"),
            "hooks": [hook for hook in self._kind.hooks if getattr(target, hook) is not getattr(base, hook)],
            "parameters": [
                [p.name, p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)] for p in parameters
            ],
            "uses_updates": bool(getattr(target, "uses_updates", True)),
        }

    def run(self, call: str, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        """Return what a hook gives, in JSON-like form and tensors."""
        if call == "create":
            assert self._entry is not None
            self._instance = self._entry.target(**args["params"])
            return None, {}
        hook: Callable[..., tuple[Any, Tensors]] = getattr(self._kind, call)
        return hook(self._instance, self._ask, args, tensors)


class _Defense:
    hooks = ("check_shape", "degenerate_as", "prepare", "aggregate", "finalize", "serve")

    def __init__(self) -> None:
        self._layout: AdapterLayout | None = None

    def registry(self) -> Registry[Any, Any]:
        from defenses.base import defenses

        return defenses

    def base(self) -> type:
        from defenses.base import Defense

        return Defense

    def check_shape(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        method.check_shape(args["participants"], args["declared_malicious"])
        return None, {}

    def degenerate_as(
        self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors
    ) -> tuple[Any, Tensors]:
        return method.degenerate_as(args["participants"], args["declared_malicious"]), {}

    def prepare(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        server = remote.RemoteServer(ask, args["server"])
        start = method.prepare(server)
        if start is None:
            return None, {}
        _check_shape_of(start, "prepare() returned a start", torch.Size((server.layout.dimension,)))
        return None, {"start": start}

    def aggregate(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        from benchmark.updates import Aggregate

        if args["layout"] is not None:
            self._layout = remote.layout_from(args["layout"])
        assert self._layout is not None
        context = RoundContext(
            index=args["index"],
            rounds=args["rounds"],
            declared_malicious=args["declared_malicious"],
            broadcast=tensors["broadcast"],
            generator=remote.torch_generator_from(tensors["generator"]),
            tools=self._server(ask, args["server"]),
        )
        updates = Updates(tensors["matrix"], tuple(args["client_ids"]), tensors["sample_counts"], self._layout)
        result = method.aggregate(updates, context)
        if not isinstance(result, Aggregate):
            raise FedSafetyError(f"aggregate() returned {type(result).__name__}; return an Aggregate")
        _check_shape_of(result.update, "aggregate() returned an update", updates.matrix.shape[1:])
        outputs = {"update": result.update}
        if result.weights is not None:
            outputs["weights"] = result.weights
        return None, outputs

    def _server(self, ask: remote.Ask, known: dict[str, Any] | None) -> Any:
        """Return the server of a round, whose layout is that of the updates; ``None`` without one."""
        if known is None:
            return None
        assert self._layout is not None
        layout = {"names": self._layout.names, "shapes": self._layout.shapes}
        return remote.RemoteServer(ask, {**known, "layout": layout})

    def finalize(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        server = remote.RemoteServer(ask, args["server"])
        adapter = method.finalize(tensors["adapter"], server)
        rank = server.layout.rank_of(len(adapter)) if isinstance(adapter, Tensor) and adapter.dim() == 1 else 0
        if rank <= server.layout.rank:
            _check_shape_of(adapter, "finalize() returned an adapter", tensors["adapter"].shape)
        return None, {"adapter": adapter}

    def serve(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        from defenses.base import Prompt

        served = []
        for instruction, system in args["prompts"]:
            prompt = method.serve(Prompt(instruction, system=system))
            if not isinstance(prompt, Prompt) or not isinstance(prompt.instruction, str):
                raise FedSafetyError(f"serve() returned {prompt!r:.80}; return a Prompt")
            if not isinstance(prompt.answer, str | None):
                raise FedSafetyError(f"serve() answers {prompt.answer!r:.80}; an answer is text")
            if not isinstance(prompt.system, str | None):
                raise FedSafetyError(f"serve() sets the system turn {prompt.system!r:.80}; a turn is text")
            served.append([prompt.instruction, prompt.answer, prompt.system])
        return served, {}


class _Attack:
    hooks = ("pool", "poison", "craft")

    def registry(self) -> Registry[Any, Any]:
        from attacks.base import attacks

        return attacks

    def base(self) -> type:
        from attacks.base import Attack

        return Attack

    def pool(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        rng = remote.rng_from(args["rng"])
        return _drawn(method.pool(remote.RemoteResources(ask, args["resources"]), rng), rng)

    def poison(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        rng = remote.rng_from(args["rng"])
        normal, pool = remote.examples_from(args["normal"]), remote.examples_from(args["pool"])
        return _drawn(method.poison(normal, pool, rng), rng)

    def craft(self, method: Any, ask: remote.Ask, args: dict[str, Any], tensors: Tensors) -> tuple[Any, Tensors]:
        from attacks.base import AttackerView

        layout = remote.layout_from(args["layout"])
        own = Updates(tensors["matrix"], tuple(args["client_ids"]), tensors["sample_counts"], layout)
        view = AttackerView(args["round_index"], args["participants"], tensors.get("broadcast"))
        crafted = method.craft(own, view)
        if not isinstance(crafted, Updates):
            raise FedSafetyError(f"craft() returned {type(crafted).__name__}; return Updates")
        _check_shape_of(crafted.matrix, "craft() returned updates", own.matrix.shape)
        return None, {"matrix": crafted.matrix}


_HOOKS_OF: dict[str, Callable[[], _Defense | _Attack]] = {"defense": _Defense, "attack": _Attack}
"""Hooks of each kind of method, by the name of the kind."""


def _check_shape_of(found: Any, what: str, wanted: torch.Size) -> None:
    """Raise for a wrong shape here, before a tensor of any size is sent; the run checks again."""
    if not isinstance(found, Tensor):
        raise FedSafetyError(f"{what} of type {type(found).__name__}; return a torch tensor")
    if found.shape != wanted:
        raise FedSafetyError(f"{what} of shape {tuple(found.shape)}; it must be {tuple(wanted)}")


def _drawn(examples: Any, rng: np.random.Generator) -> tuple[Any, Tensors]:
    return {"examples": remote.rows_of(examples), "rng": remote.rng_state(rng)}, {}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT]
    except BaseException:  # the method's own exception class
        return "(its text cannot be made)"


def _where(error: BaseException, module: str) -> list[str]:
    """Return the last lines of the method's own code on the way to the error, as ``file, line, function: code``."""
    package = module.partition(".")[0]
    places = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", ""))
        own = name == module or (package not in ("defenses", "attacks") and name.partition(".")[0] == package)
        if own:
            file = os.path.basename(frame.f_code.co_filename)
            places.append(f"{file}, line {line}, in {frame.f_code.co_name}"[:200])
    if isinstance(error, SyntaxError):
        places.append(f"{os.path.basename(str(error.filename))}, line {error.lineno}"[:200])
    return places[-2:]


if __name__ == "__main__":
    main()
