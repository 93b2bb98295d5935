"""Files of an adapter in the PEFT format: the settings that are supported, and the tensors.

Only plain LoRA is loaded, because its tensors describe its whole effect. Every reader of an adapter uses this module.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.errors import FedSafetyError, first_line
from benchmark.records.adapters import has_record
from tasks.stand_ins import stand_in

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

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

_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base model's weights as they are. For example, PiSSA changes them, so that its adapter
does not fit the unchanged model."""

_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

_LARGEST_ALPHA = float(torch.finfo(torch.float32).max)

_RETRAIN = "train it again with plain LoRA on the linear layers of the language model"
_RESAVE = f"load it with PEFT and save it again with save_pretrained, which writes {WEIGHTS} and {CONFIG}"


@dataclass(frozen=True)
class PlainLora:
    """Settings of a plain LoRA adapter.

    Attributes:
        rank: Rank r of all factors, at least 1.
        alpha: Numerator of the scaling alpha / r; finite and at least 0.
    """

    rank: int
    alpha: float


def read_settings(folder: Path) -> PlainLora:
    """Return the settings of the adapter in ``folder``.

    Raises:
        FedSafetyError: ``adapter_config.json`` is missing or damaged, or asks for anything but plain LoRA. The message
            names the setting.
    """
    config = _config(folder)
    if config.get("peft_type") != "LORA":
        raise wrong_setting(folder, "peft_type", config.get("peft_type"), "only LORA is loaded")
    for name in sorted(config.keys() - _WITHOUT_EFFECT - _CHECKED):
        if config[name]:
            needed = "this setting is not supported, and the adapter would act differently without it"
            raise wrong_setting(folder, name, config[name], needed)
    if config.get("bias", "none") != "none":
        raise wrong_setting(folder, "bias", config["bias"], "biases are not supported")
    start = config.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        needed = "of the initialisations only gaussian, eva and orthogonal are sure to leave the base model unchanged"
        raise wrong_setting(folder, "init_lora_weights", start, needed)
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise wrong_setting(folder, "r", rank, "a rank is a whole number from 1")
    if type(alpha) not in (int, float) or not 0 <= alpha <= _LARGEST_ALPHA:
        raise wrong_setting(folder, "lora_alpha", alpha, "it must be a finite number from 0")
    return PlainLora(rank, float(alpha))


def check_settings(folder: Path, rank: int, alpha: float | None) -> None:
    """Refuse an adapter that is not plain LoRA of this rank and scaling.

    Args:
        folder: A PEFT folder.
        rank: Rank of the model's layout.
        alpha: Numerator of the scaling that the adapter will get, or ``None`` for any.

    Raises:
        FedSafetyError: As for :func:`read_settings`, or rank or scaling differ.
    """
    settings = read_settings(folder)
    if settings.rank != rank:
        raise wrong_setting(folder, "r", settings.rank, f"the settings have rank {rank}")
    if alpha is not None and not math.isclose(settings.alpha, alpha):
        raise wrong_setting(folder, "lora_alpha", settings.alpha, f"the settings have alpha {alpha:g}")


