"""Pinned files of GitHub: fetched once, taken from the data root, and refused with one reason if they are others."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InputsMissingError, NotFetchedError, StorageError, UsageError
from tasks.hub import HubWorld
from tasks.hub.cache import CACHE, cache_folder
from tasks.hub.datasets import check_data, data_identity, fetch_data, is_here, load_rows
from tasks.hub.fetching import silent, without_fetching
from tasks.hub.github import MIRROR, obtain_github_file
from tasks.hub.inputs import dataset_input
from tasks.hub.roots import DATA_ROOT
from tasks.hub.settings import DataChoice, DatasetSource, GithubFile, HubData

from .conftest import COMMIT, forget

CONTENT = b"instruction,response\nName a fruit.,Apple\nName a plant.,Moss\n"
PATH = "data/rows of 2024.csv"
FILE = GithubFile(repository="owner/name", commit=COMMIT, path=PATH, sha256=hashlib.sha256(CONTENT).hexdigest())
SOURCE = DatasetSource(github=FILE, local="own/rows.csv")


@dataclass
class Server:
    """A server of raw files, and what it was asked for."""

    content: bytes | None = CONTENT
    length: int | None = None
    asked: list[str] = field(default_factory=list)
    waits: threading.Event | None = None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(f"{self.command} {self.path}")
            if state.content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(state.length or len(state.content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(state.content)
                self.wfile.flush()
            if state.waits is not None:
                state.waits.wait(60)

        do_HEAD = do_GET  # noqa: N815 - the name of the handler's hook

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        monkeypatch.setenv(MIRROR, f"http://127.0.0.1:{listener.server_port}/")
        yield state
        listener.shutdown()


def files_of_cache() -> list[Path]:
    return [path for path in cache_folder().rglob("*") if path.is_file()]


def below_root(root: Path, content: bytes) -> Path:
    path = root / "own" / "rows.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_is_fetched_once(server: Server) -> None:
    lines: list[str] = []
    assert not is_here(SOURCE)
    fetch_data(SOURCE, lines.append)
    fetch_data(SOURCE, lines.append)
    assert is_here(SOURCE)
    assert lines == ["fetching github:owner/name/data/rows of 2024.csv"]
    assert server.asked == [f"GET /owner/name/{COMMIT}/data/rows%20of%202024.csv"]
    (path,) = files_of_cache()
    assert (path.name, path.read_bytes()) == ("rows of 2024.csv", CONTENT)
    server.content = None
    assert load_rows(SOURCE).table["response"].to_pylist() == ["Apple", "Moss"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: Server) -> None:
    path = obtain_github_file(FILE, silent)
    path.write_bytes(CONTENT[:-1])
    assert not is_here(SOURCE)
    assert obtain_github_file(FILE, silent).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_rows_and_digest_do_not_depend_on_where_the_file_came_from(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = DataChoice.model_validate({"benign": "rows"})

    def seen(source: DatasetSource) -> tuple[Any, ...]:
        forget()
        rows = load_rows(source)
        digest = HubWorld(data=HubData(pools={"rows": source}), choice=choice).data_digest
        return rows.table.to_pylist(), rows.identity, digest, dataset_input("pool/rows", rows, 2)

    below_root(root, CONTENT)
    local = seen(SOURCE)
    monkeypatch.delenv(DATA_ROOT)
    assert seen(SOURCE) == local
    assert local[1] == data_identity(SOURCE) == f"sha256:{FILE.sha256}"
    assert server.asked
    moved = FILE.model_copy(update={"repository": "fork/name", "path": "x.csv"})
    fork = seen(SOURCE.model_copy(update={"github": moved, "local": "", "licence": "MIT"}))
    assert fork[:3] == local[:3]
    record = local[3]
    assert (record.source, record.requested) == ("github:owner/name/data/rows of 2024.csv", COMMIT)
    assert seen(SOURCE.model_copy(update={"limit": 1}))[2] != local[2]
    other_form = moved.model_copy(update={"path": "x.jsonl"})
    data = HubData(pools={"rows": SOURCE.model_copy(update={"github": other_form, "local": ""})})
    assert HubWorld(data=data, choice=choice).data_digest != local[2]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"instruction,response\nName a fruit.,Pear\n", "{size} bytes of another content"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS in place of the file"),
    ],
)
def test_another_content_is_refused_online_and_below_the_root(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, what: str
) -> None:
    path = below_root(root, content)
    held = "" if "size" in what else f", because it holds {what}"
    for read in (load_rows, check_data):
        with pytest.raises(InputsMissingError) as local:
            read(SOURCE)
        assert str(local.value) == (
            f"{path} is not the data file {FILE}{held}: its SHA-256 is {hashlib.sha256(content).hexdigest()}, and "
            f"the suite pins {FILE.sha256}; replace it by the pinned file, or leave out --data-root to fetch that from "
            "GitHub"
        )
    monkeypatch.delenv(DATA_ROOT)
    server.content = content
    sent = what.format(size=len(content))
    with pytest.raises(InputsMissingError, match=f"sent {sent} in place of the data file {FILE}: the SHA-256 is"):
        fetch_data(SOURCE, silent)
    assert files_of_cache() == []


def test_a_download_that_breaks_leaves_nothing(server: Server) -> None:
    server.length = len(CONTENT) + 1
    with pytest.raises(InputsMissingError, match=r"cannot be fetched: .*(broke off|broke;).*--data-root"):
        fetch_data(SOURCE, silent)
    assert files_of_cache() == []
    server.length = None
    fetch_data(SOURCE, silent)


def test_a_missing_path_and_a_silent_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = None
    for ask in (check_data, load_rows):
        with pytest.raises(InputsMissingError, match=rf"GitHub has no such file at commit {COMMIT}, or put it under"):
            ask(SOURCE)
    monkeypatch.setenv(MIRROR, "http://127.0.0.1:9")
    for ask in (check_data, load_rows):
        with pytest.raises(InputsMissingError, match=r"it is not in the cache, and GitHub cannot be reached"):
            ask(SOURCE)


def test_a_state_that_is_only_shown_fetches_nothing(server: Server) -> None:
    message = r"data file github:owner/name/.* is not on this machine yet; a run fetches it from GitHub"
    with without_fetching():
        for ask in (check_data, load_rows):
            with pytest.raises(NotFetchedError, match=message):
                ask(SOURCE)
    assert [request.split()[0] for request in server.asked] == ["HEAD"]
    load_rows(SOURCE)
    check_data(SOURCE)


def test_missing_below_the_data_root(server: Server, root: Path) -> None:
    with pytest.raises(
        InputsMissingError, match=r"there is no file .*own/rows\.csv; put it there, or leave out --data-"
    ):
        load_rows(SOURCE)
    unnamed = SOURCE.model_copy(update={"local": ""})
    with pytest.raises(InputsMissingError, match=r"there is no file .*data/owner/name/data/rows of 2024\.csv; put"):
        load_rows(unnamed)
    assert server.asked == []


def test_a_missing_library_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UsageError, match=r"takes the package pooch; install 'fedsafetybench\[hub\]', or put the file"):
        fetch_data(SOURCE, silent)


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"cannot be written: .*name another folder with FEDSAFETY_CACHE"):
        fetch_data(SOURCE, silent)


FETCH = """
import sys
from tasks.hub.fetching import silent
from tasks.hub.github import obtain_github_file
from tasks.hub.settings import GithubFile
obtain_github_file(GithubFile.model_validate_json(sys.argv[1]), silent)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_fetch_leaves_nothing_that_counts(server: Server, number: int) -> None:
    server.waits = threading.Event()
    server.length = len(CONTENT) + 1
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, FILE.model_dump_json()], stderr=subprocess.DEVNULL, env={**os.environ}
    )
    try:
        until(lambda: bool(server.asked) and cache_folder().is_dir())
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
        server.waits.set()
    assert not is_here(SOURCE)
    if number == signal.SIGINT:
        assert files_of_cache() == []
    server.length = server.waits = None
    fetch_data(SOURCE, silent)
    assert is_here(SOURCE)


def until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(600):
        if condition():
            return
        done.wait(0.1)
    raise AssertionError("the condition never came true")
