"""From trained adapters to stored responses and finished cells.

All adapters over one base model are answered by one engine in large batches. Every adapter passes its canary first.
"""

from __future__ import annotations

import datetime
import json
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark import PROTOCOL_VERSION
from benchmark.errors import FedSafetyError
from benchmark.execution.outcome import reason_of
from benchmark.execution.plan import CellPlan, Plan
from benchmark.execution.worlds import open_chat
from benchmark.generation.base import LONGEST, Answer, Engine, Request, check_fit
from benchmark.generation.canary import Canary, check_canaries
from benchmark.generation.select import EngineChoice, open_engine
from benchmark.methods.pipeline import Pipeline
from benchmark.models.chat import ChatFormat
from benchmark.progress import Reporter
from benchmark.records.adapters import adapter_is_complete, read_record
from benchmark.records.environment import environment
from benchmark.records.schemas import ORIGIN_LOCAL, STATUS_DONE, STATUS_FAILED, STATUS_NOT_APPLICABLE
from benchmark.records.store import Store
from benchmark.sandbox.defense import SandboxedDefense
from benchmark.sandbox.proxy import created
from benchmark.seeds import integer
from benchmark.suites.suite import Suite
from defenses.base import Defense, Prompt
from tasks.base import Input, Probe, ProbeKind

_ADAPTERS_PER_BATCH = 16


def evaluate(
    plan: Plan, store: Store, choice: EngineChoice, reporter: Reporter, failures: dict[str, str]
) -> dict[str, str]:
    """Answer the probes of every cell that lacks responses, and write the cells' rows.

    Returns the reasons, by response key, of cells whose defense failed when it served.

    Args:
        plan: The cells.
        store: Where adapters are and responses go.
        choice: The generation engine.
        reporter: Shows progress.
        failures: Adapter key → why it could not be made.

    Raises:
        FedSafetyError: The engine does not answer as the training code does.
    """
    probes = plan.world.probes()
    _write_probes(plan, probes, store)
    rows = _Rows(store)
    for cell in plan.cells:
        if cell.not_applicable:
            rows.settle(plan, cell, STATUS_NOT_APPLICABLE, cell.not_applicable)
        elif (cell.broken or cell.adapter_key in failures) and not rows.done(cell):
            _write_cell(plan, cell, store, STATUS_FAILED, cell.broken or failures[cell.adapter_key])
    ready = [c for c in plan.cells if c.runs and c.adapter_key not in failures]
    pending = {c.response_key: c for c in ready if not store.has("responses", c.response_key)}
    refused: dict[str, str] = {}
    starts = sorted({c.scenario.start for c in pending.values()})
    with reporter.step("answering probes", len(pending)) as step:
        for start in starts:
            cells = [c for c in pending.values() if c.scenario.start == start]
            refused |= _answer_start(plan, start, cells, probes, store, choice, step.advance)
    for remark in _write_inputs(plan, [cell for cell in ready if cell.response_key not in refused], store):
        reporter.say(remark)
    for cell in ready:
        if cell.response_key not in refused:
            rows.settle(plan, cell, STATUS_DONE, "")
        elif not rows.done(cell):
            _write_cell(plan, cell, store, STATUS_FAILED, refused[cell.response_key])
    return refused


def check_prompts(plan: Plan) -> None:
    """Check that every probe fits every starting model, before anything is trained for it.

    Raises:
        UsageError: A prompt with its answer is too long; the message names it.
    """
    probes = plan.world.probes()
    for start in sorted({cell.scenario.start for cell in plan.cells if cell.runs}):
        chat = open_chat(plan.world, start)
        prompts = [(p.id, len(chat.prompt_ids(p.instruction, name=p.id)), p.max_new_tokens) for p in probes]
        check_fit(prompts, _longest(plan.suite, chat))


def _longest(suite: Suite, chat: ChatFormat) -> int:
    """Return how many tokens a prompt and its answer may have together: what engines take here."""
    return min(suite.compute.max_length or LONGEST, chat.max_length)


