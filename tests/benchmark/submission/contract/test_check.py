"""The whole check: reports for people and for machines, in a sandbox or not, passed, failed or stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from benchmark.cli.check import _scored
from benchmark.errors import FedSafetyError, SandboxUnavailableError, UsageError
from benchmark.methods.kinds import BASELINE
from benchmark.methods.source import find_method
from benchmark.progress import Reporter
from benchmark.sandbox.isolation import find_isolation
from benchmark.submission.contract import check as check_module
from benchmark.submission.contract.check import NO_ISOLATION, Options, check_contract, check_submission
from benchmark.submission.contract.printing import print_report
from benchmark.submission.contract.report import CheckReport, Part, Verdict, read_report
from benchmark.submission.contract.smoke import SCENARIO, SMOKE_SEED
from benchmark.submission.scaffold import WITH_SERVER, new_attack, new_defense
from benchmark.suites.suite import Suite, find_suite, suites
from defenses.base import defenses

from ....console import console

SMALL = ((3, 1, 4096), (10, 3, 4096))
RULE = '''"""A rule."""

import torch

from benchmark.updates import Aggregate
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Rule",
    description="Averages the updates, each with the same weight.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Rule(Defense):
    def aggregate(self, updates, context):
        BODY
        return Aggregate(updates.matrix.mean(dim=0))
'''


def small_suite() -> Suite:
    """The micro suite, trained for a moment: everything runs, nothing is learned."""
    micro = find_suite("micro")
    training = micro.training.model_copy(update={"rounds": 2, "local_steps": 2, "batch_size": 4, "rows_per_client": 40})
    return micro.model_copy(update={"training": training})


@pytest.fixture
def options() -> Options:
    """Not isolated, small."""
    return Options(sandbox=False, workers=1, scales={"defense": SMALL, "attack": ((3, 4096),)}, suite=small_suite())


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(Console(file=StringIO()))


@pytest.fixture
def rule(tmp_path: Path) -> Callable[..., Path]:
    """Write a rule of its own; ``body`` runs before it averages."""

    def write(name: str, body: str = "pass", text: str = RULE) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace("BODY", body))
        return path

    return write


def text_of(report: CheckReport) -> str:
    console = Console(file=StringIO(), width=200)
    print_report(report, console)
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()


def found(report: CheckReport, check: str) -> tuple[Verdict, str]:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding.verdict, finding.found


def test_a_whole_check_of_a_new_defense(
    tmp_path: Path, options: Options, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_temp_dir()  # multiprocessing keeps one folder until this process ends; it is none of the check's
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    submission = find_method(str(new_defense("fresh_average", tmp_path).method))
    report = check_submission(submission, _scored, reporter, options)
    assert report.passed
    assert {finding.part for finding in report.findings} == set(Part)
    assert (report.kind, report.id, report.title) == ("defense", "fresh_average", "Fresh average")
    assert report.source_digest == submission.digest == defenses.get("fresh_average").source_digest
    assert report.isolation.name == "none"
    assert NO_ISOLATION in report.warnings[0]
    scores = {(s.scenario, s.defense): s for s in report.smoke}
    assert scores.keys() == {(s, d) for s in (SCENARIO, "clean") for d in (BASELINE, "fresh_average")}
    # It is FedAvg, so it scores as FedAvg does.
    for scenario in (SCENARIO, "clean"):
        mine, base = scores[scenario, "fresh_average"], scores[scenario, BASELINE]
        assert (mine.own, base.own, mine.status) == (True, False, "done")
        assert mine.safety is not None
        assert (mine.safety, mine.utility, mine.over_refusal) == (base.safety, base.utility, base.over_refusal)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_whole_check_of_a_new_attack(tmp_path: Path, options: Options, reporter: Reporter) -> None:
    submission = find_method(str(new_attack("fresh_attack", tmp_path).method))
    report = check_submission(submission, _scored, reporter, options)
    assert report.passed
    scores = {(s.scenario, s.attack): s for s in report.smoke}
    assert scores.keys() == {
        (SCENARIO, "unaligned_data"),
        (f"{SCENARIO}_fresh_attack", "fresh_attack"),
        ("clean", "none"),
    }
    assert [key for key, score in scores.items() if score.own] == [(f"{SCENARIO}_fresh_attack", "fresh_attack")]
    assert scores[SCENARIO, "unaligned_data"].safety == scores[f"{SCENARIO}_fresh_attack", "fresh_attack"].safety
    assert "under unaligned_data" in found(report, "effect")[1]
    assert [shape.participants for shape in report.shapes] == [3]


def test_people_are_told_what_was_checked_found_and_how_to_mend_it(
    rule: Callable[..., Path], options: Options, reporter: Reporter
) -> None:
    path = rule("writes_on_inputs", "updates.matrix.clamp_(-1e-4, 1e-4)")
    report = check_submission(find_method(str(path)), _scored, reporter, options)
    text = text_of(report)
    assert not report.passed
    assert "warning: the method's code ran in this process, with all rights" in text
    assert "its code ran without isolation" in text
    assert "FAILED   aggregate() leaves updates, sample counts and the broadcast adapter as they were" in text
    assert "changed in place: updates.matrix" in text
    assert "To mend: work on copies" in text
    assert "Time and memory" in text
    assert "left out: what was found above comes first" in text
    assert "writes_on_inputs: FAILED after" in text
    assert report.smoke == ()


@pytest.mark.slow
def test_one_seed_is_called_no_score(options: Options, reporter: Reporter) -> None:
    report = check_submission(find_method("refuse_all"), _scored, reporter, options)
    verdict, text = found(report, "effect")
    assert verdict is Verdict.WARNING
    assert "it refuses 100.0% of benign look-alikes" in text or "its utility of 0.0% is below 95%" in text
    assert "One development seed is no score" in text_of(report)


def test_the_smoke_seed_is_no_scored_seed() -> None:
    for suite in suites.entries():
        sensitive = suite.sensitivity.seeds if suite.sensitivity else ()
        axes = [seed for axis in suite.sensitivity.axes for seed in axis.seeds] if suite.sensitivity else []
        assert SMOKE_SEED not in {*suite.seeds, *suite.quick.seeds, *sensitive, *axes}
    assert SMOKE_SEED < 10


@pytest.mark.slow
def test_a_scenario_outside_the_condition_is_a_warning(
    rule: Callable[..., Path], options: Options, reporter: Reporter
) -> None:
    text = RULE.replace("class Rule(Defense):", "class Rule(Defense):\n    def check_shape(self, participants, "
                        "declared_malicious):\n        if declared_malicious > 2:\n            raise "
                        "NotApplicableError('f is at most 2')\n").replace(
        "import torch", "import torch\n\nfrom benchmark.errors import NotApplicableError"
    )  # fmt: skip
    report = check_submission(find_method(str(rule("at_most_two", text=text))), _scored, reporter, options)
    assert report.passed
    assert found(report, "smoke_run") == (Verdict.WARNING, f"not applicable in {SCENARIO}: f is at most 2")


def test_the_report_of_machines_says_the_same(
    tmp_path: Path, rule: Callable[..., Path], options: Options, reporter: Reporter
) -> None:
    report = check_submission(find_method(str(rule("plain_mean"))), None, reporter, options)
    path = tmp_path / "deep" / "report.json"
    report.write(path)
    assert read_report(path) == report
    content = json.loads(path.read_text())
    assert content["report_version"] == 1
    assert content["passed"] is True
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    content["passed"] = False
    with pytest.raises(ValidationError, match="passed is False, but the findings say True"):
        CheckReport.model_validate(content)
    path.write_text(json.dumps({**content, "passed": True, "extra": 1}))
    with pytest.raises(UsageError, match="is no report of"):
        read_report(path)
    with pytest.raises(UsageError, match="make one with"):
        read_report(tmp_path / "none.json")


def test_a_report_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, rule: Callable[..., Path], options: Options, reporter: Reporter
) -> None:
    report = check_submission(find_method(str(rule("another_mean"))), None, reporter, options)
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(FedSafetyError, match="cannot write the report"):
        report.write(tmp_path / "taken.json")
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("no_title", RULE.replace('title="Rule",', ""), "title: Field required"),
        ("no_register", RULE.split("@register", maxsplit=1)[0], "registers no defense"),
        ("no_import", RULE.replace("import torch", "import no_such_module"), "No module named 'no_such_module'"),
        ("exits", RULE.replace("import torch", "raise SystemExit(0)"), "SystemExit"),
    ],
)
def test_what_cannot_be_loaded_gets_a_report(
    rule: Callable[..., Path], options: Options, reporter: Reporter, name: str, text: str, said: str
) -> None:
    report = check_submission(find_method(str(rule(name, text=text))), _scored, reporter, options)
    assert not report.passed
    verdict, words = found(report, "loads")
    assert verdict is Verdict.FAILED
    assert said in words
    assert [f.verdict for f in report.findings[1:]] == [Verdict.NOT_RUN] * 3
    assert f"{name}: FAILED" in text_of(report)


def test_without_isolation_a_check_is_refused(
    rule: Callable[..., Path], options: Options, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> None:
        raise SandboxUnavailableError("this platform offers no isolation")

    monkeypatch.setattr(check_module, "find_isolation", none)
    submission = find_method(str(rule("never_run")))
    with pytest.raises(SandboxUnavailableError):
        check_submission(submission, None, reporter, replace(options, sandbox=True))
    assert check_submission(submission, None, reporter, options).passed


# In the sandbox.


@pytest.fixture
def isolated(options: Options) -> Options:
    """As the options, but isolated."""
    return replace(options, sandbox=True)


@pytest.mark.sandbox
@pytest.mark.slow
def test_a_verifier_s_check_in_the_sandbox_finds_the_same(
    rule: Callable[..., Path], options: Options, reporter: Reporter
) -> None:
    submission = find_method(str(rule("both_ways")))
    inside = check_contract(submission, scales={"defense": SMALL})
    outside = check_submission(submission, None, reporter, options)
    assert inside.passed
    assert inside.isolation.name == find_isolation().name
    assert inside.warnings == ()

    def what(report: CheckReport) -> list[tuple[str, Verdict]]:
        return [(finding.check, finding.verdict) for finding in report.findings]

    assert what(inside) == what(outside)
    assert Part.SMOKE not in {finding.part for finding in inside.findings}
    assert "isolated by" in text_of(inside)
    assert all(shape.peak_memory_bytes for shape in inside.shapes)


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("name", "body", "check", "said"),
    [
        pytest.param(
            "writes",
            "updates.matrix.mul_(2); updates.sample_counts.zero_()",
            "inputs_unchanged",
            "changed in place: updates.matrix, updates.sample_counts",
            marks=pytest.mark.slow,
        ),
        ("raises", "raise KeyError('missing')", "aggregate_form", "raised KeyError: 'missing'"),
        ("leaves", "import os; os._exit(7)", "aggregate_form", "exited with status 7"),
    ],
)
@pytest.mark.slow
def test_the_sandbox_hides_no_fault(
    rule: Callable[..., Path], isolated: Options, reporter: Reporter, name: str, body: str, check: str, said: str
) -> None:
    report = check_submission(find_method(str(rule(name, body))), None, reporter, isolated)
    assert [f.check for f in report.findings if f.verdict is Verdict.FAILED] == [check]
    assert said in found(report, check)[1]


# From the command line.


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "benchmark.cli.main", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return console(*arguments, cwd=folder, env=environment)


@pytest.mark.sandbox
def test_the_command_line_fails_with_a_report(tmp_path: Path, rule: Callable[..., Path]) -> None:
    rule("no_title", text=RULE.replace('title="Rule",', ""))
    result = run(tmp_path, "check", "no_title", "--json", "report.json")
    assert result.returncode == 1, result.stderr
    assert "title: Field required" in result.stdout
    report = read_report(tmp_path / "report.json")
    assert not report.passed
    assert report.isolation.name != "none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_rule"], "unknown defense or attack 'no_such_rule'"),
        pytest.param(["no_such_file.py"], "there is no file 'no_such_file.py'", marks=pytest.mark.slow),
        pytest.param(["krum", "--isolation", "bubblewarp"], "did you mean 'bubblewrap'", marks=pytest.mark.slow),
    ],
)
def test_wrong_usage_exits_with_two(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = run(tmp_path, "check", *arguments, "--json", "report.json")
    assert result.returncode == 2
    assert said in result.stderr
    assert not (tmp_path / "report.json").exists()


@pytest.mark.sandbox
@pytest.mark.slow
def test_a_new_rule_that_asks_the_server_keeps_the_contract_in_the_sandbox(tmp_path: Path) -> None:
    submission = find_method(str(new_defense("fresh_root", tmp_path, (WITH_SERVER,)).method))
    report = check_contract(submission)
    assert report.passed, text_of(report)
    assert report.isolation.name != "none"
    verdict, words = found(report, "aggregate_form")
    assert verdict is Verdict.PASSED
    assert "used 32 owned normal, 3 finetune steps" in words
    assert report.metered["owned_normal"] == 32


def test_new_says_what_comes_next(tmp_path: Path) -> None:
    made = run(tmp_path, "new", "mine", "--folder", "methods", "--stage", "serve", "--stage", "aggregate")
    assert made.returncode == 0, made.stderr
    assert "wrote methods/mine.py and methods/test_mine.py; next:" in made.stdout
    assert "fedsafety check methods/mine.py" in made.stdout
    assert "stages=(Stage.AGGREGATE, Stage.SERVE)" in (tmp_path / "methods" / "mine.py").read_text()
    again = run(tmp_path, "new", "mine", "--folder", "methods")
    assert again.returncode == 2
    assert "exists and is not overwritten" in again.stderr
    asking = run(tmp_path, "new", "asking", "--hook", "aggregate-with-server")
    assert asking.returncode == 0, asking.stderr
    assert "asks_server=True" in (tmp_path / "asking.py").read_text()
    attack = run(tmp_path, "new-attack", "harm")
    assert attack.returncode == 0, attack.stderr
    assert "fedsafety run --attack harm --base aligned_start --suite micro" in attack.stdout


@pytest.mark.sandbox
@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, rule: Callable[..., Path]) -> None:
    rule("slow", "import time; time.sleep(5)")
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    line = command(tmp_path, "check", "slow", "--json", "report.json")
    process = subprocess.Popen(
        line,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have told its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "checks:" in process.stdout.readline()
    deadline = time.monotonic() + 60
    while not (started := descendants(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started, "no sandbox was started"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped; nothing is left behind" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slow.py", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []
    deadline = time.monotonic() + 30
    while any(map(runs, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in started if runs(pid)] == []


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent to ask how."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and what those have started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            parents[int(status.parent.name)] = int(fields["PPid"])
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, above in parents.items() if above == parent]
        found += children
        waiting += children
    return found


@pytest.mark.sandbox
@pytest.mark.slow
def test_a_new_defense_passes_on_the_command_line(tmp_path: Path) -> None:
    assert run(tmp_path, "new", "my_defense").returncode == 0
    result = run(tmp_path, "check", "my_defense", "--json", "report.json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = read_report(tmp_path / "report.json")
    assert {shape.dimension for shape in report.shapes} == {1 << 20, 1 << 24}
    assert {score.status for score in report.smoke} == {"done"}
    assert "my_defense: passed after" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "my_defense.py", "report.json", "test_my_defense.py", "tmp",
    ]  # fmt: skip
    assert list((tmp_path / "tmp").iterdir()) == []
