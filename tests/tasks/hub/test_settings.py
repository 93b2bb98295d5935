"""Sources of data: one place each, and nothing of the hub beside a file of GitHub."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.hub.settings import DatasetSource

from .conftest import COMMIT

GITHUB = {"repository": "owner/name", "commit": COMMIT, "path": "data/rows.csv", "sha256": "0" * 64}


def test_old_sources_are_written_as_before() -> None:
    written = DatasetSource(repository="owner/name").model_dump(mode="json")
    assert written.keys().isdisjoint({"github", "prompt", "answers"})


def test_a_source_survives_its_written_form() -> None:
    source = DatasetSource.model_validate({"github": GITHUB, "answers": {0: "no", True: "yes"}, "prompt": "{x}?"})
    assert source.answers == {"0": "no", "true": "yes"}
    assert DatasetSource.model_validate_json(source.model_dump_json()) == source
    assert (source.title, source.requested) == ("github:owner/name/data/rows.csv", COMMIT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither of repository and github is named"),
        ({"github": GITHUB, "repository": "o/x"}, "both of repository and github is named"),
        ({"github": GITHUB, "revision": "v1"}, "revision belongs to data sets of the hub; leave it out"),
        ({"github": GITHUB, "split": "test"}, "split belongs to data sets of the hub"),
        ({"github": GITHUB, "config": "main"}, "config belongs to data sets of the hub"),
        ({"github": GITHUB, "local": "rows.json"}, r"have different endings, which name the format; .* ending '\.csv'"),
        ({"github": GITHUB | {"commit": "main"}}, "String should match pattern"),
        ({"github": GITHUB | {"path": "../../rows.csv"}}, "is not a path inside a wheel or a repository"),
    ],
)
def test_a_data_set_has_one_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSource.model_validate(settings)
