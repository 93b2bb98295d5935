"""Sizes that running code and prediction share."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
from transformers import LlamaConfig

import benchmark.prediction
from benchmark.models import sizes
from benchmark.models.sizes import cache_bytes, config_cache_bytes, decoder_of, gib, merging_is_cheaper
from tasks.model_source import ModelShape

SHAPE = ModelShape(layers=3, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=100)


def test_keys_and_values_take_the_same_by_shape_and_by_configuration() -> None:
    config = LlamaConfig(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    # Keys and values, 3 layers, 2 heads, 16 numbers a head, 2 bytes each.
    assert cache_bytes(3, 2, 16, 2) == 2 * 3 * 2 * 16 * 2
    assert decoder_of(SHAPE).cache_bytes("bfloat16") == config_cache_bytes(config, 2) == 384


def test_a_configuration_without_key_value_heads_has_one_for_each_head() -> None:
    config = LlamaConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=4)
    assert config_cache_bytes(config, 4) == 2 * 64 * 4


@pytest.mark.parametrize(
    ("elements", "tokens", "itemsize", "cheaper"),
    [(65_536, 32, 4, True), (65_537, 32, 4, False), (65_536, 31, 4, False), (65_536, 32, 2, False)],
)
def test_small_layers_are_merged_for_many_tokens_in_full_precision(
    elements: int, tokens: int, itemsize: int, cheaper: bool
) -> None:
    assert merging_is_cheaper(elements, tokens, itemsize) is cheaper


def test_bytes_as_text() -> None:
    assert [gib(1 << 30), gib(20 << 20)] == ["1.0 GiB", "20.0 MiB"]


def constants(module: str) -> dict[str, object]:
    """Return the names in capitals that a module defines by itself, with the numbers behind them."""
    source = importlib.import_module(module)
    assert source.__file__ is not None
    tree = ast.parse(Path(source.__file__).read_text(encoding="utf-8"))
    assigned = [n for s in tree.body if isinstance(s, ast.Assign) for t in s.targets for n in ast.walk(t)]
    names = [node.id for node in assigned if isinstance(node, ast.Name) and node.id.lstrip("_").isupper()]
    return {name: getattr(source, name) for name in names if isinstance(getattr(source, name), int | float | tuple)}


def test_prediction_defines_no_number_that_running_code_defines() -> None:
    homes = (
        *("benchmark.models.sizes", "benchmark.models.head", "benchmark.generation.settings"),
        *("benchmark.generation.base", "benchmark.generation.vllm_engine", "benchmark.training.memory"),
        *("benchmark.training.microbatches", "benchmark.training.stacked", "benchmark.models.sampling"),
    )
    shared = {value: f"{home}.{name}" for home in homes for name, value in constants(home).items()}
    assert sizes.ACTIVATION_SHARE in shared
    assert sizes.SAMPLED_CACHE_BYTES in shared
    copies = []
    for module in pkgutil.iter_modules(benchmark.prediction.__path__, "benchmark.prediction."):
        for name, value in constants(module.name).items():
            # Small whole numbers mean many things: sides of matrices, rounds of a sample.
            if value in shared and not (isinstance(value, int) and value < 1000):
                copies.append(f"{module.name}.{name} = {value} is also {shared[value]}")
    assert copies == []
