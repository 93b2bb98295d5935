"""Check of the settings of an adapter from another program: plain LoRA, whose tensors describe its whole effect."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmark.errors import FedSafetyError

_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Settings that describe the training of an adapter, or its layers, which the names of its tensors give too."""

_CHECKED = {"peft_type", "r", "lora_alpha", "bias", "init_lora_weights"}

_ALTERING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base model's weights, so that the adapter does not fit the unchanged model."""


def check_config(folder: Path, rank: int, alpha: float | None) -> None:
    """Refuse an adapter whose ``adapter_config.json`` asks for anything but plain LoRA of this shape.

    Args:
        folder: A PEFT folder; without that file there is nothing to check.
        rank: Rank of the model's layout.
        alpha: Numerator of the scaling that the adapter will get, or ``None`` for any.

    Raises:
        FedSafetyError: The file is damaged, or a setting differs or is not supported.
    """
    path = folder / "adapter_config.json"
    if not path.exists():
        return
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FedSafetyError(f"cannot read adapter settings {path}: {error}; restore the folder") from error

    def wrong(name: str, needed: str) -> FedSafetyError:
        return FedSafetyError(
            f"adapter {folder} has {name} = {config.get(name)!r}; {needed}; train it again with plain LoRA"
        )

    if config.get("peft_type") != "LORA":
        raise wrong("peft_type", "only LORA is loaded")
    unsupported = sorted(name for name in config.keys() - _WITHOUT_EFFECT - _CHECKED if config[name])
    if unsupported:
        raise wrong(unsupported[0], "this setting is not supported, and the adapter would act differently without it")
    if config.get("bias", "none") != "none":
        raise wrong("bias", "biases are not supported")
    if str(config.get("init_lora_weights", True)).lower().startswith(_ALTERING_STARTS):
        raise wrong("init_lora_weights", "it changes the base model, which must stay unchanged")
    if config.get("r") != rank:
        raise wrong("r", f"the settings have rank {rank}")
    if alpha is not None and not math.isclose(float(config.get("lora_alpha", math.nan)), alpha):
        raise wrong("lora_alpha", f"the settings have alpha {alpha:g}")
