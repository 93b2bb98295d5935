"""The hub as its libraries show it: commits, and errors that name the repository and the way out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import errors

from benchmark.errors import InputsMissingError, UsageError
from tasks.hub.datasets import check_data, data_identity, load_rows
from tasks.hub.hub import resolve_commit
from tasks.hub.models import resolve_model
from tasks.hub.settings import DatasetSource
from tasks.model_source import ModelSource

from .conftest import COMMIT, forget, pairs

SOURCE = DatasetSource(repository="owner/set", revision="v1")
Fake = Callable[..., Any]


class ConnectError(Exception):
    """What the HTTP library of the hub raises; its name differs from version to version, this one's does not."""


def of_hub(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    request = SimpleNamespace(method="GET", url="https://example.org")
    return kind("refused", response=SimpleNamespace(status_code=status, headers={}, request=request))  # type: ignore[arg-type]


def raising(error: Exception) -> Fake:
    def fake(*_: Any, **__: Any) -> Any:
        raise error

    return fake


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake, Fake], None]:
    """Put two functions in the place of what asks for a repository and of what reads a data set."""

    def set_up(repo_info: Fake, load_dataset: Fake = lambda *_, **__: pytest.fail("not to be loaded")) -> None:
        monkeypatch.setattr(
            huggingface_hub.HfApi, "repo_info", lambda self, *args, **kwargs: repo_info(*args, **kwargs)
        )
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", load_dataset)

    return set_up


def info(*_: Any, **__: Any) -> Any:
    return SimpleNamespace(sha=COMMIT)


