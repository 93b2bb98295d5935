"""Stored adapters as the engines read them: PEFT folders whose every tensor must have a place in the base model."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.errors import FedSafetyError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
_FACTOR = re.compile(r"^base_model\.model\.|\.lora_[AB](\.default)?\.weight$")
_UNSUPPORTED = ("use_dora", "use_rslora", "lora_bias", "alpha_pattern", "rank_pattern", "fan_in_fan_out")


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
            raise _broken(folder, f"cannot read {name}: {error.strerror}") from error
    return digest.hexdigest()


def check_adapter(folder: Path, linear_layers: dict[str, tuple[int, int]]) -> AdapterShape:
    """Return the shape of the adapter in ``folder`` after checking that every tensor fits a layer of the base model.

    The check reads no numbers, so that it is cheap for adapters of any size.

    Args:
        folder: PEFT folder.
        linear_layers: Module path → (in features, out features) of every layer that may carry an adapter.

    Raises:
        FedSafetyError: A file is missing or corrupt, the configuration asks for a LoRA variant that the engines apply
            differently, or a tensor has no place in the model.
    """
    config = _config(folder)
    rank = int(config["r"])
    present: dict[str, set[str]] = {}
    with _opened(folder) as stored:
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            match = _TENSOR.fullmatch(name)
            module = match["module"] if match else ""
            if match is None or module not in linear_layers:
                near = _nearest(name, linear_layers)
                raise _broken(folder, f"tensor {name!r} belongs to no linear layer of the base model{near}")
            features_in, features_out = linear_layers[module]
            expected = (rank, features_in) if match["factor"] == "A" else (features_out, rank)
            shape = tuple(stored.get_slice(name).get_shape())
            if shape != expected:
                raise _broken(folder, f"tensor {name!r} has shape {shape}, the model needs {expected}")
            present.setdefault(module, set()).add(match["factor"])
    for module, factors in present.items():
        if len(factors) != 2:
            raise _broken(folder, f"layer {module!r} has only one of the factors A and B")
    if not present:
        raise _broken(folder, "it holds no tensor")
    return AdapterShape(folder, rank, float(config["lora_alpha"]) / rank, tuple(sorted(present)))


def read_adapter(folder: Path, linear_layers: dict[str, tuple[int, int]]) -> StoredAdapter:
    """Return the adapter in ``folder`` with its numbers, checked as by :func:`check_adapter`.

    Raises:
        FedSafetyError: The check fails.
    """
    digest = adapter_digest(folder)
    shape = check_adapter(folder, linear_layers)
    factors: dict[str, dict[str, Tensor]] = {}
    with _opened(folder) as stored:
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            match = _TENSOR.fullmatch(name)
            assert match is not None
            factors.setdefault(match["module"], {})[match["factor"]] = stored.get_tensor(name)
    pairs = {module: (pair["A"], pair["B"]) for module, pair in factors.items()}
    return StoredAdapter(shape.folder, shape.rank, shape.scaling, shape.modules, digest, pairs)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        alpha = float(config["lora_alpha"])
        usable = config["peft_type"] == "LORA" and int(config["r"]) > 0 and 0 <= alpha < math.inf
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(folder, f"{CONFIG} is not a LoRA configuration ({error!r})") from error
    if not usable:
        raise _broken(folder, f"{CONFIG} must have peft_type LORA, a positive r and a finite lora_alpha from 0")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise _broken(folder, f"{CONFIG} sets {key}={config[key]!r}; only plain LoRA is supported")
    return dict(config)


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise _broken(folder, f"cannot read {WEIGHTS}: {error}") from error


def _nearest(name: str, linear_layers: dict[str, tuple[int, int]]) -> str:
    """Return the layer with the most similar name as the end of a sentence, or nothing if no name is similar."""
    close = difflib.get_close_matches(_FACTOR.sub("", name), linear_layers, n=1, cutoff=0.6)
    return f", whose nearest is {close[0]!r}" if close else ""


def _broken(folder: Path, problem: str) -> FedSafetyError:
    return FedSafetyError(
        f"adapter {folder} cannot be applied: {problem}; delete the folder so that it is trained and exported again"
    )
