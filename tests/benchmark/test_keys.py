"""Keys follow content: wording changes nothing, behaviour changes everything."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import UsageError
from benchmark.keys import content_key, definition_digest, file_digest, normalised_source, source_digest, source_files

RULE = '''
"""A rule."""
from base import register
from {package}.helper import scale

LIMIT = 3
"""How far."""

@register(title="Rule", description="A rule.", knowledge="none")
class Rule:
    """A rule."""

    rate: float = 0.5
    """How fast."""

    def aggregate(self, updates):
        """Return it."""
        # A comment.
        return scale(updates) * LIMIT
'''


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a rule and its helper into a package of their own and return the rule's digest."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(rule: str = RULE, helper: str = "def scale(x):\n    return 2 * x\n") -> str:
        # As in a new process: neither the digest nor the place of the package is remembered.
        source_digest.cache_clear()
        for name in [name for name in sys.modules if name.startswith("digested_package")]:
            del sys.modules[name]
        package = tmp_path / "digested_package"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "rule.py").write_text(rule.replace("{package}", "digested_package"), encoding="utf-8")
        (package / "helper.py").write_text(helper, encoding="utf-8")
        importlib.invalidate_caches()
        return source_digest("digested_package.rule")

    return make


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A comment.", "# Ein anderer Kommentar über nichts."),
        ('"""A rule."""', '"""Another text."""'),
        ('"""Return it."""', '"""Return it, at\n        length."""'),
        ('"""How fast."""', '"""How very fast."""'),
        ('"""How far."""\n', ""),
        ('title="Rule"', 'title="A better title"'),
        ('@register(title="Rule", ', '@base.register(title="Rule", '),
        ("return scale(updates) * LIMIT", "return (\n            scale(updates)\n            * LIMIT\n        )"),
        ("rate: float = 0.5", "rate: float = .50"),
    ],
)
def test_wording_and_formatting_change_nothing(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in RULE
    assert digest(RULE.replace(old, new)) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("* LIMIT", "+ LIMIT"),
        ("rate: float = 0.5", "rate: float = 0.6"),
        ("scale(updates)", "scale(-updates)"),
        ("class Rule:", "class Rule(dict):"),
        ("    def aggregate", "    @staticmethod\n    def aggregate"),
        ("        # A comment.\n", "        updates.clear()\n"),
        ('title="Rule"', "title=print(1) or 'Rule'"),
        ('"""Return it."""', '"""Return it."""; print(self.__doc__)'),
    ],
)
def test_every_change_of_code_changes_the_digest(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in RULE
    assert digest(RULE.replace(old, new)) != digest()


@pytest.mark.parametrize(
    "mirror", ["import inspect", "open('x')", "exec(Rule.__doc__)", "__file__", "getattr(Rule, '__doc__')"]
)
def test_of_code_that_looks_at_its_own_text_the_words_count(digest: Callable[..., str], mirror: str) -> None:
    rule = f"{RULE}\ndef look():\n    {mirror}\n"
    assert digest(rule.replace("# A comment.", "# Another.")) != digest(rule)


@pytest.mark.parametrize("coding", ["utf-7", "latin-1", "rot13"])
def test_a_declared_coding_is_refused(digest: Callable[..., str], coding: str) -> None:
    """Python would run what readers, and this digest, take for a comment."""
    with pytest.raises(UsageError, match=r"coding|unknown encoding"):
        digest(f"# coding: {coding}\n# note +AAo-x = 2\n{RULE}")


@pytest.mark.parametrize(
    "imports",
    [
        "from {package}.helper import scale",
        "from {package} import helper",
        "import {package}.helper",
        "from .helper import scale",
        "from . import helper",
    ],
)
def test_a_changed_helper_changes_the_digest(digest: Callable[..., str], imports: str) -> None:
    rule = RULE.replace("from {package}.helper import scale", imports)
    before = digest(rule)
    assert digest(rule, "def scale(x):\n    return 3 * x\n") != before
    assert digest(rule, "def scale(x):\n    # twice\n    return 2 * x\n") == before


RULE_OF_THIS_PROJECT = """
from benchmark.updates import Updates
from defenses.base import Defense