CASES: list[tuple[Exception, str]] = [
    (of_hub(errors.GatedRepoError, 403), r"owner/set is gated: .*/datasets/owner/set, .* HF_TOKEN .*--data-root"),
    (of_hub(errors.RevisionNotFoundError, 404), r"owner/set has no revision '\w+' \(any more\).*commits/main"),
    (of_hub(errors.RepositoryNotFoundError, 404), r"the hub knows no dataset owner/set.*HF_TOKEN"),
    (errors.LocalEntryNotFoundError("offline"), r"owner/set at .* is not on this machine.*HF_HUB_OFFLINE=1"),
    (ConnectionError("nobody answers"), r"owner/set .* the hub cannot be reached"),
    (ConnectError("no such name"), r"owner/set .* the hub cannot be reached"),
    (DatasetNotFoundError("Dataset 'owner/set' is a gated dataset on the Hub."), r"owner/set is gated"),
    (DatasetNotFoundError("Dataset 'owner/set' doesn't exist"), r"the hub knows no dataset owner/set"),
    (of_hub(errors.HfHubHTTPError, 500), r"the hub refuses dataset owner/set: refused"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message"), CASES)
def test_refusals_when_asking(hub: Callable[..., None], error: Exception, message: str) -> None:
    hub(raising(error))
    with pytest.raises(InputsMissingError, match=message):
        load_rows(SOURCE)


@pytest.mark.parametrize(("error", "message"), CASES)
def test_refusals_when_loading(hub: Callable[..., None], error: Exception, message: str) -> None:
    hub(info, raising(error))
    with pytest.raises(InputsMissingError, match=message):
        load_rows(SOURCE.model_copy(update={"revision": COMMIT}))


def test_models_are_refused_alike(hub: Callable[..., None]) -> None:
    hub(info, raising(of_hub(errors.GatedRepoError, 401)))
    with pytest.raises(
        InputsMissingError, match=r"model owner/model is gated: .*huggingface.co/owner/model,.*--model-root"
    ):
        resolve_model(ModelSource(repository="owner/model"))


def test_other_errors_are_not_disguised(hub: Callable[..., None]) -> None:
    hub(raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        load_rows(SOURCE)


def test_rows_of_the_hub(hub: Callable[..., None]) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(pairs("question", 2500))

    hub(info, load_dataset)
    source = SOURCE.model_copy(update={"config": "sub", "split": "test"})
    loaded = load_rows(source)
    assert asked == [(("owner/set", "sub"), {"split": "test", "revision": COMMIT})]
    assert loaded.identity == data_identity(source) == COMMIT
    assert loaded.table["instruction"].to_pylist() == [f"question {i}" for i in range(2500)]


def test_unknown_split(hub: Callable[..., None]) -> None:
    hub(info, raising(ValueError("Unknown split \"tets\". Should be one of ['train', 'test'].")))
    with pytest.raises(
        UsageError, match=r"owner/set \(configuration 'default', split 'train'\): Unknown split.*mend config"
    ):
        load_rows(SOURCE)


def test_files_that_are_not_data(hub: Callable[..., None]) -> None:
    hub(info, raising(DatasetGenerationError("An error occurred while generating the dataset")))
    with pytest.raises(UsageError, match=r"owner/set .*: An error occurred while generating the dataset; mend config"):
        load_rows(SOURCE)


def test_without_the_package(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    hub(info)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"owner/set comes from the hub.*install 'fedsafetybench\[hub\]'"):
        load_rows(SOURCE)


def test_full_commits_ask_nobody(hub: Callable[..., None]) -> None:
    hub(raising(AssertionError("asked")))
    assert data_identity(SOURCE.model_copy(update={"revision": COMMIT})) == COMMIT


def test_a_branch_is_resolved_once(hub: Callable[..., None]) -> None:
    answers = iter([COMMIT, COMMIT.replace("c", "d")])
    hub(lambda *_, **__: SimpleNamespace(sha=next(answers)))
    assert [resolve_commit("dataset", "owner/set", "main") for _ in range(2)] == [COMMIT, COMMIT]


def test_offline_a_branch_is_what_the_cache_holds(hub: Callable[..., None]) -> None:
    hub(raising(errors.OfflineModeIsEnabled("off")), lambda *_, **__: f"/cache/snapshots/{COMMIT}")
    assert resolve_commit("model", "owner/model", "main") == COMMIT


def prepared(folder: Path, commit: str, rows: list[dict[str, Any]]) -> None:
    """Put rows where ``datasets`` keeps those of owner/set at a commit."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    builder = datasets.load_dataset_builder(
        "json", data_files=str(folder / "rows.jsonl"), cache_dir=str(folder / "made")
    )
    builder.download_and_prepare()
    place = folder / "cache" / "owner___set" / "default" / "0.0.0" / commit
    shutil.copytree(builder.cache_dir, place)
    shutil.rmtree(folder / "made")
    (place / "json-train.arrow").rename(place / "set-train.arrow")
    told = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps({**told, "dataset_name": "set", "config_name": "default"}))


def test_what_was_read_before_needs_no_hub_and_no_other_commit_takes_its_place(
    hub: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = COMMIT.replace("c", "d")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    prepared(tmp_path, COMMIT, pairs("question", 5))
    prepared(tmp_path, other, pairs("younger", 4))
    hub(raising(ConnectionError("nobody answers")))
    pinned = SOURCE.model_copy(update={"revision": COMMIT})
    check_data(pinned)
    loaded = load_rows(pinned)
    assert loaded.table["instruction"].to_pylist() == [f"question {i}" for i in range(5)]
    shutil.rmtree(tmp_path / "cache" / "owner___set" / "default" / "0.0.0" / COMMIT)
    forget()
    for offline in (ConnectionError("nobody answers"), errors.OfflineModeIsEnabled("off")):
        hub(raising(offline))
        for ask in (check_data, load_rows):
            with pytest.raises(InputsMissingError, match=r"owner/set .* the hub cannot be reached"):
                ask(pinned)


def test_the_hub_is_asked_once_a_process(hub: Callable[..., None]) -> None:
    asked: list[Any] = []

    def counted(*args: Any, **_: Any) -> Any:
        asked.append(args)
        return info()

    hub(counted, lambda *_, **__: datasets.Dataset.from_list(pairs("question", 3)))
    for limit in (1, 2):
        check_data(SOURCE)
        load_rows(SOURCE.model_copy(update={"limit": limit, "split": f"train{limit}"}))
    assert len(asked) == 2  # what v1 is, and whether that commit can be had
