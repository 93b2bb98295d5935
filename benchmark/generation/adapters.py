"""Stored adapters as the engines read them: PEFT folders whose every tensor must have a place in the base model."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmark.models.peft import (
    CONFIG,
    WEIGHTS,
    PlainLora,
    broken,
    check_targets,
    read_settings,
    read_tensors,
    unreadable,
)

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_FACTOR = re.compile(r"^base_model\.model\.|\.lora_[AB]\.weight$")


@dataclass(frozen=True)
class AdapterShape:
    """Properties of a stored adapter, without its numbers.

    Attributes:
        folder: Its folder.
        rank: Rank r of all factors.
        scaling: Factor alpha / r on the adapter's contribution; with 0 the adapter has no effect.
        modules: Module paths in the base model that carry an adapter, sorted.
    """

    folder: Path
    rank: int
    scaling: float
    modules: tuple[str, ...]


@dataclass(frozen=True)
class StoredAdapter(AdapterShape):
    """A LoRA adapter with its numbers.

    Attributes:
        digest: SHA-256 of configuration and weights; engines cache by it, never by path alone.
        factors: Module path in the base model → (A ``[rank, in]``, B ``[out, rank]``).
    """

    digest: str
    factors: dict[str, tuple[Tensor, Tensor]]


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of an adapter's configuration and weights.

    Raises:
        FedSafetyError: A file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
                while part := file.read(1 << 22):
                    digest.update(part)
        except OSError as error:
            raise unreadable(folder, name, error) from error
    return digest.hexdigest()


def check_adapter(folder: Path, linear_layers: dict[str, tuple[int, int]]) -> AdapterShape:
    """Return the shape of the adapter in ``folder`` after checking that every tensor fits a layer of the base model.

    One tensor is in memory at a time, so that the check suits adapters of any size.

    Args:
        folder: PEFT folder.
        linear_layers: Module path → (in features, out features) of every layer that may carry an adapter.

    Raises:
        FedSafetyError: A file is missing or corrupt, a value is not finite, a setting is not one of plain LoRA, a
            tensor has no place in the model, or the layers with tensors are not those that the settings target.
    """
    settings = read_settings(folder)
    present: dict[str, set[str]] = {}
    for module, factor, _ in _factors(folder, settings.rank, linear_layers):
        present.setdefault(module, set()).add(factor)
    check_targets(folder, linear_layers, present)
    return _shape(folder, settings, present)


def read_adapter(folder: Path, linear_layers: dict[str, tuple[int, int]]) -> StoredAdapter:
    """Return the adapter in ``folder`` with its numbers, checked as by :func:`check_adapter`.

    Raises:
        FedSafetyError: The check fails.
    """
    settings, digest = read_settings(folder), adapter_digest(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for module, factor, tensor in _factors(folder, settings.rank, linear_layers):
        factors.setdefault(module, {})[factor] = tensor
    check_targets(folder, linear_layers, factors)
    shape = _shape(folder, settings, factors)
    pairs = {module: (pair["A"], pair["B"]) for module, pair in factors.items()}
    return StoredAdapter(shape.folder, shape.rank, shape.scaling, shape.modules, digest, pairs)


def _factors(folder: Path, rank: int, linear_layers: dict[str, tuple[int, int]]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (module, ``A`` or ``B``, values) of each tensor after checking its name and shape."""
    for name, tensor in read_tensors(folder):
        match = _TENSOR.fullmatch(name)
        module = match["module"] if match else ""
        if match is None or module not in linear_layers:
            near = _nearest(name, linear_layers)
            raise broken(folder, f"tensor {name!r} belongs to no linear layer of the base model{near}")
        features_in, features_out = linear_layers[module]
        expected = (rank, features_in) if match["factor"] == "A" else (features_out, rank)
        if tuple(tensor.shape) != expected:
            raise broken(folder, f"tensor {name!r} has shape {tuple(tensor.shape)}, the model needs {expected}")
        yield module, match["factor"], tensor


def _shape(folder: Path, settings: PlainLora, factors: Mapping[str, Collection[str]]) -> AdapterShape:
    """Return the shape of an adapter whose modules have these factors."""
    for module, pair in factors.items():
        if len(pair) != 2:
            raise broken(folder, f"layer {module!r} has only one of the factors A and B")
    if not factors:
        raise broken(folder, "it holds no tensor")
    return AdapterShape(folder, settings.rank, settings.alpha / settings.rank, tuple(sorted(factors)))


def _nearest(name: str, linear_layers: dict[str, tuple[int, int]]) -> str:
    """Return the layer with the most similar name as the end of a sentence, or nothing if no name is similar."""
    close = difflib.get_close_matches(_FACTOR.sub("", name), linear_layers, n=1, cutoff=0.6)
    return f", whose nearest is {close[0]!r}" if close else ""
