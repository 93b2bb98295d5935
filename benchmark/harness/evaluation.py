"""Scores of tasks for the adapters of a run: one engine a starting checkpoint, each (response set, task) once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.metrics import acc_all, mean, stderr_for_metric
from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, hash_string

from benchmark.errors import FedSafetyError, NotApplicableError
from benchmark.execution.answering import check_chat, largest_rank, open_start
from benchmark.execution.plan import CellPlan
from benchmark.execution.run import Run
from benchmark.execution.worlds import open_chat
from benchmark.generation.base import LONGEST, Engine
from benchmark.generation.canary import Canary, check_canary
from benchmark.harness.model import FedSafetyLM, TaskError
from benchmark.harness.tasks import HARNESS_VERSION, Identity, Probe, quiet
from benchmark.keys import content_key
from benchmark.models.chat import ChatFormat

TABLE = "task_scores"


@dataclass(frozen=True)
class _Work:
    """A probe in one chat format, with the identity and the keys of its scores."""

    probe: Probe
    identities: Mapping[str, Identity]
    limit: int | None

    def key(self, response_key: str) -> str:
        """Return the key of this probe's scores of one response set."""
        return self._prefix(response_key) + self._digest[:16]

    def outdated(self, response_key: str, keys: Sequence[str]) -> list[str]:
        """Return the keys among ``keys`` that hold scores of earlier versions of this probe."""
        return [k for k in keys if k.startswith(self._prefix(response_key)) and k != self.key(response_key)]

    def _prefix(self, response_key: str) -> str:
        return f"{response_key}-{content_key([self.probe.name, self.limit])[:12]}-"

    @property
    def _digest(self) -> str:
        hashes = {name: [i.version, i.task_hash, i.config_hash] for name, i in self.identities.items()}
        return content_key([HARNESS_VERSION, hashes])


def score_tasks(run: Run, probes: Sequence[Probe], limit: int | None) -> list[tuple[str, str]]:
    """Score every served adapter of a run on every probe that lacks its score; return missing scores with the reason.

    Cells without responses are left out, because an adapter that did not answer the probes is not scored.

    Args:
        run: The run.
        probes: From :func:`benchmark.harness.tasks.find_tasks`.
        limit: Number of documents of each task, from the first; all if ``None``.

    Raises:
        FedSafetyError: The engine fails, or does not answer as the training code does.
    """
    plan, store = run.plan, run.store
    served = {c.response_key: c for c in plan.cells if not c.not_applicable and store.has("responses", c.response_key)}
    missing: list[tuple[str, str]] = []
    pending: dict[str, list[tuple[CellPlan, list[_Work]]]] = {}
    for start in sorted({cell.scenario.start for cell in served.values()}):
        chat = open_chat(plan.world, start)
        works = [work for probe in probes if (work := _work(probe, chat, limit, missing))]
        for cell in (c for c in served.values() if c.scenario.start == start):
            lacking = [work for work in works if not store.has(TABLE, work.key(cell.response_key))]
            if lacking:
                pending.setdefault(start, []).append((cell, lacking))
    total = sum(len(works) for cells in pending.values() for _, works in cells)
    with run.reporter.step("scoring tasks", total) as step:
        for start, cells in pending.items():
            missing += _score_start(run, start, cells, step.advance)
    return missing


def _work(probe: Probe, chat: ChatFormat, limit: int | None, missing: list[tuple[str, str]]) -> _Work | None:
    try:
        return _Work(probe, probe.identities(chat, limit), limit)
    except Exception as error:  # a task is a separate program and may fail in any way
        missing.append((f"task {probe.name}", _reason(error)))
        return None


def _score_start(
    run: Run, start: str, cells: Sequence[tuple[CellPlan, list[_Work]]], advance: Callable[[], None]
) -> list[tuple[str, str]]:
    """Score all ``cells``, which share one starting checkpoint."""
    missing, store = [], run.store
    chat = open_chat(run.plan.world, start)
    longest = min(chat.max_length, LONGEST)
    with (
        open_start(
            run.plan,
            start,
            run.engine,
            max_length=longest,
            largest_rank=largest_rank(store, [cell for cell, _ in cells]),
        ) as engine,
        closing(FedSafetyLM(engine, chat, longest)) as model,
    ):
        for cell, works in cells:
            adapter = store.adapter_folder(cell.adapter_key)
            if not adapter.exists():
                place = f"{cell.scenario.id} / {cell.stage.name} / seed {cell.seed}"
                missing.append((place, "its adapter is no longer stored; make it again with another --runs folder"))
                continue
            check_chat(store, cell, chat)
            check_canary(engine, adapter, Canary.load(adapter))
            outdated = sorted(store.keys(TABLE))
            for work in works:
                model.serve(adapter, cell.stage)
                try:
                    rows = _rows(work, model)
                except NotApplicableError as error:
                    rows = [_row(work, work.probe.name, reason=str(error))]
                except Exception as error:
                    if isinstance(error, FedSafetyError) and not isinstance(error, TaskError):
                        raise
                    place = f"{cell.scenario.id} / {cell.stage.name} / seed {cell.seed} / task {work.probe.name}"
                    missing.append((place, _reason(error)))
                    continue
                # A task has one score on a response set, so the scores of its earlier versions are removed.
                for former in work.outdated(cell.response_key, outdated):
                    store.remove(TABLE, former)
                common = _common(cell, work, chat, engine)
                store.write(TABLE, work.key(cell.response_key), [{**common, **row} for row in rows])
                advance()
    return missing