def check_targets(folder: Path, layers: Collection[str], present: Collection[str]) -> None:
    """Refuse an adapter whose tensors belong to other layers than its ``target_modules``, for example after a loss.

    Settings that are patterns are not followed: the check needs a list of targets and of exclusions.

    Args:
        folder: A PEFT folder.
        layers: Module paths of all layers of the base model that may carry an adapter.
        present: Module paths of the layers for which the adapter has tensors.

    Raises:
        FedSafetyError: A layer is in only one of the two. The message names the first one.
    """
    config = _config(folder)
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    if not (isinstance(targets, list) and isinstance(excluded, list)) or config.get("layers_pattern"):
        return
    numbers = config.get("layers_to_transform")
    numbers = numbers if isinstance(numbers, list) or numbers is None else [numbers]
    expected = {
        layer
        for layer in layers
        if not _ends_in(layer, excluded)
        and (layer in targets or (_ends_in(layer, targets) and (not numbers or _number(layer) in numbers)))
    }
    missing = [layer for layer in layers if layer in expected and layer not in present]
    if missing:
        raise broken(folder, f"it has no tensor for layer {missing[0]!r}, which {CONFIG} targets", _RESAVE)
    extra = [layer for layer in layers if layer in present and layer not in expected]
    if extra:
        raise broken(folder, f"it has tensors for layer {extra[0]!r}, which {CONFIG} does not target", _RESAVE)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and values of each tensor of an adapter, one in memory at a time.

    The name that PEFT gives to an adapter is left out: ``x.lora_A.default.weight`` is ``x.lora_A.weight``.

    Raises:
        FedSafetyError: The file is missing or corrupt, two tensors have one name, or a value is not finite in
            float32, in which adapters are applied.
    """
    names: set[str] = set()
    for stored_name, tensor in _stored(folder):
        name = re.sub(r"\.default(?=\.weight$)", "", stored_name)
        if name in names:
            raise broken(folder, f"it holds the tensor {name!r} twice", _RESAVE)
        names.add(name)
        if tensor.dtype not in _NUMBERS:
            raise broken(folder, f"tensor {name!r} holds {tensor.dtype}, no floating-point numbers", _RETRAIN)
        if not torch.isfinite(tensor.to(torch.float32)).all():
            raise broken(folder, f"tensor {name!r} holds values that are not finite in float32", _RETRAIN)
        yield name, tensor


def is_zero(folder: Path) -> bool:
    """Return whether an adapter has no effect on any model: its scaling or all its factors A or B are zero.

    Raises:
        FedSafetyError: The adapter cannot be read.
    """
    moves = {"lora_A": False, "lora_B": False}
    for name, tensor in read_tensors(folder):
        factor = name.removesuffix(".weight").rpartition(".")[2]
        moves[factor] = moves.get(factor, False) or bool(tensor.any())
    return read_settings(folder).alpha == 0 or not (moves["lora_A"] and moves["lora_B"])


def broken(folder: Path, problem: str, way_out: str = _RETRAIN) -> FedSafetyError:
    """Return the error about an adapter that cannot be applied.

    Args:
        folder: The adapter's folder.
        problem: The reason.
        way_out: Advice for a folder that another program wrote. For an adapter of a run the advice is to delete the
            folder, because the run makes the adapter again.
    """
    if has_record(folder):
        way_out = "delete the folder so that it is trained and exported again"
    return FedSafetyError(f"adapter {folder} cannot be applied: {problem}; {way_out}")


def unreadable(folder: Path, name: str, error: Exception) -> FedSafetyError:
    """Return the error about a file of an adapter that cannot be read."""
    with contextlib.suppress(OSError):
        if found := stand_in(folder / name):
            return broken(folder, f"{name} is {found.content}", found.way_out)
    pickled = " (its pickled weights are not read, because they could run code)" if any(folder.glob("*.bin")) else ""
    return broken(folder, f"cannot read {name}: {first_line(error)}{pickled}", _RESAVE)


def wrong_setting(folder: Path, name: str, value: object, needed: str) -> FedSafetyError:
    """Return the error about one setting of an adapter."""
    return broken(folder, f"{CONFIG} has {name[:80]} = {value!r:.80}; {needed}")


def _ends_in(layer: str, names: list[Any]) -> bool:
    return any(f".{layer}".endswith(f".{name}") for name in names)


def _number(layer: str) -> int | None:
    """Return the number of the block that holds a layer, found as PEFT finds it."""
    match = re.match(r".*?\.[^.]*\.(\d+)\.", layer)
    return int(match[1]) if match else None


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(folder, CONFIG, error) from error
    if not isinstance(config, dict):
        raise broken(folder, f"{CONFIG} holds no object with settings", _RESAVE)
    return config


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a mapping
                yield name, stored.get_tensor(name)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise unreadable(folder, WEIGHTS, error) from error
