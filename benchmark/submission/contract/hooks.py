"""The contract of `prepare`, `finalize` and `serve`, on a real server of the embedded world with few training steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.models.lora import initial_adapter
from benchmark.seeds import stream, torch_stream
from benchmark.submission.contract.examination import Check, Examination, Outcome, Subject, fails, passes
from benchmark.submission.contract.inputs import left_behind, same_bits
from benchmark.submission.contract.report import Part
from benchmark.submission.contract.usage import counted, in_words, meter
from benchmark.submission.practice import PRACTICE_SEED, practice_server
from benchmark.suites.suite import find_suite
from benchmark.training.door import checked_start
from benchmark.training.server import MeteredServer
from benchmark.updates import LARGEST_RANK, AdapterLayout
from defenses.base import Defense, DefenseInfo, Prompt
from tasks.base import task_worlds

_PROMPTS = 12
_NOISE = 1e-3
_DETERMINISM = "draw random numbers from the server's tools only, and depend on no clock, hash or global state"

MakeServer = Callable[[], MeteredServer]


def server_maker(subject: Subject[DefenseInfo, Defense], examination: Examination) -> MakeServer:
    """Return a function that makes equal servers; they record in the examination which models generate."""
    return lambda: practice_server(PRACTICE_SEED, subject.entry.info.id, examination.observed)


def prepare_checks(subject: Subject[DefenseInfo, Defense], examination: Examination) -> list[Check]:
    """Return the checks of `prepare`; what it uses is added to the examination."""
    return [
        Check(
            Part.CONTRACT,
            "prepare",
            "prepare() uses the same of the server's tools each time and returns the same start, or none",
            lambda: _prepare(subject, examination),
        )
    ]


def finalize_checks(subject: Subject[DefenseInfo, Defense], examination: Examination) -> list[Check]:
    """Return the checks of `finalize`; what it uses is added to the examination."""
    return [
        Check(
            Part.CONTRACT,
            "finalize",
            "finalize() returns a finite adapter of no lower rank, the same bits each time; its input stays as it was",
            lambda: _finalize(subject, examination),
        )
    ]


def serve_checks(subject: Subject[DefenseInfo, Defense]) -> list[Check]:
    """Return the checks of `serve`."""
    return [
        Check(
            Part.CONTRACT,
            "serve",
            "serve() returns a Prompt with text, the same each time and in whatever order requests come",
            lambda: _serve(subject),
        )
    ]


def _prepare(subject: Subject[DefenseInfo, Defense], examination: Examination) -> Outcome:
    used, starts = [], []
    for _ in range(2):
        server = server_maker(subject, examination)()
        with subject.fresh("prepare") as rule:
            began = time.perf_counter()
            returned = rule.prepare(server)
            server.usage.server_seconds += time.perf_counter() - began
        starts.append(checked_start(returned, server.start(), subject.entry.info.id))
        used.append(server)
    if not torch.equal(*starts):
        difference = float((starts[0].double() - starts[1].double()).abs().max())
        return fails(f"two fresh instances return starts that differ by up to {difference:.3g}", _DETERMINISM)
    if counted(used[0].usage) != counted(used[1].usage):
        return fails(f"used {in_words(used[0].usage)} and then {in_words(used[1].usage)}", _DETERMINISM)
    meter(examination.metered, used[0].usage)
    moved = float((starts[0].double() - used[0].start().double()).norm())
    changed = f"moved the start by {moved:.3g} (L2 norm); " if moved else ""
    return passes(f"{changed}used {in_words(used[0].usage)}")


def _finalize(subject: Subject[DefenseInfo, Defense], examination: Examination) -> Outcome:
    results, servers = [], []
    for _ in range(2):
        server = server_maker(subject, examination)()
        adapter = _trained(server)
        given = adapter.clone()
        with subject.fresh("finalize") as rule:
            began = time.perf_counter()
            result = rule.finalize(given, server)
            server.usage.server_seconds += time.perf_counter() - began
            if not same_bits(left_behind(rule).get("adapter", given), adapter):
                return fails("changed the adapter that it was given in place", "work on a copy: adapter.clone()")
        results.append(_usable(result, server.layout))
        servers.append(server)
    if results[0].shape != results[1].shape:
        ranks = [server.layout.rank_of(len(result)) for result in results]
        return fails(f"two fresh instances return adapters of ranks {ranks[0]} and {ranks[1]}", _DETERMINISM)
    if not torch.equal(*results):
        difference = float((results[0].double() - results[1].double()).abs().max())
        return fails(f"two fresh instances differ by up to {difference:.3g}", _DETERMINISM)
    meter(examination.metered, servers[0].usage)
    difference_in_words = _difference(results[0], _trained(servers[0]), servers[0].layout)
    return passes(f"{difference_in_words}; used {in_words(servers[0].usage)}")


def _usable(result: Tensor, layout: AdapterLayout) -> Tensor:
    """Return a repaired adapter if the engine would take it; its rank may be higher than that of the layout."""
    if not isinstance(result, Tensor):
        raise FedSafetyError(f"finalize() returned {type(result).__name__}; return a float tensor [d]")
    flat = result.dim() == 1 and layout.rank <= layout.rank_of(len(result)) <= LARGEST_RANK
    if not flat or not result.is_floating_point():
        raise FedSafetyError(
            f"finalize() returned {result.dtype} of shape {tuple(result.shape)}; an adapter is a float tensor of "
            f"shape {(layout.dimension,)}, or that of layout.of_rank(r) with a higher rank r up to {LARGEST_RANK}"
        )
    if not torch.isfinite(result).all():
        raise FedSafetyError("finalize() returned numbers that are not finite; check for division by zero")
    return result.detach()


def _difference(result: Tensor, adapter: Tensor, layout: AdapterLayout) -> str:
    """Return how a repaired adapter differs from the trained one, as the beginning of a sentence."""
    if result.shape != adapter.shape:
        return f"raised the adapter's rank from {layout.rank} to {layout.rank_of(len(result))}"
    return f"moved the adapter by {float((result.double() - adapter.double()).norm()):.3g} (L2 norm)"


def _trained(server: MeteredServer) -> Tensor:
    """Return an adapter that differs a little from the starting model."""
    start = initial_adapter(server.layout, torch_stream(PRACTICE_SEED, "adapter-init"))
    return start + _NOISE * torch.randn(start.shape, generator=torch_stream(PRACTICE_SEED, "practice-noise"))


def _serve(subject: Subject[DefenseInfo, Defense]) -> Outcome:
    requests = _requests()
    straight = _served(subject, requests)
    if straight != _served(subject, requests):
        return fails(
            "two fresh instances answer the same requests differently",
            "depend on the request only: on no clock, hash or random number",
        )
    backwards = _served(subject, [*reversed(requests), *requests])
    for request in requests:
        if backwards[request] != straight[request]:
            return fails(
                f"the request {request!r:.60} is served as {straight[request]!r:.120} or {backwards[request]!r:.120}, "
                f"depending on what was asked before",
                "keep nothing between requests",
            )
    fixed = sum(prompt.answer is not None for prompt in straight.values())
    changed = sum(prompt.instruction != request for request, prompt in straight.items())
    turns = sum(prompt.system is not None for prompt in straight.values())
    led = f", {turns} led by a system turn" if turns else ""
    return passes(f"of {len(straight)} requests {fixed} answered at once, {changed} reworded{led}")


def _requests() -> list[str]:
    """Return instructions that the server owns, ordinary and harmful ones, and some odd ones; none is a probe."""
    world = task_worlds.get(find_suite("micro").world).create()
    rows = world.server_normal(_PROMPTS, stream(PRACTICE_SEED, "practice", "normal"))
    rows += world.server_aligned(_PROMPTS, stream(PRACTICE_SEED, "practice", "aligned"))
    return list(dict.fromkeys([*(row.instruction for row in rows), "", "?", "name a fruit . " * 3, "ünïcødé"]))


def _served(subject: Subject[DefenseInfo, Defense], requests: list[str]) -> dict[str, Prompt]:
    """Return each request as a fresh instance serves it; a repeated request must be served the same way."""
    served: dict[str, Prompt] = {}
    with subject.fresh("serve") as rule:
        for request in requests:
            prompt = rule.serve(Prompt(request))
            if not isinstance(prompt, Prompt) or not isinstance(prompt.instruction, str):
                raise FedSafetyError(f"serve() returned {prompt!r:.80}; return a Prompt")
            if not isinstance(prompt.answer, str | None):
                raise FedSafetyError(f"serve() answers {prompt.answer!r:.80}; an answer is text")
            if not isinstance(prompt.system, str | None):
                raise FedSafetyError(f"serve() sets the system turn {prompt.system!r:.80}; a turn is text")
            if served.setdefault(request, prompt) != prompt:
                raise FedSafetyError(f"serve() makes something else of {request!r:.60} when it is asked again")
    return served
