"""Opening of a local checkpoint: precision, quantisation, device, and one clear error if it fails.

In 8 bits, the weights are those of bitsandbytes (Dettmers et al. 2022, arXiv 2208.07339: one scale per output row), and
the product is taken with the weights scaled back. The library's own product also rounds the inputs, and the whole batch
decides which columns it does not round. A row's output would then depend on the other rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from benchmark.errors import FedSafetyError, UsageError
from benchmark.models.memory import out_of_memory
from benchmark.models.products import widen_layers
from benchmark.models.reading import LOCAL, cause, check_layers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the precisions a model can be opened in."""

_LARGE = 10_000_000
"""Number of parameters from which fused attention is faster than explicit attention on a CPU."""


def load_causal_lm(
    path: Path,
    *,
    dtype: str = "float32",
    quantization: str = "",
    device: str = "auto",
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """Return a local checkpoint, frozen in evaluation mode.

    Args:
        path: Folder with a configuration and safetensors; no code in it is run.
        dtype: Precision of the weights, or of the products with quantised weights: ``float32``, ``bfloat16`` or
            ``float16``.
        quantization: ``8bit`` or ``4bit`` (NF4, as vLLM packs it) of all linear layers but the head, or ``""``.
        device: ``auto`` for the GPU if there is one, else a device of torch.
        gradient_checkpointing: Keep only each layer's input in training and compute the layer again in the backward
            pass.

    Raises:
        UsageError: A precision or quantization is unknown, or bitsandbytes is not installed.
        FedSafetyError: The checkpoint cannot be read, is incomplete, or does not fit into memory.
    """
    options = _options(dtype, quantization)
    target = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Small models run faster with explicit attention than with the fused one.
    options["attn_implementation"] = "eager"
    if quantization or (target.type == "cuda" and importlib.util.find_spec("accelerate")):
        options["device_map"] = {"": target}
    with _clear_errors(path):
        model = complete_causal_lm(path, options)
        loaded: PreTrainedModel = model if quantization else model.to(target)
    if target.type != "cpu" or loaded.num_parameters() >= _LARGE:
        with contextlib.suppress(ValueError):  # the architecture has explicit attention only
            loaded.set_attn_implementation("sdpa")
    _steady_products(loaded)
    widen_layers(loaded)
    if gradient_checkpointing:
        _checkpoint(loaded, path)
    loaded.requires_grad_(False)
    loaded.train(False)
    return loaded


def complete_causal_lm(path: Path, options: Mapping[str, Any]) -> Any:
    """Return the model of a local checkpoint that holds all of its tensors.

    Transformers fills missing tensors with random numbers.

    Args:
        path: Folder with a configuration and safetensors; no code in it is run.
        options: Further options of ``from_pretrained``.

    Raises:
        UsageError: The configuration has more layers than any model has.
        FedSafetyError: A tensor is missing.
    """
    check_layers(path)
    opened: Any = AutoModelForCausalLM.from_pretrained(
        path, **options, use_safetensors=True, output_loading_info=True, **LOCAL
    )
    model, report = opened
    if report["missing_keys"]:
        first = min(report["missing_keys"])
        raise FedSafetyError(f"the checkpoint {path} is incomplete: it has no tensor {first!r}; restore the folder")
    return model


def check_complete(path: Path) -> None:
    """Check that the weight files of a local checkpoint hold every tensor of its model. No weights are read.

    Transformers itself compares the names, because it renames tensors of some architectures while it loads them.

    Raises:
        FedSafetyError: A tensor is missing, or a weight file is damaged.
    """
    if importlib.util.find_spec("accelerate") is None:  # places tensors on the device without memory
        return
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        complete_causal_lm(path, {"device_map": "meta"})
    except FedSafetyError:
        raise
    except SafetensorError as error:
        raise FedSafetyError(f"cannot load the checkpoint {path}: {cause(path, error)}") from error
    except Exception:  # noqa: S110 - a form of weights that has no such check, such as quantised weights
        pass
    finally:
        transformers_logging.set_verbosity(level)


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Let the layers of a model opened with ``gradient_checkpointing`` compute again in the backward pass.

    Transformers does so in training mode only. That mode is set on the layers alone and not on their parts, because it
    would also switch on the base model's own dropout.
    """
    with _mode_of_layers(model, training=True):
        yield


@contextlib.contextmanager
def computing_once(model: nn.Module) -> Iterator[None]:
    """Let the layers keep all activations for a while, inside of :func:`recomputing`."""
    with _mode_of_layers(model, training=False):
        yield


def recomputes(model: nn.Module) -> bool:
    """Return whether the model was opened with ``gradient_checkpointing``."""
    return any(isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing for m in model.modules())


@contextlib.contextmanager
def _mode_of_layers(model: nn.Module, *, training: bool) -> Iterator[None]:
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing]
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = training
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.training = mode


def _options(dtype: str, quantization: str) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise UsageError(f"unknown precision {dtype!r} of a model; choose one of {', '.join(DTYPES)}")
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if not quantization:
        return options
    if quantization not in ("8bit", "4bit"):
        raise UsageError(f"unknown quantization {quantization!r} of a model; choose 8bit, 4bit or none")
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"a model in {quantization} needs {package}, which is not installed; install it with "
                f"`pip install {package}`, or leave quantization out in the suite"
            )
    form: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        form = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": DTYPES[dtype],
        }
    return options | {"quantization_config": BitsAndBytesConfig(**form)}  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FedSafetyError:
        raise
    except Exception as error:  # a damaged file may raise any kind of error
        if out_of_memory(error):
            raise FedSafetyError(
                f"the checkpoint {path} does not fit into memory ({error}); choose a lower precision or quantization, "
                f"a smaller model, or a device with more memory"
            ) from error
        raise FedSafetyError(f"cannot load the checkpoint {path}: {cause(path, error)}") from error


def _checkpoint(model: PreTrainedModel, path: Path) -> None:
    try:
        # A step does not draw from the global random state, so the state need not be preserved.
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    except ValueError as error:
        raise UsageError(
            f"the architecture of {path} has no gradient checkpointing; set gradient_checkpointing to false"
        ) from error
    model.disable_input_require_grads()  # type: ignore[no-untyped-call]


def _steady_products(model: PreTrainedModel) -> None:
    """Make quantised layers give each row the same output in training and evaluation and in any batch."""
    layers: list[Any] = list(model.modules())
    for module in layers:
        kind = type(module).__name__
        if kind == "Linear8bitLt":
            module.__class__ = _weight_only(type(module))  # type: ignore[arg-type]  # every class has a hash
        elif kind == "Linear4bit":
            # Switch off a CPU kernel for inference, which packs the weights anew and has no backward pass.
            module.support_avx512bf16_for_cpu = False


@cache
def _weight_only(base: type) -> type:
    """Return a subclass of bitsandbytes' 8-bit layer (so that PEFT accepts it) that rounds weights, not inputs."""

    def forward(layer: Any, x: Tensor) -> Tensor:
        if layer.weight.CB is not None:
            layer.init_8bit_state()
            layer.weight.data = layer.state.CB
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        y: Tensor = _ScaledBack.apply(x, layer.state.CB, layer.state.SCB)  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias

    return type(base.__name__, (base,), {"forward": forward})


class _ScaledBack(torch.autograd.Function):
    """``x Wᵀ`` for int8 rows with one scale each; W in full precision exists during the product only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(rows, scales)
        return functional.linear(x, _scaled_back(rows, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, scales = ctx.saved_tensors
        return gradients[0] @ _scaled_back(rows, scales, gradients[0].dtype), None, None


def _scaled_back(rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    # 127 steps on either side of zero. Scaling in the precision of the product writes the weights once.
    return rows.to(dtype) * (scales / 127.0).to(dtype)[:, None]
