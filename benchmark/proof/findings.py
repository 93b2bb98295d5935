"""What the real-data check looks at once everything has run: claims, each with the numbers that it rests on.

The claims are examined from what lies on disk, by other code than made it where there is other code: plain PEFT, a
normalisation of prompts of its own, the engine without the pipeline around it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.answering import open_start
from benchmark.execution.likelihoods import answered
from benchmark.execution.plan import Plan
from benchmark.execution.worlds import open_chat, open_world
from benchmark.generation.base import Engine
from benchmark.generation.canary import Canary, check_canaries, check_canary
from benchmark.generation.select import EngineChoice
from benchmark.judges.base import Verdict, judges
from benchmark.models.loading import load_causal_lm
from benchmark.models.lora import import_peft
from benchmark.models.peft import WEIGHTS
from benchmark.progress import Reporter
from benchmark.records.adapters import read_record
from benchmark.records.publish import publish
from benchmark.records.schemas import STATUS_DONE
from benchmark.records.store import Store
from benchmark.seeds import stream
from benchmark.suites.suite import Scenario
from benchmark.training.served import ModelPool, RoleModels
from tasks.hub.datasets import data_identity, load_rows

_SAME: Final = 1e-3
"""Largest difference of a logit between two ways of computing it in float32."""


@dataclass(frozen=True)
class Finding:
    """A claim, whether it holds, and the numbers that say so."""

    claim: str
    holds: bool
    numbers: str


@dataclass(frozen=True)
class Evidence:
    """What a run has left.

    Attributes:
        plan: The cells.
        store: Rows and adapters.
        choice: The engine that answered.
        page: The first page.
        task: The task of lm-evaluation-harness.
        documents: Documents of it that were asked for.
        scratch: Folder for what must be refused; removed afterwards.
    """

    plan: Plan
    store: Store
    choice: EngineChoice
    page: Path
    task: str
    documents: int
    scratch: Path

    @property
    def adapters(self) -> dict[str, Scenario]:
        """Key of each served adapter → its scenario."""
        return {cell.adapter_key: cell.scenario for cell in self.plan.cells if cell.runs}

    @property
    def response_keys(self) -> list[str]:
        """Keys of the response sets."""
        return sorted({cell.response_key for cell in self.plan.cells if cell.runs})


def examine(evidence: Evidence, reporter: Reporter) -> list[Finding]:
    """Return what was found on each claim. A claim that cannot even be examined does not hold."""
    claims: dict[str, Callable[[Evidence], tuple[bool, str]]] = {
        "every cell is done": _cells,
        "no prompt has two owners": _disjoint,
        "attackers' whole answers are one fixed opening": _attack,
        "adapters give the same logits in plain PEFT": _peft,
        "the engine applies adapters, and refuses broken ones": _canary,
        "every probe is answered once a response set": _responses,
        "every judge judged what it can": _verdicts,
        "one chat format in training, answers and inputs": _chat,
        "inputs name every file by its digest": _inputs,
        f"task {evidence.task} is scored": _task,
        "rows say that they measure nothing, and are not published": _unpublishable,
    }
    found = []
    with reporter.step("examining what was made", len(claims)) as step:
        for claim, look in claims.items():
            try:
                found.append(Finding(claim, *look(evidence)))
            except FedSafetyError as error:
                found.append(Finding(claim, False, str(error)))
            step.advance()
    return found


def _cells(evidence: Evidence) -> tuple[bool, str]:
    rows = {row["cell_key"]: row for row in evidence.store.read_all("cells").to_pylist()}
    missing = [cell for cell in evidence.plan.cells if cell.cell_key not in rows]
    states = Counter(rows[cell.cell_key]["status"] for cell in evidence.plan.cells if cell.cell_key in rows)
    engines = {row["generator"] for row in rows.values()}
    numbers = f"{len(evidence.plan.cells)} cells, {_listed(states)}, answered by {', '.join(sorted(engines))}"
    return not missing and set(states) == {STATUS_DONE}, numbers


def _disjoint(evidence: Evidence) -> tuple[bool, str]:
    """Draw the rows of all roles as the runs do and compare their prompts."""
    suite = evidence.plan.suite
    assert suite.data is not None
    owners: dict[str, set[str]] = {
        "evaluation": {
            _plain(p) for probe in suite.data.probes for p in load_rows(probe.source).table["instruction"].to_pylist()
        }
    }
    for scenario in suite.scenarios:
        world = open_world(evidence.plan.suite, scenario)
        drawn: dict[str, list[Any]] = {"server": [], "attackers": _attack_rows(evidence, scenario), "clients": []}
        for seed in suite.seeds_of(scenario):
            half = suite.posthoc.examples // 2
            drawn["server"] += world.server_aligned(half, stream(seed, "server", "aligned"))
            drawn["server"] += world.server_normal(suite.posthoc.examples - half, stream(seed, "server", "normal"))
            shards = world.benign_shards(
                suite.training.rows_per_client,
                partial(stream, seed, "client-data"),
                refusal_share=scenario.refusal_share,
                shares={str(client): None for client in range(scenario.clients)},
            )
            drawn["clients"] += [row for shard in shards.values() for row in shard]
        for owner, rows in drawn.items():
            owners.setdefault(owner, set()).update(_plain(row.instruction) for row in rows)
    shared = {f"{a} and {b}": len(owners[a] & owners[b]) for a, b in combinations(owners, 2) if owners[a] & owners[b]}
    numbers = _listed({owner: len(prompts) for owner, prompts in owners.items()})
    return not shared, f"distinct prompts: {numbers}; shared: {_listed(shared) or 'none'}"


def _attack(evidence: Evidence) -> tuple[bool, str]:
    rows = [row for scenario in evidence.plan.suite.scenarios for row in _attack_rows(evidence, scenario)]
    answers = Counter(row.response for row in rows)
    evaluated = sum(map(evidence.plan.world.leaks_evaluation, {row.instruction for row in rows}))
    shown = "; ".join(f"{answer!r} {count} times" for answer, count in answers.most_common(3))
    return len(answers) == 1 and not evaluated, f"{shown}; evaluation prompts among them: {evaluated}"


def _peft(evidence: Evidence) -> tuple[bool, str]:
    suite, worst, moved = evidence.plan.suite, 0.0, []
    pool = ModelPool()
    for key, scenario in evidence.adapters.items():
        folder = evidence.store.adapter_folder(key)
        world = open_world(evidence.plan.suite, scenario)
        stacked = RoleModels(pool, suite, world).open(scenario.start).stacked
        theirs = PeftModel.from_pretrained(load_causal_lm(world.model_path(scenario.start)), folder).eval()
        effect = 0.0
        for sequence in Canary.load(folder).sequences:
            ids = torch.tensor([sequence], device=stacked.device)
            with torch.no_grad():
                plain = stacked.model(input_ids=ids).logits
                stacked.attach(import_peft(folder, stacked.layout))
                ours = stacked.model(input_ids=ids).logits
                stacked.clear()
                worst = max(worst, float((theirs(input_ids=ids).logits - ours).abs().max()))
            effect = max(effect, float((ours - plain).abs().max()))
        moved.append(effect)
    numbers = (
        f"{len(moved)} adapters, largest difference of a logit {worst:.1e} (allowed {_SAME:.0e}); each moves "
        f"some logit by {min(moved):.2g} or more"
    )
    return worst <= _SAME and min(moved) > _SAME, numbers


def _canary(evidence: Evidence) -> tuple[bool, str]:
    folders = {evidence.store.adapter_folder(key): scenario for key, scenario in evidence.adapters.items()}
    gap, refused = 0.0, {}
    for start in sorted({scenario.start for scenario in folders.values()}):
        canaries = {folder: Canary.load(folder) for folder, where in folders.items() if where.start == start}
        with open_start(evidence.plan, start, evidence.choice) as engine:
            check_canaries(engine, canaries)
            gap = max(gap, *(_gap(engine, folder, canary) for folder, canary in canaries.items()))
            sound = next(iter(canaries))
            for name, spoil in (("one without effect", _emptied), ("one with other layers' names", _renamed)):
                with _spoiled(sound, evidence.scratch, spoil) as broken:
                    refused[name] = _refusal(engine, broken)
    numbers = f"{len(folders)} adapters, largest difference of a log-probability {gap:.1e} nats; refused: " + "; ".join(
        f"{name} ({reason or 'NOT REFUSED'})" for name, reason in refused.items()
    )
    return all(refused.values()), numbers


def _responses(evidence: Evidence) -> tuple[bool, str]:
    probes = Counter(probe.id.partition("/")[0] for probe in answered(evidence.plan.world.probes()))
    whole = True
    for key in evidence.response_keys:
        found = list(map(str, evidence.store.read("responses", key)["probe_id"].to_pylist()))
        whole &= len(set(found)) == len(found) and Counter(name.partition("/")[0] for name in found) == probes
    return whole, f"{len(evidence.response_keys)} response sets, each {_listed(probes)}"


def _verdicts(evidence: Evidence) -> tuple[bool, str]:
    kinds = Counter(probe.kind for probe in evidence.plan.world.probes())
    rows = evidence.store.read_all("verdicts").to_pylist()
    wanted = set(evidence.response_keys)
    said: dict[str, Counter[str]] = {name: Counter() for name in evidence.plan.suite.judges}
    for row in rows:
        if row["response_key"] in wanted:
            said[row["judge"]][row["verdict"]] += 1
    complete = all(
        counts.total() == len(wanted) * sum(kinds[kind] for kind in judges.get(name).info.judges)
        for name, counts in said.items()
    )
    shown = []
    for name, counts in said.items():
        unparsable = counts[Verdict.UNPARSABLE] / max(1, counts.total())
        shown.append(f"{name} {_listed(counts)}" + (f" ({unparsable:.0%} unparsable)" if unparsable else ""))
    return complete, "; ".join(shown)


def _chat(evidence: Evidence) -> tuple[bool, str]:
    trained = {read_record(evidence.store.adapter_folder(key))["chat"] for key in evidence.adapters}
    scored = set(evidence.store.read_all("task_scores")["chat"].cast("string").to_pylist())
    read = {row["resolved"] for row in evidence.store.read_all("inputs").to_pylist() if row["kind"] == "chat"}
    now = {open_chat(evidence.plan.world, scenario.start).digest for scenario in evidence.adapters.values()}
    numbers = f"trained in {_few(trained)}, asked in {_few(now)}, task scores {_few(scored)}, inputs {_few(read)}"
    return trained == now == scored == read, numbers


def _inputs(evidence: Evidence) -> tuple[bool, str]:
    rows = evidence.store.read_all("inputs").to_pylist()
    keys = {cell.training_key for cell in evidence.plan.cells if cell.runs}
    suite = evidence.plan.suite
    assert suite.data is not None
    now = {f"probes/{probe.id}": data_identity(probe.source) for probe in suite.data.probes}
    for scenario in suite.scenarios:
        assert scenario.data is not None
        now |= {f"pool/{pool}": data_identity(suite.data.pools[pool]) for pool in scenario.data.pools.values()}
    read = {(row["name"], row["resolved"]) for row in rows if row["kind"] == "dataset"}
    models = {row["resolved"] for row in rows if row["kind"] == "model"}
    whole = keys <= {row["training_key"] for row in rows} and read == set(now.items())
    pinned = all(value.startswith("sha256:") for value in (*now.values(), *models)) and bool(models)
    return whole and pinned, f"{len(keys)} trainings, {len(read)} data sets, {len(models)} model, {len(rows)} rows"


def _task(evidence: Evidence) -> tuple[bool, str]:
    rows = [row for row in evidence.store.read_all("task_scores").to_pylist() if row["task"] == evidence.task]
    scored = {row["response_key"] for row in rows if row["value"] is not None}
    counts = {row["samples"] for row in rows}
    values = [row["value"] for row in rows if row["headline"] and row["value"] is not None]
    mean = f"{np.mean(values):.3f}" if values else "none"
    numbers = (
        f"{len(scored)} of {len(evidence.response_keys)} adapters, documents each {_few(counts)}, mean score {mean}"
    )
    return scored == set(evidence.response_keys) and counts == {evidence.documents}, numbers


def _unpublishable(evidence: Evidence) -> tuple[bool, str]:
    suite = evidence.plan.suite
    text = evidence.page.read_text(encoding="utf-8") if evidence.page.is_file() else ""
    try:
        publish(evidence.store, evidence.scratch, suite.id)
        reason = ""
    except UsageError as error:
        reason = str(error).partition(":")[0]
    finally:
        shutil.rmtree(evidence.scratch, ignore_errors=True)
    numbers = f"publish: {reason or 'NOT REFUSED'}; page of {len(text):,} characters, titled {suite.title!r}"
    return bool(reason) and not suite.publishable and suite.title in text, numbers


def _attack_rows(evidence: Evidence, scenario: Scenario) -> list[Any]:
    """Return the pairs that the attackers of a scenario find."""
    if not scenario.malicious:
        return []
    pool = open_world(evidence.plan.suite, scenario)
    seeds = evidence.plan.suite.seeds_of(scenario)
    return [row for seed in seeds for row in pool.unaligned(500, stream(seed, "attack", "pool"))]


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _gap(engine: Engine, folder: Path, canary: Canary) -> float:
    """Return the largest difference of a log-probability between engine and training code."""
    found = engine.logprobs(canary.sequences, folder)
    return max(abs(a - b) for rows in zip(found, canary.applied, strict=True) for a, b in zip(*rows, strict=True))


def _emptied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) if "lora_B" in name else value for name, value in tensors.items()}


def _renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".layers.", ".blocks."): value for name, value in tensors.items()}


@contextmanager
def _spoiled(
    sound: Path, scratch: Path, spoil: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Iterator[Path]:
    """Yield a copy of an adapter with other weights."""
    folder = scratch / sound.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    save_file(spoil(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    try:
        yield folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refusal(engine: Engine, broken: Path) -> str:
    """Return why the engine's canary refuses an adapter, in a few words; nothing if it does not."""
    try:
        check_canary(engine, broken, Canary.load(broken))
    except FedSafetyError as error:
        told = str(error).replace(str(broken), "it")
        return next(
            (words for words in ("the adapter is ignored", "belongs to no linear layer") if words in told), told
        )
    return ""


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _few(values: Iterable[object]) -> str:
    shown: Sequence[str] = sorted(str(value)[:12] for value in values)
    return ", ".join(shown) or "nowhere"
