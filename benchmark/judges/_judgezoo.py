"""Prompts and parsers of JudgeZoo, read from the installed package so that this project holds no copies.

JudgeZoo's modules import clients of remote services and load a model when a judge is constructed. This module imports
them with empty stand-ins for the clients. A judge whose constructor makes its texts is constructed with stand-ins for
its model and tokenizer. JudgeZoo therefore loads no model and reaches no remote service.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.errors import UsageError
from benchmark.keys import content_key, normalised_source

_CLIENTS = {"anthropic": "Anthropic", "openai": "OpenAI"}
"""Packages that JudgeZoo imports for remote judges → the class that it imports from each."""
_TAG = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)


@lru_cache(maxsize=32)
def judgezoo_module(name: str) -> ModuleType:
    """Return the module ``judgezoo.<name>``.

    Raises:
        UsageError: JudgeZoo is not installed.
    """
    _file(name)
    absent = {package: _client(package) for package in _CLIENTS if package not in sys.modules}
    sys.modules.update(absent)
    try:
        return importlib.import_module(f"judgezoo.{name}")
    finally:
        for package in absent:
            del sys.modules[package]


def judgezoo_digest(name: str) -> str:
    """Return the digest of JudgeZoo's version, of the source of its module ``name``, and of this module's source.

    Raises:
        UsageError: JudgeZoo is not installed.
    """
    sources = [normalised_source(path.read_text(encoding="utf-8")) for path in (_file(name), Path(__file__))]
    return content_key([version("judgezoo"), *sources])


def made_without_model(module: ModuleType, judge: str, *arguments: Any) -> Any:
    """Return ``judge(*arguments)`` of a JudgeZoo module, with the texts that its constructor makes and without a model.

    Its ``tokenizer.chat_template`` holds the tags of the template unchanged and drops the layout between the tags.
    JudgeZoo itself removes every line break, also those inside quoted texts, with which the models were trained.
    """
    stand_ins = {
        "AutoModelForCausalLM": _StandIn,
        "AutoTokenizer": _StandIn,
        "parse_chat_template": lambda template: "".join(_TAG.findall(template)),
    }
    with _replaced(module, stand_ins):
        return getattr(module, judge)(*arguments)


def parsed(module: ModuleType, judge: str, answer: str) -> dict[str, Any]:
    """Return the fields that JudgeZoo's parser for ``judge`` reads from one answer; empty if the answer has none."""
    owner = getattr(module, judge)
    with _replaced(module, {"logging": _StandIn()}):
        fields = owner._parse_output(object.__new__(owner), [answer])
    return {name: values[0] for name, values in fields.items() if values}


class _StandIn:
    """Stand-in for a model, a tokenizer or a logger, without any effect."""

    @classmethod
    def from_pretrained(cls, *arguments: Any, **settings: Any) -> _StandIn:
        del arguments, settings
        return cls()

    def convert_tokens_to_ids(self, token: str) -> int:
        del token
        return 0

    def warning(self, message: str) -> None:
        del message


def _client(package: str) -> ModuleType:
    module = ModuleType(package)
    setattr(module, _CLIENTS[package], type(_CLIENTS[package], (), {}))
    return module


def _file(name: str) -> Path:
    spec = importlib.util.find_spec("judgezoo")
    if spec is None:
        raise UsageError(
            "JudgeZoo is not installed, from which this judge takes its prompts; run pip install "
            "'fedsafetybench[hub]', "
            "or pip install --no-deps judgezoo==0.1.9 to leave out its clients of remote services"
        )
    return Path(next(iter(spec.submodule_search_locations or ()))) / f"{name}.py"


@contextlib.contextmanager
def _replaced(module: ModuleType, names: dict[str, Any]) -> Iterator[None]:
    originals = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in originals.items():
            setattr(module, name, value)
