"""Types that several parts of a suite share: seeds, the shape of adapters and their use, messages for alternatives."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from benchmark.settings import Settings


def rule(text: str) -> WrapValidator:
    """Return a validator that raises ``text`` instead of one message for each alternative of a union."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(text) from None

    return WrapValidator(check)


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A run seed; a row keeps it in a 64-bit column."""

BASELINE: Final = "fedavg"
"""The defense with which every score is compared."""

Adapters = Literal["lora", "merged"]
"""Way to apply an adapter: ``lora`` adds its product to the output of each layer, ``merged`` adds it to the weights."""


def merging_obstacle(quantization: str, tensor_parallel: int) -> str | None:
    """Return why adapters cannot be merged into the weights of an answering model, with the way out, or ``None``.

    Args:
        quantization: Format of the model's weights; empty for none.
        tensor_parallel: Devices that share the model.
    """
    if quantization:
        return (
            f"its weights are rounded to {quantization} before they are multiplied, and a sum would be rounded again; "
            f"load the model without quantization, or set decoding.adapters to lora"
        )
    if tensor_parallel > 1:
        return (
            f"its weights lie in {tensor_parallel} processes, which keep them to themselves; set "
            f"compute.tensor_parallel to 1, or decoding.adapters to lora"
        )
    return None


class LoraSettings(Settings):
    """Shape of the adapters that clients train."""

    rank: int = Field(ge=1)
    """Rank r of both factors."""
    alpha: float = Field(gt=0)
    """Numerator of the scaling s = alpha / rank."""
    targets: tuple[str, ...] | str = "all-linear"
    """Last path components of the adapted linear layers, or ``all-linear``: every one but the output head."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapters' inputs that training drops."""

    added: ClassVar[frozenset[str]] = frozenset({"dropout"})

    @property
    def scaling(self) -> float:
        """The factor s on the adapter's contribution."""
        return self.alpha / self.rank
