"""Each promise of a defense, and a defense that breaks it; all built-in defenses keep theirs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import NotApplicableError
from benchmark.registry import Entry, Trait
from benchmark.submission.contract.base import defense_contract
from benchmark.submission.contract.examination import Examination, Subject, perform
from benchmark.submission.contract.report import Finding, Part, Verdict
from benchmark.submission.contract.robustness import PATIENCE, SMALL_SCALES
from benchmark.submission.contract.rounds import layout_of
from benchmark.updates import Aggregate
from defenses.base import Defense, DefenseInfo, Knowledge, Prompt, Stage, defenses

COUNTER = itertools.count()
QUIET = (Verdict.PASSED, Verdict.NOT_APPLICABLE)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def subject_of(target: type[Defense], **metadata: Any) -> Subject[DefenseInfo, Defense]:
    filled = tuple(stage for stage in Stage if getattr(target, stage.value) is not getattr(Defense, stage.value))
    given = {"stages": filled, "knowledge": Knowledge.NONE, **metadata}
    info = DefenseInfo(id="tried", title="Tried", description="A defense that is only here to be tried.", **given)
    return Subject(Entry(info, target, "test"), (Path(__file__),))


def examined(subject: Subject[DefenseInfo, Defense]) -> tuple[dict[str, Finding], Examination]:
    examination = defense_contract(subject, scales=SMALL_SCALES)
    findings = {finding.check: finding for finding in perform(examination.checks, subject, lambda: None)}
    assert len(findings) == len(examination.checks)
    return findings, examination


def of(target: type[Defense], **metadata: Any) -> dict[str, Finding]:
    return examined(subject_of(target, **metadata))[0]


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict is Verdict.FAILED}


class Average(Defense):
    """The unweighted mean, which keeps every promise."""

    def aggregate(self, updates, context):
        return Aggregate(updates.matrix.mean(dim=0))


@pytest.mark.parametrize("name", [n for n in defenses.names() if not n.startswith("posthoc")])
def test_built_in_rules_keep_the_contract(name: str) -> None:
    findings, _ = examined(Subject(defenses.get(name)))
    assert {
        f.check: f.found for f in findings.values() if f.verdict not in QUIET and f.check != "refused_updates"
    } == {}


@pytest.mark.parametrize("name", [n for n in defenses.names() if n.startswith("posthoc")])
def test_built_in_repairs_keep_the_contract(name: str) -> None:
    findings, examination = examined(Subject(defenses.get(name)))
    assert {f.check: f.found for f in findings.values() if f.verdict not in QUIET} == {}
    assert examination.metered["finetune_steps"] == 4
    # Of the server's 32 pairs, those in another form count as owned and as generated.
    reworded = {"posthoc_paraphrase": 16, "posthoc_multitask": 12}.get(name, 0)
    assert sum(examination.metered[n] for n in ("owned_aligned", "owned_normal", "generated_pairs")) == 32 + reworded


def test_only_foolsgold_declares_to_remember_clients_and_it_shows() -> None:
    declaring = [e.info.id for e in defenses.entries() if Trait.STATEFUL_PER_CLIENT in e.info.traits]
    assert declaring == ["foolsgold"]
    entry = defenses.get("foolsgold")
    undeclared = replace(entry, info=entry.info.model_copy(update={"traits": ()}))
    findings, _ = examined(Subject(undeclared))
    assert failed(findings) == {"ids_mean_nothing"}
    assert "declare traits=(Trait.STATEFUL_PER_CLIENT,)" in findings["ids_mean_nothing"].remedy


def test_a_rule_without_fault_passes_everything() -> None:
    findings, examination = examined(subject_of(Average))
    assert {f.verdict for f in findings.values() if f.check != "refused_updates"} == {Verdict.PASSED}
    assert [(s.participants, s.declared_malicious, s.verdict) for s in examination.shapes] == [
        (n, f, Verdict.PASSED) for n, f, _ in SMALL_SCALES
    ]
    for shape in examination.shapes:
        assert shape.seconds is not None
        assert shape.updates_bytes == 4 * shape.participants * shape.dimension


def returning(make: Any) -> type[Defense]:
    class Returning(Defense):
        def aggregate(self, updates, context):
            return make(updates)

    return Returning


def ones(updates: Any) -> torch.Tensor:
    return torch.ones(len(updates), dtype=torch.float64)


FORMS = {
    "no aggregate": (lambda u: u.matrix.mean(dim=0), "return an Aggregate"),
    "one number short": (lambda u: Aggregate(u.matrix.mean(dim=0)[1:]), "it must be (4096,)"),
    "whole numbers": (lambda u: Aggregate(u.matrix.mean(dim=0).long()), "floating-point"),
    "not finite": (lambda u: Aggregate(u.matrix.mean(dim=0) / 0), "not finite"),
    "weights of two": (lambda u: Aggregate(u.matrix.mean(dim=0), ones(u) * 2 / len(u)), "sum to 2"),
    "a negative weight": (lambda u: Aggregate(u.matrix.mean(dim=0), -ones(u) / len(u)), "negative"),
    "weights of other clients": (lambda u: Aggregate(u.matrix.mean(dim=0), ones(u)[1:]), "for 10 clients"),
    "an exception": (lambda u: u.no_such_thing, "AttributeError"),
    "an exit": (lambda u: exit(3), "SystemExit: 3"),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_comes_back_has_the_promised_form(case: str) -> None:
    make, said = FORMS[case]
    findings = of(returning(make))
    assert failed(findings) == {"aggregate_form"}
    assert said in findings["aggregate_form"].found
    assert findings["determinism"].verdict is Verdict.NOT_RUN
    assert "aggregate_form did not pass" in findings["scale_3_4096"].found


def test_an_exception_names_its_line() -> None:
    finding = of(returning(FORMS["an exception"][0]))["aggregate_form"]
    assert "of test_defense.py, in <lambda>" in finding.found


def test_results_may_not_differ_between_instances() -> None:
    class Counting(Defense):
        def aggregate(self, updates, context):
            return Aggregate(updates.matrix.mean(dim=0) + next(COUNTER))

    findings = of(Counting)
    assert "determinism" in failed(findings)
    assert "context.generator" in findings["determinism"].remedy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("updates.matrix", lambda updates, context: updates.matrix.mul_(2)),
        ("updates.sample_counts", lambda updates, context: updates.sample_counts.fill_(1)),
        ("context.broadcast", lambda updates, context: context.broadcast.zero_()),
    ],
)
def test_inputs_stay_as_they_are(name: str, change: Any) -> None:
    class Writing(Average):
        def aggregate(self, updates, context):
            result = super().aggregate(updates, context)
            change(updates, context)
            return result

    findings = of(Writing)
    assert failed(findings) == {"inputs_unchanged"}
    assert findings["inputs_unchanged"].found == f"changed in place: {name}"


def test_places_of_rows_mean_nothing() -> None:
    class First(Defense):
        def aggregate(self, updates, context):
            return Aggregate(updates.matrix[0].clone())

    findings = of(First)
    assert failed(findings) == {"order_of_clients"}
    assert findings["ids_mean_nothing"].verdict is Verdict.NOT_RUN


def test_weights_follow_the_clients() -> None:
    class FirstTrusted(Defense):
        def aggregate(self, updates, context):
            weights = torch.zeros(len(updates), dtype=torch.float64)
            weights[0] = 1
            return Aggregate(updates.matrix.mean(dim=0), weights)

    findings = of(FirstTrusted)
    assert failed(findings) == {"order_of_clients"}
    assert "weights of round 0 do not follow the clients" in findings["order_of_clients"].found


class Remembering(Defense):
    """Adds what each client sent before."""

    by_id = True

    def __init__(self) -> None:
        self.sums: dict[Any, Any] = {}

    def aggregate(self, updates, context):
        for row, (client, sent) in enumerate(zip(updates.client_ids, updates.matrix, strict=True)):
            key = client if self.by_id else row
            self.sums[key] = self.sums.get(key, 0) + sent
        keys = updates.client_ids if self.by_id else range(len(updates))
        sums = torch.stack([self.sums[key] for key in keys])
        weights = (1 / (1e-6 + sums.double().norm(dim=1))).softmax(0)
        return Aggregate(weights.float() @ updates.matrix, weights)


def test_memory_of_clients_is_declared() -> None:
    assert failed(of(Remembering)) == {"ids_mean_nothing"}
    finding = of(Remembering, traits=(Trait.STATEFUL_PER_CLIENT,))["ids_mean_nothing"]
    assert finding.verdict is Verdict.PASSED
    assert finding.found == "declares to remember clients between rounds; it does"


def test_memory_by_place_is_no_memory_of_clients() -> None:
    class ByPlace(Remembering):
        by_id = False

    assert "order_of_clients" in failed(of(ByPlace, traits=(Trait.STATEFUL_PER_CLIENT,)))


def test_memory_of_the_server_needs_no_declaration() -> None:
    class Momentum(Defense):
        def __init__(self) -> None:
            self.before: Any = 0

        def aggregate(self, updates, context):
            self.before = 0.5 * self.before + updates.matrix.mean(dim=0)
            return Aggregate(self.before.clone())

    assert failed(of(Momentum)) == set()


def test_a_random_choice_among_clients_is_a_warning() -> None:
    class Lucky(Defense):
        def aggregate(self, updates, context):
            chosen = torch.randperm(len(updates), generator=context.generator)[: max(1, len(updates) // 2)]
            return Aggregate(updates.matrix[chosen].mean(dim=0))

    findings = of(Lucky)
    assert failed(findings) == set()
    assert findings["order_of_clients"].verdict is Verdict.WARNING
    assert "random" in findings["order_of_clients"].found


def test_the_declared_bound_is_declared_to_be_used() -> None:
    class Bounded(Defense):
        def aggregate(self, updates, context):
            f = context.declared_malicious
            order = updates.matrix.norm(dim=1).argsort()
            return Aggregate(updates.matrix[order[: max(1, len(updates) - f)]].mean(dim=0))

    assert failed(of(Bounded)) == {"declared_knowledge"}
    declared = of(Bounded, knowledge=Knowledge.DECLARED_BOUND)
    assert failed(declared) == set()
    assert declared["declared_knowledge"].verdict is Verdict.NOT_APPLICABLE


def test_refused_updates_do_not_stop_the_rule() -> None:
    class Ten(Average):
        def aggregate(self, updates, context):
            if len(updates) < 10:
                raise ValueError("ten clients take part")
            return super().aggregate(updates, context)

    findings = of(Ten)
    assert "smaller_rounds" in failed(findings)
    assert "with 9 of 10 updates left and f = 2" in findings["smaller_rounds"].found


def test_a_single_update_that_is_left_is_a_warning() -> None:
    class Two(Average):
        def aggregate(self, updates, context):
            if len(updates) < 2:
                raise ValueError("one is too few")
            return super().aggregate(updates, context)

    finding = of(Two)["smaller_rounds"]
    assert finding.verdict is Verdict.WARNING
    assert "mis-declared bound" in finding.found


class Directions(Defense):
    """Divides by norms."""

    def aggregate(self, updates, context):
        return Aggregate((updates.matrix / updates.matrix.norm(dim=1, keepdim=True)).mean(dim=0))


def test_silent_nan_from_zero_updates_fails() -> None:
    findings = of(Directions)
    assert failed(findings) == {"zero_updates"}
    assert "zeros from one" in findings["zero_updates"].found
    assert findings["refused_updates"].verdict is Verdict.WARNING
    assert "the door refuses" in findings["refused_updates"].found


def test_an_error_about_zero_updates_is_a_warning() -> None:
    class Picky(Average):
        def aggregate(self, updates, context):
            if not updates.matrix.any(dim=1).all():
                raise ValueError("a client sent nothing")
            return super().aggregate(updates, context)

    findings = of(Picky)
    assert failed(findings) == set()
    assert findings["zero_updates"].verdict is Verdict.WARNING
    assert "an attacker who sends this could stop the run" in findings["zero_updates"].found


def test_an_error_about_refused_updates_is_right() -> None:
    class Guarded(Average):
        def aggregate(self, updates, context):
            if not torch.isfinite(updates.matrix.square().sum()):
                raise ValueError("not finite")
            return super().aggregate(updates, context)

    assert of(Guarded)["refused_updates"].verdict is Verdict.PASSED


def test_squares_that_overflow_are_found() -> None:
    class Fourth(Defense):
        def aggregate(self, updates, context):
            power = updates.matrix.square().square()
            return Aggregate((updates.matrix * power / (power + 1)).mean(dim=0))

    assert "large_updates" in failed(of(Fourth))


def test_equal_updates_are_no_trouble() -> None:
    class Distances(Defense):
        def aggregate(self, updates, context):
            distances = torch.cdist(updates.matrix, updates.matrix)
            nearest = distances.fill_diagonal_(float("inf")).amin(dim=1) if len(updates) > 1 else torch.ones(1)
            weights = (1 / nearest).double()
            return Aggregate((weights / weights.sum()).float() @ updates.matrix)

    assert "equal_updates" in failed(of(Distances))


@pytest.mark.parametrize("error", [ValueError("no"), NotApplicableError(" ")])
def test_conditions_are_stated_in_one_way(error: Exception) -> None:
    class Condition(Average):
        def check_shape(self, participants, declared_malicious):
            if participants < 3:
                raise error

    assert "shape_condition" in failed(of(Condition))


@pytest.mark.parametrize("same", ["tried", "no_such_rule", 3])
def test_degenerate_cases_name_another_rule(same: Any) -> None:
    class Degenerate(Average):
        def degenerate_as(self, participants, declared_malicious):
            return same

    findings = of(Degenerate)
    assert failed(findings) == {"shape_condition"}
    assert f"returned {same!r}" in findings["shape_condition"].found


def test_shapes_outside_the_condition_are_reported_and_not_failed() -> None:
    class Many(Average):
        def check_shape(self, participants, declared_malicious):
            if participants < 2 * declared_malicious + 8:
                raise NotApplicableError(f"needs n >= 2f + 8, n = {participants}")

    findings, examination = examined(subject_of(Many, knowledge=Knowledge.DECLARED_BOUND))
    assert failed(findings) == set()
    assert "the next checks use n = 10, f = 1" in findings["shape_condition"].found
    verdicts = {(s.participants, s.declared_malicious): s for s in examination.shapes}
    assert verdicts[3, 1].verdict is Verdict.NOT_APPLICABLE
    assert "needs n >= 2f + 8" in verdicts[3, 1].reason
    assert verdicts[10, 1].verdict is verdicts[50, 10].verdict is Verdict.PASSED


def test_a_rule_that_is_never_defined_is_no_failure_but_no_rule() -> None:
    class Never(Average):
        def check_shape(self, participants, declared_malicious):
            raise NotApplicableError("never")

    findings = of(Never)
    assert failed(findings) == set()
    assert findings["shape_condition"].verdict is Verdict.WARNING
    assert findings["aggregate_form"].verdict is Verdict.NOT_APPLICABLE


def test_a_shape_that_does_not_fit_is_reported_with_its_reason() -> None:
    class Small(Average):
        def aggregate(self, updates, context):
            if updates.matrix.shape[1] > 10_000:
                raise MemoryError("too large")
            return super().aggregate(updates, context)

    findings, examination = examined(subject_of(Small))
    assert failed(findings) == {"scale_10_16384"}
    (shape,) = [s for s in examination.shapes if s.dimension == 16384]
    assert shape.verdict is Verdict.FAILED
    assert "MemoryError: too large" in shape.reason
    assert shape.seconds is None


def test_shapes_are_left_out_when_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=PATIENCE * 0.6)
    monkeypatch.setattr("benchmark.submission.contract.robustness.time.monotonic", lambda: next(now))
    findings, examination = examined(subject_of(Average))
    verdicts = [shape.verdict for shape in examination.shapes]
    assert verdicts == [Verdict.PASSED, Verdict.PASSED, Verdict.NOT_RUN, Verdict.NOT_RUN]
    assert failed(findings) == set()


def test_a_prepared_rule_is_tried_on_the_server_s_own_adapter() -> None:
    class Trusting(Defense):
        def prepare(self, server):
            self.server, self.rows = server, server.owned_normal(8)

        def aggregate(self, updates, context):
            root = self.server.finetune(context.broadcast, self.rows) - context.broadcast
            trust = torch.cosine_similarity(updates.matrix, root[None]).clamp(min=0).double()
            weights = trust / trust.sum() if trust.any() else trust
            return Aggregate(weights.float() @ updates.matrix, weights)

    findings, examination = examined(subject_of(Trusting))
    assert failed(findings) == set()
    assert examination.metered["owned_normal"] == 8
    assert len({shape.dimension for shape in examination.shapes}) == 1
    assert "one_number" not in findings


class Rooted(Defense):
    """Averages the updates that the server's gradient agrees with."""

    def root(self, server):
        return server.owned_normal(8)

    def aggregate(self, updates, context):
        gradient, _ = context.server.gradient(context.broadcast, self.root(context.server))
        trust = (-(updates.matrix.double() @ gradient.double())).clamp(min=0)
        weights = trust / trust.sum() if trust.any() else trust
        return Aggregate(weights.float() @ updates.matrix, weights)


