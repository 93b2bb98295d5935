"""What of this library, of other methods and of its own code a submission's process may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import SubmissionError
from benchmark.sandbox.visible import visible_files
from benchmark.submission.source import Submission, find_submission

ROOT = Path(__file__).resolve().parents[3]


def inside(submission: Submission) -> set[str]:
    return {path.removeprefix("/fedsafety/") for path in visible_files(submission)}


def test_a_defense_sees_the_methods_side_of_the_library_only() -> None:
    seen = inside(find_submission("krum"))
    defenses = {f"defenses/{path.name}" for path in (ROOT / "defenses").glob("*.py")}
    sandbox = {path for path in seen if path.startswith("benchmark/sandbox/")}
    assert seen - sandbox == defenses | {
        "attacks/__init__.py",
        "attacks/base.py",
        "benchmark/__init__.py",
        "benchmark/automation.py",
        "benchmark/errors.py",
        "benchmark/registry.py",
        "benchmark/updates.py",
        "tasks/__init__.py",
        "tasks/base.py",
        "tasks/refusals.py",
    }
    assert {f"benchmark/sandbox/{name}.py" for name in ("__init__", "child", "channel", "seccomp")} <= sandbox
    outer = {"isolation", "layout", "process", "session", "watch", "defense", "attack"}
    assert sandbox.isdisjoint(f"benchmark/sandbox/{name}.py" for name in outer)


def test_an_attack_sees_other_attacks_and_no_defense() -> None:
    seen = inside(find_submission("boosted_data"))
    assert {path for path in seen if path.startswith("defenses/")} == {"defenses/__init__.py", "defenses/base.py"}
    assert {f"attacks/{path.name}" for path in (ROOT / "attacks").glob("*.py")} <= seen


def test_a_file_anywhere_lies_where_its_module_says(tmp_path: Path) -> None:
    file = tmp_path / "anything.py"
    file.write_text("")
    found = visible_files(Submission("defense", "mine", "defenses.mine", (("defenses.mine", file),), "file mine.py"))
    assert found["/fedsafety/defenses/mine.py"] == file


def test_a_package_lies_under_its_own_name(tmp_path: Path) -> None:
    package = tmp_path / "__init__.py"
    rule = tmp_path / "rule.py"
    for file in (package, rule):
        file.write_text("")
    files = (("their_package", package), ("their_package.rule", rule))
    found = visible_files(Submission("defense", "rule", "their_package.rule", files, "their-package"))
    assert found["/fedsafety/their_package/__init__.py"] == package
    assert found["/fedsafety/their_package/rule.py"] == rule


@pytest.mark.parametrize(
    "module",
    [
        "attacks",
        "benchmark.judges.base",
        "benchmark.sandbox.seccomp",
        "benchmark.updates",
        "ctypes",
        "defenses.krum",
        "json.decoder",
        "leaderboard.rows",
        "numpy",
        "tasks.micro",
        "tasks.refusals",
        "torch",
        "torch.fft",
    ],
)
def test_nobody_replaces_a_module_of_the_library_of_python_or_of_a_package(module: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("")
    with pytest.raises(SubmissionError, match=f"brings a module '{module}', which is not its own to bring"):
        visible_files(Submission("defense", "own", module, ((module, file),), "file own.py"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    files = (("defenses.gone", tmp_path / "gone.py"),)
    with pytest.raises(SubmissionError, match=r"lacks the file gone\.py"):
        visible_files(Submission("defense", "gone", "defenses.gone", files, "file gone.py"))
