from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest

from benchmark import PROTOCOL_VERSION
from benchmark.errors import StorageError, UsageError
from leaderboard.build import build
from leaderboard.page.formats import DASH, MINUS, number, percent, settings, signed, spread
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.stats import Estimate

from ..synthetic import (
    LARGE,
    SMALL,
    catalog_row,
    cell_row,
    exact_rows,
    generated_by,
    make_rows,
    table_of,
    write_rows,
    write_site,
    write_table,
    write_tables,
)


class Outline(HTMLParser):
    """Collects start tags with their attributes, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def attributes(self, name: str) -> Iterator[str]:
        return (value for _, attrs in self.tags if (value := attrs.get(name)) is not None)


@pytest.fixture(scope="module")
def page(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_site(rows, tmp_path_factory.mktemp("site")).read_text(encoding="utf-8")


def visible(text: str) -> str:
    """Return the page's text without tags, style and script."""
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, committed: Path, runs: Path) -> None:
    rng = np.random.default_rng(5)
    for name, table in make_rows(SMALL).items():
        shuffled = table.take(pa.array(rng.permutation(table.num_rows)))
        write_table(tmp_path / "rows" / name, shuffled, files=4)
    build([committed], [runs], tmp_path / "one")
    build([tmp_path / "rows"], [runs], tmp_path / "two")
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(files) == {"index.html", "micro.csv", "micro.parquet"}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}


@pytest.mark.slow
def test_sixty_defenses_fit_on_a_page(tmp_path: Path) -> None:
    page = build([write_rows(tmp_path / "rows", LARGE)], [], tmp_path / "site").page
    text = page.read_text(encoding="utf-8")
    assert text.count('data-kind="defense"') == len(LARGE.defenses) == 60
    assert text.count('data-kind="scenario"') == 18
    assert len(text.encode()) < 1_500_000


