"""The registry: lazy, checked, frozen after load, and open to other installed packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from benchmark.errors import UsageError
from benchmark.registry import Info, Registry


class ToolInfo(Info):
    price: int = Field(ge=0)


class Tool:
    def __init__(self, size: int = 1) -> None:
        if size < 0:
            raise ValueError(f"size is {size}; it must not be negative")
        self.size = size


MODULE = """
import {package}.base as base
@base.tools.register({metadata})
class {name}(base.Tool):
    pass
"""
METADATA = "title='A tool', description='Does what tools are made to do.', price=3"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder of a package of its own, on the import path, whose ``base`` holds a registry."""
    folder = tmp_path / f"pkg_{abs(hash(request.node.name))}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[ToolInfo, Tool] = Registry("tool", ToolInfo, folder.name)
    base = type(sys)(f"{folder.name}.base")
    base.tools, base.Tool = registry, Tool  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, base.__name__, base)
    return folder


def write(package: Path, module: str, metadata: str = METADATA, name: str = "Hammer") -> None:
    (package / f"{module}.py").write_text(MODULE.format(package=package.name, metadata=metadata, name=name))


def registry_of(package: Path) -> Registry[ToolInfo, Tool]:
    found: Registry[ToolInfo, Tool] = sys.modules[f"{package.name}.base"].tools
    return found


def test_listing_names_imports_nothing_and_looking_up_imports_one(package: Path) -> None:
    write(package, "hammer")
    write(package, "saw", name="Saw")
    (package / "_shared.py").write_text("raise RuntimeError")
    tools = registry_of(package)
    assert tools.names() == ["hammer", "saw"]
    assert f"{package.name}.hammer" not in sys.modules
    assert tools.get("saw").info == ToolInfo(
        id="saw", title="A tool", description="Does what tools are made to do.", price=3
    )
    assert f"{package.name}.hammer" not in sys.modules
    assert [(entry.info.id, entry.target.__name__, entry.origin) for entry in tools.entries()] == [
        ("hammer", "Hammer", "built-in"),
        ("saw", "Saw", "built-in"),
    ]


def test_a_module_inside_an_entrys_package_is_an_entry_of_its_own_where_it_is_declared(package: Path) -> None:
    (package / "saw").mkdir()
    write(package / "saw", "__init__", name="Saw")
    write(package / "saw", "fine", name="FineSaw")
    write(package / "saw", "spare", name="Blade")
    for file in (package / "saw").iterdir():
        file.write_text(file.read_text().replace("import saw.base", f"import {package.name}.base"))
    tools: Registry[ToolInfo, Tool] = Registry("tool", ToolInfo, package.name, nested=("saw.fine",))
    sys.modules[f"{package.name}.base"].tools = tools  # type: ignore[attr-defined]
    assert tools.names() == ["saw", "saw_fine"]
    assert {entry.info.id: entry.target.__name__ for entry in tools.entries()} == {"saw": "Saw", "saw_fine": "FineSaw"}
    with pytest.raises(UsageError, match=r"tool 'saw' is registered twice, by .*\.Saw and by .*\.Blade"):
        __import__(f"{package.name}.saw.spare")


def test_unknown_names_get_the_nearest(package: Path) -> None:
    write(package, "hammer")
    with pytest.raises(UsageError, match=r"unknown tool 'hamer'; did you mean 'hammer'\?"):
        registry_of(package).get("hamer")
    with pytest.raises(UsageError, match="unknown tool 'zzz'; known: hammer"):
        registry_of(package).get("zzz")


def test_two_classes_under_one_name_are_refused(package: Path) -> None:
    write(package, "hammer")
    with (package / "hammer.py").open("a") as file:
        file.write(MODULE.format(package=package.name, metadata=METADATA, name="Mallet"))
    with pytest.raises(UsageError, match=r"tool 'hammer' is registered twice, by .*\.Hammer and by .*\.Mallet"):
        registry_of(package).get("hammer")


def test_the_set_of_names_is_frozen_after_load(package: Path) -> None:
    write(package, "hammer")
    tools = registry_of(package)
    assert tools.names() == ["hammer"]
    write(package, "late")
    assert tools.names() == ["hammer"]
    with pytest.raises(UsageError, match="'late' comes too late: the registry is frozen"):
        __import__(f"{package.name}.late")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("title='A tool', price=3", "description: Field required"),
        (METADATA.replace("price=3", ""), "price: Field required"),
        (METADATA.replace("A tool", ""), "title: String should have at least 1 character"),
        (METADATA.replace("price=3", "price=-1"), "price: Input should be greater than or equal to 0"),
        (f"{METADATA}, colour='red'", "colour: Extra inputs are not permitted"),
    ],
)
def test_unusable_metadata_is_refused_by_name(package: Path, metadata: str, message: str) -> None:
    write(package, "hammer", metadata)
    with pytest.raises(UsageError, match=f"tool 'hammer' has unusable metadata: {message}"):
        registry_of(package).get("hammer")


def test_an_id_is_the_file_name_and_cannot_be_given(package: Path) -> None:
    write(package, "hammer", f"{METADATA}, id='mallet'")
    with pytest.raises(UsageError, match="'hammer' is registered with id='mallet'; the id is the name of the file"):
        registry_of(package).get("hammer")


