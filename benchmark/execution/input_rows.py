"""Rows of the inputs of a run: probes, and models and data that come from outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmark.execution.plan import CellPlan, Plan
from benchmark.execution.worlds import open_chat
from benchmark.models.chat import ChatFormat
from benchmark.models.control import remark
from benchmark.records.adapters import adapter_is_complete, read_record
from benchmark.records.store import Store
from tasks.base import Input


def write_probes(plan: Plan, store: Store) -> None:
    """Write the plan's probes unless the store has them."""
    if not store.has("probes", plan.probe_set):
        store.write("probes", plan.probe_set, probe_rows(plan))


def probe_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return the rows of the plan's probes."""
    return [
        {
            "probe_set": plan.probe_set,
            "probe_id": probe.id,
            "kind": probe.kind.value,
            "stratum": probe.stratum,
            "scored": probe.scored,
            "instruction": probe.instruction,
            "reference": probe.reference,
            "position": position,
            "max_new_tokens": probe.max_new_tokens,
            "target": probe.target,
            "publish": probe.publish,
        }
        for position, probe in enumerate(plan.world.probes())
    ]


def write_inputs(plan: Plan, cells: Sequence[CellPlan], store: Store) -> list[str]:
    """Write the models and data from outside that trainings and answers read; return remarks for the user.

    The rows come from the records beside the adapters. No model or data set is resolved or read again.

    Args:
        plan: The plan.
        cells: Its finished cells.
        store: Holds the adapters and takes the rows.
    """
    if not plan.world.sources:
        return []
    groups: dict[str, list[CellPlan]] = {}
    for cell in cells:
        groups.setdefault(cell.training_key, []).append(cell)
    remarks: dict[str, None] = {}
    for key, group in groups.items():
        adapters = dict.fromkeys([key, *(cell.adapter_key for cell in group)])
        stored = [adapter for adapter in adapters if adapter_is_complete(store, adapter)]
        if len(stored) < len(adapters) and store.has("inputs", key):
            continue  # settled by an earlier run, which had all adapters
        inputs: dict[tuple[str, str], Input] = {}
        for adapter in stored:
            for read in (Input(**entry) for entry in read_record(store.adapter_folder(adapter)).get("inputs", ())):
                name = (read.kind, read.name)
                inputs[name] = max(read, inputs.get(name, read), key=lambda candidate: candidate.repeated)
        rows = [_input_row(key, read) for _, read in sorted(inputs.items())]
        start = group[0].scenario.start
        chat = open_chat(plan.world, start)
        spellings = _spellings(key, chat, plan, store)
        rows.append(_chat_row(key, start, chat, plan, spellings))
        if not store.has("inputs", key) or store.read("inputs", key).to_pylist() != rows:
            store.write("inputs", key, rows)
        remarks |= dict.fromkeys(read.remark for read in inputs.values() if read.remark)
        remarks |= dict.fromkeys(chat.thinking)
        remarks |= dict.fromkeys(remark(count, f"{place} of {start}") for place, count in spellings.items())
    return list(remarks)


def _input_row(training_key: str, read: Input) -> dict[str, Any]:
    columns = ("kind", "name", "source", "requested", "resolved", "rows", "detail")
    row = {"training_key": training_key, **{column: getattr(read, column) for column in columns}}
    return row | ({"detail": f"{read.detail}; rows that repeat: {read.repeated}"} if read.repeated else {})


def _spellings(training_key: str, chat: ChatFormat, plan: Plan, store: Store) -> dict[str, int]:
    """Return the numbers of spellings of control tokens by place, without places that have none."""
    stored = adapter_is_complete(store, training_key)
    counts = {
        "training rows": read_record(store.adapter_folder(training_key)).get("spellings", 0) if stored else 0,
        "prompts": chat.control.count(*(probe.instruction for probe in plan.world.probes())),
    }
    return {place: count for place, count in counts.items() if count}


def _chat_row(training_key: str, start: str, chat: ChatFormat, plan: Plan, spellings: dict[str, int]) -> dict[str, Any]:
    source = plan.world.sources[start]
    detail: dict[str, object] = {"template": chat.tokenizer.chat_template, "pad_token": chat.tokenizer.pad_token}
    detail |= {"thinking": chat.thinking} if chat.thinking else {}
    return {
        "training_key": training_key,
        "kind": "chat",
        "name": start,
        "source": source.template or "the tokenizer's own",
        "requested": source.requested,
        "resolved": chat.digest,
        "rows": 0,
        "detail": json.dumps(detail | ({"spellings": spellings} if spellings else {}), sort_keys=True),
    }
