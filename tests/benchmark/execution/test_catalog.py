"""Catalog rows of defenses: what a page must know of a method besides its scores."""

from __future__ import annotations

import json

from benchmark.execution.catalog import catalog_rows
from benchmark.suites.suite import find_suite

from .plans import plan_of


def test_a_defense_that_needs_an_alignment_carries_that_and_others_carry_no_settings() -> None:
    plan = plan_of(find_suite("micro"), scenarios=["aligned_start"], pipelines=["krum+resta"], seeds=[11])
    settings = {row["id"]: row["settings"] for row in catalog_rows(plan) if row["kind"] == "defense"}
    assert json.loads(settings.pop("resta")) == {"needs_alignment": True}
    assert settings == {"krum": ""}
