"""No line of a method runs before its process is bounded and filtered, whatever its package is called."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import SubmissionError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import MethodSource
from benchmark.sandbox.defense import sandboxed_defense
from benchmark.sandbox.isolation import Isolation, start
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.proxy import created
from benchmark.sandbox.visible import visible_files

from .conftest import isolation_called
from .play import TIGHT, one_round

pytestmark = pytest.mark.exhaustive

PACKAGES = Path(__file__).with_name("packages")
NAMES = ("opt_einsum", "sitecustomize", "usercustomize")


@pytest.fixture(params=["bubblewrap", "namespaces"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Each way of isolating processes in turn."""
    return isolation_called(request.param)


def packaged(name: str, folder: str = "") -> MethodSource:
    """Return a hostile package as a bundle brings it."""
    place = PACKAGES / (folder or name)
    files = ((name, place / "__init__.py"), (f"{name}.meth", place / "meth.py"))
    return MethodSource(DEFENSE, "meth", f"{name}.meth", files, "bundle meth")


def outcome(submission: MethodSource, isolation: Isolation) -> str:
    """Return why the method fails."""
    updates, context = one_round()
    with (
        pytest.raises(SubmissionError) as caught,
        created(sandboxed_defense(submission, TIGHT, isolation)) as defense,
    ):
        defense.aggregate(updates, context)
    return str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("opt_einsum") is not None, reason="the real opt_einsum is installed here")
def test_an_optional_import_of_a_library_is_not_the_methods_before_the_filter(isolation: Isolation) -> None:
    assert "possible at first: []" in outcome(packaged("opt_einsum"), isolation)


@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_a_name_that_the_interpreter_imports_by_itself_is_refused(name: str, isolation: Isolation) -> None:
    assert f"brings a module '{name}'" in outcome(packaged(name, "sitecustomize"), isolation)


def test_it_would_not_be_found_at_the_start_were_it_not_refused(
    isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.sandbox.visible.is_free", lambda module, own: True)
    said = outcome(packaged("sitecustomize"), isolation)
    # Where the interpreter has one of its own, that one stays.
    assert "no limit at first: False" in said or "cannot import name 'FILE_LIMIT'" in said or "No module named" in said


def test_nothing_of_a_submission_is_found_before_the_child_looks_for_it(
    isolation: Isolation, tmp_path: Path, look_for: Callable[[tuple[str, ...]], str]
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("")
    inside = tmp_path / "inside.py"
    inside.write_text(look_for(NAMES))
    files = tuple((name, tmp_path / f"{name}.py") for name in NAMES if name == "opt_einsum")
    brought = visible_files(MethodSource(DEFENSE, "opt_einsum", "opt_einsum", files, "bundle x"))
    place = next(target for target, source in brought.items() if source == files[0][1]).rpartition("/")[0]
    visible = {**brought, "/fedsafety/inside.py": inside}
    visible |= {f"{place}/{name}.py": tmp_path / f"{name}.py" for name in NAMES}
    with start(isolation, "inside", visible=visible, limits=Limits()) as process:
        assert process.wait(60)
        assert process.output().split() == ["seen:"], process.output()


@pytest.fixture
def look_for() -> Callable[[tuple[str, ...]], str]:
    """Return a program that prints which of some modules an interpreter has found, or would find."""

    def text(names: tuple[str, ...]) -> str:
        return (
            "import importlib.util, os, sys\n"
            f"found = [(name, importlib.util.find_spec(name)) for name in {names!r}]\n"
            "own = [name for name, spec in found if spec and not spec.origin.startswith((sys.prefix, '/usr'))]\n"
            "print('seen:', *own)\n"
        )

    return text
