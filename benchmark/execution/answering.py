"""Responses of trained adapters to the probes, and the likelihoods of given continuations.

One engine answers all adapters over one base model, in large batches. Every adapter passes its canary first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import FedSafetyError
from benchmark.execution.input_rows import write_probes
from benchmark.execution.likelihoods import DivergedError, likelihood_rows
from benchmark.execution.outcome import NO_FAILURES, Failures, outcome_of, reason_of
from benchmark.execution.plan import CellPlan, Plan
from benchmark.execution.prompts import longest_prompt, served_prompts
from benchmark.execution.run import Run
from benchmark.execution.worlds import open_chat
from benchmark.generation.adapters import adapter_digest
from benchmark.generation.base import Answer, Engine, Request
from benchmark.generation.canary import Canary, check_canaries
from benchmark.generation.select import EngineChoice, open_engine
from benchmark.generation.settings import EngineSettings
from benchmark.models.chat import ChatFormat
from benchmark.models.peft import read_settings
from benchmark.records.adapters import adapter_is_complete, read_record
from benchmark.records.store import Store
from benchmark.seeds import integer
from defenses.base import Prompt
from tasks.base import Probe, ProbeKind

_ADAPTERS_PER_BATCH = 16
"""Adapters whose answers are one call of the engine and are stored together. An engine that merges adapters answers for
one after the other, so a call for each keeps what is finished."""


def answer(run: Run, failures: Failures = NO_FAILURES) -> dict[str, str]:
    """Answer the probes of every open cell; return the reasons of defenses that failed to serve, by response key.

    Args:
        run: The run.
        failures: Failures of its trainings.

    Raises:
        FedSafetyError: The engine does not answer as the training code does.
    """
    write_probes(run.plan, run.store)
    pending = {c.response_key: c for c in run.plan.cells if outcome_of(c, run.store, failures).open}
    refused: dict[str, str] = {}
    with run.reporter.step("answering probes", len(pending)) as step:
        for start in sorted({cell.scenario.start for cell in pending.values()}):
            cells = [cell for cell in pending.values() if cell.scenario.start == start]
            refused |= _answer_start(run, start, cells, step.advance)
    return refused


def _answer_start(run: Run, start: str, cells: Sequence[CellPlan], advance: Callable[[], None]) -> dict[str, str]:
    """Answer the probes of ``cells``, which share one starting checkpoint; return the reasons of failures to serve."""
    plan, store, failures = run.plan, run.store, dict[str, str]()
    probes, chat = plan.world.probes(), open_chat(plan.world, start)
    longest = longest_prompt(plan.suite, chat)
    equals = _Equals(plan, store)
    with open_start(plan, start, run.engine, largest_rank=largest_rank(store, cells)) as engine:
        for batch in _batched(cells, 1 if plan.suite.decoding.adapters == "merged" else _ADAPTERS_PER_BATCH):
            for cell in batch:
                check_chat(store, cell, chat)
            _check_adapters(engine, batch, store)
            prompts = {}
            for cell in batch:
                try:
                    prompts[cell.response_key] = served_prompts(cell.stage, probes, chat, longest)
                except Exception as error:  # a submitted method may raise anything; its cell fails, the others go on
                    failures[cell.response_key] = reason_of(error)
            served = [cell for cell in batch if cell.response_key in prompts]
            firsts = [cell for cell in served if equals.first_of(cell, prompts[cell.response_key]) == cell.response_key]
            _write_answers(run, engine, chat, firsts, prompts)
            for cell in served:
                equals.copy("responses", cell)
                equals.copy("likelihoods", cell)
                if reason := _write_likelihoods(run, engine, chat, cell, prompts[cell.response_key]):
                    failures[cell.response_key] = reason
                advance()
    return failures


class _Equals:
    """Response sets of one engine whose adapters have the same bytes and get the same prompts: one is answered.

    Without an attack, for example, FedAvg and a rule that leaves nobody out serve one adapter. Where answers are drawn,
    each set draws its own.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._greedy, self._store = not plan.suite.decoding.temperature, store
        self._firsts: dict[tuple[str, tuple[Prompt, ...]], str] = {}
        self._first: dict[str, str] = {}

    def first_of(self, cell: CellPlan, prompts: Sequence[Prompt]) -> str:
        """Return the key of the first response set that equals the one of a cell; the cell's own if there is none."""
        key = cell.response_key
        if self._greedy:
            served = adapter_digest(self._store.adapter_folder(cell.adapter_key)), tuple(prompts)
            self._first[key] = self._firsts.setdefault(served, key)
        return self._first.get(key, key)

    def copy(self, table: str, cell: CellPlan) -> None:
        """Write the rows of a cell that an equal response set has and the cell lacks."""
        key = cell.response_key
        first = self._first.get(key, key)
        if first == key or self._store.has(table, key) or not self._store.has(table, first):
            return
        rows = self._store.read(table, first).to_pylist()
        self._store.write(table, key, [row | {"response_key": key} for row in rows])


