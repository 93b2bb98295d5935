"""The page in a real browser: opened from disk, driven by mouse and keyboard, and silent on the network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from leaderboard.citation.cite import cite
from leaderboard.page.data import COMPARED
from leaderboard.page.render import environment, refusing, render
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows

from ..by_hand import cells, second_scenario
from ..synthetic import (
    SMALL,
    catalog_row,
    exact_rows,
    generated_by,
    make_rows,
    table_of,
    write_site,
    write_submission,
    write_tables,
)
from ..views.test_best_known import attacking, committed, write_attack

playwright_api = pytest.importorskip("playwright.sync_api", reason="NOT RUN: playwright is not installed")

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 375, "height": 800}, "has_touch": True}


@dataclass
class Visit:
    """A page with everything it asked for and complained of."""

    page: playwright_api.Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def defenses(self) -> list[str]:
        """Return the visible defenses of the ranking, in order."""
        return list(self.page.locator("#table tbody tr:visible th a").all_inner_texts())

    def column(self, key: str) -> list[float]:
        """Return the sort keys of a column of the visible rows, in order."""
        cells = self.page.locator(f'#table tbody tr:visible td[data-c="{key}"]')
        return [float(text) for text in cells.evaluate_all("cells => cells.map(cell => cell.dataset.v)") if text]

    def fits(self) -> bool:
        """Return whether nothing runs over the right edge."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def site(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(rows, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def board(rows: Rows) -> Board:
    return boards(rows)[0]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[playwright_api.Browser]:
    with playwright_api.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield started
        started.close()


