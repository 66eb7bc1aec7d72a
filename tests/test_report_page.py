"""The HTML page of a report in a real browser: accessible, light and dark, on a telephone and on paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from retune.page import to_html
from retune.report import Report

CHROMIUM = shutil.which("chromium")
EXAMPLE = (Path(__file__).parent / "example_report.json").read_text(encoding="utf-8")
# Width of the window and the colours that its user prefers.
WINDOWS = {"desktop light": (1100, "light"), "desktop dark": (1100, "dark"), "telephone": (360, "dark")}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. It has no sandbox: Chromium refuses one to root, and the page is our own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WINDOWS.values(), ids=WINDOWS)
def page(chromium: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The example report, opened, with all details unfolded."""
    width, scheme = request.param
    file = tmp_path / "report.html"
    file.write_text(to_html(Report.model_validate_json(EXAMPLE)), encoding="utf-8")
    # The page's own policy allows no script, the checker's neither.
    window = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = window.new_page()
    page.goto(file.as_uri())
    if pictures := request.config.getoption("--screenshots"):
        pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=pictures / f"report-{request.node.callspec.id.replace(' ', '-')}.png")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    yield page
    window.close()


def test_the_page_is_accessible(page: Page) -> None:
    """axe finds nothing: contrast, headings, names of pictures and tables, what a keyboard can reach."""
    result = Axe().run(page)

    assert result.violations_count == 0, result.generate_report()
    assert len(result.response["passes"]) > 20


def test_nothing_is_wider_than_the_window(page: Page) -> None:
    """Wide tables and commands scroll by themselves."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_paper_shows_the_details_too(chromium: Browser, tmp_path: Path) -> None:
    """In black on white, and folded details unfolded; on a screen they stay folded."""
    page = chromium.new_page(color_scheme="dark")
    page.set_content(to_html(Report.model_validate_json(EXAMPLE)))
    hidden = page.get_by_text("subscription", exact=True)
    assert not hidden.is_visible()

    page.emulate_media(media="print")

    assert hidden.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


def test_the_page_needs_nothing_beside_it(chromium: Browser, tmp_path: Path) -> None:
    """It asks for nothing, and has no script that could."""
    file = tmp_path / "report.html"
    file.write_text(to_html(Report.model_validate_json(EXAMPLE)), encoding="utf-8")
    page = chromium.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())

    assert requests == [file.as_uri()]
    assert page.locator("script, img, link, iframe, object").count() == 0
    page.close()
