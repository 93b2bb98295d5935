"""Normal form of Python source: equal for two texts that differ only in wording, layout, local names or module paths.

The normal form drops comments, docstrings, ``pass`` and ``@register(...)`` decorators. It numbers the local variables
of a function in the order in which they appear, so that renaming one changes nothing. Imports in a row are sorted, and
an import from one of this project's packages names only the imported thing and not the module that holds it. All else
is kept: constants, calls, defaults, operators, control flow, parameter names, attributes and names of module level.

For example, these two functions have one normal form, and ``x * 3`` in the place of ``x * 2`` gives another::

    def double(x):                      def double(x):
        \"\"\"Return twice x.\"\"\"           result = x * 2  # twice
        y = x * 2                           return result
        return y

The form does not depend on the version of Python that computes it.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Resolve = Callable[[str, str], Any]
"""``resolve(module, name)`` returns what stands for ``from module import name`` in the normal form, JSON-like; with an
empty name, for ``import module``."""

Names = Mapping[str, str]
"""The numbered local variables in scope: their number by their name."""


_PARSER = threading.Lock()
"""Held while Python's parser builds a tree, because Python 3.11 raises ``SystemError`` where two threads build."""


def parse(text: str, filename: str = "<unknown>") -> ast.Module:
    """Return the syntax tree of a module's source; several threads may call this function at once.

    Raises:
        SyntaxError: The text is not Python.
        ValueError: The text holds a null character.
        RecursionError, MemoryError: The text nests too deeply for Python's parser.
    """
    with _PARSER:
        return ast.parse(text, filename=filename)


def normal_form(tree: ast.AST, resolve: Resolve, module: Callable[[int, str], str] | None = None) -> Any:
    """Return the normal form of a syntax tree as nested lists.

    Args:
        tree: A module, or a definition in one.
        resolve: Gives what stands for an imported name.
        module: Gives the full name of a relative import's module from its level and its text; by default the text.
    """
    return _Form(resolve, module or (lambda _, text: text), numbers=not mentions(tree, _SEES_LOCALS)).of(tree, {})


def mentions(tree: ast.AST, names: frozenset[str]) -> bool:
    """Return whether a tree uses one of ``names`` as a name, an attribute, a string or an imported module."""
    return any(
        (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.alias) and node.name.partition(".")[0] in names)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names)
        for node in ast.walk(tree)
    )


_SEES_LOCALS = frozenset({"locals", "vars", "dir", "eval", "exec", "f_locals", "co_varnames"})
"""Ways to read the names of local variables. Where one is mentioned, no name is replaced by its number."""

_IDENTIFIERS = {"Name": "id", "ExceptHandler": "name", "MatchAs": "name", "MatchStar": "name", "MatchMapping": "rest"}
"""The field of each kind of node that may name a local variable."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class _Form:
    """Turns nodes into nested lists.

    ``names`` are the numbers that hold where a node stands; ``enclosing`` those that a function defined there sees.
    They differ in the body of a class only, whose names its methods do not see.
    """

    def __init__(self, resolve: Resolve, module: Callable[[int, str], str], *, numbers: bool) -> None:
        self._resolve = resolve
        self._module = module
        self._numbers = numbers

    def of(self, node: Any, names: Names, enclosing: Names | None = None) -> Any:
        enclosing = names if enclosing is None else enclosing
        if isinstance(node, list):
            return self._several(node, names, enclosing)
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, _Function):
            return self._function(node, names, enclosing)
        if isinstance(node, _Comprehension):
            return self._comprehension(node, names, enclosing)
        if isinstance(node, ast.ClassDef):
            return self._class(node, names, enclosing)
        if isinstance(node, ast.Constant):
            return ["Constant", type(node.value).__name__, repr(node.value)]
        kind = type(node).__name__
        fields: dict[str, Any] = {}
        for field, value in ast.iter_fields(node):
            if value is None or value == [] or isinstance(value, ast.expr_context) or field in ("type_comment", "kind"):
                continue
            if _IDENTIFIERS.get(kind) == field:
                fields[field] = names.get(value, value)
            elif kind == "Nonlocal":
                fields[field] = [names.get(name, name) for name in value]
            else:
                fields[field] = self.of(value, names, enclosing)
        return [kind, fields]

    def _several(self, nodes: list[Any], names: Names, enclosing: Names) -> list[Any]:
        """Return the forms of nodes in order: imports in a row sorted, statements that do nothing left out."""
        forms: list[Any] = []
        imports: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports += self._imports(node)
                continue
            if isinstance(node, ast.Pass) or _documents(node):
                continue
            forms += [*_sorted(imports), self.of(node, names, enclosing)]
            imports = []
        return [*forms, *_sorted(imports)]

    def _imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[list[Any]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # The path stays: expressions repeat it where no ``as`` gives the module a name of its own.
                path = "" if alias.asname else alias.name
                yield ["import", alias.asname or alias.name.partition(".")[0], [path, self._resolve(alias.name, "")]]
            return
        module = self._module(node.level, node.module or "")
        for alias in node.names:
            yield ["import", alias.asname or alias.name, self._resolve(module, alias.name)]

    def _function(self, node: _Function, names: Names, enclosing: Names) -> list[Any]:
        """Return a function's form: parameters keep their names, because callers may use them; locals are numbered."""
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        bound = _Bound(body)
        kept = {parameter.arg for parameter in parameters} | bound.kept | bound.declared_global
        variables = [name for name in bound.names if name not in kept and name not in bound.declared_nonlocal]
        inner = {name: number for name, number in self._numbered(variables, enclosing).items() if name not in kept}
        head = {
            "args": self.of(arguments, names, enclosing),
            "name": getattr(node, "name", ""),
            "decorators": self.of(getattr(node, "decorator_list", []), names, enclosing),
            "returns": self.of(getattr(node, "returns", None), names, enclosing),
            "types": self.of(getattr(node, "type_params", []), names, enclosing),
        }
        return [type(node).__name__, head, self.of(body, inner)]

    def _comprehension(self, node: _Comprehension, names: Names, enclosing: Names) -> list[Any]:
        """Return a comprehension's form: the first iterable stands in the scope around, all else in its own."""
        targets = _Bound([generator.target for generator in node.generators]).names
        first = node.generators[0]
        iterable = self.of(first.iter, names, enclosing)
        inner = self._numbered(list(targets), enclosing)
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        loops = [
            [
                self.of(generator.target, inner),
                iterable if generator is first else self.of(generator.iter, inner),
                self.of(generator.ifs, inner),
                generator.is_async,
            ]
            for generator in node.generators
        ]
        return [type(node).__name__, self.of(values, inner), loops]

    def _class(self, node: ast.ClassDef, names: Names, enclosing: Names) -> list[Any]:
        decorators = [decorator for decorator in node.decorator_list if not _is_registration(decorator)]
        bound = _Bound(node.body)
        inside = {name: number for name, number in names.items() if name not in {*bound.names, *bound.kept}}
        head = {
            "name": node.name,
            "bases": self.of(node.bases, names, enclosing),
            "keywords": self.of(node.keywords, names, enclosing),
            "decorators": self.of(decorators, names, enclosing),
            "types": self.of(getattr(node, "type_params", []), names, enclosing),
        }
        return ["ClassDef", head, self.of(node.body, inside, enclosing)]

    def _numbered(self, variables: list[str], outer: Names) -> Names:
        """Return the numbers in a scope: each of its ``variables`` has a number that no outer variable has."""
        if not self._numbers:
            return {}
        first = 1 + max((int(number[1:]) for number in outer.values()), default=-1)
        # The sign "#" cannot stand in an identifier, so a number never equals a name that stays.
        return {**outer, **{name: f"#{first + index}" for index, name in enumerate(variables)}}