class _Rows:
    """What the store says of cells, so that a settled cell's row is written once.

    A cell that is settled but is not the newest of its name gets a new row: its code is what runs now, and the newest
    row is the one that counts. Otherwise going back to an earlier version of a method would leave the later one shown.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._status: dict[str, str] = {}
        self._newest: dict[tuple[str, ...], tuple[datetime.datetime, str]] = {}
        columns = [*_IDENTITY, "cell_key", "status", "created_at"]
        for row in store.read_all("cells").select(columns).to_pylist():
            self._status[row["cell_key"]] = row["status"]
            name = tuple(str(row[column]) for column in _IDENTITY)
            mine = (row["created_at"], row["cell_key"])
            self._newest[name] = max(mine, self._newest.get(name, mine))

    def done(self, cell: CellPlan) -> bool:
        """Whether the cell's row says done."""
        return self._status.get(cell.cell_key) == STATUS_DONE

    def settle(self, plan: Plan, cell: CellPlan, status: str, reason: str) -> None:
        """Write the cell's row unless it stands and is the newest of its name."""
        name = (plan.suite.id, cell.scenario.id, cell.pipeline.name, cell.stage.name, str(cell.seed))
        newest = self._newest.get(name)
        if self._status.get(cell.cell_key) != status or newest is None or newest[1] != cell.cell_key:
            _write_cell(plan, cell, self._store, status, reason)


_IDENTITY = ("suite", "scenario", "defense", "stage", "seed")


def _answer_start(
    plan: Plan,
    start: str,
    cells: Sequence[CellPlan],
    probes: Sequence[Probe],
    store: Store,
    choice: EngineChoice,
    advance: Callable[[], None],
) -> dict[str, str]:
    """Answer the probes of all ``cells``, which share one starting checkpoint; return why some could not be served."""
    refused: dict[str, str] = {}
    chat = open_chat(plan.world, start)
    with open_start(plan, start, choice) as engine:
        for batch in _batched(cells, _ADAPTERS_PER_BATCH):
            for cell in batch:
                check_chat(store, cell, chat)
            _check_adapters(engine, batch, store)
            prompts = {}
            for cell in batch:
                try:
                    prompts[cell.response_key] = _served(cell.stage, probes, chat, _longest(plan.suite, chat))
                except Exception as error:  # a submitted method may raise anything; its cell fails, the others go on
                    refused[cell.response_key] = reason_of(error)
            batch = [cell for cell in batch if cell.response_key in prompts]
            requests = [
                _request(plan, cell, chat, probe, prompt, store.adapter_folder(cell.adapter_key))
                for cell in batch
                for probe, prompt in zip(probes, prompts[cell.response_key], strict=True)
                if prompt.answer is None
            ]
            answers = iter(engine.generate(requests))
            for cell in batch:
                served = prompts[cell.response_key]
                rows = [
                    _response_row(plan, cell, probe, prompt, None if prompt.answer is not None else next(answers))
                    | {"generator": engine.name}
                    for probe, prompt in zip(probes, served, strict=True)
                ]
                store.write("responses", cell.response_key, rows)
                advance()
    return refused


def open_start(plan: Plan, start: str, choice: EngineChoice, max_length: int | None = None) -> Engine:
    """Return an engine over the starting model of a plan's cells, as the suite wants a machine to be used.

    Args:
        plan: The plan.
        start: Role of the starting model.
        choice: The engine.
        max_length: Longest prompt with its answer, in tokens; by default the suite's.
    """
    compute, checkpoint = plan.suite.compute, plan.world.checkpoint(start)
    return open_engine(
        choice,
        checkpoint.path,
        max_lora_rank=plan.suite.lora.rank,
        max_length=max_length or compute.max_length,
        max_batch=compute.max_batch,
        max_loras=compute.max_loras,
        tensor_parallel=compute.tensor_parallel,
        gpu_memory_fraction=compute.gpu_memory_fraction,
        # As in training: an adapter is judged on the weights that it was trained on.
        dtype=checkpoint.dtype,
        quantization=checkpoint.quantization,
    )