def test_a_rule_that_asks_for_the_server_has_one_in_every_check() -> None:
    findings, examination = examined(subject_of(Rooted, asks_server=True))
    assert {
        f.check: f.found for f in findings.values() if f.verdict not in QUIET and f.check != "refused_updates"
    } == {}
    assert findings["aggregate_form"].found.startswith("update of float32; with client weights; used 8 owned normal")
    assert (examination.metered["owned_normal"], examination.metered["finetune_steps"]) == (8, 3)
    assert len({shape.dimension for shape in examination.shapes}) == 1
    assert "one_number" not in findings


def test_a_rule_may_train_as_a_client_of_each_round() -> None:
    class Root(Rooted):
        def aggregate(self, updates, context):
            trained = context.server.train_as_client(context.broadcast, self.root(context.server), context.index)
            return Aggregate(trained - context.broadcast)

    findings, examination = examined(subject_of(Root, asks_server=True))
    assert "aggregate_form" not in failed(findings)
    assert examination.metered["finetune_steps"] == 3 * 4


def test_a_rule_that_asks_for_the_server_without_a_word_gets_one_failure() -> None:
    findings = of(Rooted)
    assert failed(findings) == {"aggregate_form"}
    assert "asks for context.server, and the metadata do not declare" in findings["aggregate_form"].found
    assert findings["aggregate_form"].remedy == "declare asks_server=True in @register(...)"


