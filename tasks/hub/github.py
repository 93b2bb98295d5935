"""Files of public GitHub repositories, pinned by commit and content, in the cache or below the data root."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from benchmark.errors import InputsMissingError, NotFetchedError, StorageError, UsageError, first_line
from tasks.hub.cache import CACHE, cache_folder
from tasks.hub.conversions import foreign_content
from tasks.hub.digests import file_sha256
from tasks.hub.fetching import Say, may_fetch
from tasks.hub.settings import GithubFile

MIRROR: Final = "FEDSAFETY_GITHUB"
"""Environment variable of a server with the same paths as GitHub's server of raw files."""
_SERVER: Final = "https://raw.githubusercontent.com"
_SECONDS: Final = 30
_NOT_FOUND: Final = 404


def cached_file(file: GithubFile) -> Path | None:
    """Return the file in the cache, or ``None`` if the cache lacks it or holds another content."""
    place = _place(file)
    return place if place.is_file() and file_sha256(place) == file.sha256 else None


def obtain_github_file(file: GithubFile, say: Say) -> Path:
    """Return a file in the cache, after downloading it if necessary. It appears complete or not at all.

    Raises:
        NotFetchedError: Nothing may be fetched now.
        InputsMissingError: GitHub cannot be reached, lacks the file, breaks off, or sends another content.
        StorageError: The cache cannot be written.
        UsageError: The package ``pooch`` is missing.
    """
    path = cached_file(file)
    if path is not None:
        return path
    if not may_fetch():
        raise NotFetchedError(f"data file {file} is not on this machine yet; a run fetches it from GitHub")
    pooch, requests = _libraries(file)
    say(f"fetching {file}")
    place = _place(file)
    try:
        # pooch downloads to a temporary name beside the place, and renames it after the comparison of hashes.
        pooch.retrieve(
            _address(file),
            known_hash=f"sha256:{file.sha256}",
            fname=place.name,
            path=place.parent,
            downloader=_Download(file, pooch),
        )
    except requests.RequestException as error:
        raise _unobtainable(file, error) from error
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror or error}; free space, or name another folder with {CACHE}"
        ) from error
    return place


def check_github_file(file: GithubFile) -> None:
    """Check that a file is in the cache, or that GitHub has its path, without downloading it.

    Raises:
        NotFetchedError: The file is not in the cache, and GitHub has its path.
        InputsMissingError: The file is not in the cache, and GitHub cannot be reached or lacks the path.
        UsageError: The package ``pooch`` is missing.
    """
    if cached_file(file) is not None:
        return
    _, requests = _libraries(file)
    try:
        requests.head(_address(file), timeout=_SECONDS, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        raise _unobtainable(file, error) from error
    raise NotFetchedError(f"data file {file} is not on this machine yet; a run fetches it from GitHub")


def check_content(file: GithubFile, path: Path, way_out: str) -> None:
    """Check that ``path`` holds the pinned content.

    Args:
        file: Pinned file.
        path: Copy of the file.
        way_out: What the user can do, for the error.

    Raises:
        InputsMissingError: The content is another one; the error names what it is, if it is recognised.
        OSError: The copy cannot be read.
    """
    digest = file_sha256(path)
    if digest == file.sha256:
        return
    content = foreign_content(path).partition(";")[0]
    kind = f", because it holds {content}" if content else ""
    raise InputsMissingError(
        f"{path} is not the data file {file}{kind}: its SHA-256 is {digest}, and the suite pins {file.sha256}; "
        f"{way_out}"
    )


class _Download:
    """Downloads for pooch, and names what came in place of the pinned content.

    pooch itself would raise an error of the two hashes alone.
    """

    def __init__(self, file: GithubFile, pooch: Any) -> None:
        self._file = file
        self._download = pooch.HTTPDownloader(timeout=_SECONDS)

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        self._download(url, output_file, pooch)
        part = Path(output_file)
        with part.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
        digest = file_sha256(part)
        if digest != self._file.sha256:
            content = foreign_content(part).partition(";")[0] or f"{size:,} bytes of another content"
            raise InputsMissingError(
                f"{url} sent {content} in place of the data file {self._file}: the SHA-256 is {digest}, and the suite "
                f"pins {self._file.sha256}; download the file by hand below a folder named by --data-root, or mend "
                f"commit, path and sha256 in the suite"
            )


def _libraries(file: GithubFile) -> tuple[Any, Any]:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise UsageError(
            f"data file {file} comes from GitHub, which takes the package {error.name}; install 'fedsafetybench[hub]', "
            f"or put the file under a folder named by --data-root"
        ) from error
    pooch.get_logger().setLevel(logging.WARNING)
    return pooch, requests


def _place(file: GithubFile) -> Path:
    """Return the file's place in the cache, by content; the name keeps its ending."""
    return cache_folder() / "data" / file.sha256 / PurePosixPath(file.path).name


def _address(file: GithubFile) -> str:
    server = os.environ.get(MIRROR, "").rstrip("/") or _SERVER
    return f"{server}/{file.repository}/{file.commit}/{quote(file.path)}"


def _unobtainable(file: GithubFile, error: Exception) -> InputsMissingError:
    response = getattr(error, "response", None)
    if response is not None and response.status_code == _NOT_FOUND:
        reason = f"GitHub has no such file at commit {file.commit}"
    elif response is not None:
        reason = f"GitHub refuses it ({first_line(error)})"
    elif type(error).__name__ in ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError"):
        reason = "it is not in the cache, and GitHub cannot be reached or the connection broke; go online and try again"
    else:
        reason = f"the download broke off ({first_line(error)}); try again"
    return InputsMissingError(
        f"data file {file} cannot be fetched: {reason}, or put it under a folder named by --data-root"
    )