def check_chat(store: Store, cell: CellPlan, chat: ChatFormat) -> None:
    """Refuse to ask an adapter in another chat format than it was trained in.

    Raises:
        FedSafetyError: The two differ.
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


def _served(stage: Pipeline, probes: Sequence[Probe], chat: ChatFormat, longest: int) -> list[Prompt]:
    """Return each probe's request as the serving stages of the pipeline leave it.

    Args:
        stage: The pipeline.
        probes: What it is asked.
        chat: The starting model's chat format.
        longest: Most tokens of a prompt with its answer.

    Raises:
        FedSafetyError: A stage returned something else than a usable prompt.
    """
    prompts = [Prompt(probe.instruction) for probe in probes]
    for entry in stage.servers:
        with created(entry) as defense:
            prompts = _asked(defense, prompts)
        for prompt, probe in zip(prompts, probes, strict=True):
            if not isinstance(prompt, Prompt) or not isinstance(prompt.instruction, str):
                raise FedSafetyError(f"serve() of {entry.info.id!r} returned {prompt!r:.80}; return a Prompt")
            if not isinstance(prompt.answer, str | None):
                raise FedSafetyError(f"serve() of {entry.info.id!r} answers {prompt.answer!r:.80}; an answer is text")
            name = f"serve() of {entry.info.id!r} makes a prompt that"
            length = len(chat.prompt_ids(prompt.instruction, name=name)) + probe.max_new_tokens
            if prompt.answer is None and length > longest:
                raise FedSafetyError(
                    f"serve() of {entry.info.id!r} makes a prompt of {length} tokens with its answer, and {longest} "
                    f"are allowed; shorten it, or raise max_length in the suite's compute if the model takes more"
                )
    return prompts


def _asked(defense: Defense, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts as a defense leaves them; what is answered already stays as it is."""
    if not isinstance(defense, SandboxedDefense):
        return [prompt if prompt.answer is not None else defense.serve(prompt) for prompt in prompts]
    # In an order that nobody can know: probes come kind by kind, so that a method which counts its prompts would know
    # which of them are harmful.
    open_ones = [i for i, prompt in enumerate(prompts) if prompt.answer is None]
    order = sorted(open_ones, key=lambda _: secrets.randbits(64))
    served = dict(zip(order, defense.serve_all([prompts[i] for i in order]), strict=True))
    return [served.get(i, prompt) for i, prompt in enumerate(prompts)]


def _request(plan: Plan, cell: CellPlan, chat: ChatFormat, probe: Probe, prompt: Prompt, adapter: Path) -> Request:
    refusal, compliance = plan.world.openings
    contrast = (chat.token_id(refusal), chat.token_id(compliance)) if probe.kind is ProbeKind.HARMFUL else None
    ids, decoding = chat.prompt_ids(prompt.instruction), plan.suite.decoding
    if not decoding.temperature:
        return Request(ids, probe.max_new_tokens, adapter, contrast)
    # By probe and run seed alone: all defenses on one seed draw with the same luck.
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


def _write_probes(plan: Plan, probes: Sequence[Probe], store: Store) -> None:
    if store.has("probes", plan.probe_set):
        return
    rows = [
        {
            "probe_set": plan.probe_set,
            "probe_id": probe.id,
            "kind": probe.kind.value,
            "stratum": probe.stratum,
            "scored": probe.scored,
            "instruction": probe.instruction,
            "reference": probe.reference,
        }
        for probe in probes
    ]
    store.write("probes", plan.probe_set, rows)


def _write_inputs(plan: Plan, cells: Sequence[CellPlan], store: Store) -> list[str]:
    """Write what trainings and answers read, where models and data come from outside; return remarks on it.

    The training processes have noted it beside their adapters: nothing is resolved or read again here.
    """
    if not plan.world.sources:
        return []
    groups: dict[str, list[CellPlan]] = {}
    for cell in cells:
        groups.setdefault(cell.training_key, []).append(cell)
    remarks: dict[str, None] = {}
    for key, group in groups.items():
        made = dict.fromkeys([key, *(cell.adapter_key for cell in group)])
        here = [adapter for adapter in made if adapter_is_complete(store, adapter)]
        if len(here) < len(made) and store.has("inputs", key):
            continue  # settled before, when all adapters were there
        found: dict[tuple[str, str], Input] = {}
        for adapter in here:
            for read in (Input(**noted) for noted in read_record(store.adapter_folder(adapter)).get("inputs", ())):
                name = (read.kind, read.name)
                found[name] = max(read, found.get(name, read), key=lambda one: one.repeated)
        rows = [_input_row(key, read) for _, read in sorted(found.items())]
        rows.append(_chat_row(key, group[0].scenario.start, plan))
        if not store.has("inputs", key) or store.read("inputs", key).to_pylist() != rows:
            store.write("inputs", key, rows)
        remarks |= dict.fromkeys(read.remark for read in found.values() if read.remark)
    return list(remarks)