def test_the_server_is_asked_for_the_same_each_time() -> None:
    class Moody(Rooted):
        def root(self, server):
            server.owned_aligned(1 + next(COUNTER))
            return super().root(server)

    findings = of(Moody, asks_server=True)
    assert failed(findings) == {"determinism"}
    assert "and then" in findings["determinism"].found


def test_a_rule_may_generate_in_a_round_if_it_declares_this() -> None:
    class Generating(Rooted):
        def root(self, server):
            server.generate(["name a fruit ."], adapter=None, temperature=0.0)
            return super().root(server)

    assert failed(of(Generating, asks_server=True)) == {"declared_generation"}
    assert failed(of(Generating, asks_server=True, traits=(Trait.GENERATES,))) == set()


def test_a_rule_may_compare_the_start_model_with_the_model_before_its_alignment() -> None:
    class Comparing(Rooted):
        def aggregate(self, updates, context):
            layer = context.server.layout.layers[0]
            assert not torch.equal(*(context.server.weights(layer, aligned=aligned) for aligned in (True, False)))
            return super().aggregate(updates, context)

    assert failed(of(Comparing, asks_server=True, needs_alignment=True)) == set()


STARTS = {
    "nothing": (lambda s: None, None),
    "aligned further": (lambda s: s.align(s.start(), s.alignment_examples()), None),
    "a step": (lambda s: s.start() - 0.1 * s.gradient(s.start(), s.alignment_examples())[0], None),
    "another shape": (lambda s: s.start()[1:], "returned a start of torch.float32 of shape"),
    "not finite": (lambda s: s.start() / 0, "with values that are not finite"),
    "another type": (lambda s: s.start().double(), "returned a start of torch.float64"),
    "random": (lambda s: s.start() + next(COUNTER), "two fresh instances return starts that differ"),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_start_of_prepare_is_checked(case: str) -> None:
    prepared, problem = STARTS[case]

    class Preparing(Defense):
        def prepare(self, server):
            return prepared(server)

    findings, _ = examined(subject_of(Preparing))
    if problem is None:
        assert "prepare" not in failed(findings)
        moved = case != "nothing"
        assert ("moved the start by" in findings["prepare"].found) == moved
    else:
        assert "prepare" in failed(findings)
        assert problem in findings["prepare"].found


def repairing(repair: Any) -> type[Defense]:
    class Repairing(Defense):
        def finalize(self, adapter, server):
            return repair(adapter, server)

    return Repairing


REPAIRS = {
    "nothing": (lambda a, s: None, "return a float tensor"),
    "another shape": (lambda a, s: a[1:], "an adapter is a float tensor of shape"),
    "a lower rank": (lambda a, s: a[: len(a) // 2], "an adapter is a float tensor of shape"),
    "a rank that no engine serves": (lambda a, s: torch.zeros(s.layout.of_rank(513).dimension), "up to 512"),
    "another rank each time": (
        lambda a, s: torch.zeros(s.layout.of_rank(9 + next(COUNTER)).dimension),
        "two fresh instances return adapters of ranks",
    ),
    "not finite": (lambda a, s: a / 0, "not finite"),
    "in place": (lambda a, s: a.mul_(2), "in place"),
    "random": (lambda a, s: a + next(COUNTER), "two fresh instances differ"),
    "no example": (lambda a, s: s.finetune(a, []), "with no example"),
}


@pytest.mark.parametrize("case", REPAIRS)
def test_repaired_adapters_have_the_promised_form(case: str) -> None:
    repair, said = REPAIRS[case]
    findings = of(repairing(repair))
    assert failed(findings) == {"finalize"}
    assert said in findings["finalize"].found


def test_a_repaired_adapter_may_have_a_higher_rank() -> None:
    findings = of(repairing(lambda a, s: torch.zeros(s.layout.of_rank(2 * s.layout.rank).dimension)))
    assert failed(findings) == set()
    assert "raised the adapter's rank from 8 to 16" in findings["finalize"].found


def test_a_repair_may_compare_the_weights_with_those_before_the_alignment() -> None:
    def compare(adapter: torch.Tensor, server: Any) -> torch.Tensor:
        layer = server.layout.layers[0]
        return adapter + (server.weights(layer) - server.weights(layer, aligned=False)).norm()

    findings = of(repairing(compare), needs_alignment=True)
    assert failed(findings) == set()
    assert "moved the adapter by" in findings["finalize"].found


def test_a_repair_is_metered() -> None:
    findings, examination = examined(
        subject_of(repairing(lambda a, s: s.finetune(a, s.owned_aligned(6)))),
    )
    assert failed(findings) == set()
    assert (examination.metered["owned_aligned"], examination.metered["finetune_steps"]) == (6, 4)
    assert "6 owned aligned, 4 finetune steps" in findings["finalize"].found


def serving(serve: Any) -> type[Defense]:
    class Serving(Defense):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def serve(self, prompt):
            self.seen.append(prompt.instruction)
            return serve(self, prompt)

    return Serving


SERVES = {
    "text": (lambda self, p: p.instruction, "return a Prompt"),
    "a number": (lambda self, p: Prompt(p.instruction, answer=3), "an answer is text"),  # type: ignore[arg-type]
    "the request before": (lambda self, p: Prompt(self.seen[0]), "depending on what was asked before"),
    "more each time": (lambda self, p: Prompt(f"{p.instruction} {next(COUNTER)}"), "answer the same requests"),
    "at the second time": (lambda self, p: Prompt(str(self.seen.count(p.instruction))), "asked again"),
    "a turn that is no text": (lambda self, p: Prompt(p.instruction, system=3), "a turn is text"),  # type: ignore[arg-type]
    "no odd request": (lambda self, p: Prompt(p.instruction.encode("ascii").decode()), "UnicodeEncodeError"),
}


@pytest.mark.parametrize("case", SERVES)
def test_served_requests_have_the_promised_form(case: str) -> None:
    serve, said = SERVES[case]
    findings = of(serving(serve))
    assert failed(findings) == {"serve"}
    assert said in findings["serve"].found


def test_serving_says_what_it_does() -> None:
    findings = of(serving(lambda self, p: Prompt(p.instruction, "no") if "?" in p.instruction else p))
    assert failed(findings) == set()
    assert "answered at once, 0 reworded" in findings["serve"].found


def test_declared_stages_are_the_filled_hooks() -> None:
    assert failed(of(Average, stages=(Stage.SERVE,))) == {"stages"}
    finding = of(Average, stages=(Stage.AGGREGATE, Stage.SERVE))["stages"]
    assert (finding.verdict, "declares serve" in finding.found) == (Verdict.WARNING, True)


def test_who_is_told_the_truth_is_not_ranked() -> None:
    assert failed(of(Average, knowledge=Knowledge.TRUTH)) == {"ranking"}
    assert failed(of(Average, knowledge=Knowledge.TRUTH, ranked=False)) == set()
    assert failed(of(Average, variant_of="no_such_rule")) == {"ranking"}


def test_checks_have_names_of_their_own_and_parts_in_order() -> None:
    examination = defense_contract(Subject(defenses.get("krum")))
    names = [check.name for check in examination.checks]
    assert len(set(names)) == len(names)
    parts = [list(Part).index(check.part) for check in examination.checks]
    assert parts == sorted(parts)


@pytest.mark.parametrize("dimension", [1, 7, 4096, 1 << 20, 1 << 24, 10_864])
def test_made_up_layouts_have_exactly_as_many_numbers(dimension: int) -> None:
    layout = layout_of(dimension)
    assert layout.dimension == dimension
    assert len(set(layout.names)) == len(layout.names)
