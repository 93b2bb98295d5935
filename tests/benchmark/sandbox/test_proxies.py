"""What stands for a submission behaves as the submission would in the process, and fails alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark.structures import ParameterSet

from attacks.base import Attack, AttackerView
from benchmark.errors import FedSafetyError, NotApplicableError, SubmissionError, UsageError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import MethodSource, find_method
from benchmark.registry import Entry
from benchmark.sandbox.attack import sandboxed_attack
from benchmark.sandbox.defense import SandboxedDefense, sandboxed_defense
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.proxy import Sandboxed, created
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.suite import PosthocSettings, TrainingSettings
from benchmark.training.clients import Attacker
from benchmark.training.door import checked_aggregate
from benchmark.training.served import ServedModel
from benchmark.training.server import MeteredServer
from benchmark.training.weights import CheckpointWeights, WeightsBefore
from benchmark.updates import AdapterLayout, RoundContext, Updates
from defenses.base import Defense, DefenseInfo, Objective, Prompt, Stage
from tasks.base import DataKind, Example, TaskWorld

pytestmark = [pytest.mark.sandbox, pytest.mark.exhaustive]

HEAD = """
import os, sys, time
import numpy as np
import torch
from dataclasses import dataclass, replace
from benchmark.errors import FedSafetyError, NotApplicableError
from benchmark.updates import Aggregate, Updates
{base}

@register(title="T", description="A method of a test, in words enough.", {metadata})
"""
DEFENSE_HEAD = HEAD.format(
    base="from defenses.base import AlignmentSchedule, Defense, Knowledge, Objective, Prompt, Stage, register",
    metadata="stages=(Stage.AGGREGATE,), knowledge=Knowledge.NONE",
)
ATTACK = HEAD.format(
    base="from attacks.base import Attack, register\nfrom tasks.base import DataKind, Example",
    metadata="knowledge='none'",
)

Write = Callable[..., MethodSource]
Make = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a method's class to a file: ``write(name, body, head)``."""

    def submission(name: str, body: str, head: str = DEFENSE_HEAD) -> MethodSource:
        file = tmp_path / f"{name}.py"
        file.write_text(head + textwrap.dedent(body))
        return find_method(str(file))

    return submission


@pytest.fixture
def defense(write: Write) -> Iterator[Make]:
    """An instance of a sandboxed defense: ``defense(body, limits)``; its process is ended after the test."""
    made: list[Any] = []

    def make(body: str, limits: Limits | None = None, name: str = "sandboxed_test") -> Any:
        entry = sandboxed_defense(write(name, body), limits)
        made.append(entry.create())
        return made[-1]

    yield make
    for instance in made:
        instance.close()


@pytest.fixture
def server(world: TaskWorld, served: ServedModel) -> MeteredServer:
    settings = PosthocSettings(examples=6, steps=4, batch_size=3, learning_rate=1e-2)
    return MeteredServer(world, served, lambda: served, settings, 11, "mine", max_new_tokens=5)


def one_round(matrix: torch.Tensor | None = None) -> tuple[Updates, RoundContext]:
    matrix = torch.arange(12.0).reshape(3, 4) if matrix is None else matrix
    names = tuple(f"client_{i}" for i in range(len(matrix)))
    layout = AdapterLayout(("layer.lora_A",), ((1, matrix.shape[1]),))
    context = RoundContext(2, 5, 1, torch.zeros(matrix.shape[1]), torch.Generator().manual_seed(3))
    return Updates(matrix, names, torch.tensor([1.0] * len(matrix), dtype=torch.float64), layout), context


MEAN = """
class Mean(Defense):
    def __init__(self, trim: float = 0.0, *, note=None):
        self.trim = trim
    def aggregate(self, updates, context):
        return Aggregate(updates.matrix.mean(dim=0))
"""


def test_the_entry_is_that_of_the_class(write: Write) -> None:
    submission = write("sandboxed_entry", MEAN)
    entry = sandboxed_defense(submission)
    assert entry.info == DefenseInfo(
        id="sandboxed_entry",
        title="T",
        description="A method of a test, in words enough.",
        stages=(Stage.AGGREGATE,),
        knowledge="none",
    )
    assert entry.origin == "file sandboxed_entry.py"
    assert entry.source_digest == submission.digest
    assert entry.target.__module__ == "defenses.sandboxed_entry"
    overridden = [
        hook
        for hook in ("check_shape", "degenerate_as", "prepare", "aggregate", "finalize", "serve")
        if getattr(entry.target, hook) is not getattr(Defense, hook)
    ]
    assert overridden == ["aggregate"]
    with pytest.raises(UsageError, match="did you mean 'trim'"):
        entry.create({"trin": 1})
    assert not any("sandboxed_entry" in name for name in sys.modules)


