"""What of this library, of other methods and of its own code a submission's process may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import SubmissionError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import MethodSource, find_method
from benchmark.sandbox.visible import is_free, visible_files

ROOT = Path(__file__).resolve().parents[3]


def inside(submission: MethodSource) -> set[str]:
    return {path.removeprefix("/fedsafety/") for path in visible_files(submission)}


def test_a_defense_sees_the_methods_side_of_the_library_only() -> None:
    seen = inside(find_method("krum"))
    defenses = {f"defenses/{path.name}" for path in (ROOT / "defenses").glob("*.py")}
    sandbox = {path for path in seen if path.startswith("benchmark/sandbox/")}
    assert seen - sandbox == defenses | {
        "attacks/__init__.py",
        "attacks/base.py",
        "benchmark/__init__.py",
        "benchmark/automation.py",
        "benchmark/errors.py",
        "benchmark/moved.py",
        "benchmark/registry.py",
        "benchmark/server.py",
        "benchmark/updates.py",
        "tasks/__init__.py",
        "tasks/base.py",
        "tasks/refusals.py",
    }
    assert {f"benchmark/sandbox/{name}.py" for name in ("__init__", "child", "channel", "seccomp")} <= sandbox
    outer = {"isolation", "layout", "process", "session", "watch", "defense", "attack"}
    assert sandbox.isdisjoint(f"benchmark/sandbox/{name}.py" for name in outer)


def test_an_attack_sees_other_attacks_and_no_defense() -> None:
    seen = inside(find_method("boosted_data"))
    assert {path for path in seen if path.startswith("defenses/")} == {"defenses/__init__.py", "defenses/base.py"}
    assert {f"attacks/{path.name}" for path in (ROOT / "attacks").glob("*.py")} <= seen


def test_a_file_anywhere_lies_where_its_module_says(tmp_path: Path) -> None:
    file = tmp_path / "anything.py"
    file.write_text("")
    found = visible_files(MethodSource(DEFENSE, "mine", "defenses.mine", (("defenses.mine", file),), "file mine.py"))
    assert found["/submission/defenses/mine.py"] == file
    assert "/fedsafety/defenses/mine.py" not in found


def test_a_package_lies_under_its_own_name(tmp_path: Path) -> None:
    package = tmp_path / "__init__.py"
    rule = tmp_path / "rule.py"
    for file in (package, rule):
        file.write_text("")
    files = (("their_package", package), ("their_package.rule", rule))
    found = visible_files(MethodSource(DEFENSE, "rule", "their_package.rule", files, "their-package"))
    assert found["/submission/their_package/__init__.py"] == package
    assert found["/submission/their_package/rule.py"] == rule
    assert not [path for path in found if path.startswith("/fedsafety/their_package")]


def test_a_built_in_method_is_a_part_of_the_library() -> None:
    assert not [path for path in visible_files(find_method("krum")) if not path.startswith("/fedsafety/")]


def shared_package(folder: Path, monkeypatch: pytest.MonkeyPatch, *, hidden: bool) -> Path:
    """Install a package without a file of its own, as distributions share one."""
    part = folder / "shared_by_many" / "part"
    part.mkdir(parents=True)
    (part / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("benchmark.sandbox.visible.is_hidden", lambda path: hidden)
    return part / "__init__.py"


def test_a_package_that_distributions_share_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = shared_package(tmp_path / "site", monkeypatch, hidden=False)
    own = tmp_path / "own.py"
    own.write_text("")
    assert not is_free("shared_by_many.rule", {"shared_by_many.rule": own})
    assert is_free("shared_by_many.part", {"shared_by_many.part": installed})


def test_a_shared_package_that_cannot_be_seen_inside_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_package(tmp_path / "site", monkeypatch, hidden=True)
    assert is_free("shared_by_many.rule", {"shared_by_many.rule": tmp_path / "own.py"})


@pytest.mark.parametrize(
    "module",
    [
        "__main__",
        "attacks",
        "benchmark.judges.base",
        "benchmark.sandbox.seccomp",
        "benchmark.updates",
        "ctypes",
        "defenses.krum",
        "json.decoder",
        "leaderboard.rows.rows",
        "no/name",
        "numpy",
        "sitecustomize",
        "sitecustomize.rule",
        "tasks.micro",
        "tasks.refusals",
        "torch",
        "torch.fft",
        "usercustomize",
    ],
)
def test_nobody_replaces_a_module_of_the_library_of_python_or_of_a_package(module: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("")
    with pytest.raises(SubmissionError, match=f"brings a module '{module}', but Python, this library or"):
        visible_files(MethodSource(DEFENSE, "own", module, ((module, file),), "file own.py"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    files = (("defenses.gone", tmp_path / "gone.py"),)
    with pytest.raises(SubmissionError, match=r"lacks the file gone\.py"):
        visible_files(MethodSource(DEFENSE, "gone", "defenses.gone", files, "file gone.py"))