class Rule(Defense):
    def aggregate(self, updates: Updates, context):
        total = updates.matrix.sum(dim=0)
        return total
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from benchmark.updates import", "from benchmark.records.updates import"),
        ("from defenses.base import", "from benchmark.methods.defense import"),
        ("total", "summed"),
        (
            "from benchmark.updates import Updates\nfrom defenses.base import Defense",
            "from defenses.base import Defense\nfrom benchmark.updates import Updates",
        ),
    ],
)
def test_a_moved_module_and_a_renamed_local_change_nothing(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in RULE_OF_THIS_PROJECT
    assert digest(RULE_OF_THIS_PROJECT.replace(old, new)) == digest(RULE_OF_THIS_PROJECT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sum(dim=0)", "sum(dim=1)"),
        ("import Updates", "import Aggregate as Updates"),
        ("(Defense)", "(object)"),
        ("return total", "return total * 1.5"),
        ("context", "round_context"),
        ("from defenses.base import Defense", "from strangers import Defense"),
    ],
)
def test_what_a_rule_of_this_project_does_changes_its_digest(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in RULE_OF_THIS_PROJECT
    assert digest(RULE_OF_THIS_PROJECT.replace(old, new)) != digest(RULE_OF_THIS_PROJECT)


def test_a_helper_that_moves_to_another_file_keeps_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for place in ("helper", "deeper.helper"):
        package = tmp_path / place / "moved_package"
        folder = package.joinpath(*place.split(".")[:-1])
        folder.mkdir(parents=True)
        for parent in {package, folder}:
            (parent / "__init__.py").touch()
        (folder / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
        (package / "rule.py").write_text(f"from moved_package.{place} import scale\n\nY = scale(1)\n")
        files = tuple((f"moved_package.{n}", package / f"{n.replace('.', '/')}.py") for n in ("rule", place))
        digests.append(source_digest("moved_package.rule", files))
    assert digests[0] == digests[1]


def test_of_two_helpers_of_one_name_the_imported_one_counts(digest: Callable[..., str], tmp_path: Path) -> None:
    digest()
    (tmp_path / "digested_package" / "other.py").write_text("def scale(x):\n    return 3 * x\n")
    both = RULE + "\nfrom {package} import helper, other\n"
    assert digest(both) != digest(
        both.replace("from {package}.helper import scale", "from {package}.other import scale")
    )


def test_modules_that_import_each_other_have_a_digest(digest: Callable[..., str]) -> None:
    circle = "def scale(x):\n    from digested_package.rule import LIMIT\n    return LIMIT * x\n"
    assert digest(helper=circle) == digest(helper=circle)
    assert digest(RULE.replace("LIMIT = 3", "LIMIT = 4"), circle) != digest(helper=circle)


def test_the_interface_is_no_part_of_a_methods_digest_but_the_default_aggregate_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not {"defenses.base", "benchmark.updates"} & set(source_files("defenses.krum"))
    assert set(source_files("defenses.krum")) == {
        "defenses.krum", "defenses._krum", "defenses._distances", "defenses._columns"
    }  # fmt: skip
    assert definition_digest("defenses.base", "Defense.aggregate") != definition_digest(
        "defenses.base", "Defense.serve"
    )
    with pytest.raises(UsageError, match=r"'defenses.base' defines no 'Defense.agregate'"):
        definition_digest("defenses.base", "Defense.agregate")


def test_a_string_that_is_used_is_no_docstring() -> None:
    assert normalised_source("def f():\n    return 'a'") != normalised_source("def f():\n    return 'b'")
    assert normalised_source("x = 'a'") != normalised_source("x = 'b'")


def test_rules_that_share_a_helper_have_digests_of_their_own() -> None:
    digests = [source_digest(f"defenses.{name}") for name in ("krum", "multi_krum", "median", "fedavg")]
    assert len(set(digests)) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_mappings_does_not_matter(content: dict[str, object]) -> None:
    assert content_key(dict(reversed(content.items()))) == content_key(content)


def test_a_key_is_canonical_and_tells_content_apart() -> None:
    assert content_key({"a": [1, "ä"]}) == "ba974597928e30d6de88f78fb84a34e4"
    contents: list[object] = [[1, 2], [2, 1], ["1", 2], {"1": 2}, [[1], 2], [1, [2]], [], {}, None, "", 0, False]
    assert len({content_key(content) for content in contents}) == len(contents)
    assert content_key((1, 2)) == content_key([1, 2])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_no_json_can_hold_has_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"rate": value})


def test_file_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
