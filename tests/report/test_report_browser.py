"""The page in a real browser: on a phone, in light, in dark and in print."""

import re
from pathlib import Path

import pytest
from report_protocols import autoattack, flag, full, moe, standard, table3, write

from dwf import report

CHROMIUM = Path("/usr/bin/chromium")
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const seen = getComputedStyle(node).backgroundColor; if (rgb(seen)[3] === 255) return seen; } return "white"; };
  const ratio = (a, b) => { const [x, y] = [light(rgb(a)), light(rgb(b))].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const kinds = "h1, p, a, td, th, dt, dd, small, code, summary, caption, figcaption, strong, span";
  const measure = property => node => [ratio(getComputedStyle(node)[property], behind(node)), node.outerHTML.slice(0, 80)];
  const texts = [...document.querySelectorAll(kinds)].filter(node => node.textContent.trim()).map(measure("color"));
  const labels = [...document.querySelectorAll("svg text")].map(measure("fill"));
  return [...texts, ...labels].sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=["table3", "every protocol"])
def material(request, runs, tmp_path):
    """Run folders: of the paper's protocol alone, and of all of them."""
    if request.param == "table3":
        return runs
    alarms = (flag("softened_transfer"), flag("dead_weight", "worth"))
    mix = write(tmp_path / "mix", table3(n=1000), full(flags=alarms), moe(), standard())
    return [mix, write(tmp_path / "plain", table3(run="plain", gate=0), autoattack(run="plain", gate=0))]


@pytest.fixture
def opened(browser, material, tmp_path):
    out = report.write(material, tmp_path / "report.html")[0]
    pages, troubles = [], []

    def open_(width, scheme):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: None if re.match("file:|data:", request.url) else troubles.append(request.url))
        page.goto(out.as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert troubles == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    page = opened(width, "light")
    page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme):
    page = opened(1280, scheme)
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 128) == (scheme == "dark")
    assert len(page.screenshot(full_page=True)) > 50_000


def test_it_prints(opened):
    page = opened(1030, "dark")  # A4 landscape between its margins
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") == 1030
    assert (
        page.evaluate(
            "[...document.querySelectorAll('.run > dl')].map(node => node.checkVisibility({contentVisibilityAuto: true}))"
        )
        == [True] * page.locator("#provenance .run").count()
    ), "what is folded away on the screen is there on paper"


def test_text_in_drawings_stays_readable_on_a_phone(opened):
    page = opened(360, "light")
    heights = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(node => node.getBoundingClientRect()).map(r => Math.min(r.width, r.height))"
    )
    assert min(height for height in heights if height > 0) >= 4  # a digit is about half as wide as high
