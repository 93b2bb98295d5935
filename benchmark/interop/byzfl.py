"""ByzFL's aggregators as defenses, by names such as ``byzfl:TrMean(f=3)`` or ``byzfl:Krum``.

A name holds ByzFL's class and, in parentheses, the parameters of its constructor as ``name=number``. Where a rule takes
``f`` and the name does not say it, f is the scenario's declared bound. Names stand wherever a defense's id does, in
compositions, too: ``byzfl:TrMean(f=3)+posthoc_self``.

ByzFL is by González, Guerraoui, Pinot, Rizk, Stephan and Taïani 2025, arXiv 2505.24802.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any

from pydantic import Field

from benchmark.errors import UsageError, unknown_name
from benchmark.interop import byzfl_rule
from benchmark.interop.byzfl_rule import ByzFLRule
from benchmark.keys import content_key, normalised_source
from benchmark.registry import Entry
from defenses.base import Defense, DefenseInfo, Knowledge, Stage

PREFIX = "byzfl"
_SOURCE = "González et al. 2025, arXiv 2505.24802"
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\)\s*)?")
_NOTES = {
    "CenteredClipping": "It starts from the aggregate of the round before.",
    "Krum": "It counts n - f - 1 neighbours; our krum counts n - f - 2.",
    "MultiKrum": "It counts n - f - 1 neighbours and averages n - f updates; our multi_krum takes n - f - 2 of both.",
    "MoNNA": "It trusts the update number idx, which in a federation with a server is some client's.",
}


class BridgedInfo(DefenseInfo):
    """Metadata of a rule of another library; the id holds the library and the parameters."""

    id: str = Field(pattern=r"^byzfl:[A-Za-z_]\w*(\([^()\s+]+\))?$")
    """``byzfl:Class`` or ``byzfl:Class(name=value,…)``, names sorted."""


def bridged_entry(name: str) -> Entry[DefenseInfo, Defense]:
    """Return the defense that ``byzfl:`` and the name of an aggregator stand for.

    Args:
        name: For example ``byzfl:TrMean(f=3)``. Order of parameters and spaces do not matter; the entry's id is the
            canonical form.

    Raises:
        UsageError: ByzFL is not installed; the class or parameter is unknown (names the nearest); the name is
            malformed; or ByzFL refuses the parameters.
    """
    _, _, call = name.strip().partition(":")
    aggregator, parameters = _parsed(name, call)
    return _entry(aggregator, tuple(sorted(parameters.items())))


def aggregator_names() -> list[str]:
    """Return the names of all of ByzFL's aggregators, sorted, without parameters: ``byzfl:Average``, ….

    Raises:
        UsageError: ByzFL is not installed.
    """
    return [f"{PREFIX}:{name}" for name in sorted(_aggregators())]


def import_aggregators() -> ModuleType:
    """Return ByzFL's module of aggregators without the rest of ByzFL.

    The root of the ``byzfl`` package imports its image training and plotting code, and with it torchvision and seaborn,
    which the aggregators do not use. An empty module stands in for the root.

    Raises:
        UsageError: ByzFL is not installed.
    """
    spec = importlib.util.find_spec("byzfl")
    if spec is None:
        raise UsageError(
            "ByzFL is not installed, which defenses called byzfl:… need; run pip install 'fedsafetybench[peers]', or "
            "pip install --no-deps byzfl==0.0.11 to leave out its training code's requirements"
        )
    whole = sys.modules.get("byzfl")
    root = whole or ModuleType("byzfl")
    root.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["byzfl"] = root
    try:
        return importlib.import_module("byzfl.aggregators.aggregators")
    finally:
        if whole is None:
            del sys.modules["byzfl"]


def _parsed(name: str, call: str) -> tuple[str, dict[str, int | float]]:
    """Return the name of ByzFL's class and the parameters that a name gives it."""
    matched = _NAME.fullmatch(call)
    if matched is None:
        raise UsageError(f"cannot read {name!r}; write {PREFIX}:Class or {PREFIX}:Class(parameter=number)")
    aggregators = _aggregators()
    if matched[1] not in aggregators:
        raise unknown_name("ByzFL aggregator", matched[1], aggregators)
    target = aggregators[matched[1]]
    accepted = inspect.signature(target).parameters
    parameters = _keywords(name, matched[2] or "")
    for key in parameters:
        if key not in accepted:
            raise unknown_name(f"parameter of {PREFIX}:{matched[1]}", key, accepted)
    try:
        target(**parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"ByzFL refuses the parameters of {name!r}: {error}") from error
    return matched[1], parameters


