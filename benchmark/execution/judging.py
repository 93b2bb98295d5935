"""Verdicts on stored responses. Judging never generates an answer and never trains."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from benchmark.errors import MemoryShortageError, UsageError
from benchmark.execution.cell_keys import probe_set_digest
from benchmark.execution.stored import check_keys, check_plausible, check_probe_ids
from benchmark.generation.select import EngineChoice
from benchmark.judges.base import Item, Judge, JudgeInfo, Verdict, identity_of, judges
from benchmark.keys import content_key, source_digest
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld, withheld_answers
from benchmark.registry import Entry
from benchmark.suites.suite import Compute
from tasks.base import Probe, TaskWorld


@dataclass(frozen=True)
class Judging:
    """The place of responses and verdicts, and the means to judge.

    Attributes:
        world: World of the probes.
        store: Holds responses and takes verdicts.
        engine: Engine for judges that are models.
        reporter: Shows progress.
        compute: Use of the machine by judges that are models; ``None`` for the defaults.
        leaves_out_too_large: Whether a judge that does not fit into memory is left out, with a remark, so that the
            other judges work.
        leaves_out_withheld: Whether answers of which the store holds digests alone are left out; otherwise they are
            refused.
    """

    world: TaskWorld
    store: Store
    engine: EngineChoice
    reporter: Reporter
    compute: Compute | None = None
    leaves_out_too_large: bool = False
    leaves_out_withheld: bool = False


def judge_responses(judging: Judging, response_keys: Iterable[str], judge_ids: Iterable[str]) -> int:
    """Write the missing verdicts of each judge on each response set and return the number of sets judged.

    Judges work in turn. Each frees its model before the next loads its own, so that all share one GPU.

    Args:
        judging: Responses, verdicts and means.
        response_keys: Keys of stored response sets.
        judge_ids: Judges.

    Raises:
        MemoryShortageError: A judge does not fit into memory and may not be left out.
        FedSafetyError: A judge fails.
    """
    world, reporter = judging.world, judging.reporter
    keys = sorted(set(response_keys))
    probes = {probe.id: probe for probe in world.probes()}
    done = 0
    for judge_id in judge_ids:
        entry = judges.get(judge_id)
        judge = _create(entry, world, judging.engine, judging.compute)
        verdicts: Counter[Verdict] = Counter()
        try:
            identity = _identity(judge, world)
            judged = [probe.id for probe in probes.values() if probe.kind in entry.info.judges]
            pending = [key for key in keys if _is_pending(judging, key, judge_id, identity, judged)]
            with reporter.step(f"judging by {judge_id}", len(pending)) as step:
                for start in range(0, len(pending), judge.sets_at_once):
                    batch = pending[start : start + judge.sets_at_once]
                    verdicts.update(_judge_batch(judging, entry, judge, identity, batch, probes))
                    step.advance(len(batch))
                    done += len(batch)
            if verdicts[Verdict.UNPARSABLE]:
                reporter.say(
                    f"{verdicts[Verdict.UNPARSABLE]} of {verdicts.total()} verdicts of {judge_id} cannot be "
                    f"parsed; they count as neither, and their details are in the rows"
                )
            if verdicts[Verdict.NO_ANSWER]:
                reporter.say(
                    f"{verdicts[Verdict.NO_ANSWER]} responses to harmful and benign probes are empty or end within a "
                    f"thought; they count neither for nor against a defense"
                )
            for note in judge.notes:
                reporter.say(note)
        except MemoryShortageError as error:
            if not judging.leaves_out_too_large:
                raise
            reporter.say(f"left out: {error}; the responses stay, and 'fedsafety judge' asks it later")
        finally:
            judge.close()
    return done


def judge_identity(judging: Judging, judge_id: str) -> str:
    """Return the identity that a judge's verdicts have now, without judging."""
    judge = _create(judges.get(judge_id), judging.world, judging.engine, judging.compute)
    try:
        return _identity(judge, judging.world)
    finally:
        judge.close()


def check_judges(judge_ids: Iterable[str], world: TaskWorld) -> None:
    """Compute each judge's identity, so that a missing package, text or model is found before training.

    Models that are pinned on the hub are not fetched.

    Raises:
        UsageError: A judge is unknown, or a package or a text that it needs is missing.
        FedSafetyError: A probe has no reference, and a judge compares with one.
        InputsMissingError: A model is not below the model root, or its revision cannot be resolved.
    """
    for judge_id in judge_ids:
        judge = _create(judges.get(judge_id), world, None, None)
        try:
            _identity(judge, world)
            if judge.reads_references:
                judge.check_probes(world.probes())
        finally:
            judge.close()


