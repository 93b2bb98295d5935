"""The report of ``doctor`` on the processor."""

from __future__ import annotations

import pytest

from benchmark.cli.doctor import _bfloat16
from benchmark.models import products


@pytest.mark.parametrize(("widens", "words"), [(True, "has no instructions"), (False, "has instructions")])
def test_the_processors_instructions_for_bfloat16_are_named(
    widens: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "widens_bfloat16", lambda: widens)
    assert f"the processor {words}" in _bfloat16()