def _keywords(name: str, text: str) -> dict[str, int | float]:
    """Return the parameters in ``text``, ``name=number`` joined by commas."""
    rule = "write each as name=number, joined by commas, for example byzfl:TrMean(f=3)"
    try:
        tree = ast.parse(f"_({text})", mode="eval").body
        assert isinstance(tree, ast.Call)
        if tree.args or any(keyword.arg is None for keyword in tree.keywords):
            raise UsageError(f"a parameter in {name!r} has no name; {rule}")
        pairs = [(str(keyword.arg), ast.literal_eval(keyword.value)) for keyword in tree.keywords]
    except (SyntaxError, ValueError, AssertionError) as error:
        raise UsageError(f"cannot read the parameters of {name!r}; {rule}") from error
    for key, value in pairs:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"parameter {key} of {name!r} is {value!r}, which is no finite number; {rule}")
    if len(dict(pairs)) < len(pairs):
        raise UsageError(f"{name!r} gives a parameter twice; {rule}")
    return dict(pairs)


@cache
def _aggregators() -> dict[str, type[Any]]:
    """Return ByzFL's aggregators by class name."""
    module = import_aggregators()
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }


@cache
def _entry(aggregator: str, parameters: tuple[tuple[str, int | float], ...]) -> Entry[DefenseInfo, Defense]:
    target, given = _aggregators()[aggregator], dict(parameters)
    takes_f = "f" in inspect.signature(target).parameters
    info = _info(target, given, takes_f)
    attributes = {"defense_id": info.id, "aggregator": target, "parameters": given, "takes_f": takes_f}
    rule = type(target.__name__, (ByzFLRule,), {"__doc__": info.description, "__module__": __name__, **attributes})
    digest = content_key([version("byzfl"), target.__name__, normalised_source(inspect.getsource(byzfl_rule))])
    return Entry(info=info, target=rule, origin=PREFIX, digest=digest)


def _info(target: type[Any], parameters: Mapping[str, int | float], takes_f: bool) -> BridgedInfo:
    values = [f"{key}={_written(value)}" for key, value in parameters.items()]
    bound = "f is the declared bound on malicious clients" if takes_f and "f" not in parameters else ""
    settings = ", ".join([*(value.replace("=", " = ") for value in values), *filter(None, [bound])])
    sentences = [_summary(target), _NOTES.get(target.__name__, ""), settings and f"Here {settings}."]
    return BridgedInfo(
        id=f"{PREFIX}:{target.__name__}" + (f"({','.join(values)})" if values else ""),
        title=f"ByzFL {target.__name__}" + (f" ({', '.join(values)})" if values else ""),
        description=" ".join(filter(None, [f"The aggregator {target.__name__} of ByzFL.", *sentences])),
        paper="; ".join(filter(None, [f"ByzFL {version('byzfl')}, {_SOURCE}", _reference(target)])),
        stages=(Stage.AGGREGATE,),
        knowledge=Knowledge.DECLARED_BOUND if takes_f else Knowledge.NONE,
    )


def _written(value: float) -> str:
    """Return a number as it stands in a name: read back, it is the same, and it holds no plus, which joins defenses."""
    return repr(value).replace("e+", "e")


def _summary(target: type[Any]) -> str:
    """Return the first sentence of the description in ByzFL's docstring, as plain text."""
    text = inspect.cleandoc(target.__doc__ or "").partition("-----------\n")[2].strip().partition("\n\n")[0]
    plain = re.sub(r"[*`]|\s*\[\d+\]_|:math:", "", " ".join(text.split()))
    plain = re.sub(r"\\\\\(|\\\\\)|\\[()]|\\\\", "", plain)
    return plain.rstrip(" :.") + "." if plain else ""


def _reference(target: type[Any]) -> str:
    """Return the first reference of ByzFL's docstring on one line; empty if it gives none."""
    match = re.search(r"\.\. \[1\] (.*?)(?=\n\s*\.\. \[|\n\s*\n|\Z)", inspect.cleandoc(target.__doc__ or ""), re.DOTALL)
    # A semicolon separates sources in the catalogue.
    plain = " ".join(match[1].split()).replace(";", ",").replace("Guer- raoui", "Guerraoui") if match else ""
    return plain.rstrip(" .")