def test_nothing_is_started_before_it_is_needed(defense: Make) -> None:
    instance = defense(MEAN)
    instance.check_shape(3, 1)
    assert instance.degenerate_as(3, 1) is None
    instance.prepare(None)
    assert instance.serve(Prompt("x")) == Prompt("x")
    assert asdict(instance.usage()) == dict.fromkeys(asdict(instance.usage()), 0)
    instance.aggregate(*one_round())
    used = instance.usage()
    assert used.calls == 2
    assert used.peak_memory_bytes > 1 << 20
    assert used.start_seconds > 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("class Truth(Defense:\n    pass\n", "is not valid Python"),
        ("raise RuntimeError('at import')\nclass A(Defense): pass\n", "RuntimeError: at import"),
        ("import no_such_module\nclass A(Defense): pass\n", "no_such_module"),
        ("import os\nos._exit(5)\nclass A(Defense): pass\n", "exited with status 5"),
    ],
)
def test_what_cannot_be_loaded_says_why(write: Write, body: str, reason: str) -> None:
    head = DEFENSE_HEAD.rpartition("@register")[0]
    with pytest.raises((SubmissionError, UsageError)) as caught:
        sandboxed_defense(write("sandboxed_broken", body, head))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Knowledge.NONE", "Knowledge.TRUTH", "wants to know who is malicious"),
        ("title='T', ", "", "title: Field required"),
        ("words enough", "words \\x1b[31m enough", "cannot be shown on one line"),
        ("words enough", "words" + " enough" * 2000, "a text of 14,"),
    ],
)
def test_metadata_are_checked(write: Write, old: str, new: str, reason: str) -> None:
    head = DEFENSE_HEAD.replace('title="T"', "title='T'").replace(old, new)
    with pytest.raises(SubmissionError, match=reason.replace("(", r"\(")):
        sandboxed_defense(write("sandboxed_metadata", MEAN, head))


def test_changed_metadata_are_read_anew(write: Write) -> None:
    assert sandboxed_defense(write("sandboxed_changing", MEAN)).info.title == "T"
    changed = sandboxed_defense(write("sandboxed_changing", MEAN, DEFENSE_HEAD.replace('title="T"', 'title="New"')))
    assert changed.info.title == "New"


def test_shapes_are_asked_for_once(write: Write) -> None:
    entry = sandboxed_defense(
        write(
            "sandboxed_shapes",
            """
            class Shapes(Defense):
                def check_shape(self, participants, declared_malicious):
                    if participants < 5:
                        raise NotApplicableError(f"n = {participants} is less than 5")
                def degenerate_as(self, participants, declared_malicious):
                    return "median" if declared_malicious == 1 else None
            """,
        )
    )
    for times in range(2):
        with created(entry) as instance:
            instance.check_shape(7, 1)
            assert instance.degenerate_as(7, 1) == "median"
            assert instance.degenerate_as(7, 2) is None
            with pytest.raises(NotApplicableError, match="n = 4 is less than 5"):
                instance.check_shape(4, 1)
            assert isinstance(instance, SandboxedDefense)
            assert (instance.usage().calls == 0) == bool(times)


PLACE = r"sandboxed_misbehaving\.py, line \d+, in "
MISBEHAVIOUR = {
    "return 1 // 0": rf"raised ZeroDivisionError: .* \({PLACE}\w+; {PLACE}misbehave\)$",
    "raise SystemExit('bye')": r"raised SystemExit: bye",
    "raise FedSafetyError('no pair was obtained')": r"failed: no pair was obtained \(sandboxed_misbehaving.py",
    "raise type('Odd', (Exception,), {'__str__': lambda self: 1 // 0})()": r"raised Odd: \(its text cannot",
    "os._exit(3)": r"ended its process: exited with status 3",
    "os.kill(os.getpid(), 9)": r"ended its process: was killed by signal 9",
    "return 7": r"failed: aggregate\(\) returned int; return an Aggregate",
    "return Aggregate([1.0])": r"failed: aggregate\(\) returned an update of type list; return a torch tensor",
    "return Aggregate(torch.zeros(3, 4))": r"an update of shape \(3, 4\); it must be \(4,\)",
    "return Aggregate(torch.zeros(4, dtype=torch.bool))": r"raised TypeError: update is of torch.bool",
    "return Aggregate(torch.zeros(4), torch.zeros(1 << 20))": r"raised ValueError: tensors of 4,194,",
    "return Aggregate(torch.zeros(4), [1.0])": r"raised TypeError: weights is of type list",
    "time.sleep(60)": r"took longer than 6 s",
    "[os.close(fd) for fd in range(3, 60) if os.path.exists(f'/proc/self/fd/{fd}')]": r"^aggregate\(\) of ",
}
ODD_NUMBERS = {
    "return Aggregate(torch.full((4,), float('nan')))": "an update that is not finite",
    "return Aggregate(torch.zeros(4, dtype=torch.int64))": "return floating-point numbers",
    "return Aggregate(torch.zeros(4), torch.full((3,), -1.0))": "negative or non-finite weight",
}
HOOKS = ("check_shape", "prepare", "aggregate", "finalize", "serve")


