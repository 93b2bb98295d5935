"""The page in a real browser: opened from disk, sorted, switched, and silent on the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from leaderboard.rows import Rows
from leaderboard.site import build_site

playwright_api = pytest.importorskip("playwright.sync_api", reason="NOT RUN: playwright is not installed")

pytestmark = pytest.mark.browser


@dataclass
class Visit:
    """A page with everything it asked for and complained of."""

    page: playwright_api.Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def defenses(self) -> list[str]:
        """Return the defenses of the visible body of the ranking, in order."""
        return list(self.page.locator("#ranking ~ .scroll tbody:not([hidden]) th[scope=row] a").all_inner_texts())

    def column(self, key: str) -> list[float]:
        """Return the sort keys of a column of the visible body, in order."""
        cells = self.page.locator(f'#ranking ~ .scroll tbody:not([hidden]) td[data-c="{key}"]')
        return [float(text) for text in cells.evaluate_all("cells => cells.map(cell => cell.dataset.v)") if text]


@pytest.fixture(scope="module")
def address(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = build_site(rows, tmp_path_factory.mktemp("site"))
    return path.as_uri()


@pytest.fixture
def visit(chromium: str, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    options = {"viewport": {"width": 1400, "height": 900}, **getattr(request, "param", {})}
    with playwright_api.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_context(**options).new_page()
        seen = Visit(page)
        page.on("request", lambda sent: seen.requests.append(sent.url))
        page.on("console", lambda message: seen.problems.append(message.text))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.goto(address)
        yield seen
        browser.close()


def test_it_opens_from_disk_and_asks_for_nothing_else(visit: Visit, address: str) -> None:
    assert visit.page.title() == "FedSafetyBench: Micro"
    visit.page.wait_for_load_state("networkidle")
    assert [url for url in visit.requests if not url.startswith("data:")] == [address]
    assert visit.problems == []


def test_a_column_sorts_both_ways_by_mouse_and_by_keyboard(visit: Visit) -> None:
    heading = visit.page.locator('#ranking ~ .scroll th[data-key="utility"]')
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    descending = visit.column("utility")
    assert descending == sorted(descending, reverse=True)
    assert len(set(descending)) > 1
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert visit.column("utility") == sorted(descending)
    names = visit.page.locator('#ranking ~ .scroll th[data-key="name"]')
    names.locator("button").press("Space")
    assert names.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") == "none"
    assert visit.defenses() == sorted(visit.defenses())
    assert visit.problems == []


def test_choosing_a_scenario_changes_the_table_and_the_address(visit: Visit) -> None:
    everything = visit.column("safety")
    chooser = visit.page.get_by_label("Scenario", exact=True)
    chooser.select_option("aligned_start")
    assert visit.column("safety") != everything
    assert visit.page.locator("#ranking ~ .scroll tbody:not([hidden])").count() == 1
    assert visit.page.url.endswith("#view=aligned_start")
    one = visit.column("safety")
    visit.page.reload()
    assert visit.column("safety") == one
    chooser.select_option("*")
    assert visit.column("safety") == everything
    assert visit.problems == []


@pytest.mark.parametrize(
    "visit",
    [
        {"viewport": {"width": 390, "height": 844}},
        {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"},
    ],
    indirect=True,
    ids=["phone", "dark"],
)
def test_nothing_runs_over_the_edge(visit: Visit) -> None:
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert visit.problems == []


@pytest.mark.parametrize("visit", [{"java_script_enabled": False}], indirect=True, ids=["no scripts"])
def test_without_scripts_the_overall_ranking_is_there(visit: Visit) -> None:
    assert visit.page.locator("#ranking ~ .scroll tbody:not([hidden]) th[scope=row]").count() == 5
    assert visit.page.get_by_label("Scenario", exact=True).is_disabled()
