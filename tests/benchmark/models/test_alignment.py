"""The file of an aligned start: equal content, equal bytes; what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.errors import FedSafetyError
from benchmark.models.alignment import check_start, read_start, rounded, write_start
from benchmark.suites.settings import LoraSettings
from benchmark.updates import AdapterLayout

LAYOUT = AdapterLayout(("a.lora_A", "a.lora_B"), ((2, 3), (4, 2)))
LORA = LoraSettings(rank=2, alpha=4)
ADAPTER = rounded(torch.randn(14, generator=torch.Generator().manual_seed(0)))


def written(path: Path, adapter: torch.Tensor = ADAPTER) -> str:
    return write_start(path, adapter, LAYOUT, LORA, "base@1", {"settings": {"b": 1, "a": [2]}, "data": {}})


def test_what_is_written_is_read_and_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    one, again = tmp_path / "one", tmp_path / "deeper" / "again"
    assert written(one) == written(again) == check_start(one, LORA, "base@1")
    assert one.read_bytes() == again.read_bytes()
    assert torch.equal(read_start(one, LAYOUT, LORA, "base@1", written(one)), ADAPTER)
    assert written(one, ADAPTER * 2) != written(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deeper", "one"]


def test_values_are_rounded_once() -> None:
    assert torch.equal(rounded(ADAPTER), ADAPTER)
    assert rounded(torch.tensor([1.0, 1.001, 3.14159])).tolist() == [1.0, 1.0, 3.140625]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.lora_A": torch.zeros(2, 3)}, r"'a.lora_A' holds torch.float32 of shape \(2, 3\)"),
        ({"a.lora_B": torch.zeros(4, 3, dtype=torch.bfloat16)}, r"of shape \(4, 3\), and the model needs .*\(4, 2\)"),
        ({"a.lora_B": torch.full((4, 2), float("nan"), dtype=torch.bfloat16)}, "'a.lora_B' holds values that are not"),
        ({"b.lora_A": torch.zeros(1, dtype=torch.bfloat16)}, "'b.lora_A' is only in the file"),
        ({"a.lora_B": None}, "'a.lora_B' is only in the model"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    path = tmp_path / "start"
    written(path)
    metadata = metadata_of(path)
    tensors = {name: value for name, value in (load_file(path) | change).items() if value is not None}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FedSafetyError, match=f"alignment adapter .*start cannot be used: .*{message}.*; make it again"):
        read_start(path, LAYOUT, LORA, "base@1")


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "start"
    save_file({"a.lora_A": torch.zeros(2, 3)}, path)
    with pytest.raises(FedSafetyError, match="its metadata have no 'fedsafety_alignment'"):
        check_start(path, LORA, "base@1")
    path.write_bytes(b"<html>not a tensor</html>")
    with pytest.raises(FedSafetyError, match="it cannot be read"):
        check_start(path, LORA, "base@1")
    written(path)
    with pytest.raises(FedSafetyError, match="made for the base model 'base@1', and the suite's start model is 'base@"):
        check_start(path, LORA, "base@2")
    with pytest.raises(FedSafetyError, match=r"its adapter shape is .*4\.0.*, and the suite's lora is .*8\.0"):
        check_start(path, LoraSettings(rank=2, alpha=8), "base@1")
    assert check_start(path, LoraSettings(rank=2, alpha=4, dropout=0.1), "base@1")


def metadata_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        return dict(stored.metadata())