def test_the_page_is_well_formed_with_unique_ids_and_live_anchors(page: str) -> None:
    outline = Outline(page)
    ids = list(outline.attributes("id"))
    assert len(ids) == len(set(ids))
    targets = {unquote(href[1:]) for href in outline.attributes("href") if href.startswith("#")}
    views = {target for target in targets if target.startswith("view=")}
    assert views == {"view=aligned_start&at=ranking", "view=unaligned&at=ranking"}  # for the script alone
    assert targets - views <= set(ids)
    labels = {part for value in outline.attributes("aria-labelledby") for part in value.split()}
    assert labels <= set(ids)


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    outline = Outline(page)
    assert [value for name in ("src", "srcset", "action") for value in outline.attributes(name)] == []
    files = {"micro.csv", "micro.parquet"}
    assert {href for href in outline.attributes("href") if not href.startswith("#")} == {"data:,", *files}
    assert {attrs["href"] for tag, attrs in outline.tags if "download" in attrs} == files
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\"\s<]+", page)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    (policy,) = (attrs["content"] for tag, attrs in outline.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_a_small_page_is_small(page: str) -> None:
    assert len(page.encode()) < 300_000


def test_tables_say_what_their_cells_are(page: str) -> None:
    outline = Outline(page)
    assert all(attrs.get("scope") for tag, attrs in outline.tags if tag == "th")
    sortable = [attrs for tag, attrs in outline.tags if tag == "th" and "data-key" in attrs]
    assert len(sortable) > 20
    assert {attrs["aria-sort"] for attrs in sortable} == {"none"}


def test_the_page_shows_scores_costs_methods_limits_and_digest(page: str, rows: Rows) -> None:
    text = visible(page)
    assert text.count(rows.published.digest) == 3
    assert f"published rows sha256:{rows.published.digest}" in text
    for expected in (
        f"protocol {PROTOCOL_VERSION} ",
        "Micro rankings are not language-model rankings",
        "largely solve this world",
    ):
        assert expected in text
    for title in ("Krum does what its name says", "Blanchard et al. 2017, NeurIPS", "Safety after each stage"):
        assert title in text
    assert "Not being separated is not the same as being equal" in text
    assert page.count("<svg ") == 2


def test_the_page_names_no_time_and_no_place(page: str, committed: Path) -> None:
    assert "2030" not in visible(page)
    assert set(re.findall(r"2030[-0-9]*", page)) == {"2030-01-01"}  # the day of the rows, in citations
    assert str(committed) not in page
    assert "<dc:date>" not in page


def test_local_rows_are_marked_with_their_difference(tmp_path: Path) -> None:
    both = [
        cell_row(scenario=scenario, twin="clean", attack=attack)
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none"))
    ]
    write_tables(tmp_path / "results", exact_rows([(row, {"safety": 0.5}) for row in both]))
    local = [({**row, "origin": "local"}, {"safety": 0.75, "utility": 0.9}) for row in both]
    local[1][0]["response_key"] = "changed"
    write_tables(tmp_path / "runs", exact_rows(local))
    page = build([tmp_path / "results"], [tmp_path / "runs"], tmp_path / "site").page.read_text(encoding="utf-8")
    section = visible(page[page.index('aria-labelledby="local"') : page.index('aria-labelledby="trade-off"')])
    assert f"fedavg local aligned_start 0 75.0 +25.0 100.0 0.0 90.0 {MINUS}10.0 same code and settings" in section
    assert f"fedavg local clean 0 75.0 +25.0 100.0 0.0 90.0 {MINUS}10.0 other code or settings" in section
    assert re.search(r">50\.0<", page[page.index('id="ranking"') : page.index('aria-labelledby="local"')])


def test_local_rows_alone_make_a_page_that_says_so(tmp_path: Path, runs: Path) -> None:
    page = build([], [runs], tmp_path).page.read_text(encoding="utf-8")
    assert "local rows only" in visible(page)
    assert "To cite" not in page


def test_missing_failed_and_inapplicable_cells_are_visible_with_their_reason(tmp_path: Path) -> None:
    def cell(defense: str, seed: int, **changes: Any) -> tuple[dict[str, Any], dict[str, float]]:
        return cell_row(defense=defense, seed=seed, **changes), {"safety": 0.5}

    cells = [cell("fedavg", 0), cell("fedavg", 1), cell("dnc", 0)]
    cells += [cell("krum", seed, status="not_applicable", reason="needs n >= 9") for seed in (0, 1)]
    cells += [cell("median", 0), cell("median", 1, status="failed", reason="disk <full>")]
    cells += [cell("trimmed_mean", seed, flags=["degenerate: equals median"]) for seed in (0, 1)]
    page = write_site(load_rows([write_tables(tmp_path, exact_rows(cells))]), tmp_path / "site").read_text("utf-8")
    heat = page[page.index('aria-labelledby="heat"') : page.index('aria-labelledby="judges"')]
    voids = re.findall(r'<td class="void"\s*title="([^"]*)">([^<]*)<', heat)
    assert ("not applicable: needs n &gt;= 9 (seed 0, 1)", "n/a") in voids
    assert ("failed: disk &lt;full&gt; (seed 1)", "failed") in voids
    assert ("not run (seed 1)", "incomplete") in voids
    assert "degenerate: equals median" in heat
    assert 'mark"' in heat
    assert "n/a" not in page[: page.index('aria-labelledby="heat"')].partition("<tbody")[0]


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_single_cell_without_attack_makes_a_page(tmp_path: Path, status: str) -> None:
    cell = cell_row(scenario="clean", twin="clean", attack="none", status=status, reason="power cut")
    page = write_site(load_rows([write_tables(tmp_path, exact_rows([(cell, {})]))]), tmp_path / "site").read_text(
        "utf-8"
    )
    outline = Outline(page)
    assert "0" not in {attrs.get("colspan") for _, attrs in outline.tags}
    assert ("power cut" in visible(page)) == (status == "failed")
    assert "No figure" in visible(page)


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)> \"'&{{ 7*7 }} $\\frac$"


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    tables = make_rows(SMALL)
    catalog = [
        {**row, **dict.fromkeys(("title", "description", "paper", "resources", "knowledge"), f"{HOSTILE} {row['id']}")}
        for row in tables["catalog"].to_pylist()
    ]
    for row in catalog:
        row["settings"] = HOSTILE if row["kind"] == "scenario" else '{"</dd><script>": "</script><script>alert(3)"}'
    tables["catalog"] = table_of("catalog", catalog)
    cells = tables["cells"].to_pylist()
    for row in cells:
        row.update(generator=HOSTILE, flags=[HOSTILE], protocol_version=HOSTILE)
    cells[0].update(status="failed", reason=HOSTILE)
    hostile_id = '"><script>alert(4)</script>'
    for row in cells:
        if row["defense"] == "krum":
            row["defense"] = row["stage"] = hostile_id
        if row["scenario"] == "unaligned":
            row["scenario"] = hostile_id
    tables["cells"] = table_of("cells", cells)
    tables["responses"] = generated_by(tables["responses"], HOSTILE)
    page = write_site(load_rows([write_tables(tmp_path, tables)]), tmp_path / "site").read_text(encoding="utf-8")
    outline = Outline(page)
    assert [attrs.get("type") for tag, attrs in outline.tags if tag == "script"] == ["application/json", None]
    assert "img" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)
    assert "<!--<img" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") > 10
    assert "{{ 7*7 }}" in page