def _write_answers(
    run: Run, engine: Engine, chat: ChatFormat, cells: Sequence[CellPlan], prompts: Mapping[str, Sequence[Prompt]]
) -> None:
    """Generate and write the answers of the cells that lack them. All cells go to the engine in one call.

    Args:
        run: The run.
        engine: Engine over the starting model.
        chat: Chat format of the starting model.
        cells: The cells.
        prompts: Response key → served prompt of each probe.
    """
    plan, store, probes = run.plan, run.store, run.plan.world.probes()
    cells = [cell for cell in cells if not store.has("responses", cell.response_key)]
    asked = {
        cell.response_key: [
            (probe, prompt)
            for probe, prompt in zip(probes, prompts[cell.response_key], strict=True)
            if probe.kind is not ProbeKind.PERPLEXITY
        ]
        for cell in cells
    }
    requests = [
        _request(plan, cell, chat, probe, prompt, store.adapter_folder(cell.adapter_key))
        for cell in cells
        for probe, prompt in asked[cell.response_key]
        if prompt.answer is None
    ]
    answers = iter(engine.generate(requests))
    for cell in cells:
        rows = [
            _response_row(plan, cell, probe, prompt, None if prompt.answer is not None else next(answers))
            | {"generator": engine.name}
            for probe, prompt in asked[cell.response_key]
        ]
        store.write("responses", cell.response_key, rows)


def _write_likelihoods(run: Run, engine: Engine, chat: ChatFormat, cell: CellPlan, prompts: Sequence[Prompt]) -> str:
    """Measure and write the likelihoods of a cell that lacks them; return why they cannot be measured, or nothing."""
    store, key = run.store, cell.response_key
    if not cell.likelihoods or store.has("likelihoods", key):
        return ""
    adapter = store.adapter_folder(cell.adapter_key)
    try:
        store.write("likelihoods", key, likelihood_rows(key, run.plan.world, prompts, chat, engine, adapter))
    except DivergedError as error:
        return reason_of(error)
    return ""


def open_start(
    plan: Plan, start: str, choice: EngineChoice, max_length: int | None = None, largest_rank: int = 0
) -> Engine:
    """Return an engine over the starting model of a plan's cells, with the suite's settings of the machine.

    Args:
        plan: The plan.
        start: Role of the starting model.
        choice: The engine.
        max_length: Longest prompt with its answer, in tokens; by default the suite's.
        largest_rank: Largest rank of the adapters, if higher than the suite's.
    """
    checkpoint = plan.world.checkpoint(start)
    # An adapter is judged on the weights that it was trained on, so the checkpoint's number formats hold here too.
    settings = EngineSettings.of(
        plan.suite.compute,
        checkpoint,
        max_lora_rank=max(plan.suite.lora.rank, largest_rank),
        max_length=max_length,
        adapters=plan.suite.decoding.adapters,
    )
    return open_engine(choice, checkpoint.path, settings)


def largest_rank(store: Store, cells: Sequence[CellPlan]) -> int:
    """Return the largest LoRA rank of the stored adapters of cells; 0 if none is stored."""
    keys = {cell.adapter_key for cell in cells}
    return max((read_settings(store.adapter_folder(k)).rank for k in keys if adapter_is_complete(store, k)), default=0)


def check_chat(store: Store, cell: CellPlan, chat: ChatFormat) -> None:
    """Check that the chat format is the one that an adapter was trained in.

    Raises:
        FedSafetyError: The chat formats differ.
    """
    trained = read_record(store.adapter_folder(cell.adapter_key)).get("chat", chat.digest)
    if trained != chat.digest:
        raise FedSafetyError(
            f"adapter {cell.adapter_key} ({cell.scenario.id}, {cell.stage.name}, seed {cell.seed}) was trained in the "
            f"chat format {trained}, and the model's is {chat.digest} now: template or vocabulary have changed; "
            f"restore them, or delete {store.adapter_folder(cell.adapter_key)} to train it anew"
        )


def _check_adapters(engine: Engine, cells: Sequence[CellPlan], store: Store) -> None:
    folders = [store.adapter_folder(key) for key in dict.fromkeys(cell.adapter_key for cell in cells)]
    check_canaries(engine, {folder: Canary.load(folder) for folder in folders})


def _request(plan: Plan, cell: CellPlan, chat: ChatFormat, probe: Probe, prompt: Prompt, adapter: Path) -> Request:
    refusal, compliance = plan.world.openings
    contrast = (chat.token_id(refusal), chat.token_id(compliance)) if probe.kind is ProbeKind.HARMFUL else None
    ids, decoding = chat.prompt_ids(prompt.instruction, system=prompt.system), plan.suite.decoding
    if not decoding.temperature:
        return Request(ids, probe.max_new_tokens, adapter, contrast)
    # Seed by probe and run seed alone, so that all defenses of one seed draw the same random numbers.
    seed = integer(cell.seed, "decoding", probe.id)
    return Request(
        ids, probe.max_new_tokens, adapter, contrast, temperature=decoding.temperature, top_p=decoding.top_p, seed=seed
    )


def _response_row(plan: Plan, cell: CellPlan, probe: Probe, prompt: Prompt, answer: Answer | None) -> dict[str, Any]:
    soft = None
    if answer is not None and answer.contrast_logprobs is not None:
        refusal, compliance = answer.contrast_logprobs
        soft = 1.0 / (1.0 + math.exp(min(700.0, compliance - refusal)))
    return {
        "response_key": cell.response_key,
        "probe_set": plan.probe_set,
        "probe_id": probe.id,
        "response": prompt.answer if answer is None else answer.text,
        "tokens": 0 if answer is None else len(answer.token_ids),
        "finished": True if answer is None else answer.finished,
        "soft_refusal": soft,
    }


def _batched(items: Sequence[CellPlan], size: int) -> Iterator[Sequence[CellPlan]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
