"""A browser shows all of a report, on a phone, on a screen, in the dark and on paper."""

import pytest
from patched import run_of
from reported import page_of, toy_sweep


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report of a sweep, on disk."""
    folder = tmp_path_factory.mktemp("browser")
    _, splits = toy_sweep(folder / "sweep", seeds=(1,))
    (folder / "r.html").write_text(page_of(folder / "sweep", splits), "utf-8")
    return folder / "r.html"


UNSEEN = """() => {
  const wrong = [];
  for (const element of document.querySelectorAll("img, svg, [role=img]")) {
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    if (box.width < 8 || box.height < 8 || style.visibility !== "visible" || style.opacity === "0"
        || (element.complete === false) || element.naturalWidth === 0) wrong.push(element.outerHTML.slice(0, 90));
  }
  return wrong;
}"""


@pytest.mark.parametrize(
    ("width", "scheme", "scripted"),
    [(360, "light", True), (360, "dark", False), (1400, "light", False), (1400, "dark", True)],
)  # every two of them together
def test_in_a_browser(browser, file, width, scheme, scripted):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripted, offline=True
    )
    try:
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        closed = page.locator("details:not([open]) > summary")
        page.locator("a[href^='#cell-']").first.click()  # opens the class it leads into
        assert page.locator("details[open] .strip:target img").is_visible()
        while closed.count():
            closed.first.click()
        assert page.locator("img").count() > 20
        assert page.locator("svg").count() >= 8
        assert page.evaluate(UNSEEN) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert shade == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
        if scripted and width > 600:  # on a phone, a row of this table is a card
            table = page.locator("table.sortable").first
            column = [table.locator("thead th").nth(k).inner_text() for k in range(6)].index("validation")
            values = lambda: [  # noqa: E731
                float(cell.split()[0]) for cell in table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
            ]
            before = values()
            assert before == sorted(before, reverse=True)
            table.locator("thead button").nth(column).click()
            assert values() == sorted(before)
            assert before != sorted(before)
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    finally:
        context.close()


@pytest.mark.parametrize("width", [360, 1400])
def test_patches_in_a_browser(browser, width, tmp_path):
    run, _, splits, _ = run_of(tmp_path / "run", (3, 16, 24))
    (tmp_path / "r.html").write_text(page_of(run.path, splits), "utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "r.html").as_uri())
    assert page.evaluate(UNSEEN) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    patch, image, windows = (page.locator(".sides figure img").nth(k).bounding_box() for k in range(3))
    assert patch["width"] == pytest.approx(patch["height"], abs=1)
    for box in (image, windows):
        assert box["width"] == pytest.approx(1.5 * box["height"], abs=1)
        assert box["width"] > 50
    frame = page.locator(".sides .framed i").first.bounding_box()
    assert frame["width"] == pytest.approx(frame["height"], abs=1)
    assert image["x"] - 1 < frame["x"] < frame["x"] + frame["width"] < image["x"] + image["width"] + 1
    assert (
        page.locator(".sides").evaluate_all("elements => elements.filter(e => e.scrollWidth > e.clientWidth).length")
        == 0
    )
    page.close()


def test_on_a_phone_a_setting_is_a_card(browser, file):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto(file.as_uri())
    cards = page.locator("table.cards").first.locator("tbody tr")
    wide = "elements => elements.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent.trim())"
    assert page.locator(".scroll").evaluate_all(wide) == [], "no table needs sideways scrolling"
    boxes = [cards.nth(k).bounding_box() for k in range(3)]
    assert all(box["x"] > 0 and box["x"] + box["width"] < 360 for box in boxes)
    verdict = cards.nth(1).locator("td.verdict")
    assert verdict.bounding_box()["width"] > 250
    assert page.evaluate("element => getComputedStyle(element, '::before').content", verdict.element_handle()) == (
        '"against the best"'
    )
    page.close()


@pytest.mark.parametrize("scripted", [True, False])
def test_printed_details_are_open(browser, file, scripted):
    context = browser.new_context(java_script_enabled=scripted)
    page = context.new_page()
    page.goto(file.as_uri())
    strip = page.locator("details .strip").first
    assert not strip.is_visible()
    page.emulate_media(media="print")
    assert strip.is_visible()
    assert strip.bounding_box()["height"] > 20
    split = "h2, h3, h4, figure, table, details"
    kept = "elements => elements.map(e => getComputedStyle(e)).map(s => [s.breakAfter, s.breakInside])"
    assert all("avoid" in pair for pair in page.locator(split).evaluate_all(kept))
    context.close()


def test_few_percent_are_shaded_in_the_dark(browser, file):
    page = browser.new_page(color_scheme="dark")
    page.goto(file.as_uri())
    cells = page.locator(".confusion td:has(a)").evaluate_all(
        "cells => cells.map(cell => [cell.textContent, getComputedStyle(cell).backgroundColor])"
    )
    shades = [(float(share), float(colour.rpartition(", ")[2].rstrip(")"))) for share, colour in cells]
    assert min(share for share, _ in shades) < 15
    assert all(alpha > 0.1 for _, alpha in shades)
    page.close()
