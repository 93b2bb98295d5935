"""LoRA adapters as flat vectors: the layers that carry one, its initial values, and its exchange in the PEFT format.

Source: Hu et al. 2021, arXiv 2106.09685. The adapted layer computes ``x Wᵀ + s · x Aᵀ Bᵀ`` with ``s = alpha / rank``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmark.errors import UsageError
from benchmark.models.peft import CONFIG, WEIGHTS, broken, check_settings, read_tensors
from benchmark.records.store import scratch_beside, writing
from benchmark.suites.settings import LoraSettings
from benchmark.updates import AdapterLayout

_PEFT_PREFIX = "base_model.model."


def target_layers(model: PreTrainedModel, settings: LoraSettings) -> dict[str, nn.Linear]:
    """Return the linear layers that carry an adapter, by module path, in model order.

    Raises:
        UsageError: A named target matches no linear layer of the model, or the model has no linear layer.
    """
    linear = linear_layers(model)
    if not linear:
        raise UsageError(
            f"{type(model).__name__} has no linear layers that can carry a LoRA adapter; take another model"
        )
    if settings.targets == "all-linear":
        return linear
    targets = (settings.targets,) if isinstance(settings.targets, str) else settings.targets
    for target in targets:
        if not any(name.rpartition(".")[2] == target for name in linear):
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise UsageError(f"LoRA target {target!r} matches no linear layer of the model; it has {', '.join(names)}")
    return {name: m for name, m in linear.items() if name.rpartition(".")[2] in targets}


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the linear layers of the language model but its output head, by module path, in model order.

    A model that also reads images or sound has layers for these. No text reaches them, so they carry no adapter.

    Raises:
        UsageError: The model has further parts, and its language model is not one module.
    """
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    prefix = _language_prefix(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.startswith(prefix)
    }


def _language_prefix(model: PreTrainedModel) -> str:
    """Return the beginning of the module paths of the language model; empty for a model that reads text alone."""
    config: Any = model.config
    if config.get_text_config() is config:
        return ""
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    path = next((name for name, module in model.named_modules() if module is decoder), "")
    towers = sorted(name for name, module in decoder.named_children() if re.search("vision|audio|image|visual", name))
    if not path or towers:
        raise UsageError(
            f"{type(model).__name__} is no plain language model ({', '.join(towers) or 'several parts'}), and the "
            f"layers of its text cannot be told from the rest; take a model that reads text alone"
        )
    return f"{path}."


def adapter_layout(model: PreTrainedModel, settings: LoraSettings) -> AdapterLayout:
    """Return the layout of a flat adapter for ``model``."""
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for name, layer in target_layers(model, settings).items():
        names += [f"{name}.lora_A", f"{name}.lora_B"]
        shapes += [(settings.rank, layer.in_features), (layer.out_features, settings.rank)]
    return AdapterLayout(tuple(names), tuple(shapes))


def initial_adapter(layout: AdapterLayout, generator: torch.Generator) -> Tensor:
    """Return a fresh flat adapter ``[d]``: A uniform as PEFT draws it (Kaiming with a = √5), B zero."""
    flat = torch.zeros(layout.dimension)
    for name, view in layout.views(flat).items():
        if name.endswith(".lora_A"):
            bound = 1.0 / math.sqrt(view.shape[1])
            view.uniform_(-bound, bound, generator=generator)
    return flat


def export_peft(adapter: Tensor, layout: AdapterLayout, settings: LoraSettings, base_model: str, folder: Path) -> None:
    """Write a flat adapter ``[d]`` as a folder that PEFT and vLLM load; the folder appears whole or not at all.

    Args:
        adapter: Flat adapter. Its rank may be higher than that of the settings; the scaling stays theirs.
        layout: Layout of the same layers with any rank.
        settings: Scaling and targets.
        base_model: Name of the base model, for the reader's information.
        folder: The folder to write; replaced if it exists.

    Raises:
        StorageError: The folder cannot be written.
    """
    layout = layout.of_rank(layout.rank_of(len(adapter)))
    tensors = {
        f"{_PEFT_PREFIX}{name}.weight": view.detach().to("cpu", torch.float32).contiguous()
        for name, view in layout.views(adapter).items()
    }
    modules = sorted({name.removesuffix(".lora_A").rpartition(".")[2] for name in layout.names[::2]})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": layout.rank,
        "lora_alpha": settings.alpha if layout.rank == settings.rank else settings.scaling * layout.rank,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    with writing(folder):
        scratch = scratch_beside(folder)
        try:
            scratch.mkdir(parents=True)
            save_file(tensors, scratch / WEIGHTS)
            (scratch / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def import_peft(folder: Path, layout: AdapterLayout, settings: LoraSettings | None = None) -> Tensor:
    """Return the flat adapter ``[d]`` of a PEFT folder, written by this or by another program.

    Args:
        folder: A PEFT folder with safetensors.
        layout: The layout of the model's adapters.
        settings: Settings whose scaling the adapter must have; ``None`` for any scaling.

    Raises:
        FedSafetyError: A file is missing or corrupt, a value is not finite, the tensors are not those of ``layout``,
            or the settings are not those of plain LoRA with this layout and scaling.
    """
    check_settings(folder, layout.shapes[0][0], settings.alpha if settings else None)
    tensors = dict(read_tensors(folder))
    expected = {f"{_PEFT_PREFIX}{name}.weight" for name in layout.names}
    if tensors.keys() != expected:
        odd = min(tensors.keys() ^ expected)
        raise broken(
            folder,
            f"it does not fit the model: tensor {odd!r} is in only one of the two; the adapter has "
            f"{_targets(tensors)}, but the model needs {_targets(expected)}",
        )
    parts = []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        tensor = tensors[f"{_PEFT_PREFIX}{name}.weight"]
        if tuple(tensor.shape) != shape:
            raise broken(folder, f"{name} has shape {tuple(tensor.shape)}, the model needs {shape}")
        parts.append(tensor.reshape(-1).to(torch.float32))
    return torch.cat(parts)


def _targets(names: Iterable[str]) -> str:
    layers = {re.sub(r"\.(lora_\w+|weight)\b.*", "", name) for name in names}
    return f"{', '.join(sorted({layer.rpartition('.')[2] for layer in layers})) or 'nothing'} ({len(layers)} layers)"