def later_exhaustive(statements: Iterable[str], count: int = 4) -> list[ParameterSet]:
    """Return the statements as parameters, all but the first ``count`` exhaustive: each starts a process."""
    return [
        pytest.param(statement, marks=[pytest.mark.exhaustive] if place >= count else [])
        for place, statement in enumerate(statements)
    ]


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Entry[DefenseInfo, Defense]:
    """A method that misbehaves in as many ways as there are declared bounds; its other hooks divide by zero."""
    cases = [f"if index == {i}:\n        {text}" for i, text in enumerate([*MISBEHAVIOUR, *ODD_NUMBERS])]
    file = tmp_path_factory.mktemp("methods") / "sandboxed_misbehaving.py"
    file.write_text(
        DEFENSE_HEAD
        + textwrap.dedent(
            """
            class Misbehaving(Defense):
                def check_shape(self, participants, declared_malicious):
                    misbehave(0)
                def prepare(self, server):
                    misbehave(0)
                def aggregate(self, updates, context):
                    return misbehave(context.declared_malicious)
                def finalize(self, adapter, server):
                    misbehave(0)
                def serve(self, prompt):
                    misbehave(0)

            def misbehave(index):
            """
        )
        + "".join(f"    {case}\n" for case in cases)
    )
    return sandboxed_defense(find_method(str(file)), Limits(call_seconds=6.0))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_any_hook_is_told_with_its_place(
    misbehaving: Entry[DefenseInfo, Defense], server: MeteredServer, hook: str
) -> None:
    updates, context = one_round()
    arguments: dict[str, tuple[Any, ...]] = {
        "check_shape": (3, 1),
        "prepare": (server,),
        "aggregate": (updates, replace(context, declared_malicious=0)),
        "finalize": (torch.zeros(server.layout.dimension), server),
        "serve": (Prompt("w1"),),
    }
    reason = rf"^{hook}\(\) of 'sandboxed_misbehaving' {MISBEHAVIOUR['return 1 // 0']}"
    with created(misbehaving) as instance:
        with pytest.raises(SubmissionError, match=reason):
            getattr(instance, hook)(*arguments[hook])
        with pytest.raises(SubmissionError, match=reason):
            instance.aggregate(updates, context)


@pytest.mark.parametrize("statement", later_exhaustive(MISBEHAVIOUR))
def test_whatever_a_hook_does_ends_with_a_reason(misbehaving: Entry[DefenseInfo, Defense], statement: str) -> None:
    updates, context = one_round()
    context = replace(context, declared_malicious=list(MISBEHAVIOUR).index(statement))
    with created(misbehaving, hooks=("aggregate",)) as instance:
        with pytest.raises(SubmissionError, match=MISBEHAVIOUR[statement]):
            instance.aggregate(updates, context)
        assert isinstance(instance, Sandboxed)
        assert instance._session._process is not None
        assert not instance._session._process.alive()


def test_numbers_are_judged_by_the_engine_as_in_the_process(misbehaving: Entry[DefenseInfo, Defense]) -> None:
    updates, context = one_round()
    with created(misbehaving) as instance:
        for index, reason in enumerate(ODD_NUMBERS.values(), len(MISBEHAVIOUR)):
            found = instance.aggregate(updates, replace(context, declared_malicious=index))
            with pytest.raises(FedSafetyError, match=reason):
                checked_aggregate(found, updates)