def test_every_suite_has_a_page_and_links_to_the_others(tmp_path: Path) -> None:
    rows = exact_rows([(cell_row(suite="alpha"), {}), (cell_row(suite="beta"), {})])
    rows["catalog"] = table_of(
        "catalog", [catalog_row("suite", "beta", position=0), catalog_row("suite", "alpha", position=1)]
    )
    index = write_site(load_rows([write_tables(tmp_path, rows)]), tmp_path / "site")
    names = ["alpha.csv", "alpha.html", "alpha.parquet", "beta.csv", "beta.parquet", "index.html"]
    assert sorted(path.name for path in index.parent.iterdir()) == names
    assert 'href="alpha.html"' in index.read_text(encoding="utf-8")
    assert 'href="index.html"' in (index.parent / "alpha.html").read_text(encoding="utf-8")


def test_a_suite_of_real_models_has_the_first_page(tmp_path: Path) -> None:
    rows = exact_rows([(cell_row(suite="alpha"), {}), (cell_row(suite="beta"), {})])
    real = {"settings": json.dumps({"models": {"chat": {}}}), "description": "A real model. It is small."}
    rows["catalog"] = table_of(
        "catalog", [catalog_row("suite", "alpha", position=0), catalog_row("suite", "beta", position=1) | real]
    )
    index = write_site(load_rows([write_tables(tmp_path, rows)]), tmp_path / "site")
    assert (index.parent / "alpha.html").is_file()
    assert "beta.csv" in index.read_text(encoding="utf-8")
    for page in index.parent.glob("*.html"):
        assert '<span class="note">A real model.</span>' in page.read_text(encoding="utf-8")


def test_a_suite_id_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    write_tables(tmp_path, exact_rows([(cell_row(suite="../up"), {})]))
    with pytest.raises(UsageError, match=r"suite id '\.\./up' cannot name a page"):
        write_site(load_rows([tmp_path]), tmp_path / "site")


def test_no_cells_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cells to show; run `fedsafety run`"):
        build([tmp_path], [tmp_path / "none yet"], tmp_path / "site")


def test_a_file_in_the_place_of_the_folder_or_the_page_is_named(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "site" / "index.html").mkdir(parents=True)
    for out, message in (
        ("file", r"cannot write the page to .*file: it is not a folder; name another folder with --out"),
        ("file/site", r"cannot write the page to .*site: Not a directory; name another folder"),
        ("site", r"cannot write the page to .*index\.html: Is a directory; name another folder"),
    ):
        with pytest.raises(StorageError, match=message):
            build([], [runs], tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space or name another folder"),
        (errno.EROFS, "name another folder"),
        (errno.EACCES, "name another folder"),
    ],
)
def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, runs: Path, code: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {name: f"the old {name}".encode() for name in ("index.html", "micro.csv", "micro.parquet")}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        written = write(path, content[:9])
        if b"doctype" in content[:20]:
            raise OSError(code, os.strerror(code))
        return written

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(StorageError, match=rf"cannot write the page to .*index\.html: {os.strerror(code)}; {advice}"):
        build([], [runs], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_build_reports_what_it_did(tmp_path: Path, committed: Path, runs: Path, rows: Rows) -> None:
    report = build([committed], [runs, tmp_path / "none yet"], tmp_path / "site")
    assert report.page == tmp_path / "site" / "index.html"
    assert report.cells == rows.published.cells.num_rows + rows.local.cells.num_rows
    assert report.digest == rows.digest
    assert report.seconds > 0


NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.978, "97.8"), (1.0, "100.0"), (-0.031, f"{MINUS}3.1"), (-0.0001, "0.0"), (NAN, DASH), (None, DASH)],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "+5.0"), (-0.05, f"{MINUS}5.0"), (0.0, "0.0"), (0.0001, "0.0"), (NAN, DASH)]
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.123, "0.12"), (1.04, "1.0"), (50.0, "50"), (4200.0, "4\u2009200")]
)
def test_number(value: float, text: str) -> None:
    assert number(Estimate(value, 0.0, 1)) == text


def test_spread_of_one_seed_is_not_shown() -> None:
    assert spread(Estimate(0.5, NAN, 1)) == ""
    assert spread(Estimate(0.5, 0.012, 3)) == "±1.2"


def test_settings_are_flattened_and_unreadable_ones_shown_as_they_are() -> None:
    assert settings('{"a": {"b": 1, "c": [1, 2]}, "d": "x"}') == [("a.b", "1"), ("a.c", "[1, 2]"), ("d", "x")]
    assert settings("not json") == [("settings", "not json")]
    assert settings("") == []
