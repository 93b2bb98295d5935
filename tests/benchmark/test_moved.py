"""Messages for imports of modules that moved or never existed, in plug-ins and in submitted files."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from benchmark.errors import SubmissionError, UsageError
from benchmark.methods.source import find_method
from benchmark.moved import MOVED, import_problem
from benchmark.registry import Registry
from benchmark.sandbox.adopt import adopt
from benchmark.sandbox.defense import sandboxed_defense
from defenses.base import Defense, DefenseInfo, defenses
from tests.benchmark.submission.conftest import registries_as_they_were

__all__ = ["registries_as_they_were"]

RULE = '''"""A rule."""

{line}
from defenses.base import Defense, Knowledge, Stage, register


@register(title="Rule", description="Averages the updates as FedAvg does.", stages=(Stage.AGGREGATE,),
          knowledge=Knowledge.NONE)
class Rule(Defense):
    """Averages."""
'''
MOVED_LORA = "benchmark.lora, which is benchmark.models.lora since protocol 2.0"


def problem_of(line: str) -> str:
    with pytest.raises(ImportError) as caught:
        exec(line, {})
    return import_problem(caught.value)


def test_every_new_name_is_a_module() -> None:
    assert [new for new in MOVED.values() if importlib.util.find_spec(new) is None] == []


@pytest.mark.parametrize(
    "line", ["import benchmark.lora", "from benchmark.lora import LoraSettings", "from benchmark import lora"]
)
def test_an_old_name_gives_the_new_name(line: str) -> None:
    assert problem_of(line) == f"imports {MOVED_LORA}; change the import"


def test_a_module_that_became_a_package_gives_the_new_name() -> None:
    problem = problem_of("from benchmark.cli import app")
    assert problem == "imports benchmark.cli, which is benchmark.cli.main since protocol 2.0; change the import"


def test_a_module_that_never_was_gives_the_nearest_name() -> None:
    problem = problem_of("import benchmark.updatse")
    assert problem.endswith("unknown module 'benchmark.updatse'; did you mean 'benchmark.updates'?")


@pytest.mark.parametrize("line", ["import no_such_package", "from benchmark.updates import no_such_name"])
def test_other_failures_have_no_such_message(line: str) -> None:
    assert problem_of(line) == ""


def test_the_names_that_methods_are_written_against_stay() -> None:
    for name in ("benchmark.updates", "benchmark.errors", "benchmark.registry", "attacks.base", "defenses.base"):
        assert name not in MOVED
        importlib.import_module(name)
    assert "tasks.base" not in MOVED


def test_a_plug_in_that_imports_an_old_name_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "moved_plug_in"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rule.py").write_text(RULE.format(line="from benchmark.lora import LoraSettings"))
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[DefenseInfo, Defense] = Registry("defense", DefenseInfo, "moved_plug_in")
    with pytest.raises(UsageError) as caught:
        registry.get("rule")
    assert str(caught.value) == f"defense 'rule' of 'built-in' imports {MOVED_LORA}; change the import"


def test_a_submitted_file_that_imports_an_old_name_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "moved_rule.py"
    file.write_text(RULE.format(line="from benchmark.lora import LoraSettings"))
    adopt([find_method(str(file))], isolated=False)
    with pytest.raises(UsageError) as caught:
        defenses.get("moved_rule")
    assert str(caught.value) == (
        f"defense 'moved_rule' of 'file moved_rule.py' imports {MOVED_LORA}; change the import"
    )


def test_in_the_sandbox_the_sentence_is_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "moved_isolated.py"
    file.write_text(RULE.format(line="from benchmark import lora"))
    with pytest.raises(SubmissionError) as caught:
        sandboxed_defense(find_method(str(file)))
    assert f"imports {MOVED_LORA} and cannot be imported in the sandbox" in str(caught.value)