def test_a_round_arrives_as_it_is(defense: Make) -> None:
    instance = defense(
        """
        class Looking(Defense):
            def aggregate(self, updates, context):
                assert updates.client_ids == ("client_0", "client_1", "client_2")
                assert updates.layout.names == ("layer.lora_A",) and updates.layout.shapes == ((1, 4),)
                assert updates.sample_counts.tolist() == [1.0] * 3 and updates.sample_counts.dtype == torch.float64
                assert (context.index, context.rounds, context.declared_malicious) == (2, 5, 1)
                assert context.malicious_ids is None and torch.get_num_threads() == 1
                noise = torch.rand(4, generator=context.generator)
                return Aggregate(updates.matrix[1] + context.broadcast + noise, updates.sample_counts / 3)
        """
    )
    for value in (1.0, 2.0):
        updates, context = one_round(torch.arange(12.0).reshape(3, 4) * value)
        result = instance.aggregate(updates, context)
        noise = torch.rand(4, generator=torch.Generator().manual_seed(3))
        assert torch.equal(result.update, updates.matrix[1] + noise)
        assert result.weights.tolist() == [1 / 3] * 3


def test_a_method_may_write_into_its_inputs_without_anybody_noticing(defense: Make) -> None:
    instance = defense(
        """
        class Writing(Defense):
            def aggregate(self, updates, context):
                updates.matrix.zero_()
                return Aggregate(updates.matrix[0])
        """
    )
    updates, context = one_round()
    before = updates.matrix.clone()
    assert instance.aggregate(updates, context).update.tolist() == [0.0] * 4
    assert torch.equal(updates.matrix, before)


TOOLS = """
class Using(Defense):
    def finalize(self, adapter, server):
        {statement}
        return adapter
"""


def test_what_a_tool_raises_can_be_caught_inside(defense: Make, server: MeteredServer) -> None:
    instance = defense(
        TOOLS.format(
            statement="""
        ask = server.generate
        for attempt in (lambda: server.finetune(adapter, []), lambda: server.finetune(adapter[:3], []),
                        lambda: server.owned_contrast(2), lambda: ask(["w1"], adapter=None, temperature=-1.0),
                        lambda: ask(["w1 " * 500], adapter=None, temperature=0.0)):
            try:
                attempt()
            except FedSafetyError:
                adapter = adapter + 1
"""
        )
    )
    adapter = torch.zeros(server.layout.dimension)
    assert torch.equal(instance.finalize(adapter, server), adapter + 5)


def test_tools_do_the_same_work_as_in_the_process(
    defense: Make, server: MeteredServer, world: TaskWorld, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = defense(
        TOOLS.format(
            statement="""
        assert server.examples == 6 and server.layout.dimension == len(adapter)
        assert server.automation.comply_hint == "w13"
        assert server.task_templates == ("w14 {instruction}",)
        kept = adapter
        rows = server.shuffle(server.owned_aligned(3) + server.owned_normal(4))
        texts = server.generate(["w1 w2", "w3"], adapter=adapter, temperature=1.0)
        texts += server.generate_external(["w4"], temperature=0.0)
        texts += server.generate_unaligned(["w5"], temperature=0.0)
        rows += [replace(rows[0], response=text) for text in texts if text]
        adapter = server.finetune(server.finetune(adapter, rows), rows[:2]) + kept
"""
        )
    )
    monkeypatch.setattr(type(world), "task_templates", ("w14 {instruction}",))
    adapter = torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(0))
    found = instance.finalize(adapter.clone(), server)
    other = MeteredServer(world, served, lambda: served, server._settings, 11, "mine", max_new_tokens=5)
    rows = other.shuffle(other.owned_aligned(3) + other.owned_normal(4))
    texts = other.generate(["w1 w2", "w3"], adapter=adapter, temperature=1.0)
    texts += other.generate_external(["w4"], temperature=0.0)
    texts += other.generate_unaligned(["w5"], temperature=0.0)
    rows += [Example(rows[0].instruction, text, rows[0].kind, rows[0].task) for text in texts if text]
    assert torch.equal(found, other.finetune(other.finetune(adapter, rows), rows[:2]) + adapter)
    assert server.usage == other.usage
    assert instance.usage().asked == 8


ALIGNMENT = AlignmentSettings(start="raw", data={"w8": 1.0}, rows=4, steps=2, batch_size=2, learning_rate=1e-2, seed=3)


TRAINING = TrainingSettings(
    rounds=2, local_steps=2, batch_size=2, rows_per_client=4, learning_rate=1e-2, learning_rate_floor=1e-3
)