def _common(cell: CellPlan, work: _Work, chat: ChatFormat, engine: Engine) -> dict[str, Any]:
    return {
        "response_key": cell.response_key,
        "requested": work.probe.name,
        "sample_limit": work.limit or 0,
        "harness_version": HARNESS_VERSION,
        "chat": chat.digest,
        "generator": engine.name,
    }


def _rows(work: _Work, model: FedSafetyLM) -> list[dict[str, Any]]:
    """Return the scores of the adapter that ``model`` serves, one row a task or group, metric and filter."""
    probe = work.probe
    probe.rewind()
    with quiet():
        results = evaluate(
            lm=model,
            task_dict={"tasks": dict(probe.tasks), "groups": dict(probe.groups)},
            limit=work.limit,
            # Closed forms only: a bootstrap would take longer than the answers do.
            bootstrap_iters=1 if _has_closed_errors(probe) else 0,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
        )
    rows = []
    for name, metrics in results["results"].items():
        keys = [key for key in metrics if "," in key and "_stderr," not in key]
        members = [name] if name in probe.tasks else [t.task_name for t in probe.groups[name].get_all_tasks()]
        better = results["higher_is_better"].get(name) or {}
        for key in keys:
            metric, _, kept = key.partition(",")
            rows.append(
                _row(
                    work,
                    name,
                    headline=_is_headline(probe, name, key, keys),
                    metric=metric,
                    filter=kept,
                    direction=_DIRECTIONS[better.get(metric)],
                    value=_number(metrics[key]),
                    stderr=_number(metrics.get(f"{metric}_stderr,{kept}")),
                    samples=sum(results["n-samples"][member]["effective"] for member in members),
                    documents=sum(results["n-samples"][member]["original"] for member in members),
                    shots=max(int(results["n-shot"].get(member) or 0) for member in members),
                    cut=sum(model.cut[member] for member in members),
                    samples_hash=content_key([_samples_hash(results["samples"][member]) for member in members]),
                    reason="" if _number(metrics[key]) is not None else f"the score is {metrics[key]!r:.60}",
                )
            )
    return rows


_DIRECTIONS = {True: "higher", False: "lower", None: "unknown"}


def _row(work: _Work, name: str, reason: str, **values: Any) -> dict[str, Any]:
    """Return a row with the identity of task or group ``name``; without ``values``, a row without a score."""
    identity = work.identities.get(name) or Identity("N/A", content_key([]), content_key([]))
    none = {"headline": True, "metric": "", "filter": "", "direction": "unknown", "value": None, "stderr": None}
    empty = {"samples": 0, "documents": 0, "shots": 0, "cut": 0, "samples_hash": ""}
    return {
        "task": name,
        "task_version": identity.version,
        "task_hash": identity.task_hash,
        "config_hash": identity.config_hash,
        "reason": reason,
        **none,
        **empty,
        **values,
    }


def _is_headline(probe: Probe, name: str, key: str, keys: Sequence[str]) -> bool:
    """Whether a table shows this score: the first metric of the probe, or of its members if it has no metric."""
    whole = probe.groups.get(probe.name)
    has_whole = whole is not None and whole.has_aggregation
    shown = name == probe.name if has_whole else name in probe.tasks
    return shown and key == _first(probe.groups.get(name) or probe.tasks[name], keys)


def _first(scored: Any, keys: Sequence[str]) -> str:
    """Return the key of the first metric that ``scored`` lists, or the first key if it lists none of them."""
    if isinstance(scored, Group):
        listed = [entry.metric for entry in scored.aggregate_metric_list or []]
    else:
        listed = [entry["metric"] for entry in scored.get_config("metric_list") or []]
    names = [getattr(metric, "__name__", metric) for metric in listed]
    return next((key for name in names for key in keys if key.partition(",")[0] == name), keys[0])


def _has_closed_errors(probe: Probe) -> bool:
    """Whether no metric's standard error would have to be bootstrapped."""
    ways = [way for task in probe.tasks.values() for way in task.aggregation().values()]
    return all(way in (mean, acc_all) or stderr_for_metric(way, 1) is None for way in ways)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _samples_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return a digest of the answer to each document and of its score."""
    content = [[s["doc_id"], s["filter"], s["filtered_resps"], {m: s[m] for m in s["metrics"]}] for s in samples]
    return str(hash_string(json.dumps(content, sort_keys=True, default=handle_non_serializable)))


def _reason(error: Exception) -> str:
    if isinstance(error, FedSafetyError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
