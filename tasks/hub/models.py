"""Checkpoints of a suite's models: files below the model root or from the hub, identity and template."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from benchmark.errors import InputsMissingError, UsageError, unknown_name
from tasks.base import Checkpoint
from tasks.hub.digests import files_sha256
from tasks.hub.hub import check_reachable, explained, resolve_commit
from tasks.hub.roots import model_root
from tasks.model_source import ModelSource

_FETCHED: Final = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""Patterns of files to fetch: weights in a format without code, configuration and tokenizer. No Python file matches."""
_SKIPPED: Final = ["*/*", "consolidated*", "README*", "LICENSE*"]
"""Patterns of files not to fetch: other formats of the same weights, and texts."""
_TEMPLATES: Final = Path(__file__).parent / "templates"


def source_checkpoint(source: ModelSource) -> Checkpoint:
    """Return the checkpoint of a source. Nothing is fetched before its path or identity is read.

    Raises:
        UsageError: The chat template cannot be read.
    """
    return Checkpoint(
        locate=partial(resolve_model, source),
        identify=partial(model_identity, source),
        dtype=source.dtype,
        quantization=source.quantization,
        template=template_text(source),
        pad_token=source.pad_token,
    )


def model_identity(source: ModelSource) -> str:
    """Return the identity of a model in keys: files, number format, quantisation, template and pad token.

    Example: ``owner/model@<commit> bfloat16 4bit pad:<unk>``.

    Raises:
        UsageError: The chat template cannot be read.
        InputsMissingError: The revision cannot be resolved.
    """
    template = template_text(source)
    form = f"template:{hashlib.sha256(template.encode()).hexdigest()[:16]}" if template is not None else ""
    pad = f"pad:{source.pad_token}" if source.pad_token else ""
    parts = (f"{source.repository}@{model_commit(source)}", source.dtype, source.quantization, form, pad)
    return " ".join(filter(None, parts))


def resolve_model(source: ModelSource) -> Path:
    """Return the folder of a checkpoint: below the model root or, without a model root, in the hub's cache.

    Raises:
        InputsMissingError: The checkpoint is missing: gated, no such revision, offline, incomplete, without
            safetensors, or not below the model root.
    """
    folder = _local_folder(source)
    if folder is None:
        return _downloaded(source.repository, source.revision)
    _check_complete(source.repository, folder)
    return folder


def check_model(source: ModelSource) -> None:
    """Check that a checkpoint is on this machine, or on the hub and open to this user, without fetching it.

    Raises:
        InputsMissingError: The checkpoint is missing, as for :func:`resolve_model`.
    """
    if model_root() is not None:
        resolve_model(source)
        return
    commit = resolve_commit("model", source.repository, source.revision)
    try:
        files = check_reachable("model", source.repository, commit)
    except InputsMissingError as unreachable:
        with suppress(InputsMissingError):
            _check_complete(source.repository, _snapshot(source.repository, commit, cached=True))
            return
        raise unreachable
    if files and not any("/" not in name and name.endswith(".safetensors") for name in files):
        raise InputsMissingError(_without_safetensors(source.repository, f"at revision {source.revision!r}"))


def _check_complete(repository: str, folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise InputsMissingError(_without_safetensors(repository, f"in {folder}"))
    if missing := sorted(name for name in _shards(folder) if not (folder / name).is_file()):
        raise InputsMissingError(
            f"model {repository} in {folder} is not complete: {missing[0]} is missing"
            f"{f', and {len(missing) - 1} more' if missing[1:] else ''}; download or copy it again"
        )


def _without_safetensors(repository: str, where: str) -> str:
    return (
        f"model {repository} {where} has no *.safetensors; pickled weights can run code when they are read, so they "
        f"are not: save it with safetensors below a folder named by --model-root, or name a revision that has them"
    )


def model_commit(source: ModelSource) -> str:
    """Return the identity of the model's files: a commit id of the hub, or ``sha256:…`` of the local folder.

    Raises:
        InputsMissingError: The hub cannot resolve the revision, or the folder is missing.
    """
    folder = _local_folder(source)
    if folder is None:
        return resolve_commit("model", source.repository, source.revision)
    files = [path for path in folder.iterdir() if path.is_file() and _is_fetched(path.name)]
    return f"sha256:{files_sha256(folder, files)}"


def template_text(source: ModelSource) -> str | None:
    """Return the chat template that replaces the tokenizer's own, or ``None`` for the tokenizer's own.

    Raises:
        UsageError: The name is neither a bundled template nor a readable ``.jinja`` file.
    """
    if not source.template:
        return None
    if source.template.endswith(".jinja"):
        path = Path(source.template).expanduser()
    else:
        path = _TEMPLATES / f"{source.template}.jinja"
        bundled = sorted(file.stem for file in _TEMPLATES.glob("*.jinja"))
        if source.template not in bundled:
            raise unknown_name("chat template", source.template, bundled)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"chat template {source.template!r} of model {source.repository} cannot be read: {error}; name a UTF-8 "
            f"file that ends in .jinja, or a bundled template"
        ) from error


def _local_folder(source: ModelSource) -> Path | None:
    root = model_root()
    if root is None:
        return None
    folder = root / (source.local or source.repository)
    if not (folder / "config.json").is_file():
        raise InputsMissingError(
            f"model {source.repository} is not below the model root: {folder} has no config.json; save the checkpoint "
            f"there, or leave out --model-root to use the hub"
        )
    return folder


def _shards(folder: Path) -> set[str]:
    """Return the weight files that the index of a sharded checkpoint names."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return set(index["weight_map"].values())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputsMissingError(
            f"{folder}/model.safetensors.index.json cannot be read ({error}); copy it again"
        ) from error


@lru_cache(maxsize=64)
def _downloaded(repository: str, revision: str) -> Path:
    """Return the folder in the hub's cache, after downloading missing files; looked up once in a process."""
    commit = resolve_commit("model", repository, revision)
    try:
        check_reachable("model", repository, commit)
    except InputsMissingError as unreachable:
        try:
            folder = _snapshot(repository, commit, cached=True)
        except InputsMissingError:
            raise unreachable from None
    else:
        folder = _snapshot(repository, commit, cached=False)
    _check_complete(repository, folder)
    return folder


def _snapshot(repository: str, commit: str, *, cached: bool) -> Path:
    from huggingface_hub import snapshot_download

    with explained("model", repository, commit):
        folder = snapshot_download(
            repository,
            revision=commit,
            allow_patterns=_FETCHED,
            ignore_patterns=_SKIPPED,
            local_files_only=cached,
        )
    return Path(str(folder))


def _is_fetched(name: str) -> bool:
    return any(name.endswith(pattern.removeprefix("*")) for pattern in _FETCHED) and not name.startswith(
        ("consolidated", "README", "LICENSE")
    )