@pytest.fixture
def aligning(world: TaskWorld, served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Callable[[], MeteredServer]:
    """Makes servers of a suite that aligns its start model."""
    monkeypatch.setattr(type(world), "alignment", type(world).server_aligned)
    settings = PosthocSettings(examples=6, steps=4, batch_size=3, learning_rate=1e-2)
    start = torch.randn(served.stacked.layout.dimension, generator=torch.Generator().manual_seed(4))
    return lambda: MeteredServer(world, served, lambda: served, settings, 11, "mine", 5, None, lambda: start, ALIGNMENT)


def test_a_start_goes_through_the_channel_as_it_is(defense: Make, aligning: Callable[[], MeteredServer]) -> None:
    instance = defense(
        """
        class Aligning(Defense):
            def prepare(self, server):
                rows = server.alignment_examples()
                assert len(rows) == server.alignment_rows == 4
                self.answer = server.generate(["w1"], adapter=None, temperature=0.0)
                slope, loss = server.gradient(server.start(), rows[:2])
                assert server.alignment_schedule == AlignmentSchedule((0.01, 0.005), 2, 0.0, None)
                further = server.align(server.fresh(), rows[:3], objective=Objective(perturbation=0.5))
                return server.align(server.start(), rows[:3]) + slope * loss + further
        """
    )
    server, other = aligning(), aligning()
    start = instance.prepare(server)
    rows = other.alignment_examples()
    other.generate(["w1"], adapter=other.start(), temperature=0.0)
    slope, loss = other.gradient(other.start(), rows[:2])
    further = other.align(other.fresh(), rows[:3], objective=Objective(perturbation=0.5))
    assert torch.equal(start, other.align(other.start(), rows[:3]) + slope * loss + further)
    assert server.usage == other.usage
    assert server.usage.finetune_steps == 5


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("torch.zeros(server.layout.dimension + 1)", r"prepare\(\) returned a start of shape"),
        ("torch.zeros(10 ** 8)", r"prepare\(\) returned a start of shape \(100000000,\); it must be"),
        ("[1.0]", r"prepare\(\) returned a start of type list; return a torch tensor"),
        ("server.align(server.start(), server.alignment_examples() * 500)", "rows at a time"),
        ("server.gradient(server.start(), server.alignment_examples() * 101)", "rows at a time"),
        ("server.align(torch.zeros(3), server.alignment_examples())", r"an adapter of shape \(3,\)"),
    ],
)
def test_a_start_that_is_not_usable_ends_the_process(
    defense: Make, aligning: Callable[[], MeteredServer], returned: str, reason: str
) -> None:
    instance = defense(f"class Odd(Defense):\n    def prepare(self, server):\n        return {returned}\n")
    with pytest.raises(SubmissionError, match=reason):
        instance.prepare(aligning())


def test_every_tool_gives_the_same_inside_and_in_a_round(defense: Make, world: TaskWorld, served: ServedModel) -> None:
    """What a rule reads through ``context.server`` in its process equals what it reads in the run's process."""
    body = """
        class Reading(Defense):
            def aggregate(self, updates, context):
                server = context.server
                start, rows = context.broadcast, server.owned_aligned(2)
                wide = torch.linspace(-0.2, 0.2, server.layout.of_rank(3).dimension)
                layer = server.layout.layers[0]
                prompts = [row.instruction for row in rows]
                pull = Objective(proximal=0.5, anchor=start + 1, token_weights=(2.0,))
                away = Objective(ascend=True)
                found = [
                    server.weights(layer).sum(),
                    server.weights(layer, aligned=False).sum(),
                    *(norms.sum() for norms in server.feature_norms(start, rows).values()),
                    *(norms.square().sum() for norms in server.feature_norms(start, rows, of_factors=True).values()),
                    *(norms.sum() for norms in server.feature_norms(wide, rows, of_factors=True).values()),
                    server.activations(start, prompts, layer).sum(),
                    server.first_token_scores(start, prompts, ["w1", "w2"]).sum(),
                    server.gradient(start, rows, objective=pull)[0].sum(),
                    server.train_as_client(start, rows, 1).sum(),
                    server.finetune(start, rows, objective=away, steps=2, rate=0.5, template="w3 {instruction}").sum(),
                    torch.tensor([server.scaling, server.steps, server.learning_rate, server.has_unaligned]).sum(),
                ]
                return Aggregate(torch.full_like(start, float(torch.stack(found).double().sum())))
        """
    layout, weights = served.stacked.layout, CheckpointWeights(lambda: world.model_path("raw"))
    before = WeightsBefore(weights, weights, None, layout, served.stacked.settings.scaling)
    settings = PosthocSettings(examples=6, steps=4, batch_size=3, learning_rate=1e-2)
    namespace: dict[str, Any] = {}
    exec(DEFENSE_HEAD.rpartition("@register")[0] + textwrap.dedent(body), namespace)
    found = []
    for rule in (defense(body), namespace["Reading"]()):
        server = MeteredServer(
            world, served, lambda: served, settings, 11, "mine", 5, weights=before, training=TRAINING
        )
        broadcast = torch.linspace(-0.1, 0.1, layout.dimension)
        updates = Updates(torch.zeros(2, layout.dimension), ("a", "b"), torch.ones(2, dtype=torch.float64), layout)
        context = RoundContext(0, 1, 0, broadcast, torch.Generator(), tools=server)
        found.append((rule.aggregate(updates, context).update, server.usage))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].isfinite().all()
    assert found[0][1] == found[1][1]


