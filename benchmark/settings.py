"""The base of everything that a suite file sets: frozen models that refuse unknown keys."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, and nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    added: ClassVar[frozenset[str]] = frozenset()
    """Settings that were added after rows were published. At their default they are left out of the written form and so
    of keys: a row from before a setting existed keeps its key. For example, ``LoraSettings(rank=8, alpha=16)`` is
    written without ``dropout``."""

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.added & written.keys():
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                del written[name]
        return written
