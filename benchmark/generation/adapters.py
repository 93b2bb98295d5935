"""Stored adapters as the engines read them: PEFT folders whose every tensor must have a place in the base model."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.errors import FedSafetyError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
_UNSUPPORTED = ("use_dora", "use_rslora", "lora_bias", "alpha_pattern", "rank_pattern", "fan_in_fan_out")


@dataclass(frozen=True)
class StoredAdapter:
    """A LoRA adapter on disk.

    Attributes:
        folder: Where it lies.
        digest: SHA-256 of configuration and weights; engines cache by it, never by path alone.
        rank: Rank r of both factors.
        scaling: Factor alpha / r on the adapter's contribution.
        factors: Module path in the base model → (A ``[rank, in]``, B ``[out, rank]``).
    """

    folder: Path
    digest: str
    rank: int
    scaling: float
    factors: dict[str, tuple[Tensor, Tensor]]


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of an adapter's configuration and weights.

    Raises:
        FedSafetyError: A file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise _broken(folder, f"cannot read {name}: {error.strerror}") from error
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def read_adapter(folder: Path, linear_layers: dict[str, tuple[int, int]]) -> StoredAdapter:
    """Return the adapter in ``folder`` after checking that every tensor fits a layer of the base model.

    Args:
        folder: PEFT folder.
        linear_layers: Module path → (in features, out features) of every layer that may carry an adapter.

    Raises:
        FedSafetyError: A file is missing or corrupt, the configuration asks for a LoRA variant that the engines do not
            apply alike, or a tensor has no place in the model.
    """
    digest = adapter_digest(folder)
    config = _config(folder)
    rank = int(config["r"])
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _tensors(folder).items():
        match = _TENSOR.fullmatch(name)
        module = match["module"] if match else ""
        if match is None or module not in linear_layers:
            raise _broken(folder, f"tensor {name!r} belongs to no linear layer of the base model")
        features_in, features_out = linear_layers[module]
        wanted = (rank, features_in) if match["factor"] == "A" else (features_out, rank)
        if tuple(tensor.shape) != wanted:
            raise _broken(folder, f"tensor {name!r} has shape {tuple(tensor.shape)}, the model needs {wanted}")
        found.setdefault(module, {})[match["factor"]] = tensor
    for module, pair in found.items():
        if len(pair) != 2:
            raise _broken(folder, f"layer {module!r} has only one of the factors A and B")
    if not found:
        raise _broken(folder, "it holds no tensor")
    factors = {module: (pair["A"], pair["B"]) for module, pair in found.items()}
    return StoredAdapter(folder, digest, rank, float(config["lora_alpha"]) / rank, factors)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        usable = config["peft_type"] == "LORA" and int(config["r"]) > 0 and float(config["lora_alpha"]) > 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(folder, f"{CONFIG} is not a LoRA configuration ({error!r})") from error
    if not usable:
        raise _broken(folder, f"{CONFIG} must have peft_type LORA and positive r and lora_alpha")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise _broken(folder, f"{CONFIG} sets {key}={config[key]!r}; only plain LoRA is supported")
    return dict(config)


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise _broken(folder, f"cannot read {WEIGHTS}: {error}") from error


def _broken(folder: Path, problem: str) -> FedSafetyError:
    return FedSafetyError(
        f"adapter {folder} cannot be applied: {problem}; delete the folder so that it is trained and exported again"
    )