def test_a_prepare_that_returns_nothing_keeps_the_start(defense: Make, aligning: Callable[[], MeteredServer]) -> None:
    body = "class Quiet(Defense):\n    def prepare(self, server):\n        self.seen = server.examples\n"
    assert defense(body).prepare(aligning()) is None


def test_the_hooks_of_an_instance_share_one_budget(
    defense: Make, server: MeteredServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.sandbox.budget.FINETUNES", 2)
    instance = defense(
        """
        class Tuning(Defense):
            def prepare(self, server):
                self.tuned(torch.zeros(server.layout.dimension), server)
            def finalize(self, adapter, server):
                return self.tuned(adapter, server)
            def tuned(self, adapter, server):
                return server.finetune(adapter, server.owned_normal(2))
        """
    )
    instance.prepare(server)
    adapter = torch.zeros(server.layout.dimension)
    assert instance.finalize(adapter, server).shape == adapter.shape
    with pytest.raises(SubmissionError, match="fine-tunes more than 2 times"):
        instance.finalize(adapter, server)


def test_pools_of_an_instance_share_one_budget(
    write: Write, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.sandbox.budget.ROWS_IN_ALL_PER_EXAMPLE", 1)
    body = "class Greedy(Attack):\n    def pool(self, resources, rng):\n        return resources.unaligned(300, rng)\n"
    with created(sandboxed_attack(write("sandboxed_greedy", body, ATTACK))) as instance:
        assert len(instance.pool(attacker, np.random.default_rng(1))) == 300
        with pytest.raises(SubmissionError, match="asks for more than 500 rows"):
            instance.pool(attacker, np.random.default_rng(1))


def test_imports_work_after_the_filter_too(defense: Make) -> None:
    instance = defense(
        """
        class Importing(Defense):
            def aggregate(self, updates, context):
                import concurrent.futures, decimal, multiprocessing, sqlite3, subprocess, unittest.mock
                import scipy.optimize, scipy.spatial.distance, scipy.stats, torch.nn.functional, torch.optim
                import defenses.sandboxed_test as myself
                from attacks.base import Attack
                from defenses._krum import krum_scores
                from defenses.trimmed_mean import TrimmedMean
                from tasks.refusals import is_refusal
                assert sys.modules[type(self).__module__] is myself
                assert myself.__file__ == "/submission/defenses/sandboxed_test.py"
                weight = torch.nn.Parameter(torch.ones(2))
                torch.optim.SGD([weight], lr=1.0).step()
                assert np.isclose(scipy.stats.norm.cdf(0.0), 0.5)
                products = torch.einsum("ij,jk,kl->il", torch.eye(2), torch.eye(2), torch.eye(2))
                assert torch.equal(products, torch.eye(2))
                return Aggregate(updates.matrix.mean(dim=0))
        """
    )
    updates, context = one_round()
    assert torch.equal(instance.aggregate(updates, context).update, updates.matrix.mean(dim=0))


MISUSE = {
    "server.generate(['w1'] * 2001, adapter=None, temperature=0.0)": "more than 2,000 prompts answered",
    "server.generate(['x' * 20_000] * 201, adapter=None, temperature=0.0)": "more than 4,000,000 characters read",
    "server.owned_normal(401)": "asks for 401 rows at a time; at most 400 are given or taken",
    "server.shuffle(server.owned_normal(201) * 2)": "asks for 402 rows at a time",
    "server.finetune(adapter, server.owned_normal(201) * 2)": "asks for 402 rows at a time",
    "server.train_as_client(adapter, server.owned_normal(201) * 2, 0)": "asks for 402 rows at a time",
    "server.train_as_client(adapter, server.owned_normal(2), -1)": "sent the number -1",
    "server.owned_normal(-1)": "sent the number -1",
    "server.owned_normal(10**9)": "sent the number 1,000,000,000; it must be from 0 to 100,000",
    "server.generate([1], adapter=None, temperature=0.0)": "sent int where a text belongs",
    "server.generate(['x' * 30_000], adapter=None, temperature=0.0)": "a text of 30,000 characters",
    "server.generate(['w1'], adapter=None, temperature=float('nan'))": "raised ValueError",
    "server.generate(['\\ud800'], adapter=None, temperature=0.0)": "a text that is not Unicode",
    "server.finetune(adapter, ['w1'])": "raised TypeError: a training row is an Example, not str",
    "server.usage": "raised AttributeError",
    "server._ask('clear', {}, {})": "asked for a tool that does not exist",
    "server._ask('generate', {'prompts': ['w1']}, {})": "something else than prompts, temperature",
    "[server.owned_normal(1) for _ in range(1001)]": "asks for tools endlessly",
}


@pytest.fixture(scope="module")
def misusing(tmp_path_factory: pytest.TempPathFactory) -> Entry[DefenseInfo, Defense]:
    """A method that misuses its tools in as many ways as the first parameter says."""
    file = tmp_path_factory.mktemp("methods") / "sandboxed_misusing.py"
    cases = [f"        if adapter[0] == {i}:\n            {text}\n" for i, text in enumerate(MISUSE)]
    head = "class Misusing(Defense):\n    def finalize(self, adapter, server):\n"
    file.write_text(DEFENSE_HEAD + head + "".join(cases) + "        return adapter\n")
    return sandboxed_defense(find_method(str(file)))


@pytest.mark.parametrize("statement", later_exhaustive(MISUSE))
def test_tools_refuse_what_is_no_use_of_them(
    misusing: Entry[DefenseInfo, Defense], server: MeteredServer, statement: str
) -> None:
    adapter = torch.full((server.layout.dimension,), float(list(MISUSE).index(statement)))
    with created(misusing) as instance, pytest.raises(SubmissionError, match=MISUSE[statement]):
        instance.finalize(adapter, server)


def test_prompts_are_served_in_one_message(defense: Make) -> None:
    instance = defense(
        """
        class Serving(Defense):
            asked = 0
            def serve(self, prompt):
                self.asked += 1
                if prompt.instruction == "bad":
                    return "bad"
                return Prompt(f"{prompt.instruction} {self.asked}", answer="no" if self.asked == 2 else None)
        """
    )
    served = instance.serve_all([Prompt("a"), Prompt("b"), Prompt("c")])
    assert served == [Prompt("a 1"), Prompt("b 2", "no"), Prompt("c 3")]
    assert instance.serve(Prompt("d")) == Prompt("d 4")
    assert instance.usage().calls == 3
    with pytest.raises(SubmissionError, match=r"failed: serve\(\) returned 'bad'; return a Prompt"):
        instance.serve(Prompt("bad"))


POISON = """
@dataclass(frozen=True)
class Poison(Attack):
    share: float = 0.5
    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it is from 0 to 1")
    def pool(self, resources, rng):
        texts = resources.generate(list(resources.automation.propose_harmful), rng, temperature=1.0)
        rows = resources.unaligned(5, rng)
        assert rng.integers(10) >= 0
        return rows + [Example("w1", text, DataKind.UNALIGNED, "x") for text in texts]
    def poison(self, normal, pool, rng):
        try:
            self.leak(pool)
        except AttributeError:
            pass
        return [pool[i] for i in rng.integers(len(pool), size=len(normal))]
    def craft(self, own, view):
        return replace(own, matrix=own.matrix * view.participants * self.share)
"""


@pytest.fixture
def attacker(world: TaskWorld, served: ServedModel) -> Attacker:
    return Attacker(world, lambda: served, 5)


def test_an_attack_leaves_its_streams_where_it_would_in_the_process(write: Write, attacker: Attacker) -> None:
    entry: Entry[Any, Attack] = sandboxed_attack(write("sandboxed_poison", POISON, ATTACK))
    rng, other = np.random.default_rng(5), np.random.default_rng(5)
    with created(entry, {"share": 0.25}) as attack:
        pool = attack.pool(attacker, rng)
        texts = attacker.generate(["w10", "w11"], other, temperature=1.0)
        wanted = attacker.unaligned(5, other) + [Example("w1", t, DataKind.UNALIGNED, "x") for t in texts]
        other.integers(10)
        assert pool == wanted
        normal = [Example("w2", "w3", DataKind.NORMAL, "w1")] * 4
        assert attack.poison(normal, pool, rng) == [pool[i] for i in other.integers(len(pool), size=4)]
        assert rng.bit_generator.state == other.bit_generator.state
        updates, _ = one_round()
        crafted = attack.craft(updates, AttackerView(0, 8))
        assert torch.equal(crafted.matrix, updates.matrix * 2)
        assert isinstance(attack, Sandboxed)
        assert attack.usage().calls == 4


def test_parameters_are_tried_where_the_method_is(write: Write) -> None:
    entry = sandboxed_attack(write("sandboxed_poison", POISON, ATTACK))
    with pytest.raises(UsageError, match=r"refuses the parameters .* share is 2; it is from 0 to 1"):
        entry.create({"share": 2})
    with pytest.raises(UsageError, match="did you mean 'share'"):
        entry.create({"shared": 1})
    with pytest.raises(UsageError, match="not JSON serializable"):
        entry.create({"share": object()})
    with created(entry, {"share": 1}) as first, created(entry, {"share": 1}) as second:
        assert isinstance(first, Sandboxed)
        assert isinstance(second, Sandboxed)
        assert (first.usage().calls, second.usage().calls) == (1, 0)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("resources.leaks_evaluation('w30')", "leaks_evaluation() is not answered to a method in a sandbox"),
        ("resources.unaligned(3, np.random.Generator(np.random.MT19937(1)))", "raised TypeError: a random stream is"),
        ("return ['rows']", "raised TypeError: a training row is an Example"),
        ("return [Example('a', 'b' * 30_000, DataKind.NORMAL, 'x')]", "gave no rows: it sent a text of 30,000"),
        ("return [Example('a', 'b', 'odd', 'x')]", "gave no rows: it sent a training row that is none"),
    ],
)
def test_an_attack_gets_and_gives_nothing_else(write: Write, attacker: Attacker, statement: str, reason: str) -> None:
    body = f"class Odd(Attack):\n    def pool(self, resources, rng):\n        {statement}\n"
    with (
        created(sandboxed_attack(write("sandboxed_odd", body, ATTACK))) as attack,
        pytest.raises(SubmissionError) as told,
    ):
        attack.pool(attacker, np.random.default_rng(1))
    assert reason in str(told.value)


