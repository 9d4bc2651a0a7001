"""Pages in a headless Chromium, as wide as a phone and as a laptop: `make test-browser`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from analogtorch.report import html
from tests.browser.chromium import Page, chromium
from tests.report import made_up

pytestmark = pytest.mark.browser

WIDTHS = (390, 1280)
SHOWN = ("small", "large", "mapping")


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a small page, one of 35 words and 30 layers, and one of a mapping on several chips."""
    folder = tmp_path_factory.mktemp("pages")
    large = made_up.result(classes=35, layers=30)
    long = {"a_long_name_without_any_space_" * 8: "x" * 300}
    pages = {
        "small": html(made_up.result()),
        "large": html(dataclasses.replace(large, config={**large.config, **long})),
        "mapping": large.mapping.to_html(command="analogtorch map " + "x" * 300),
    }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page)
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture(params=[(name, width) for name in SHOWN for width in WIDTHS], ids=str)
def opened(request: pytest.FixtureRequest, tab: Page, files: dict[str, Path]) -> Page:
    name, width = request.param
    tab.open(files[name], width)
    return tab


# elements that end beyond the edge of the window, but for those in a box that scrolls by itself
_OUTSIDE = """
[...document.querySelectorAll("body *")].filter(e => {
  const box = e.getBoundingClientRect()
  if (!box.width || (box.left >= -0.5 && box.right <= innerWidth + 0.5)) return false
  return !e.parentElement.closest(".scroll, .legend, pre, svg")
}).map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40))
"""
# seconds of each clip, once it is loaded
_LENGTHS = """
Promise.all([...document.querySelectorAll("audio")].map(a => new Promise((yes, no) => {
  if (a.error) no(a.error.message)
  if (a.readyState > 0) yes(a.duration)
  a.onloadedmetadata = () => yes(a.duration)
  a.onerror = () => no(a.error.message)
})))
"""
# texts whose contrast to the ground below them is less than 4.5
_FAINT = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true})
  const painted = (colours) => {
    canvas.clearRect(0, 0, 1, 1)
    for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1) }
    return [...canvas.getImageData(0, 0, 1, 1).data]
  }
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
  const found = []
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    if (e.closest("svg") || !text) continue
    const grounds = ["#ffffff"]
    for (let p = e; p; p = p.parentElement)
      grounds.splice(1, 0, getComputedStyle(p).backgroundColor)
    const ground = painted(grounds), ink = painted([...grounds, getComputedStyle(e).color])
    const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x)
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(e.tagName + " " + e.textContent.slice(0, 40))
  }
  return found
})()
"""
_FOLDED = """
[...document.querySelectorAll("details")].map(e => e.lastElementChild)
  .filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length
"""
_OPEN = "document.querySelectorAll('details').forEach(e => e.open = true)"


@pytest.mark.parametrize("unfolded", [False, True])
def test_nothing_is_wider_than_the_window(opened: Page, unfolded: bool) -> None:
    if unfolded:
        opened.run(_OPEN)
    width = opened.run("innerWidth")
    assert width in WIDTHS
    assert opened.run("document.documentElement.scrollWidth") <= width
    assert opened.run(_OUTSIDE) == []


def test_nothing_is_logged_or_requested(opened: Page) -> None:
    logged = opened.named("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert logged == []
    urls = [e["request"]["url"] for e in opened.named("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in urls) == 1  # the page itself


def test_pictures_and_clips_are_loaded(opened: Page) -> None:
    assert opened.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    drawings = "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect())"
    assert opened.run(f"{drawings}.every(r => r.width > 300 && r.height > 100)")
    assert all(seconds == pytest.approx(0.1) for seconds in opened.run(_LENGTHS))


def test_letters_can_be_read(opened: Page) -> None:
    """Letters of text are 11 pixels high or more, those of drawings 7."""
    sizes = """(inside) => [...document.querySelectorAll("body *")]
      .filter(e => e.checkVisibility() && !!e.closest("svg") === inside)
      .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
      .filter(e => e.tagName !== "title")
      .map(e => parseFloat(getComputedStyle(e).fontSize)
        * (inside ? e.closest("svg").getScreenCTM().a : 1))"""
    assert min(opened.run(f"({sizes})(false)")) >= 11
    assert min(opened.run(f"({sizes})(true)"), default=7) >= 7


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(dark: bool, tab: Page, files: dict[str, Path]) -> None:
    """The contrast is 4.5 or more (WCAG 2.2, criterion 1.4.3), on every shade of a table."""
    tab.open(files["small"], 1280, dark=dark)
    tab.run(_OPEN)
    assert tab.run(_FAINT) == []


def test_on_paper_everything_is_shown(tab: Page, files: dict[str, Path]) -> None:
    tab.open(files["small"], 800, media="print")
    assert tab.run("document.querySelectorAll('details').length") > 0
    assert tab.run(_FOLDED) == 0
    hidden = "[...document.querySelectorAll('nav, audio')].every(e => !e.checkVisibility())"
    assert tab.run(hidden)
