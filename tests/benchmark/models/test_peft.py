"""Which PEFT folders load: those whose adapter does here what it does in PEFT, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from benchmark.errors import FedSafetyError
from benchmark.models.lora import adapter_layout, export_peft, import_peft
from benchmark.suites.settings import LoraSettings
from benchmark.updates import AdapterLayout
from tests.benchmark.tiny_models import make_model, start_adapter

SETTINGS = LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj"))


@pytest.fixture(scope="module")
def layout() -> AdapterLayout:
    return adapter_layout(make_model("llama"), SETTINGS)


def save_with_peft(folder: Path, **changes: Any) -> None:
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | changes
    model = make_model("llama", torch.float32)
    with torch.random.fork_rng():
        get_peft_model(model, LoraConfig(**options, task_type="CAUSAL_LM")).save_pretrained(folder)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_rslora": True}, "use_rslora = True"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"r": 8}, "r = 8; the settings have rank 4"),
        ({"lora_alpha": 16}, "lora_alpha = 16; the settings have alpha 8"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
    ],
)
def test_settings_that_are_not_applied_are_refused(
    changes: dict[str, Any], named: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_with_peft(tmp_path, **changes)
    with pytest.raises(FedSafetyError, match=named):
        import_peft(tmp_path, layout, SETTINGS)


def test_settings_of_later_versions_are_refused_where_they_are_set(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path)
    change_config(tmp_path, use_something_new=False)
    import_peft(tmp_path, layout, SETTINGS)
    change_config(tmp_path, use_something_new={"strength": 2})
    with pytest.raises(FedSafetyError, match="use_something_new"):
        import_peft(tmp_path, layout, SETTINGS)


def test_another_kind_of_adapter_is_refused(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path)
    change_config(tmp_path, peft_type="LOHA")
    with pytest.raises(FedSafetyError, match="peft_type = 'LOHA'; only LORA"):
        import_peft(tmp_path, layout)


def test_damaged_settings_are_named(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(FedSafetyError, match=r"adapter_config\.json"):
        import_peft(tmp_path, layout)


def test_other_targets_are_named_on_both_sides(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path, target_modules=["q_proj", "k_proj"])
    with pytest.raises(FedSafetyError, match=r"has k_proj, q_proj \(4 layers\), but the model needs q_proj, v_proj"):
        import_peft(tmp_path, layout, SETTINGS)


def test_names_with_the_adapters_name_load_too(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path, init_lora_weights=False)
    expected = import_peft(tmp_path, layout, SETTINGS)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): t for name, t in load_file(path).items()}, path)
    assert torch.equal(import_peft(tmp_path, layout, SETTINGS), expected)
    assert expected.abs().sum() > 0


def test_half_precision_is_read_as_float32(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path, init_lora_weights=False)
    expected = import_peft(tmp_path, layout)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    found = import_peft(tmp_path, layout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_a_pickle_is_not_read(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    with pytest.raises(FedSafetyError, match=r"adapter_model\.safetensors"):
        import_peft(tmp_path, layout)


def test_dropout_is_written_and_hinders_no_import(layout: AdapterLayout, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.05})
    adapter = start_adapter(make_model("llama"), SETTINGS, torch.float32)
    export_peft(adapter, layout, settings, "base", tmp_path / "adapter")
    assert torch.equal(import_peft(tmp_path / "adapter", layout, SETTINGS), adapter)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_dropout"] == 0.05