def test_a_package_is_loaded_by_its_names(tmp_path: Path) -> None:
    package = tmp_path / "sandboxed_package"
    package.mkdir()
    (package / "__init__.py").write_text("FACTOR = 3\n")
    (package / "_helper.py").write_text("from . import FACTOR\ndef scaled(x):\n    return x * FACTOR\n")
    body = """
    class Rule(Defense):
        def aggregate(self, updates, context):
            return Aggregate(scaled(updates.matrix[0]))
    """
    (package / "rule.py").write_text("from ._helper import scaled" + DEFENSE_HEAD + textwrap.dedent(body))
    names = ("sandboxed_package", "sandboxed_package._helper", "sandboxed_package.rule")
    paths = (package / "__init__.py", package / "_helper.py", package / "rule.py")
    files = tuple(zip(names, paths, strict=True))
    submission = MethodSource(DEFENSE, "sandboxed_rule", "sandboxed_package.rule", files, "some distribution")
    with created(sandboxed_defense(submission)) as instance:
        updates, context = one_round()
        assert torch.equal(instance.aggregate(updates, context).update, updates.matrix[0] * 3)


def test_an_ordinary_method_is_created_as_ever() -> None:
    class Closing(Defense):
        closed = False

        def close(self) -> None:
            self.closed = True

    info = DefenseInfo(id="x", title="x", description="x" * 20, stages=(), knowledge="none")
    with created(Entry(info, Closing, "here"), hooks=("aggregate",)) as instance:
        pass
    assert not instance.closed  # type: ignore[attr-defined]


def test_no_process_outlives_a_run_that_is_killed(write: Write) -> None:
    submission = write(
        "sandboxed_endless",
        """
        class Endless(Defense):
            def aggregate(self, updates, context):
                while True:
                    pass
        """,
    )
    program = f"""
import sys
from pathlib import Path
from benchmark.sandbox.defense import sandboxed_defense
from benchmark.methods.source import find_method
from defenses._examples import one_round
defense = sandboxed_defense(find_method({str(submission.files[0][1])!r})).create()
defense.start()
print(defense._session._process.pid, flush=True)
defense.aggregate(*one_round([[1.0], [2.0]]))
"""
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        inside = int(run.stdout.readline())
        time.sleep(0.3)
        assert Path(f"/proc/{inside}").exists()
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{inside}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{inside}").exists()
