"""File of an aligned start: an adapter in bfloat16, with the base model, settings and data that it was made from.

The values are rounded to bfloat16 once, when the adapter is made. The rounded values are the start everywhere, so a
shipped adapter and the same adapter made again are equal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import FedSafetyError, InputsMissingError, first_line
from benchmark.records.store import scratch_beside, writing
from benchmark.suites.settings import LoraSettings
from benchmark.updates import AdapterLayout

_METADATA: Final = "fedsafety_alignment"
"""The only key of the file's metadata. With several keys, safetensors writes them in an order of its own each time."""
_SHAPE: Final = ("rank", "alpha", "targets")
"""Settings of adapters that decide which values a file must hold, and their effect."""
_REMAKE: Final = "make it again with 'fedsafety align'"


def rounded(adapter: Tensor) -> Tensor:
    """Return an adapter with its values rounded to bfloat16, in float32."""
    return adapter.to("cpu", torch.bfloat16).to(torch.float32)


def write_start(
    path: Path, adapter: Tensor, layout: AdapterLayout, lora: LoraSettings, base: str, about: Mapping[str, Any]
) -> str:
    """Write an aligned start and return the SHA-256 of the file, which appears whole or not at all.

    Equal arguments give equal bytes.

    Args:
        path: The safetensors file; replaced if it exists.
        adapter: Flat adapter ``[d]``, rounded to bfloat16.
        layout: Its layout.
        lora: Its rank, scaling and targets.
        base: Identity of the base model.
        about: Settings and data that the adapter was made from, JSON-like, for the reader.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = {name: view.to("cpu", torch.bfloat16).contiguous() for name, view in layout.views(adapter).items()}
    described = {**about, "base": base, "lora": _shape_of(lora)}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_beside(path)
        try:
            save_file(tensors, scratch, metadata={_METADATA: json.dumps(described, sort_keys=True)})
            digest = _sha256(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    return digest


def check_start(path: Path, lora: LoraSettings, base: str, sha256: str = "") -> str:
    """Check an aligned start without its values and return the SHA-256 of the file.

    Args:
        path: The safetensors file.
        lora: Rank, scaling and targets of the suite's adapters.
        base: Identity of the suite's start model.
        sha256: SHA-256 that the file must have; empty for any.

    Raises:
        InputsMissingError: The file is missing.
        FedSafetyError: The file has another SHA-256, cannot be read, or belongs to another base model or another shape
            of adapters.
    """
    try:
        digest = _sha256(path)
    except FileNotFoundError as error:
        raise InputsMissingError(
            f"the alignment adapter {path} is missing; put the file that belongs to the suite there, or {_REMAKE}"
        ) from error
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from error
    if sha256 and digest != sha256:
        size = path.stat().st_size
        raise _unusable(
            path, f"its {size:,} bytes have the SHA-256 {digest}, and the suite names {sha256}", "copy the file again"
        )
    described = _described(path)
    if described.get("base") != base:
        recorded = described.get("base")
        raise _unusable(
            path,
            f"it was made for the base model {recorded!r:.200}, and the suite's start model is {base!r}",
            f"use that model, or {_REMAKE}",
        )
    if described.get("lora") != _shape_of(lora):
        recorded = described.get("lora")
        raise _unusable(path, f"its adapter shape is {recorded!r:.200}, and the suite's lora is {_shape_of(lora)}")
    return digest


def read_start(path: Path, layout: AdapterLayout, lora: LoraSettings, base: str, sha256: str = "") -> Tensor:
    """Return the flat adapter ``[d]`` of an aligned start, in float32.

    Args:
        path: The safetensors file.
        layout: Layout of the start model's adapters.
        lora: Rank, scaling and targets of the suite's adapters.
        base: Identity of the suite's start model.
        sha256: SHA-256 that the file must have; empty for any.

    Raises:
        InputsMissingError: The file is missing.
        FedSafetyError: As for :func:`check_start`, or the tensors are not those of ``layout`` in bfloat16 with finite
            values.
    """
    check_start(path, lora, base, sha256)
    try:
        with safe_open(path, framework="pt") as stored:
            names = set(stored.keys())
            tensors = {name: stored.get_tensor(name) for name in layout.names if name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise _unusable(path, f"it cannot be read ({first_line(error)})") from error
    if names != set(layout.names):
        odd = min(names ^ set(layout.names))
        raise _unusable(path, f"tensor {odd!r} is only in {'the file' if odd in names else 'the model'}")
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        tensor = tensors[name]
        if tensor.dtype is not torch.bfloat16 or tuple(tensor.shape) != shape:
            raise _unusable(
                path,
                f"tensor {name!r} holds {tensor.dtype} of shape {tuple(tensor.shape)}, and the model needs "
                f"{torch.bfloat16} of shape {shape}",
            )
        if not torch.isfinite(tensor).all():
            raise _unusable(path, f"tensor {name!r} holds values that are not finite")
    return torch.cat([tensors[name].reshape(-1).to(torch.float32) for name in layout.names])


def _described(path: Path) -> dict[str, Any]:
    """Return what the file's metadata state."""
    try:
        with safe_open(path, framework="pt") as stored:
            described = json.loads((stored.metadata() or {}).get(_METADATA, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise _unusable(path, f"it cannot be read ({first_line(error)})") from error
    if not isinstance(described, dict):
        raise _unusable(path, f"its metadata have no {_METADATA!r} with base model and adapter shape")
    return described


def _shape_of(lora: LoraSettings) -> dict[str, Any]:
    return lora.model_dump(mode="json", include=set(_SHAPE))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unusable(path: Path, problem: str, way_out: str = _REMAKE) -> FedSafetyError:
    return FedSafetyError(f"the alignment adapter {path} cannot be used: {problem}; {way_out}")