def _input_row(training_key: str, read: Input) -> dict[str, Any]:
    columns = ("kind", "name", "source", "requested", "resolved", "rows", "detail")
    row = {"training_key": training_key, **{column: getattr(read, column) for column in columns}}
    return row | ({"detail": f"{read.detail}; rows that repeat: {read.repeated}"} if read.repeated else {})


def _chat_row(training_key: str, start: str, plan: Plan) -> dict[str, Any]:
    chat, source = open_chat(plan.world, start), plan.world.sources[start]
    told = {"template": chat.tokenizer.chat_template, "pad_token": chat.tokenizer.pad_token}
    return {
        "training_key": training_key,
        "kind": "chat",
        "name": start,
        "source": source.template or "the tokenizer's own",
        "requested": source.revision,
        "resolved": chat.digest,
        "rows": 0,
        "detail": json.dumps(told, sort_keys=True),
    }


def _write_cell(plan: Plan, cell: CellPlan, store: Store, status: str, reason: str) -> None:
    """Write a cell's row. Of a cell that did not run, what it would have used is zero."""
    record: dict[str, Any] = {}
    if status == STATUS_DONE:
        record = read_record(store.adapter_folder(cell.adapter_key))
    usage = record.get("usage", {})
    row = planned_columns(plan, cell) | {
        "origin": ORIGIN_LOCAL,
        "status": status,
        "reason": reason,
        "generator": _engine_of(store, cell.response_key) if status == STATUS_DONE else "",
        "malicious_rows": record.get("malicious_rows", 0),
        "malicious_leaks": record.get("malicious_leaks", 0),
        "rejected_updates": record.get("rejected_updates", 0),
        "owned_aligned": usage.get("owned_aligned", 0),
        "owned_normal": usage.get("owned_normal", 0),
        "generated_pairs": usage.get("generated_pairs", 0),
        "generated_leaks": usage.get("generated_leaks", 0),
        "generated_tokens": usage.get("generated_tokens", 0),
        "finetune_steps": usage.get("finetune_steps", 0),
        "extra_models": usage.get("extra_models", 0),
        "server_seconds": usage.get("server_seconds", 0.0),
        "train_seconds": record.get("train_seconds", 0.0),
        "upload_bytes": record.get("upload_bytes", 0),
        "environment": environment(),
        "created_at": datetime.datetime.now(datetime.UTC),
    }
    store.write("cells", cell.cell_key, [row])


def planned_columns(plan: Plan, cell: CellPlan) -> dict[str, Any]:
    """Return the columns of a cell's row that follow from the plan alone, however the cell ends."""
    scenario = cell.scenario
    return {
        "cell_key": cell.cell_key,
        "protocol_version": PROTOCOL_VERSION,
        "suite": plan.suite.id,
        "suite_version": plan.suite.version,
        "scenario": scenario.id,
        "scenario_version": scenario.version,
        "twin": scenario.twin,
        "attack": scenario.attack.id,
        "defense": cell.pipeline.name,
        "stage": cell.stage.name,
        "final": cell.stage.name == cell.pipeline.name,
        "seed": cell.seed,
        "flags": list(cell.flags),
        "ranked": cell.pipeline.ranked,
        "knowledge": cell.stage.knowledge.value,
        "clients": scenario.clients,
        "participants": scenario.participants,
        "malicious": scenario.malicious,
        "declared_malicious": scenario.declared_malicious,
        "rounds": plan.suite.training.rounds + scenario.reattack_rounds,
        "start_model": scenario.start,
        "start_digest": plan.world.checkpoint(scenario.start).identity,
        "training_key": cell.training_key,
        "adapter_key": cell.adapter_key,
        "response_key": cell.response_key,
        "probe_set": plan.probe_set,
        "primary_judge": plan.suite.primary_judge,
    }


def _engine_of(store: Store, response_key: str) -> str:
    return str(store.read("responses", response_key)["generator"][0].as_py())


def _batched(items: Sequence[CellPlan], size: int) -> Iterator[Sequence[CellPlan]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
