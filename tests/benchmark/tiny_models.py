"""Tiny random models of the common architectures, and training rows of uneven length."""

from __future__ import annotations

import copy
import random

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from benchmark.models.lora import adapter_layout, initial_adapter
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings

_SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**_SHAPE, num_key_value_heads=2),  # biases in its attention
    "mistral": MistralConfig(**_SHAPE, num_key_value_heads=2, sliding_window=None),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),  # one fused layer for queries, keys and values; parallel residual
    "phi": PhiConfig(**_SHAPE, partial_rotary_factor=0.5),  # biases everywhere, in the head, too
}

ATTENTION_TARGETS = dict.fromkeys(CONFIGS, ("q_proj", "v_proj")) | {"gpt_neox": ("query_key_value",)}

LAYERS = {
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "qwen2": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "mistral": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "gpt_neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "phi": ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"],
}


def make_model(architecture: str, dtype: torch.dtype = torch.float64, attention: str = "eager") -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        # A model writes its kind of attention into its configuration.
        config = copy.deepcopy(CONFIGS[architecture])
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # they start at zero, which would hide a bias that is left out
                torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval()


def make_batches(
    clients: int, steps: int, rows: int, *, shortest: int = 4, longest: int = 15, seed: int = 3
) -> list[list[list[TokenRow]]]:
    rng = random.Random(seed)

    def row() -> TokenRow:
        length = rng.randint(shortest, longest)
        return TokenRow(tuple(rng.randrange(3, 97) for _ in range(length)), rng.randint(1, length - 2))

    return [[[row() for _ in range(rows)] for _ in range(steps)] for _ in range(clients)]


def start_adapter(
    model: PreTrainedModel, settings: LoraSettings, dtype: torch.dtype = torch.float64, noise: float = 0.02
) -> torch.Tensor:
    layout = adapter_layout(model, settings)
    flat = initial_adapter(layout, torch.Generator().manual_seed(1))
    return (flat + noise * torch.randn(layout.dimension, generator=torch.Generator().manual_seed(2))).to(dtype)
