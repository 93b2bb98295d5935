"""The base of all settings and the rule for settings that were added later."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from benchmark.settings import Settings
from benchmark.suites.settings import LoraSettings
from tasks.model_source import ModelShape, ModelSource


class Example(Settings):
    """Settings with one late field."""

    old: int = 1
    late: list[int] = Field(default_factory=list)

    added: ClassVar[frozenset[str]] = frozenset({"late"})


def test_an_added_setting_is_written_only_where_it_differs_from_its_default() -> None:
    assert Example().model_dump() == {"old": 1}
    assert Example(late=[]).model_dump() == {"old": 1}
    assert Example(late=[2]).model_dump() == {"old": 1, "late": [2]}


def test_settings_refuse_unknown_keys_and_changes() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Example.model_validate({"older": 1})
    with pytest.raises(ValidationError, match="frozen"):
        Example().old = 2  # type: ignore[misc]


def test_dropout_of_adapters_is_written_only_where_there_is_some() -> None:
    assert LoraSettings(rank=8, alpha=16).model_dump() == {"rank": 8, "alpha": 16.0, "targets": "all-linear"}
    assert LoraSettings(rank=8, alpha=16, dropout=0.1).model_dump()["dropout"] == 0.1


def test_models_and_adapters_share_the_base() -> None:
    assert all(issubclass(kind, Settings) for kind in (LoraSettings, ModelShape, ModelSource))
