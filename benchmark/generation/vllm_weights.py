"""Weights of the linear layers inside vLLM, for merging adapters into them.

On a processor, vLLM packs each weight for its matrix kernels when a model is loaded, and drops the weight itself. So
the weights are kept while a model is loaded, and a changed weight is packed by vLLM's own code again. Elsewhere a layer
computes with its parameter, which is changed in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from torch import Tensor, nn

from benchmark.errors import FedSafetyError
from benchmark.generation.merging import MergedWeights, Place


@contextlib.contextmanager
def kept_weights() -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the weight of every linear layer of a model that vLLM loads in this block.

    Yields:
        vLLM's layer → its weight ``[out, in]`` before packing, which nothing else refers to.
    """
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    weights: dict[nn.Module, Tensor] = {}
    pack = UnquantizedLinearMethod.process_weights_after_loading

    def keep(method: Any, layer: Any) -> None:
        weight = layer.weight.detach()
        pack(method, layer)
        packed = layer.weight.numel() == 0
        weights[layer] = weight if packed else weight.clone()

    with mock.patch.object(UnquantizedLinearMethod, "process_weights_after_loading", keep):
        yield weights


def mergeable(model: Any, weights: Mapping[nn.Module, Tensor], layers: Mapping[str, tuple[int, int]]) -> MergedWeights:
    """Return the weights of vLLM's ``model`` into which adapters can be merged.

    Args:
        model: vLLM's model.
        weights: From :func:`kept_weights`.
        layers: Module path in the checkpoint → (in features, out features) of every layer that may carry an adapter.

    Raises:
        FedSafetyError: vLLM has no such layer, or holds it in another shape.
    """
    modules = {name: module for name, module in model.named_modules() if module in weights}
    places = {}
    for path, (features_in, features_out) in layers.items():
        place = _place(model, modules, path)
        held = tuple(weights[modules[place.layer]][place.rows].shape) if place else ()
        if place is None or held != (features_out, features_in):
            raise FedSafetyError(
                f"adapters cannot be merged into {path}: vLLM holds {f'it as {held}' if held else 'no such layer'}, "
                f"and the checkpoint has ({features_out}, {features_in}); set decoding.adapters to lora, or use the "
                f"transformers engine"
            )
        places[path] = place
    used = {place.layer for place in places.values()}
    return MergedWeights(
        {name: weights[module] for name, module in modules.items() if name in used},
        places,
        lambda name, weight: _write(modules[name], weight),
    )


def _place(model: Any, modules: Mapping[str, Any], path: str) -> Place | None:
    """Return the place of a layer of the checkpoint, or ``None`` if vLLM has no such layer."""
    from vllm.model_executor.utils import get_packed_modules_mapping

    mapper = getattr(model, "hf_to_vllm_mapper", None)
    name = path if mapper is None else mapper.get_rename_mapper().map_name(path)
    if name in modules:
        return Place(name, slice(None))
    parent, _, child = str(name).rpartition(".")
    for fused, children in get_packed_modules_mapping(model).items():
        whole = f"{parent}.{fused}"
        if child in children and whole in modules:
            sizes = modules[whole].output_sizes
            index = children.index(child)
            return Place(whole, slice(sum(sizes[:index]), sum(sizes[: index + 1])))
    return None


def _write(layer: Any, weight: Tensor) -> None:
    """Make a layer compute with ``weight``."""
    if layer.weight.numel():
        layer.weight.data.copy_(weight)
        return
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.quant_method.process_weights_after_loading(layer)
