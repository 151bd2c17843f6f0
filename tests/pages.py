"""Helpers for tests of pages in a browser: what is folded is opened, and axe looks at the page."""

import pytest


def unfold(page):
    """Open all that is folded."""
    closed = page.locator("details:not([open], [hidden]) > summary").locator("visible=true")
    while closed.count():
        closed.first.click()


def violations(page, part=None):
    """Return what axe finds, with the first element of each kind; nothing is left out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, part).response
    assert found["passes"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]]
