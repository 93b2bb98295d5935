"""Which PEFT folders load: those whose adapter does here what it does in PEFT, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from benchmark.errors import FedSafetyError
from benchmark.generation.adapters import check_adapter, read_adapter
from benchmark.models.lora import adapter_layout, export_peft, import_peft
from benchmark.models.peft import is_zero
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


def save_plain(folder: Path, layout: AdapterLayout) -> None:
    """Save an adapter of ones: cheaper than PEFT, and the same files."""
    export_peft(torch.ones(layout.dimension), layout, SETTINGS, "base", folder)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def readers(layout: AdapterLayout) -> dict[str, Callable[[Path], object]]:
    """Every way to an adapter: import, the check of an engine, and its numbers."""
    pairs = zip(layout.names[::2], layout.shapes[::2], layout.shapes[1::2], strict=True)
    layers = {name.removesuffix(".lora_A"): (a[1], b[0]) for name, a, b in pairs}
    return {
        "import": lambda folder: import_peft(folder, layout),
        "check": lambda folder: check_adapter(folder, layers),
        "numbers": lambda folder: read_adapter(folder, layers),
    }


READERS = ("import", "check", "numbers")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_rslora": True}, "use_rslora = True"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts.weight"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"use_something_new": True}, "use_something_new"),
        ({"something_else": {"strength": 2}}, "something_else"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "a later one"}, "init_lora_weights"),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'; only LORA"),
        ({"r": "4"}, "r = '4'; a rank is a whole number"),
        ({"r": True}, "r = True"),
        ({"r": 0}, "r = 0"),
        ({"r": None}, "r = None"),
        ({"lora_alpha": [8]}, r"lora_alpha = \[8\]; it must be a finite number"),
        ({"lora_alpha": "8"}, "lora_alpha = '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha = inf"),
        ({"lora_alpha": 10**400}, "lora_alpha = 1000"),
        ({"lora_alpha": -1}, "lora_alpha = -1"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_settings_that_are_not_applied_are_refused_on_every_path(
    reader: str, changes: dict[str, Any], named: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_plain(tmp_path, layout)
    change_config(tmp_path, **changes)
    with pytest.raises(FedSafetyError, match=f"{named}.*; train it again with plain LoRA"):
        readers(layout)[reader](tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": "orthogonal"}])
def test_what_peft_writes_for_plain_lora_loads_on_every_path(
    reader: str, options: dict[str, Any], layout: AdapterLayout, tmp_path: Path
) -> None:
    save_with_peft(tmp_path, **options)
    assert readers(layout)[reader](tmp_path) is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r": 8}, "r = 8; the settings have rank 4"),
        ({"lora_alpha": 16}, "lora_alpha = 16.0; the settings have alpha 8"),
    ],
)
def test_another_shape_than_the_settings_is_refused(
    changes: dict[str, Any], named: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_plain(tmp_path, layout)
    change_config(tmp_path, **changes)
    with pytest.raises(FedSafetyError, match=named):
        import_peft(tmp_path, layout, SETTINGS)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.fill_(torch.nan), "not finite"),
        (lambda t: t.fill_(-torch.inf), "not finite"),
        (lambda t: t.to(torch.float64) * 1e60, "not finite in float32"),
        (lambda t: t.to(torch.int8), "no floating-point numbers"),
        (lambda t: t.to(torch.complex64), "no floating-point numbers"),
        (lambda t: t[:, :-1].contiguous(), "has shape"),
    ],
)
def test_numbers_that_are_no_weights_are_refused_on_every_path(
    reader: str, change: Callable[[torch.Tensor], torch.Tensor], named: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_plain(tmp_path, layout)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    last = max(tensors)
    save_file({**tensors, last: change(tensors[last])}, path)
    with pytest.raises(FedSafetyError, match=named):
        readers(layout)[reader](tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_the_way_out_fits_a_folder_of_another_program(reader: str, layout: AdapterLayout, tmp_path: Path) -> None:
    save_plain(tmp_path, layout)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    for extra, way_out in (
        ("base_model.model.lm_head.weight", "train it again with plain LoRA on the linear layers"),
        ("base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight", "train it again with plain LoRA"),
    ):
        save_file({**tensors, extra: torch.zeros(2, 2)}, path)
        with pytest.raises(FedSafetyError, match=way_out) as foreign:
            readers(layout)[reader](tmp_path)
        assert "delete" not in str(foreign.value)
    first = min(tensors)
    save_file({**tensors, first.replace(".weight", ".default.weight"): tensors[first].clone()}, path)
    with pytest.raises(FedSafetyError, match="twice; load it with PEFT and save it again"):
        readers(layout)[reader](tmp_path)
    path.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(FedSafetyError, match=r"pickled weights are not read.*save it again with save_pretrained"):
        readers(layout)[reader](tmp_path)
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(FedSafetyError, match="holds no object with settings; load it with PEFT"):
        readers(layout)[reader](tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FedSafetyError, match=r"cannot read adapter_config\.json.*; load it with PEFT"):
        readers(layout)[reader](tmp_path)
    # A run makes its own adapter again.
    (tmp_path / "run.json").touch()
    with pytest.raises(FedSafetyError, match="delete the folder so that it is trained and exported again"):
        readers(layout)[reader](tmp_path)


@pytest.mark.parametrize("reader", ["check", "numbers"])
def test_layers_with_tensors_are_those_that_the_settings_target(
    reader: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_plain(tmp_path, layout)
    read = readers(layout)[reader]
    change_config(tmp_path, target_modules=["q_proj"])
    with pytest.raises(
        FedSafetyError, match=r"tensors for layer 'model.layers.0.self_attn.v_proj', which .* not target"
    ):
        read(tmp_path)
    change_config(tmp_path, target_modules=["q_proj", "v_proj"])
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if ".layers.1." not in name}, path)
    with pytest.raises(
        FedSafetyError, match=r"no tensor for layer 'model.layers.1.self_attn.q_proj', which .* targets"
    ):
        read(tmp_path)
    for narrower in ({"layers_to_transform": 0}, {"layers_to_transform": [0]}):
        change_config(tmp_path, **narrower)
        read(tmp_path)
    change_config(tmp_path, layers_to_transform=None, exclude_modules=["layers.1.self_attn.q_proj"])
    with pytest.raises(FedSafetyError, match=r"no tensor for layer 'model.layers.1.self_attn.v_proj'"):
        read(tmp_path)


def test_an_adapter_is_zero_if_a_factor_or_its_scaling_is(layout: AdapterLayout, tmp_path: Path) -> None:
    save_plain(tmp_path, layout)
    assert not is_zero(tmp_path)
    change_config(tmp_path, lora_alpha=0)
    assert is_zero(tmp_path)
    change_config(tmp_path, lora_alpha=8)
    path = tmp_path / "adapter_model.safetensors"
    save_file({n: t * 0 if "lora_B" in n else t for n, t in load_file(path).items()}, path)
    assert is_zero(tmp_path)


def test_settings_of_later_versions_are_refused_where_they_are_set(layout: AdapterLayout, tmp_path: Path) -> None:
    save_with_peft(tmp_path)
    change_config(tmp_path, use_something_new=False)
    import_peft(tmp_path, layout, SETTINGS)
    change_config(tmp_path, use_something_new={"strength": 2})
    with pytest.raises(FedSafetyError, match="use_something_new"):
        import_peft(tmp_path, layout, SETTINGS)


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


def test_dropout_is_written_and_hinders_no_import(layout: AdapterLayout, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.05})
    adapter = start_adapter(make_model("llama"), SETTINGS, torch.float32)
    export_peft(adapter, layout, settings, "base", tmp_path / "adapter")
    assert torch.equal(import_peft(tmp_path / "adapter", layout, SETTINGS), adapter)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_dropout"] == 0.05


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize(
    ("content", "way_out"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "fetch the file with git lfs pull"),
        (b"/annex/objects/SHA256E-s9--4d7a\n", "git annex get"),
        (b"<!doctype html><title>Sign in</title>", "after a login"),
    ],
)
def test_a_pointer_in_place_of_a_file_gets_its_own_way_out(
    reader: str, name: str, content: bytes, way_out: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    save_plain(tmp_path, layout)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FedSafetyError, match=f"cannot be applied: {name} is a .*{way_out}") as caught:
        readers(layout)[reader](tmp_path)
    assert "save_pretrained" not in str(caught.value)