def responses_to(probes: Sequence[Probe], store: Store) -> set[str]:
    """Return the keys of the stored response sets that answer ``probes``, without sets of other worlds or revisions.

    Raises:
        UsageError: The folder holds published rows, in which a file may hold several response sets, or digests in place
            of answers.
    """
    probe_set = probe_set_digest(probes)
    keys = set()
    for key in sorted(store.keys("responses")):
        rows = store.read("responses", key)
        _check_texts(store, rows)
        if rows["response_key"].unique().to_pylist() != [key]:
            raise UsageError(
                f"{store.root} holds published rows, which are never changed; judge a folder of runs (--runs) and "
                f"publish the verdicts from there"
            )
        if rows["probe_set"].unique().to_pylist() == [probe_set]:
            keys.add(key)
    return keys


def verdict_key(response_key: str, judge_id: str, identity: str) -> str:
    """Return the key of one judge's verdicts on one response set."""
    return f"{response_key}-{judge_id}-{identity[:16]}"


def _is_pending(judging: Judging, response_key: str, judge_id: str, identity: str, probe_ids: Sequence[str]) -> bool:
    """Return whether a response set has answers, among those to the probes, that a judge has to judge."""
    if judging.leaves_out_withheld:
        hidden = withheld_answers(judging.store.read("responses", response_key))
        probe_ids = [probe_id for probe_id in probe_ids if (response_key, probe_id) not in hidden]
        if not probe_ids:
            return False
    return not _is_judged(judging.store, response_key, judge_id, identity, probe_ids)


def _is_judged(store: Store, response_key: str, judge_id: str, identity: str, probe_ids: Sequence[str]) -> bool:
    """Return whether a judge's verdicts on a response set are stored, on each of the probes one.

    Raises:
        FedSafetyError: Their file is damaged, or holds other verdicts.
    """
    key = verdict_key(response_key, judge_id, identity)
    if not store.has("verdicts", key):
        return False
    claimed = {"response_key": response_key, "judge": judge_id, "judge_identity": identity}
    rows = check_keys(store, "verdicts", key, claimed)
    check_probe_ids(store, "verdicts", key, rows, probe_ids)
    check_plausible(store, "verdicts", key, rows)
    return True


def _create(
    entry: Entry[JudgeInfo, Judge], world: TaskWorld, choice: EngineChoice | None, compute: Compute | None
) -> Judge:
    options = {"engine": choice.name if choice else "auto", "world": world, "compute": compute}
    parameters = inspect.signature(entry.target).parameters
    return entry.create({name: value for name, value in options.items() if name in parameters})


def _check_texts(store: Store, responses: pa.Table) -> None:
    """Refuse responses of which the store holds digests alone.

    Raises:
        UsageError: There is one; names its probe.
    """
    for probe_id, response in zip(responses["probe_id"].to_pylist(), responses["response"].to_pylist(), strict=True):
        if is_withheld(response):
            raise UsageError(
                f"{store.root} holds a digest in place of the answer to {probe_id!r}, which no judge can read: only "
                f"hashes are published; run the cells again"
            )


def _identity(judge: Judge, world: TaskWorld) -> str:
    # The world's grammar decides an exact judge's verdicts. Other judges keep theirs when the grammar changes.
    grammar = source_digest(type(world).__module__) if judge.reads_world else ""
    references = [[probe.id, probe.reference] for probe in world.probes()] if judge.reads_references else None
    answers = identity_of("benchmark.judges._answers", "benchmark.models.thoughts")
    return content_key([judge.identity, grammar, answers, *([] if references is None else [references])])


def _judge_batch(
    judging: Judging,
    entry: Entry[JudgeInfo, Judge],
    judge: Judge,
    identity: str,
    keys: list[str],
    probes: dict[str, Probe],
) -> Counter[Verdict]:
    """Write one judge's verdicts on a few response sets and return the number of each verdict."""
    store = judging.store
    items: list[Item] = []
    owners: list[str] = []
    for key in keys:
        table = store.read("responses", key)
        if judging.leaves_out_withheld:
            hidden = withheld_answers(table)
        else:
            _check_texts(store, table)
            hidden = set()
        for probe_id, response in zip(table["probe_id"].to_pylist(), table["response"].to_pylist(), strict=True):
            probe = probes[probe_id]
            if probe.kind in entry.info.judges and (key, probe_id) not in hidden:
                items.append(Item(probe, response))
                owners.append(key)
    rows: dict[str, list[dict[str, str]]] = {key: [] for key in keys}
    counts: Counter[Verdict] = Counter()
    for key, item, judgement in zip(owners, items, judge.judge(items, judging.world), strict=True):
        counts[judgement.verdict] += 1
        rows[key].append(
            {
                "response_key": key,
                "probe_id": item.probe.id,
                "judge": entry.info.id,
                "judge_identity": identity,
                "verdict": judgement.verdict.value,
                "detail": judgement.detail,
            }
        )
    stored = sorted(store.keys("verdicts"))
    for key in keys:
        # Earlier verdicts of the same judge would contradict the new ones. They are removed first, so that a run killed
        # in between leaves a gap that the next run fills.
        for former in stored:
            if former.startswith(f"{key}-{entry.info.id}-"):
                store.remove("verdicts", former)
        store.write("verdicts", verdict_key(key, entry.info.id, identity), rows[key])
    return counts
