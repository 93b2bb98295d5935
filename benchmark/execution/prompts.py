"""Prompts of a plan: the probes after the serving stages of a pipeline, and the check of their length."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import Plan
from benchmark.execution.worlds import open_chat
from benchmark.generation.base import LONGEST, check_fit
from benchmark.methods.pipeline import Pipeline
from benchmark.models.chat import ChatFormat
from benchmark.sandbox.defense import SandboxedDefense
from benchmark.sandbox.proxy import created
from benchmark.suites.suite import Suite
from defenses.base import Defense, Prompt
from tasks.base import Probe, ProbeKind


def check_prompts(plan: Plan) -> None:
    """Check that every probe fits every starting model, before anything is trained.

    Raises:
        UsageError: A prompt with its answer is too long; the message names the prompt.
    """
    probes = plan.world.probes()
    for start in sorted({cell.scenario.start for cell in plan.cells if cell.runs}):
        chat = open_chat(plan.world, start)
        prompts = [(p.id, len(chat.prompt_ids(p.instruction, name=p.id)), _room(p)) for p in probes]
        check_fit(prompts, longest_prompt(plan.suite, chat))


def longest_prompt(suite: Suite, chat: ChatFormat) -> int:
    """Return the largest number of tokens that a prompt and its answer may have together."""
    return min(suite.compute.max_length or LONGEST, chat.max_length)


def _room(probe: Probe) -> int:
    """Return the tokens that must follow a prompt: the longest answer, or continuation that is measured.

    After a measured continuation some engines generate a token more.
    """
    return probe.max_new_tokens + (1 if probe.target or probe.kind is ProbeKind.PERPLEXITY else 0)


def served_prompts(stage: Pipeline, probes: Sequence[Probe], chat: ChatFormat, longest: int) -> list[Prompt]:
    """Return the prompt of each probe after the serving stages of a pipeline.

    Args:
        stage: The pipeline.
        probes: The probes.
        chat: The starting model's chat format.
        longest: Largest number of tokens of a prompt with its answer.

    Raises:
        FedSafetyError: A stage returned an unusable prompt.
    """
    prompts = [Prompt(probe.instruction) for probe in probes]
    for entry in stage.servers:
        with created(entry) as defense:
            prompts = _serve(defense, prompts)
        for prompt, probe in zip(prompts, probes, strict=True):
            if not isinstance(prompt, Prompt) or not isinstance(prompt.instruction, str):
                raise FedSafetyError(f"serve() of {entry.info.id!r} returned {prompt!r:.80}; return a Prompt")
            if not isinstance(prompt.answer, str | None):
                raise FedSafetyError(f"serve() of {entry.info.id!r} answers {prompt.answer!r:.80}; an answer is text")
            if not isinstance(prompt.system, str | None):
                raise FedSafetyError(
                    f"serve() of {entry.info.id!r} sets the system turn {prompt.system!r:.80}; a turn is text"
                )
            name = f"serve() of {entry.info.id!r} makes a prompt that"
            length = len(chat.prompt_ids(prompt.instruction, system=prompt.system, name=name)) + _room(probe)
            if prompt.answer is None and length > longest:
                raise FedSafetyError(
                    f"serve() of {entry.info.id!r} makes a prompt of {length} tokens with its answer, and {longest} "
                    f"are allowed; shorten it, or raise max_length in the suite's compute if the model takes more"
                )
    return prompts


def _serve(defense: Defense, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts after a defense served them. Prompts that have an answer stay as they are."""
    if not isinstance(defense, SandboxedDefense):
        return [prompt if prompt.answer is not None else defense.serve(prompt) for prompt in prompts]
    # Shuffle with a secret order because probes come kind by kind: a method that counts its prompts could otherwise
    # recognise the harmful ones.
    unanswered = [i for i, prompt in enumerate(prompts) if prompt.answer is None]
    order = sorted(unanswered, key=lambda _: secrets.randbits(64))
    served = dict(zip(order, defense.serve_all([prompts[i] for i in order]), strict=True))
    return [served.get(i, prompt) for i, prompt in enumerate(prompts)]
