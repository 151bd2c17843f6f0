"""Make docs/live.png: the page of `onelayer live` in Chromium, after a training on CIFAR-10.

    ONELAYER_DATA=folder python tools/live_screenshot.py

It needs Playwright and Chromium, as the tests of the page do.
"""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from onelayer.data import load_splits

TARGET = Path(__file__).parents[1] / "docs" / "live.png"
MOST_BYTES = 300_000
WIDTH, HEIGHT = 1500, 1062
LAMBDA = "0.5"  # templates are smooth with it
ROW = 1  # of the validation rows: the image that is shown to the layer


def photograph() -> bytes:
    """Return a validation image as a PNG."""
    row = load_splits("cifar10").validation.rows(np.array([ROW]))
    content = io.BytesIO()
    Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(content, "PNG")
    return content.getvalue()


def trained(page: Page) -> None:
    """Wait for the end of a training."""
    expect(page.locator("#state")).to_have_text(re.compile("epochs are done"), timeout=60_000)


def turn_knobs(page: Page) -> None:
    """Train twice, and show the layer an image."""
    trained(page)
    page.locator("#typed-l2").fill(LAMBDA)
    page.keyboard.press("Enter")
    trained(page)
    expect(page.locator("#best")).to_be_visible(timeout=60_000)
    image = {"name": "image.png", "mimeType": "image/png", "buffer": photograph()}
    page.locator("#pick").set_input_files(image)
    expect(page.locator("#contributions canvas")).to_have_count(3)
    page.locator(".confusion button").nth(53).click()  # a dog taken for a cat
    expect(page.locator("#cell-images canvas").first).to_be_visible()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(500)


def main() -> None:
    """Write the picture."""
    chromium = shutil.which("chromium") or sys.exit("chromium is not installed")
    command = [sys.executable, "-m", "onelayer", "live", "--data", "cifar10", "--no-browser"]
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            address = next(found[0] for line in server.stdout or () if (found := re.search(r"http://\S+", line)))
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(address)
            turn_knobs(page)
            content = page.screenshot()
            browser.close()
        finally:
            server.terminate()
            server.wait()
    with Image.open(io.BytesIO(content)) as picture:
        colours = picture.convert("RGB")
    few = colours.quantize(256, Image.Quantize.MAXCOVERAGE)
    colours.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(TARGET, optimize=True)
    if TARGET.stat().st_size > MOST_BYTES:
        sys.exit(f"{TARGET} has {TARGET.stat().st_size} bytes; at most {MOST_BYTES} are wanted")


if __name__ == "__main__":
    main()
