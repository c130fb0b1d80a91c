"""report.html in Chromium, from a file: no request, no error, for everybody to read, by keyboard, with hostile names and many clients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_names import SCRIPT, table
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.report.page import draw_page
from scarcity_ray.report.page.document import MOST_BYTES

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra `browser`")

IDENTITY = {"kind": "sf_hfe", "representation": {"kind": "identity"}}
WORLD = {"compute": {}, "network": {"downlink": 1.0}, "energy": {}, "availability": {"kind": "bernoulli", "p": 0.7}}
"""Something is scarce, so that no panel is left out."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's package chromium")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of nine sites with hostile names, with every panel."""
    folder = tmp_path_factory.mktemp("hostile")
    data = table(folder) | {"held_out_clients": 0.1}
    plain = scenario(
        data=data, model={"kind": "linear"}, strategies=[{"kind": "fed_avg"}, IDENTITY | {"experts": 2}], scarcity=WORLD,
        evaluation={"predictions": True, "scarcity_report": True},
    )  # fmt: skip
    results = simulate(plain, out=folder / "run")
    draw_page(results, folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 7,424 clients."""
    folder = tmp_path_factory.mktemp("many")
    source = {"kind": "shifted_regression", "features": 2, "samples_per_client": {"lognormal": {"mean": 2.2, "sigma": 0.5, "minimum": 4}}}
    plain = scenario(data={"source": source, "clients": 7424}, model={"kind": "linear"}, strategies=[IDENTITY | {"experts": 1}], rounds=1)
    draw_page(simulate(plain, out=folder / "run"), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page and tells what it asked for and complained of; at the end there must be nothing."""
    told: list[str] = []
    contexts: list[Any] = []

    def open_page(path: Path, **context: Any) -> Any:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda request: told.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 375)])
def test_everybody_can_read_it(hostile: Path, opened: Any, scheme: str, width: int) -> None:
    page = opened(hostile, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.get_by_role("combobox").fill("plain")
    page.keyboard.press("Enter")
    for one in page.locator("details").all():
        one.evaluate("details => { details.open = true }")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_site_is_found_by_keyboard_and_its_name_stays_text(hostile: Path, opened: Any) -> None:
    page = opened(hostile)
    title = page.title()
    page.get_by_role("combobox").focus()
    page.keyboard.type("SCRIPT")
    options = page.get_by_role("option")
    assert options.count() == 2
    assert page.get_by_role("combobox").get_attribute("aria-expanded") == "true"
    wanted = next(place for place, words in enumerate(options.all_text_contents()) if words == SCRIPT)
    for _ in range(wanted):
        page.keyboard.press("ArrowDown")
    assert options.nth(wanted).get_attribute("aria-selected") == "true"
    page.keyboard.press("Enter")
    found = page.get_by_role("status")
    assert found.get_by_role("heading").text_content() == SCRIPT
    assert {"Rows", "Gain", "Conclusion", "Rank"} <= set(found.locator("dt").all_text_contents())
    assert page.locator("path.here").count() == 1
    assert page.get_by_role("combobox").get_attribute("aria-expanded") == "false"
    page.get_by_role("combobox").fill("nobody has this")
    assert "No client" in str(found.text_content())
    assert page.title() == title


def test_the_speed_of_ones_link_fills_a_column(hostile: Path, opened: Any) -> None:
    page = opened(hostile)
    page.get_by_label("Speed of your link").fill("0.001")
    bits = [8 * float(one) for one in page.locator("td.mine").evaluate_all("cells => cells.map(cell => cell.dataset.bytes)")]
    told = page.locator("td.mine").all_text_contents()
    assert told[0] == (f"{bits[0] / 1000:.1f} s" if bits[0] < 60_000 else f"{bits[0] / 60_000:.1f} min")


def test_it_reads_without_javascript(hostile: Path, opened: Any) -> None:
    page = opened(hostile, java_script_enabled=False)
    assert page.get_by_text("This needs JavaScript.").is_visible()
    page.get_by_text("Show as a table").first.click()
    assert page.get_by_role("table").first.is_visible()


def test_thousands_of_clients_open_and_are_found(many: Path, opened: Any) -> None:
    assert many.stat().st_size <= MOST_BYTES
    page = opened(many)
    assert page.evaluate("document.getElementsByTagName('*').length") <= 20_000
    page.get_by_role("combobox").fill("7423")
    page.keyboard.press("Enter")
    assert page.get_by_role("status").get_by_role("heading").text_content() == "7423"


def test_it_prints_whole_lines_on_paper(hostile: Path, opened: Any, tmp_path: Path) -> None:
    page = opened(hostile)
    page.emulate_media(media="print")
    assert page.locator("nav, summary").evaluate_all("found => found.every(one => !one.checkVisibility())")
    wide = page.locator(".scroll").evaluate_all("boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length")
    assert wide == 0
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