def test_a_file_name_that_cannot_be_an_id_is_refused(package: Path) -> None:
    write(package, "Hammer")
    with pytest.raises(UsageError, match="tool 'Hammer' has unusable metadata: id: String should match pattern"):
        registry_of(package).get("Hammer")


def test_a_module_that_registers_nothing_is_named(package: Path) -> None:
    (package / "hammer.py").write_text("")
    with pytest.raises(UsageError, match="registers no tool called 'hammer'; decorate its class"):
        registry_of(package).get("hammer")


def test_a_module_that_cannot_be_imported_is_named(package: Path) -> None:
    (package / "hammer.py").write_text("import a_module_that_is_not_there")
    with pytest.raises(UsageError, match=r"tool 'hammer' of 'built-in' cannot be imported .*ModuleNotFoundError"):
        registry_of(package).get("hammer")


def test_parameters_are_checked(package: Path) -> None:
    write(package, "hammer")
    entry = registry_of(package).get("hammer")
    assert entry.create({"size": 4}).size == 4
    assert entry.create() is not entry.create()
    with pytest.raises(UsageError, match=r"unknown parameter of 'hammer' 'sise'; did you mean 'size'\?"):
        entry.create({"sise": 4})
    with pytest.raises(UsageError, match=r"'hammer' refuses the parameters \{'size': -1\}: size is -1"):
        entry.create({"size": -1})


OUTSIDE = """
from defenses.base import Defense, Knowledge, Stage, register

@register(
    title="Outside", description="A defense from another installed package.",
    stages=(Stage.AGGREGATE,), knowledge=Knowledge.NONE,
)
class Anything(Defense):
    def aggregate(self, updates, context):
        return super().aggregate(updates, context)
"""
ASK = """
import json, sys
from benchmark.errors import UsageError
from benchmark.methods.pipeline import parse_pipeline
from defenses.base import defenses
try:
    names = defenses.names()
    assert "outside_package" not in sys.modules
    entry = defenses.get("their_rule")
    print(json.dumps([names, entry.info.id, entry.origin, entry.target.__module__, parse_pipeline("their_rule").name]))
except UsageError as error:
    print(json.dumps(str(error)))
"""


def install(site: Path, distribution: str, entry_points: dict[str, str]) -> None:
    """Write what an installer would: a distribution's metadata and its package."""
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    points = "\n".join(f"{name} = {where}" for name, where in entry_points.items())
    (info / "entry_points.txt").write_text(f"[fedsafety.defenses]\n{points}\n")
    package = site / "outside_package"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "rule.py").write_text(OUTSIDE)


def ask(site: Path) -> object:
    script = f"import sys; sys.path.append({str(site)!r})\n{ASK}"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_another_installed_package_adds_a_defense(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"their_rule": "outside_package.rule:Anything"})
    names, name, origin, module, pipeline = ask(tmp_path)  # type: ignore[misc]
    assert {"their_rule", "krum", "fedavg"} <= set(names)
    assert [name, origin, module, pipeline] == ["their_rule", "theirs", "outside_package.rule", "their_rule"]


def test_an_outside_name_may_not_be_a_built_in_one(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"krum": "outside_package.rule:Anything"})
    assert ask(tmp_path) == (
        "defense 'krum' of 'theirs' has the name of one that is built-in; "
        "rename its entry point in group 'fedsafety.defenses'"
    )


def test_two_outside_packages_may_not_share_a_name(tmp_path: Path) -> None:
    for distribution in ("ours", "theirs"):
        install(tmp_path, distribution, {"their_rule": "outside_package.rule:Anything"})
    message = str(ask(tmp_path))
    assert "defense 'their_rule' of" in message
    assert "has the name of one that is" in message


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("title", "A" * 4900, "has 4,900 characters; at most 60 are shown; shorten it"),
        ("description", "long " * 200, "has 1,000 characters; at most 800 are shown"),
        ("paper", "P" * 501, "at most 500 are shown"),
        ("id", "a" * 65, "at most 64 are shown"),
        ("title", "up\u202edown", "such as U+202E"),
        ("title", "two\nlines", "such as U+000A"),
        ("title", "\u2605 Krum", "such as U+2605"),
        ("description", "a description with zero\u200bwidth", "such as U+200B"),
        ("title", "a\u0301\u0302\u0303", "more than 2 accents"),
        ("title", "  Krum", "is no name"),
        ("title", "\u2014", "is no name"),
        ("title", "--help", "begins with '-'; begin a name with a letter or a digit"),
        ("title", "Krum\u3164", "such as U+3164"),
        ("title", "V\u0435rified mean", "'V\u0435rified' has letters of two alphabets"),
        ("title", "Fed\u0391vg", "'Fed\u0391vg' has letters of two alphabets"),
        ("description", "Averages all of the upd\u0430tes.", "'upd\u0430tes' has letters of two alphabets"),
    ],
)
def test_metadata_that_a_page_cannot_show_are_refused(field: str, value: str, words: str) -> None:
    fields = {"id": "tried", "title": "Tried", "description": "A method that exists to be read."}
    with pytest.raises(ValueError, match=re.escape(words)):
        Info(**{**fields, field: value})


def test_words_of_other_alphabets_and_greek_letters_of_formulas_are_shown() -> None:
    info = Info(
        id="tried",
        title="\u03b1-trimmed \u0441\u0440\u0435\u0434\u043d\u0435\u0435",
        description="Clips each \u0394W at \u03c4max, by its norm.",
    )
    assert info.title.startswith("\u03b1-trimmed")
