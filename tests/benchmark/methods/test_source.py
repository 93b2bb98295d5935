"""Finding a method imports nothing of it, and its key does not depend on where its file lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.keys import source_digest
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.pipeline import members
from benchmark.methods.source import find_members, find_method
from defenses.base import defenses

RULE = '''
"""A rule."""
from benchmark.updates import Aggregate
from defenses.base import Defense, Knowledge, Stage, register

@register(title="Rule", description="Averages the updates, and is only here to be found.", stages=(Stage.AGGREGATE,),
          knowledge=Knowledge.NONE)
class Rule(Defense):
    def aggregate(self, updates, context):
        return Aggregate(updates.matrix.mean(dim=0))
'''
LOUD = "raise SystemExit('imported')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = RULE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_found_by_path_and_by_id_and_not_imported(folder: Path) -> None:
    write(folder / "quiet_rule.py", LOUD + RULE)
    by_path, by_id = find_method("./quiet_rule.py"), find_method("quiet_rule")
    assert by_path == by_id
    assert (by_id.kind, by_id.module, by_id.origin) == (DEFENSE, "defenses.quiet_rule", "file quiet_rule.py")


def test_the_digest_says_what_the_code_does_and_not_where_it_lies(folder: Path) -> None:
    digest = find_method(str(write(folder / "a" / "some_rule.py"))).digest
    commented = RULE.replace("return", "# a comment\n        return")
    assert find_method(str(write(folder / "b" / "some_rule.py", commented))).digest == digest
    changed = RULE.replace("mean(dim=0)", "sum(dim=0)")
    assert find_method(str(write(folder / "c" / "some_rule.py", changed))).digest != digest


def test_a_built_in_method_has_the_digest_of_its_keys() -> None:
    assert find_method("krum").digest == defenses.get("krum").source_digest == source_digest("defenses.krum")


def test_an_imported_file_has_the_digest_that_it_had_before(folder: Path) -> None:
    """In a process of its own: the registry keeps what it has adopted."""
    write(folder / "my_rule.py")
    program = (
        "from benchmark.sandbox.adopt import adopt\n"
        "from benchmark.methods.source import find_method\n"
        "from defenses.base import defenses\n"
        "found = find_method('my_rule')\n"
        "adopt([found, found], isolated=False)\n"
        "entry = defenses.get('my_rule')\n"
        "print(entry.source_digest == found.digest, entry.origin, entry.target.__module__, end=' ')\n"
        "print(find_method('my_rule') == found)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1)[1].strip() == "file my_rule.py defenses.my_rule True"
    assert done.stdout.startswith("True")


def test_a_foreign_package_counts_with_its_init_files_and_is_not_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    write(folder / "foreign_rules" / "__init__.py", LOUD)
    write(folder / "foreign_rules" / "inner" / "__init__.py", "")
    write(folder / "foreign_rules" / "helper.py", "SCALE = 1\n")
    write(folder / "foreign_rules" / "inner" / "rule.py", "from foreign_rules.helper import SCALE\n" + RULE)
    first = source_digest("foreign_rules.inner.rule")
    source_digest.cache_clear()
    write(folder / "foreign_rules" / "__init__.py", LOUD + "SCALE = 2\n")
    second = source_digest("foreign_rules.inner.rule")
    source_digest.cache_clear()
    write(folder / "foreign_rules" / "helper.py", "SCALE = 3\n")
    assert len({first, second, source_digest("foreign_rules.inner.rule")}) == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("krum.py", RULE, "has the id of defense 'krum', which is built-in; rename"),
        ("Krum2.py", RULE, "cannot be a method: the file's name is its id"),
        ("no_method.py", "x = 1\n", "imports neither defenses.base nor attacks.base"),
        ("broken.py", "def f(:\n", "is not valid Python: line 1"),
        ("binary.py", "\0", "broken|is not valid Python|cannot be read"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused_with_the_way_out(folder: Path, name: str, text: str, said: str) -> None:
    write(folder / name, text)
    with pytest.raises(UsageError, match=said):
        find_method(f"./{name}")


def test_a_missing_file_and_a_misspelt_id_are_named(folder: Path) -> None:
    write(folder / "small_half.py")
    with pytest.raises(UsageError, match=r"there is no file 'none\.py'"):
        find_method("none.py")
    with pytest.raises(UsageError, match="unknown defense 'smal_half'; did you mean 'small_half'"):
        find_method("smal_half", DEFENSE)


def test_the_kind_is_what_the_file_imports(folder: Path) -> None:
    attack = RULE.replace("defenses.base", "attacks.base")
    write(folder / "an_attack.py", attack)
    assert find_method("an_attack").module == "attacks.an_attack"
    with pytest.raises(UsageError, match="is an attack, not a defense"):
        find_method("an_attack.py", DEFENSE)


def test_members_of_pipelines_are_found_and_bridges_left_alone(folder: Path) -> None:
    write(folder / "my_rule.py")
    names, found = find_members(["./my_rule.py+posthoc_self", "krum", "byzfl:TrMean(f=3, x='a+b')+posthoc_self"])
    assert names == ("my_rule+posthoc_self", "krum", "byzfl:TrMean(f=3, x='a+b')+posthoc_self")
    assert [submission.id for submission in found] == ["my_rule"]


def test_two_files_of_one_id_are_refused(folder: Path) -> None:
    write(folder / "a" / "my_rule.py")
    write(folder / "b" / "my_rule.py")
    with pytest.raises(UsageError, match="two different files are called 'my_rule'"):
        find_members(["a/my_rule.py", "b/my_rule.py"])


def test_a_plus_inside_parentheses_joins_nothing() -> None:
    assert members("x:Y(a='+')+krum") == ["x:Y(a='+')", "krum"]
