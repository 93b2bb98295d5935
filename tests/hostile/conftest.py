"""The real sandboxes, the hostile methods, and a look at the machine before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.isolation import Isolation, find_isolation

from ..console import start_server
from .traces import adopt_orphans, nothing_left


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files that nobody else uses, so that each one left there shows."""
    folder = tmp_path_factory.mktemp("temporary")
    adopt_orphans()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def clean_machine(own_temporary_folder: Path) -> Iterator[None]:
    """No process, file or mount is left of a module's tests."""
    start_server()
    with nothing_left():
        yield


def isolation_called(name: str) -> Isolation:
    """Return a way of isolating processes; where this machine has none, the test is listed as not run."""
    try:
        return find_isolation(name)
    except SandboxUnavailableError as error:
        pytest.skip(f"isolation by {name} does not work here: {str(error).splitlines()[0][:200]}")