@pytest.fixture
def visit(browser: playwright_api.Browser, site: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing may have been asked of the network or complained of."""
    contexts, visits = [], []

    def open_page(address: str = "", path: Path = site, **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        seen = Visit(context.new_page())
        visits.append(seen)
        seen.page.on("request", lambda sent: seen.requests.append(sent.url))
        seen.page.on("console", lambda message: seen.problems.append(message.text))
        seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.problems.append(f"dialog {dialog.message}"))
        seen.page.goto(path.as_uri() + address)
        return seen

    yield open_page
    for context in contexts:
        context.close()
    assert [problem for seen in visits for problem in seen.problems] == []
    disk = Path("/").as_uri()
    asked = {url for seen in visits for url in seen.requests if not url.startswith(("data:", disk))}
    assert asked == set()


def test_it_opens_from_disk_and_asks_for_nothing_else(visit: Open, site: Path) -> None:
    seen = visit()
    seen.page.wait_for_load_state("networkidle")
    assert seen.page.title() == "FedSafetyBench: Micro"
    assert [url for url in seen.requests if not url.startswith("data:")] == [site.as_uri()]


def test_a_column_sorts_both_ways_by_mouse_and_by_keyboard(visit: Open) -> None:
    seen = visit()
    heading = seen.page.locator('#table th[data-key="utility"]')
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    descending = seen.column("utility")
    assert descending == sorted(descending, reverse=True)
    assert len(set(descending)) > 1
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert seen.column("utility") == sorted(descending)
    names = seen.page.locator('#table th[data-key="name"]')
    names.locator("button").press("Space")
    assert names.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") == "none"
    assert seen.defenses() == sorted(seen.defenses())
    assert "sort=name&dir=ascending" in seen.page.url


def test_choosing_a_scenario_changes_the_table_and_the_way_back_works(visit: Open) -> None:
    seen = visit()
    everything = seen.column("safety")
    seen.page.get_by_label("Scenario", exact=True).select_option("aligned_start")
    assert seen.page.url.endswith("#view=aligned_start")
    one = seen.column("safety")
    assert one != everything
    seen.page.reload()
    assert seen.column("safety") == one
    seen.page.go_back()
    assert seen.column("safety") == everything
    assert seen.page.get_by_label("Scenario", exact=True).input_value() == "*"


def test_rows_of_a_scenario_are_those_of_the_board(visit: Open, board: Board) -> None:
    seen = visit("#view=unaligned")
    expected = [
        [line.entry.info["title"], str(line.rank or ""), f"{100 * line.metrics['safety'].mean:.1f}"]
        for line in board.by_scenario["unaligned"]
    ]
    shown = seen.page.locator("#table tbody tr").evaluate_all(
        """rows => rows.map(row => [row.querySelector("th a").textContent,
            row.querySelector(".rank").textContent, row.querySelector('[data-c="safety"] .n').textContent])"""
    )
    assert shown == expected


def test_search_and_filters_narrow_every_table(visit: Open) -> None:
    seen = visit()
    everything = seen.defenses()
    seen.page.get_by_label("Search").fill("KRUM")
    assert seen.defenses() == [name for name in everything if "Krum" in name] != []
    assert seen.page.locator("#heat ~ .scroll tbody tr:visible").count() == len(seen.defenses())
    assert seen.page.locator("#shown").inner_text() == "2 of 5 shown"
    seen.page.get_by_label("Acts at").first.select_option("finalize")
    assert seen.defenses() == ["Krum + posthoc self"]
    assert seen.page.url.endswith("#q=KRUM&stage=finalize")
    seen.page.reload()
    assert seen.defenses() == ["Krum + posthoc self"]
    seen.page.get_by_label("Search").fill("no such thing")
    assert seen.defenses() == []
    seen.page.get_by_role("button", name="show all").click()
    assert seen.defenses() == everything
    assert "#" not in seen.page.url.removesuffix("#")
    seen.page.get_by_label("Told").first.select_option("declared_bound")
    assert 0 < len(seen.defenses()) < len(everything)


def test_two_to_four_defenses_are_compared_and_the_address_keeps_them(visit: Open, board: Board) -> None:
    seen = visit()
    boxes = seen.page.locator("#table tbody input[type=checkbox]")
    seen.page.get_by_label("Compare Posthoc self", exact=True).press("Space")
    assert seen.page.get_by_text("is chosen; tick one to three more").is_visible()
    seen.page.get_by_label("Compare Fedavg", exact=True).check()
    assert seen.page.url.endswith("#compare=posthoc_self,fedavg")
    other = visit(seen.page.url[seen.page.url.index("#") :])
    other.page.get_by_label("Differences to").select_option("fedavg")
    difference = board.difference("aligned_start", "posthoc_self", "fedavg")
    assert difference is not None
    cell = other.page.locator("table.compare tbody tr", has_text="Aligned start").locator("td").first
    ends = f"[{100 * difference.low:.1f}, {100 * difference.high:.1f}]"
    word = "separated" if board.separated("aligned_start", "posthoc_self", "fedavg") else "not separated"
    assert cell.inner_text().split("\n") == [f"+{100 * difference.mean:.1f}", ends.replace("-", "\u2212"), word]
    for index in range(5):
        if boxes.nth(index).is_enabled():
            boxes.nth(index).check()
    assert seen.page.locator("#table tbody input:checked").count() == 4
    assert seen.page.locator("#table tbody input:disabled").count() == 1
    assert seen.page.locator("table.compare thead .group th").count() == 3
    seen.page.get_by_role("button", name="Clear").click()
    assert not seen.page.locator("#comparing").is_visible()


def test_every_paired_interval_of_the_script_is_that_of_the_board(visit: Open, board: Board) -> None:
    script = """() => Object.keys(data.views).flatMap((view) => METRICS.flatMap((metric, m) =>
        data.defenses.flatMap((one, i) => data.defenses.flatMap((other, j) => {
            const values = [i, j].map((d) => bySeed(view, d, m));
            if (i === j || values.includes(null)) return [];
            const found = paired(...values, data.probes[view][metric]);
            return [[view, metric, one.id, other.id, found.mean, found.low ?? null, found.high ?? null,
                found.exact ?? false, separated(view, i, j, metric)]];
        }))))"""
    found = visit().page.evaluate(script)
    views, names = 1 + len(board.by_scenario), len(board.entries)
    assert len(found) == views * len(COMPARED) * names * (names - 1)
    for view, metric, one, other, mean, low, high, exact, apart in found:
        difference = board.difference(view, one, other, metric)
        assert difference is not None
        assert mean == pytest.approx(difference.mean, abs=1e-4)
        assert exact == (difference.method == "exact")
        assert (low is None) == math.isnan(difference.low)
        assert [low, high] == pytest.approx([difference.low, difference.high], abs=1e-3)
        if metric == "safety":
            assert apart == board.separated(view, one, other)


def test_pointing_at_a_row_shows_who_is_tied_and_who_is_safer(visit: Open, board: Board) -> None:
    seen = visit()
    line = next(line for line in board.overall if line.rank and (line.tied or line.better))
    row = seen.page.locator(
        "#table tbody tr", has=seen.page.get_by_role("link", name=line.entry.info["title"], exact=True)
    )
    row.locator("input").focus()
    titles = {entry.id: entry.info["title"] for entry in board.entries}
    for group, ids in (("tied", line.tied), ("safer", line.better)):
        names = seen.page.locator(f"#table tr.{group} th a").all_inner_texts()
        assert sorted(names) == sorted(titles[id_] for id_ in ids)
    assert seen.page.locator("#neighbours").inner_text().startswith(f"{line.entry.info['title']}: ")


def test_trade_offs_have_axes_to_choose_a_front_and_labels_apart(visit: Open) -> None:
    seen = visit()
    seen.page.get_by_label("Across").select_option("server_seconds")
    assert seen.page.locator("#pareto svg").get_attribute("aria-label") == "Safety under attack against Server seconds"
    assert (
        seen.page.locator("#front").inner_text().startswith("Not dominated in server seconds and safety under attack: ")
    )
    assert seen.page.locator("#pareto .mark.best").count() >= 1
    boxes = [box.bounding_box() for box in seen.page.locator("#pareto text.name").all()]
    assert len(boxes) >= 4
    tops = sorted(box["y"] for box in boxes if box)
    heights = max(box["height"] for box in boxes if box)
    assert all(after - before >= heights - 4 for before, after in pairwise(tops))
    assert seen.page.url.endswith("#x=server_seconds")


def test_a_defense_has_a_page_with_every_cell_and_a_command(visit: Open) -> None:
    seen = visit("#sort=utility&dir=descending", permissions=["clipboard-read", "clipboard-write"])
    before = seen.defenses()
    seen.page.locator("#table").get_by_role("link", name="Krum", exact=True).press("Enter")
    assert seen.page.url.endswith("defense=krum")
    sheet = seen.page.locator("article.open")
    assert sheet.locator("h2").inner_text().startswith("Krum")
    assert seen.page.locator("#table").is_hidden()
    assert sheet.locator("table.cellsof tbody tr").count() == 4
    assert sheet.locator("table.cellsof td[data-place]").count() == 4 * SMALL.seeds
    assert sheet.locator(".command").inner_text() == (
        "fedsafety run --suite micro --scenario aligned_start --defense krum --seed 0"
    )
    sheet.locator("table.cellsof tbody tr").nth(1).locator("td[data-seed='2']").click()
    assert sheet.locator(".command").inner_text().endswith("--scenario unaligned --defense krum --seed 2")
    sheet.get_by_role("button", name="Copy").press("Enter")
    sheet.get_by_role("status").get_by_text("Copied.").wait_for()
    assert seen.page.evaluate("navigator.clipboard.readText()") == sheet.locator(".command").inner_text()
    sheet.get_by_label("Score").select_option("utility")
    assert "cells=utility" in seen.page.url
    sheet.get_by_role("link", name="Aligned start").first.click()
    assert seen.page.locator("article.open code").first.inner_text() == "aligned_start"
    seen.page.go_back()
    seen.page.go_back()
    assert seen.page.locator("article.open").count() == 0
    assert seen.defenses() == before


def test_a_plain_link_to_a_view_opens_it(visit: Open) -> None:
    assert visit("#defense=krum+posthoc_self").page.locator("article.open h2 code").inner_text() == "krum+posthoc_self"
    assert visit("#scenario=unaligned").page.locator("article.open h2 code").inner_text() == "unaligned"
    assert visit("#defense=nobody").page.locator("article.open").count() == 0


def test_the_dialog_cites_what_the_command_cites(visit: Open, board: Board, rows: Rows) -> None:
    seen = visit(permissions=["clipboard-read", "clipboard-write"])
    opener = seen.page.get_by_role("button", name="Cite", exact=True)
    opener.press("Enter")
    dialog = seen.page.get_by_role("dialog")
    where = dialog.get_by_label("Under attack in")
    assert where.is_disabled()
    for defense, scenario in (("", ""), ("krum", ""), ("krum", "unaligned")):
        dialog.get_by_label("What").select_option(defense)
        if defense:
            where.select_option(scenario or "*")
        expected = cite(board, rows.published_digest, defense, scenario)
        assert dialog.locator("#cite-sentence").inner_text() == expected.sentence
        assert dialog.locator("#cite-bibtex").text_content() == expected.bibtex
        assert dialog.locator("#cite-command").inner_text() == expected.command
    dialog.get_by_role("button", name="Copy BibTeX").click()
    dialog.get_by_text("Copied.").wait_for()
    assert seen.page.evaluate("navigator.clipboard.readText()") == expected.bibtex
    seen.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opener.evaluate("button => button === document.activeElement")


def test_the_dialog_begins_with_the_scenario_that_is_shown(visit: Open, board: Board, rows: Rows) -> None:
    seen = visit("#view=aligned_start&defense=krum")
    seen.page.get_by_role("button", name="Cite this defense").click()
    expected = cite(board, rows.published_digest, "krum", "aligned_start")
    assert seen.page.locator("#cite-sentence").inner_text() == expected.sentence
    seen.page.keyboard.press("Escape")
    seen = visit("#scenario=unaligned")
    seen.page.get_by_role("button", name="Cite a score here").click()
    expected = cite(board, rows.published_digest, "fedavg", "unaligned")
    assert seen.page.locator("#cite-command").inner_text() == expected.command


def test_own_rows_are_not_cited(visit: Open, runs: Path, tmp_path: Path) -> None:
    seen = visit(path=write_site(load_rows([], local=[runs]), tmp_path / "site"))
    seen.page.get_by_role("button", name="Cite", exact=True).click()
    dialog = seen.page.get_by_role("dialog")
    for what in ("", "krum"):
        dialog.get_by_label("What").select_option(what)
        assert dialog.get_by_text("no reader can check the score").is_visible()
        assert not dialog.locator("#cite-command").is_visible()


def test_the_ranking_fits_a_desktop_and_shows_all_columns_on_demand(visit: Open) -> None:
    seen = visit()
    region = seen.page.locator("#table").locator("..")
    assert region.evaluate("region => region.scrollWidth <= region.clientWidth")
    steps = seen.page.locator('#table th[data-key="finetune_steps"]')
    assert not steps.is_visible()
    seen.page.get_by_label("All columns").check()
    assert steps.is_visible()
    assert seen.page.url.endswith("#cols=all")
    widths = "row => Array.from(row.cells).reduce((sum, cell) => sum + cell.colSpan, 0)"
    rows = seen.page.locator("#table thead tr")
    assert rows.nth(0).evaluate(widths) == rows.nth(1).evaluate(widths)


def test_a_mark_of_refusals_follows_the_scenario(visit: Open, board: Board) -> None:
    seen = visit()
    for view in ("*", "unaligned"):
        seen.page.get_by_label("Scenario", exact=True).select_option(view)
        shown = seen.page.locator("#table .refuses:visible").all_inner_texts()
        assert shown == [f"refuses {refusing(line)}" for line in board.standings(view) if refusing(line)]
        assert shown


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_the_cells_can_be_downloaded(visit: Open, site: Path, tmp_path: Path, kind: str) -> None:
    seen = visit()
    with seen.page.expect_download() as waiting:
        seen.page.get_by_role("link", name=kind, exact=True).click()
    name = f"micro.{kind.lower()}"
    assert waiting.value.suggested_filename == name
    waiting.value.save_as(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (site.parent / name).read_bytes()


def test_everything_is_reached_and_left_by_keyboard(visit: Open) -> None:
    seen = visit()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    seen.page.keyboard.press("Enter")
    assert seen.page.url.endswith("#ranking")
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.id") == "view"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert seen.page.evaluate(outline) == "solid"


@pytest.mark.parametrize("options", [PHONE, {"color_scheme": "dark"}], ids=["phone", "dark"])
@pytest.mark.parametrize("address", ["#compare=krum,fedavg", "#defense=krum+posthoc_self", "#scenario=unaligned"])
def test_nothing_runs_over_the_edge(visit: Open, options: dict[str, Any], address: str) -> None:
    seen = visit(address, **options)
    assert seen.fits()
    paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, paper[4:-1].split(","))) < 60) == ("color_scheme" in options)


def test_print_shows_tables_whole_and_no_controls(visit: Open) -> None:
    seen = visit()
    seen.page.emulate_media(media="print")
    assert seen.page.locator("#controls").is_hidden()
    assert seen.page.locator("#table").is_visible()
    assert seen.page.locator(".scroll").first.evaluate("region => getComputedStyle(region).overflowX") == "visible"


def test_without_scripts_everything_static_is_there(visit: Open) -> None:
    seen = visit("#defense=krum", java_script_enabled=False)
    assert seen.page.locator("#table tbody th[scope=row]").count() == 5
    assert seen.page.locator("#controls").is_hidden()
    assert seen.page.locator("article.sheet:visible").count() == 5 + 4
    top = seen.page.locator("article[data-key=krum]").bounding_box()
    assert top is not None
    assert abs(top["y"]) < 40  # the address is an anchor
    assert seen.page.get_by_text("Scripts are off").is_visible()


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'`&,%2C=#\u202eRTL \u05d0"
LONG = "Pneumono" * 60


def test_hostile_text_neither_runs_nor_breaks_the_layout(visit: Open, tmp_path: Path) -> None:
    tables = make_rows(SMALL)
    catalog = tables["catalog"].to_pylist()
    for row in catalog:
        row.update(title=f"{HOSTILE}{LONG}", description=f"{LONG} {HOSTILE}", paper=LONG, settings=f'{{"{LONG}": 1}}')
        if row["id"] in ("krum", "unaligned"):
            row["id"] = HOSTILE
    cells = tables["cells"].to_pylist()
    for row in cells:
        row.update(flags=[f"{LONG}{HOSTILE}"], generator=LONG)
        if row["defense"] == "krum":
            row["defense"] = row["stage"] = HOSTILE
        if row["scenario"] == "unaligned":
            row["scenario"] = HOSTILE
    cells[0].update(status="failed", reason=f"{LONG} {HOSTILE}")
    tables["catalog"], tables["cells"] = table_of("catalog", catalog), table_of("cells", cells)
    tables["responses"] = generated_by(tables["responses"], LONG)
    path = write_site(load_rows([write_tables(tmp_path / "rows", tables)]), tmp_path / "site")
    seen = visit(path=path, **PHONE)
    assert seen.fits()
    boxes = seen.page.locator("#table tbody input[type=checkbox]")
    boxes.nth(0).check()
    boxes.nth(1).check()
    chosen = seen.page.url[seen.page.url.index("#") :]
    again = visit(chosen, path=path, **PHONE)
    assert again.page.locator("#table tbody input:checked").count() == 2
    assert again.fits()
    index = again.page.evaluate("id => data.defenses.findIndex((defense) => defense.id === id)", HOSTILE)
    again.page.locator(f'#table tr[data-d="{index}"] th a').click()
    sheet = again.page.locator("article.open")
    assert sheet.get_attribute("data-key") == HOSTILE
    assert again.fits()
    again.page.reload()
    assert again.page.locator("article.open").get_attribute("data-key") == HOSTILE
    quoted = "'" + HOSTILE.replace("'", "'\"'\"'") + "'"
    assert f"--defense {quoted} --seed" in (again.page.locator("article.open .command").text_content() or "")
    assert again.page.locator("img, iframe, object").count() == 0


def test_a_method_of_sensitivity_sets_alone_has_a_view_without_cells_by_seed(
    visit: Open, board: Board, rows: Rows, tmp_path: Path
) -> None:
    page = render(environment(), replace(board, at_points={"half": catalog_row("defense", "half")}), rows, [])
    path = tmp_path / "index.html"
    path.write_text(page, encoding="utf-8")
    seen = visit("#defense=half", path=path)
    assert seen.page.locator("article.open h2").inner_text().startswith("Half")
    assert seen.page.locator("article.open .cells").count() == 0
    seen.page.get_by_role("link", name="Sensitivity").last.click()
    assert seen.page.locator("article.open").count() == 0


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a sampled defense and a reproduced attack on some defenses."""
    root = committed(tmp_path_factory.mktemp("submitted"))
    mine = [*cells("mine", [0.9] * 4, [1] * 4), *second_scenario("mine", [0.9] * 4)]
    write_submission(root, "mine", exact_rows(mine), "sampled")
    write_attack(root, "storm", attacking("storm", {"krum": [0.2] * 4, "fedavg": [0.9] * 4}))
    return write_site(load_rows([root]), tmp_path_factory.mktemp("site"))


def test_a_badge_leads_to_what_it_means(visit: Open, submitted: Path) -> None:
    seen = visit(path=submitted)
    row = seen.page.locator("#table tbody tr", has=seen.page.get_by_role("link", name="mine", exact=True))
    assert row.locator("td.rank").inner_text() == ""
    assert row.locator(".badge.not_reproduced").inner_text() == "not reproduced"
    badge = row.get_by_role("link", name="sampled (what this means)")
    assert badge.is_visible()
    badge.press("Enter")
    assert seen.page.url.endswith("#rungs")
    assert seen.page.evaluate("document.activeElement.id") == "rungs"
    legend = seen.page.locator("section.rungs")
    assert "Rows without such a mark are the project's own runs." in legend.inner_text()
    assert legend.locator("dt").all_inner_texts() == ["claimed", "checked", "sampled", "reproduced"]
    # It keeps its group in every scenario, and comes back to the legend from its own page.
    seen.page.get_by_label("Scenario", exact=True).select_option("aligned_start")
    assert row.locator(".badge.not_reproduced").inner_text() == "not reproduced"
    sheet = visit("#defense=mine", submitted)
    sheet.page.locator("article.open").get_by_role("link", name="sampled (what this means)").first.click()
    assert sheet.page.locator("section.rungs").is_visible()


def test_the_best_known_column_follows_the_scenario(visit: Open, submitted: Path) -> None:
    seen = visit(path=submitted)

    def shown() -> dict[str, str]:
        rows = seen.page.locator("#table tbody tr")
        pairs = rows.evaluate_all(
            """rows => rows.map(row => [row.querySelector("th a").textContent,
                [...row.querySelectorAll('[data-c="best_known"] .n, [data-c="best_known"] .word')]
                    .map(part => part.textContent).join(" ")])"""
        )
        return dict(pairs)

    spared = "not attacked by it"
    assert shown() == {"krum": "20.0 by storm", "fedavg": "15.0", "median": f"40.0 {spared}", "mine": f"90.0 {spared}"}
    seen.page.get_by_label("Scenario", exact=True).select_option("paper_shape")
    assert shown() == {"krum": "70.0", "fedavg": "30.0", "median": "40.0", "mine": "90.0"}
    seen.page.get_by_label("Scenario", exact=True).select_option("aligned_start")
    assert shown()["median"] == f"53.8 {spared}"
    seen.page.locator('#table th[data-key="best_known"] button').click()
    best = seen.column("best_known")
    assert best == sorted(best, reverse=True)
    assert len(best) == 4
    sheet = visit("#defense=krum", submitted).page.locator("article.open")
    text = sheet.inner_text()
    assert "Best-known attack: safety 20.0 %" in text
    assert "in aligned_start, by a submitted attack." in text
    assert "Source: Doe 2030." in text


def test_submissions_fit_a_phone_dark_and_print(visit: Open, submitted: Path) -> None:
    phone = visit(path=submitted, **PHONE)
    assert phone.fits()
    phone.page.goto(submitted.as_uri() + "#defense=mine")
    assert phone.fits()
    for scheme in ("light", "dark"):
        seen = visit(path=submitted, color_scheme=scheme)
        for selector in (".badge.rung.sampled", ".badge.rung.reproduced"):
            colours = seen.page.locator(f"section.rungs {selector}").first.evaluate(
                """badge => [getComputedStyle(badge).color,
                    getComputedStyle(badge.closest(".panel")).backgroundColor]"""
            )
            assert contrast(*colours) >= 4.5, (scheme, selector, colours)
    printed = visit(path=submitted)
    printed.page.emulate_media(media="print")
    assert printed.page.locator("section.rungs").is_visible()
    assert printed.page.locator("#table .badge.rung").first.is_visible()


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours written as ``rgb(r, g, b)`` (WCAG 2)."""
    lights = []
    for colour in (one, other):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    low, high = sorted(lights)
    return (high + 0.05) / (low + 0.05)


def test_hostile_submissions_do_nothing_on_the_page(visit: Open, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'</script><script>alert(1)</script>"
    root = committed(tmp_path)
    tables = exact_rows([*cells("__proto__", [0.9] * 4, [1] * 4), *second_scenario("__proto__", [0.9] * 4)])
    tables["catalog"] = table_of(
        "catalog", [catalog_row("defense", "__proto__", title=evil, description=evil, paper=evil, resources=evil)]
    )
    write_submission(root, "__proto__", tables, "checked", reason=evil)
    seen = visit(path=write_site(load_rows([root]), tmp_path / "site"))
    assert evil in seen.defenses()
    seen.page.get_by_label("Scenario", exact=True).select_option("aligned_start")
    assert evil in seen.defenses()
    seen.page.goto(seen.page.url.partition("#")[0] + "#defense=__proto__")
    assert evil in seen.page.locator("article.open").inner_text()
    seen.page.locator("article.open").get_by_role("button", name="Cite this defense").click()
    assert "checked but not re-run" in seen.page.locator("#cite-sentence").inner_text()
