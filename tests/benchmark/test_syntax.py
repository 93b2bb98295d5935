"""The normal form: equal for what reads differently and does the same, different for what does something else."""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmark.syntax import normal_form, parse

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("attacks", "benchmark", "defenses", "leaderboard", "tasks")


def form(text: str) -> Any:
    def resolve(module: str, name: str) -> Any:
        return name if module.partition(".")[0] in PROJECT else [module, name]

    return json.dumps(normal_form(ast.parse(text), resolve))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x):\n    y = x + 1\n    return y", "def f(x):\n    z = x + 1\n    return z"),
        ("def f(x):\n    for i in x:\n        g(i)", "def f(x):\n    for row in x:\n        g(row)"),
        ("def f(x):\n    with x as a:\n        g(a)", "def f(x):\n    with x as b:\n        g(b)"),
        ("def f(x):\n    if (n := g(x)):\n        return n", "def f(x):\n    if (m := g(x)):\n        return m"),
        ("def f(x):\n    [n := i for i in x]\n    return n", "def f(x):\n    [m := j for j in x]\n    return m"),
        ("def f(x):\n    return [a for a in x if a]", "def f(x):\n    return [b for b in x if b]"),
        ("z = {a: b for a, b in x}", "z = {c: d for c, d in x}"),
        (
            "def f():\n    try:\n        g()\n    except E as e:\n        h(e)",
            "def f():\n    try:\n        g()\n    except E as error:\n        h(error)",
        ),
        (
            "def f(x):\n    n = 0\n    def g():\n        nonlocal n\n        n += x\n    g()\n    return n",
            "def f(x):\n    total = 0\n    def g():\n        nonlocal total\n        total += x\n    g()\n    return total",
        ),
        (
            "def f(x):\n    match x:\n        case [a, *r]:\n            return a, r",
            "def f(x):\n    match x:\n        case [b, *s]:\n            return b, s",
        ),
        (
            "def f(x):\n    a = x\n    class C:\n        a = 1\n        def m(self):\n            return a\n    return C",
            "def f(x):\n    b = x\n    class C:\n        a = 1\n        def m(self):\n            return b\n    return C",
        ),
        ("from benchmark.updates import U", "from benchmark.rooms.updates import U"),
        ("from a import x\nfrom b import y", "from b import y\nfrom a import x"),
        ("from a import x, y", "from a import x\nfrom a import y"),
        ("def f():\n    pass", 'def f():\n    """Do nothing."""'),
        ("x = 1.50", "x = 1.5  # a half more"),
    ],
)
def test_texts_that_do_the_same_have_one_form(one: str, other: str) -> None:
    assert form(one) == form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x):\n    y = x + 1\n    return y", "def f(x):\n    y = x + 2\n    return y"),
        ("def f(x):\n    y = x\n    return y", "def f(x):\n    y = x\n    return x"),
        ("def f(x):\n    y = 1\n    z = 2\n    return y", "def f(x):\n    y = 1\n    z = 2\n    return z"),
        ("def f(x):\n    y = 1\n    return y", "def f(x):\n    y = 1\n    return outside"),
        ("def f(x, n=1): return x", "def f(x, n=2): return x"),
        ("def f(x, n): return x", "def f(x, m): return x"),
        ("def f(x): return g(x)", "def f(x): return h(x)"),
        ("def f(x): return x.a", "def f(x): return x.b"),
        ("def f(x):\n    if x: g()", "def f(x):\n    while x: g()"),
        ("def f(x): return x < 1", "def f(x): return x <= 1"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("def f():\n    global n\n    n = 1", "def f():\n    n = 1"),
        (
            "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n = 1\n    g()\n    return n",
            "def f():\n    n = 0\n    def g():\n        n = 1\n    g()\n    return n",
        ),
        ("def f(x): return [x for y in x]", "def f(x): return [y for y in x]"),
        ("def f(x):\n    a = x\n    return f'{a=}'", "def f(x):\n    b = x\n    return f'{b=}'"),
        ("def f(x):\n    a = x\n    return locals()", "def f(x):\n    b = x\n    return locals()"),
        ("from numpy import sum", "from torch import sum"),
        ("from a import f\nfrom b import f", "from b import f\nfrom a import f"),
        ("def f():\n    a = 1\n    def g(): return a\n    def h(a): return a", "def f():\n    a = 1\n    def g(): return a\n    def h(a): return g"),
        ("class C:\n    a = 1\n    def m(self): return self.a", "class C:\n    b = 1\n    def m(self): return self.b"),
        ("lambda x: x", "lambda x: None"),
        ("async def f(): pass", "def f(): pass"),
    ],
)  # fmt: skip
def test_texts_that_do_something_else_have_forms_of_their_own(one: str, other: str) -> None:
    assert form(one) != form(other)


def test_the_form_is_the_same_on_every_version_of_python() -> None:
    """Golden value: ``ast.dump`` prints other fields in other versions, this form must not."""
    text = "from benchmark.updates import U\n\ndef f(x, *, n=2):\n    total = [u * n for u in x]\n    return total\n"
    assert hashlib.sha256(form(text).encode()).hexdigest()[:16] == "bd23710557e11a64"


def test_renaming_each_local_of_the_project_keeps_its_files_forms() -> None:
    """On real code: each variable that a function of a method file binds, parameters aside, gets another name."""
    checked = 0
    for folder in ("attacks", "defenses"):
        for path in sorted((ROOT / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            before = form(path.read_text(encoding="utf-8"))
            for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
                checked += _rename_locals(function)
            assert form(ast.unparse(tree)) == before, path.name
    assert checked > 150


def _rename_locals(function: ast.FunctionDef) -> int:
    """Rename what a function without functions of its own binds by assignment or loop; return how many names."""
    inner = [
        node for node in ast.walk(function) if isinstance(node, ast.FunctionDef | ast.Lambda) and node is not function
    ]
    handed_on = [node for node in ast.walk(function) if isinstance(node, ast.Nonlocal | ast.Global)]
    if inner or handed_on:
        return 0
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored -= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in stored:
            node.id = f"renamed_{node.id}"
    return len(stored)


def test_threads_may_parse_at_once() -> None:
    """Python 3.11's own parser raises ``SystemError`` here, where a collection lets another thread parse midway."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmark" / "sandbox").glob("*.py"))]

    def lose_time(phase: str, info: dict[str, int]) -> None:
        sum(range(2000))

    thresholds = gc.get_threshold()
    interval = sys.getswitchinterval()
    gc.callbacks.append(lose_time)
    gc.set_threshold(200, 2, 2)
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(parse, texts * 4))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(lose_time)
    assert [ast.dump(tree) for tree in trees[: len(texts)]] == [ast.dump(ast.parse(text)) for text in texts]
