"""The prose rule of CONTRIBUTING.md as ceilings, so that the old dialect does not come back.

Each ceiling is the measured value, rounded up. Lower it when the prose gets better, and never raise it.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("attacks", "benchmark", "defenses", "leaderboard", "tasks")
PARTICIPLES = frozenset(
    {"said", "told", "made", "wanted", "asked", "known", "given", "own", "one", "here", "each", "seen", "kept", "left"}
)
"""Names that no variable should have: participles and pronouns instead of nouns of the field."""


@cache
def files() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return tuple(ROOT / name for name in listed.split("\0") if name.endswith(".py") and (ROOT / name).is_file())


@cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """Return (place, text) of every docstring, those below attributes and constants too."""
    texts = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                texts.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value.value))
    return tuple(texts)


@cache
def comments() -> tuple[str, ...]:
    texts = []
    for path in files():
        stream = io.StringIO(path.read_text(encoding="utf-8"))
        texts += [token.string for token in tokenize.generate_tokens(stream.readline) if token.type == tokenize.COMMENT]
    return tuple(texts)


def rate(pattern: str) -> float:
    """Return how often a pattern occurs in docstrings and comments, per 1,000 words."""
    text = "\n".join([*(text for _, text in docstrings()), *comments()])
    return 1000 * len(re.findall(pattern, text, flags=re.IGNORECASE)) / len(text.split())


@pytest.mark.parametrize(
    ("name", "pattern", "ceiling"),
    [
        ("semicolons", r";", 12.0),
        ("programs that say, tell or know", r"\b(says?|said|tells?|told|knows?|knew)\b", 0.55),
        ("nobody and whoever", r"\b(nobody|whoever|whatever|whichever)\b", 0.12),
        ("is no X", r"\b(is|are|was|were) no [a-z]", 0.45),
    ],
)
def test_habits_of_the_old_prose_stay_below_their_ceiling(name: str, pattern: str, ceiling: float) -> None:
    assert rate(pattern) <= ceiling, f"too many {name} per 1,000 words of docstrings and comments"


def test_a_module_begins_with_a_noun() -> None:
    clauses = [
        str(path.relative_to(ROOT))
        for path in files()
        if re.match(
            r"(What|How|Which|Whose|Whether|Where|When|Why) ", ast.get_docstring(ast.parse(path.read_text())) or ""
        )
    ]
    assert len(clauses) <= 4, clauses


def test_variables_are_nouns() -> None:
    names: Counter[str] = Counter()
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names[node.id] += 1
    count = sum(names[name] for name in PARTICIPLES)
    assert count <= 0.02 * names.total(), {name: names[name] for name in sorted(PARTICIPLES) if names[name]}