class _Bound(ast.NodeVisitor):
    """The names that statements bind in their own scope, in order of appearance.

    Attributes:
        names: All of them.
        kept: Those bound by an import or a definition, which keep their names.
        declared_global: Names that ``global`` hands to the module.
        declared_nonlocal: Names that ``nonlocal`` hands to an outer function.
    """

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self.names: dict[str, None] = {}
        self.kept: set[str] = set()
        self.declared_global: set[str] = set()
        self.declared_nonlocal: set[str] = set()
        for node in nodes:
            self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del):
            self.names.setdefault(node.id)

    def visit_Global(self, node: ast.Global) -> None:
        self.declared_global.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.declared_nonlocal.update(node.names)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.kept.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._named(node, node.name)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self._named(node, node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        self._named(node, node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._named(node, node.rest)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        # The body is a scope of its own. Decorators, defaults and bases may bind by ``:=`` alone.
        self.kept.add(node.name)
        for part in (*node.decorator_list, *_evaluated_at_definition(node)):
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in _evaluated_at_definition(node):
            self.visit(part)

    def _comprehension(self, node: _Comprehension) -> None:
        """Visit what a comprehension binds around itself: targets of ``:=``."""
        for part in ast.walk(node):
            if isinstance(part, ast.NamedExpr):
                self.names.setdefault(part.target.id)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _named(self, node: ast.AST, name: str | None) -> None:
        if name is not None:
            self.names.setdefault(name)
        self.generic_visit(node)


def _evaluated_at_definition(node: _Function | ast.ClassDef) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return [*node.bases, *(keyword.value for keyword in node.keywords)]
    return [*node.args.defaults, *(default for default in node.args.kw_defaults if default)]


def _documents(node: Any) -> bool:
    """Whether a statement is a string alone: attributes and constants have their docstrings below them."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _sorted(imports: list[Any]) -> list[Any]:
    """Return imports in the order of what they bind. Where two bind one name the later one counts: the order stays."""
    bound = [form[1] for form in imports]
    return imports if len(set(bound)) < len(bound) else sorted(imports, key=lambda form: (form[1], repr(form[2])))


def _is_registration(decorator: ast.expr) -> bool:
    """Whether a decorator does nothing but hand over metadata that is written down and not computed."""
    if not isinstance(decorator, ast.Call):
        return False
    called = decorator.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    values = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
    return name == "register" and all(isinstance(node, _WRITTEN) for value in values for node in ast.walk(value))


_WRITTEN = (ast.Constant, ast.Tuple, ast.List, ast.Name, ast.Attribute, ast.BinOp, ast.Add, ast.Load)
