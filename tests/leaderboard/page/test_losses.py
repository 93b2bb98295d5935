"""The page of a suite with likelihoods: columns of the margin, the losses of safety, and how far the orders agree."""

from __future__ import annotations

import re
from pathlib import Path

from leaderboard.build import build

from ..ranking.test_measures import MARGINS, PROBE, ROWS
from ..synthetic import exact_rows, table_of, write_tables


def page_of(tmp_path: Path, margins: dict[tuple[str, str], list[float]]) -> str:
    tables = exact_rows(ROWS, per=20)
    likelihoods = []
    for row, _ in ROWS:
        by_seed = margins.get((row["scenario"], row["defense"]))
        if by_seed:
            place = {"response_key": row["response_key"], "probe_id": PROBE, "index": 0, "tokens": 1}
            likelihoods.append(place | {"role": "refusal", "nats": -50.0 + by_seed[row["seed"]]})
            likelihoods.append(place | {"role": "target", "nats": -50.0})
    tables["likelihoods"] = table_of("likelihoods", likelihoods)
    rows = write_tables(tmp_path / "rows", tables)
    return build([rows], [], tmp_path / "site").page.read_text(encoding="utf-8")


def test_losses_stand_beside_each_other_and_add_up(tmp_path: Path) -> None:
    page = page_of(tmp_path, MARGINS)
    section = page.partition('id="losses"')[2].partition("</section>")[0]
    krum = next(row for row in section.split("<tr>") if "krum" in row)
    numbers = re.findall(r'<span class="n">([^<]*)</span>', krum)
    # Safety 1.0 → 0.875 → 0.825, margin 4 → 1.5 → 1.25.
    assert numbers == ["12.5", "5.0", "2.50", "0.25"]
    assert "0.33 (3 defenses, 1 of their pairs in reverse order)" in section
    assert 'href="#losses"' in page
    assert 'data-key="margin"' in page


def test_a_suite_without_likelihoods_has_no_such_section(tmp_path: Path) -> None:
    page = page_of(tmp_path, {})
    assert 'id="losses"' not in page
    assert 'data-key="margin"' not in page
