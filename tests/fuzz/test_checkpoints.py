"""Damaged checkpoints and adapters, and chat templates built of odd pieces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from benchmark.generation.adapters import check_adapter
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.models.chat import ChatFormat
from benchmark.models.lora import import_peft
from benchmark.models.peft import is_zero
from benchmark.updates import AdapterLayout
from tasks.base import DataKind, Example, task_worlds

from .mutations import damaged, returns_or_explains

CHECKPOINT = task_worlds.get("micro").create().model_path("chat")
FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
PIECES = [
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ m['content'] }}",
    "{{ messages[0]['content'] }}",
    "{{ m.role | upper }}",
    "{% if add_generation_prompt %}",
    "{% if enable_thinking is not defined %}",
    "{% else %}",
    "{% endif %}",
    "{{ strftime_now('%d %b %Y') }}",
    "{{ date_string }}",
    "{{ raise_exception('no') }}",
    "{{ bos_token + eos_token }}",
    "{{ nothing.at.all }}",
    "{{ messages | tojson }}",
    "{{ 1 / (messages | length - 1) }}",
    "{{ ''.__class__.__mro__ }}",
    "{% set ns = namespace(x=0) %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% break %}",
    "{% for i in range(10 ** 9) %}",
    "{{ 'a' * 10 ** 5 }}",
    "{% include 'x' %}",
    "{{ [3, 'a'] | sort }}",
    "{{ m['content'] | random }}",
    "</s>",
    " <a> ",
    "{{",
    "%}",
    "{#",
    "\0",
]
INNER, OUTER, RANK = 8, 12, 2
LAYERS = {f"model.layers.{index}.q_proj": (INNER, OUTER) for index in range(2)}
LAYOUT = AdapterLayout(
    tuple(f"{name}.lora_{factor}" for name in LAYERS for factor in "AB"),
    tuple(shape for _ in LAYERS for shape in ((RANK, INNER), (OUTER, RANK))),
)
SETTINGS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "bias": "none",
    "init_lora_weights": True,
    "target_modules": ["q_proj"],
    "modules_to_save": None,
    "rank_pattern": {},
    "use_rslora": False,
}
EXAMPLE = Example("name red </s>", "red <a> blue", DataKind.NORMAL, "x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("fuzz") / "model"
    shutil.copytree(CHECKPOINT, copy)
    return copy


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapter")


def _use(chat: ChatFormat) -> None:
    chat.row(EXAMPLE)
    chat.prompt_ids(EXAMPLE.instruction)


@settings(settings.get_profile("fuzz"))
@given(name=st.sampled_from(FILES), data=st.data())
def test_a_damaged_checkpoint_is_read_or_explained(folder: Path, name: str, data: st.DataObject) -> None:
    document = data.draw(damaged(json.loads((CHECKPOINT / name).read_text())))
    (folder / name).write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
    try:
        returns_or_explains(lambda: _use(ChatFormat(folder)))
        returns_or_explains(lambda: read_checkpoint(folder))
    finally:
        shutil.copy(CHECKPOINT / name, folder / name)


@settings(settings.get_profile("fuzz"))
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=6))
def test_a_template_is_used_or_explained(pieces: list[str]) -> None:
    returns_or_explains(lambda: _use(ChatFormat(CHECKPOINT, template="".join(pieces), template_name="mine.jinja")))


def _tensors() -> dict[str, torch.Tensor]:
    views = LAYOUT.views(torch.ones(LAYOUT.dimension))
    return {f"base_model.model.{name}.weight": view.clone() for name, view in views.items()}


def _read(folder: Path) -> None:
    returns_or_explains(lambda: check_adapter(folder, LAYERS))
    returns_or_explains(lambda: import_peft(folder, LAYOUT))
    returns_or_explains(lambda: is_zero(folder))


@settings(settings.get_profile("fuzz"))
@given(document=damaged(SETTINGS))
def test_damaged_settings_of_an_adapter_are_read_or_explained(adapter: Path, document: Any) -> None:
    save_file(_tensors(), adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
    _read(adapter)


@settings(settings.get_profile("fuzz"))
@given(data=st.data())
def test_damaged_tensors_of_an_adapter_are_read_or_explained(adapter: Path, data: st.DataObject) -> None:
    tensors = _tensors()
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2)):
        tensor = tensors.pop(name, torch.ones(1))
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e5m2]))
        renamed = name.replace(*data.draw(st.sampled_from([("A", "B"), ("lora", "loha"), (".weight", ""), ("", "")])))
        shape = data.draw(st.sampled_from([tensor.shape, (0,), (), (1, 1, 1)]))
        tensors[renamed] = torch.full(shape, data.draw(st.sampled_from([0.0, 1.0, torch.nan, torch.inf]))).to(dtype)
    path = adapter / "adapter_model.safetensors"
    save_file(tensors, path)
    (adapter / "adapter_config.json").write_text(json.dumps(SETTINGS))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 9)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=9)) + content[end:])
    _read(adapter)
