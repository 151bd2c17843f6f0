"""The live page in Chromium, with the real server: it shows the layer, by mouse and by keys, and asks nobody else."""

import base64
import io
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from pages import unfold, violations
from PIL import Image

from onelayer.config import TrainConfig
from onelayer.data import load_splits
from onelayer.live.frames import HISTORY
from onelayer.live.messages import pack, welcome_knobs, write_text
from onelayer.live.redirect import redirect_to
from onelayer.training.train import train
from onelayer.words import percent

pytest.importorskip("starlette", reason="onelayer[live] is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect

TOKEN = "a-token-that-the-test-knows"  # noqa: S105
SERVER = """
import sys
from pathlib import Path
from onelayer.data import load_splits
from onelayer.live import server

live = server.Live(load_splits(sys.argv[1]), Path(sys.argv[2]))
live.token = sys.argv[4]
with server.listen(int(sys.argv[3])) as listening:
    server.serve(live, listening, lambda: print(listening.getsockname()[1], flush=True))
"""
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MINUS = "\N{MINUS SIGN}"
DEFAULTS = TrainConfig(epochs=40, decay_every=0, keep="last")  # of the knobs


class Server:
    """The server in a process of its own, so that it can be stopped and started."""

    def __init__(self, source, folder):
        self.source, self.folder, self.port = source, folder, 0
        self.start()

    def start(self):
        command = [sys.executable, "-c", SERVER, self.source, self.folder, str(self.port), TOKEN]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.folder)
        self.port = int(self.process.stdout.readline())

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=10)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/#{TOKEN}"


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_form):
    """Six parts of 400 rows in the layout of CIFAR-10, of classes that overlap."""
    rng = np.random.default_rng(5)
    axes, centres = rng.normal(0, 14, (6, 3072)), rng.normal(0, 1, (10, 6))
    batches = {}
    for part in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = rng.permutation(np.arange(400) % 10)
        rows = 128 + (centres[labels] + rng.normal(0, 1, (400, 6))) @ axes + rng.normal(0, 4, (400, 3072))
        batches[part] = (rows.clip(0, 255).astype(np.uint8), labels)
    return write_form(batches, "python", tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def server(source, tmp_path_factory):
    running = Server(str(source), tmp_path_factory.mktemp("served"))
    yield running
    running.stop()


@pytest.fixture
def opened(browser, server):
    """``opened(width=..., scheme=...)`` -> the page after its first training; it asks no other host."""
    contexts, said, asked = [], [], []

    def open_page(width=1400, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(server.address)
        trained(page)
        return page

    open_page.said = said
    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    own = re.compile(rf"(http|ws)://127\.0\.0\.1:{server.port}/|(data|blob):")
    assert [url for url in asked if not own.match(url)] == []


# Playwright looks at a page a few times a second; this looks whenever the state changes.
UNTIL = """words => new Promise(done => {
  const state = document.getElementById("state");
  const look = () => { if (state.textContent === words) done(); };
  new MutationObserver(look).observe(state, {childList: true, characterData: true, subtree: true});
  setTimeout(done, 20_000);
  look();
})"""


def trained(page, epochs=40):
    """Wait until the training that was asked for has ended."""
    words = f"all {epochs} epochs are done"
    page.evaluate(UNTIL, words)
    assert page.locator("#state").inner_text() == words


def pixels(page, selector):
    """The pixels (h, w, 4) of a canvas."""
    url = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as image:
        return np.asarray(image.convert("RGBA"))


def png(colour, size=24):
    content = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(content, "PNG")
    return {"name": "image.png", "mimeType": "image/png", "buffer": content.getvalue()}


def shares(page):
    texts = page.locator("#probabilities td:last-child").all_inner_texts()
    return np.array([float(text.split()[0]) for text in texts]) / 100


def test_a_knob_turned_by_keys_trains_again_and_shows_the_run_of_the_command(opened, source):
    page = opened()
    before = pixels(page, ".views canvas")
    assert before.shape == (32, 32, 4)
    page.locator("#knob-l2").focus()
    for _ in range(22):
        page.keyboard.press("ArrowRight")
    l2 = float(page.locator("#typed-l2").input_value())
    assert l2 > 0
    page.locator("#typed-learning_rate").fill("0,003")
    page.keyboard.press("Enter")
    expect(page.locator("#command")).to_contain_text("--learning-rate 0.003")
    trained(page)
    config = replace(DEFAULTS, l2=l2, learning_rate=0.003)
    words = shlex.split(page.locator("#command").inner_text())
    assert words[:4] == ["onelayer", "train", "--data", str(source)]
    assert dict(zip(words[4::2], words[5::2], strict=True)) == {
        "--learning-rate": "0.003",
        "--l2": f"{l2:g}",
        "--epochs": "40",
        "--keep": "last",
        "--decay-every": "0",
    }
    splits = load_splits(str(source))
    result = train(splits, config)
    for split, score in result.scores.items():
        if split != "test":
            expect(page.locator(f"#{split}-loss")).to_have_text(f"{score.loss:.4f}")
            expect(page.locator(f"#{split}-cost")).to_have_text(f"{score.cost:.4f}")
    expect(page.locator("#accuracy")).to_have_text(percent(result.scores["validation"].accuracy))
    template = result.model.layer.weights[:, 0].reshape(3, 32, 32).transpose(1, 2, 0)
    drawn = 255 * (template - template.min()) / (template.max() - template.min())
    after = pixels(page, ".views canvas")
    assert np.abs(after[..., :3] - drawn).max() <= 1
    assert np.abs(after.astype(int) - before).mean() > 1
    assert (after[..., 3] == 255).all()
    # A training on the way, while the key was pressed, may have come far enough to be listed as well.
    faint = page.locator("#earlier-list li").filter(has_text="defaults")
    expect(faint).to_have_count(1)
    page.locator("#earlier summary").click()
    assert faint.locator("label").inner_text() == "defaults"
    faint.locator("input[type=checkbox]").check()
    faint.locator("input[type=text]").fill("as it came")
    for _ in range(2):
        page.locator("#again").click()
        trained(page)
    labels = page.locator("#earlier-list label").all_inner_texts()
    assert labels[0] == f"learning rate 0.003, lambda {l2}"
    assert len(set(labels)) == len(labels)  # each once
    expect(faint.locator("input[type=text]")).to_have_value("as it came")


def test_a_cell_opens_the_images_behind_it(opened, source):
    page = opened()
    splits = load_splits(str(source))
    model = train(splits, DEFAULTS).model
    found = model.logits(splits.validation.rows(slice(None))).argmax(axis=1)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (splits.validation.labels, found), 1)
    cells = page.locator(".confusion button")
    expect(cells.first).to_have_attribute("aria-label", re.compile("recognised"))
    assert [int(text) for text in cells.all_inner_texts()] == matrix.ravel().tolist()
    off = matrix * ~np.eye(10, dtype=bool)
    k, j = np.unravel_index(off.argmax(), off.shape)
    assert 1 < off[k, j] <= 40
    cells.nth(10 * k + j).click()
    shown = page.locator("#cell-images canvas")
    expect(shown).to_have_count(int(off[k, j]))
    expect(page.locator("#cell-images h3")).to_have_text(f"{NAMES[k]} taken for {NAMES[j]}: {off[k, j]} rows")
    rows = splits.validation.rows(slice(None))[(splits.validation.labels == k) & (found == j)]
    images = [pixels(page, f"#cell-images figure:nth-child({n + 1}) canvas") for n in range(len(rows))]
    shown_rows = np.stack([image[..., :3].transpose(2, 0, 1).reshape(-1) for image in images])
    assert (np.unique(shown_rows, axis=0) == np.unique(rows, axis=0)).all()
    page.locator("#show-mistakes").click()
    expect(page.locator("#mistake-images canvas")).to_have_count(40)
    page.locator("#test-rows summary").click()
    assert page.locator("#test-result").inner_text() == ""
    for times in ("1 time", "2 times"):
        page.locator("#open-test").click()
        expect(page.locator("#test-result")).to_contain_text(f"were read {times} since")
    found = model.logits(splits.test.rows(slice(None))).argmax(axis=1)
    expect(page.locator("#test-result b")).to_have_text(percent((found == splits.test.labels).mean()))
    of_test = np.zeros((10, 10), int)
    np.add.at(of_test, (splits.test.labels, found), 1)
    cells = page.locator("#test-confusion button")
    assert [int(text) for text in cells.all_inner_texts()] == of_test.ravel().tolist() != matrix.ravel().tolist()
    k, j = np.unravel_index(of_test.argmax(), of_test.shape)
    cells.nth(10 * k + j).click()
    expect(page.locator("#test-images h3")).to_contain_text(f": {of_test[k, j]} rows")


def test_a_new_training_closes_the_test_rows_and_opens_the_cell_again(opened):
    page = opened()
    page.locator("#test-rows summary").click()
    page.locator("#open-test").click()
    expect(page.locator("#test-confusion button")).to_have_count(100)
    cell = page.locator("#confusion button").first
    cell.click()
    expect(page.locator("#cell-images h3")).to_be_visible()
    before = page.locator("#cell-images h3").inner_text()
    page.locator("#typed-l2").fill("10")
    page.keyboard.press("Enter")
    trained(page)
    expect(page.locator("#test-result")).to_be_empty()
    expect(page.locator("#test-confusion button")).to_have_count(0)
    expect(page.locator("#cell-images h3")).not_to_have_text(before)
    count = page.locator("#cell-images h3").inner_text().split()[-2]
    expect(cell).to_have_text(count)  # it is drawn in the next frame
    expect(page.locator("#typed-l2")).to_be_focused()


def test_a_mistake_closes_the_command_and_keeping(opened, server):
    page = opened()
    expect(page.locator("#keep-now")).to_be_enabled()
    page.locator("summary", has_text="Common mistakes").click()
    page.locator("[value=init-0\\.1]").check()
    expect(page.locator("#command")).to_have_text("No command trains with a mistake; switch the mistakes off.")
    expect(page.locator("#keep-now")).to_be_disabled()
    expect(page.locator("#copy")).to_be_disabled()
    expect(page.locator("#with-mistake")).to_be_visible()
    trained(page)
    page.locator("#view-learnt").check()
    raw, learnt = pixels(page, ".views canvas"), pixels(page, ".views canvas:nth-child(2)")
    assert np.abs(raw.astype(int) - learnt).mean() > 10
    page.locator("#reset").click()
    expect(page.locator("#keep-now")).to_be_enabled()
    trained(page)
    expect(page.locator("#initial")).to_be_hidden()
    page.locator("#keep-name").fill("a-run")
    page.locator("#keep-report").uncheck()
    page.locator("#keep-now").click()
    expect(page.locator("#kept")).to_contain_text("runs/a-run: validation accuracy", timeout=30_000)
    assert f"validation accuracy {page.locator('#accuracy').inner_text()}" in page.locator("#kept").inner_text()
    assert (server.folder / "runs" / "a-run" / "model.safetensors").is_file()


def card(page, name):
    """The card of a taught class."""
    return page.locator(f".card[aria-label='Class {name}']")


def remove(page, server, *names):
    """Remove taught classes, and wait until the server has none of them."""
    for name in names:
        card(page, name).get_by_role("button", name=f"Remove {name}").click()
    end = time.monotonic() + 10
    while any(folder.name in names for folder in server.folder.glob("taught-*/*")):
        assert time.monotonic() < end
        page.wait_for_timeout(20)


DROP = """(target, [bytes, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  target.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


def test_an_image_is_answered_while_the_layer_learns(opened):
    page = opened()
    page.locator("#learns").evaluate(DROP, [list(png("#7090d0")["buffer"]), "sky.png"])
    expect(page.locator("#answer")).to_be_visible()
    page.locator("#typed-epochs").fill("1000")
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(200):
        found = shares(page)
        assert found.sum() == pytest.approx(1, abs=6e-4)  # ten numbers of two decimals of a percent
        seen.add(tuple(found))
        if len(seen) > 4:
            break
        page.wait_for_timeout(20)
    assert len(seen) > 4
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text(re.compile("stopped after|are done"))
    assert (pixels(page, "#seen")[..., :3] == (0x70, 0x90, 0xD0)).all()
    expect(page.locator("#contributions canvas")).to_have_count(3)
    for words in page.locator("#contributions span").all_inner_texts():
        pixel, bias, logit = (float(n.replace(MINUS, "-")) for n in re.findall(rf"[+{MINUS}][\d.e-]+", words))
        assert pixel + bias == pytest.approx(logit, abs=2e-3 * max(1, abs(logit), abs(bias), abs(pixel)))
    page.locator("#pick").set_input_files(png("red") | {"buffer": b"<script>alert(1)</script>"})
    expect(page.locator("#picture-words")).not_to_be_empty()
    page.locator("#forget-image").click()
    expect(page.locator("#answer")).to_be_hidden()


def test_drawing_and_the_camera_are_answered(opened):
    page = opened()
    page.locator("#draw").click()
    sketch = page.locator("#sketch")
    sketch.focus()
    page.keyboard.press(" ")
    for key in ["ArrowUp"] * 4 + ["ArrowLeft"] * 4:
        page.keyboard.press(key)
    expect(page.locator("#answer")).to_be_visible()
    by_keys = (pixels(page, "#sketch")[..., :3] == 255).all(axis=2).sum()
    assert 500 < by_keys < 5000
    sketch.scroll_into_view_if_needed()
    box = sketch.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] - 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=5)
    page.mouse.up()
    assert (pixels(page, "#sketch")[..., :3] == 255).all(axis=2).sum() > by_keys + 1000
    page.locator("#clear-sketch").click()
    assert not pixels(page, "#sketch")[..., :3].any()
    page.locator("#camera").click()
    expect(page.locator("#drawing")).to_be_hidden()
    for _ in range(250):
        if pixels(page, "#seen")[..., 1].max() > 100:  # the browser's own camera is green
            break
        page.wait_for_timeout(20)
    assert pixels(page, "#seen")[..., 1].max() > 100
    page.locator("#freeze").click()
    expect(page.locator("#filming")).to_be_hidden()


def test_a_folder_of_classes_is_taught_and_trained(opened, server, tmp_path):
    for name, colour in (("green", 60), ("grey", 90)):
        for k in range(6):
            path = tmp_path / "pictures" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (colour * (name == "grey"), colour + k, 30)).save(path)
    (tmp_path / "pictures" / "green" / "notes.txt").write_text("not an image")
    page = opened()
    page.locator("#teach-title").click()
    page.locator("#pick-folder").set_input_files(tmp_path / "pictures")
    expect(page.locator("#data")).to_have_value("taught", timeout=10_000)
    trained(page)
    expect(page.locator("#about-data")).to_contain_text("2 classes")
    for name in ("green", "grey"):
        expect(card(page, name).locator(".titled span")).to_have_text("6 images")
    remove(page, server, "green", "grey")
    expect(page.locator("#taught-words")).to_have_text("Two classes with images are needed.")


# Count the pictures that are drawn: more than 100 of them, or those of some milliseconds.
COUNT = """most => new Promise(done => {
  let drawn = 0;
  const since = performance.now();
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...all) { drawn++; put.apply(this, all); };
  const field = document.getElementById("typed-epochs");
  field.value = 1000;
  field.dispatchEvent(new Event("change"));
  const look = () => {
    const passed = performance.now() - since;
    drawn > 100 || passed > most ? done([drawn, passed / 1000]) : setTimeout(look, 10);
  };
  look();
})"""


def test_less_motion_is_drawn_for_those_who_asked(opened):
    drawn = {}
    for wish, most in (("reduce", 1500), ("no-preference", 20_000)):
        page = opened(reduced_motion=wish)
        expect(page.locator(".confusion button").first).to_have_attribute("aria-label", re.compile("recognised"))
        drawn[wish] = page.evaluate(COUNT, most)
        page.locator("#stop").click()
    count, seconds = drawn["reduce"]
    assert 0 < count <= 20 * (2 + seconds)  # two views of ten classes: at the beginning, once a second, at an end
    assert drawn["no-preference"][0] > 100


def test_classes_are_taught_and_trained(opened, server):
    page = opened()
    page.locator("#teach-title").click()
    for name in ("red", "blue"):
        page.locator("#class-name").fill(name)
        page.keyboard.press("Enter")
        expect(card(page, name)).to_be_visible()
    cards = [card(page, name) for name in ("red", "blue")]
    shades = [[f"#{200 + k:02x}1010" for k in range(8)], [f"#1010{200 + k:02x}" for k in range(8)]]
    for k, colours in enumerate(shades):
        cards[k].locator("input[type=file]").set_input_files([png(colour) for colour in colours])
        expect(cards[k].locator(".titled span")).to_have_text("8 images")
    cards[0].evaluate(DROP, [list(png("#d01010")["buffer"]), "more.png"])
    expect(cards[0].locator(".titled span")).to_have_text("9 images")
    cards[0].locator(".thumb").first.click()
    expect(cards[0].locator(".titled span")).to_have_text("8 images")
    page.locator("#train-taught").click()
    expect(page.locator("#about-data")).to_contain_text("2 classes")
    trained(page)
    page.locator("#pick").set_input_files(png("#e00808"))
    expect(page.locator("#answer-words")).to_contain_text("red, ")
    assert shares(page)[0 if page.locator("#probabilities th").first.inner_text() == "red" else 1] > 0.9
    remove(page, server, "red", "blue")
    expect(page.locator(".card")).to_have_count(0)


def test_every_width_and_everybody(opened):
    page = opened(360)
    page.locator("#pick").set_input_files(png("#7090d0"))
    page.locator(".confusion button").nth(1).click()
    expect(page.locator("#cell-images h3")).to_be_visible()
    unfold(page)
    page.locator("#open-test").click()
    expect(page.locator("#test-confusion button")).to_have_count(100)
    expect(page.locator("#contributions canvas").first).to_be_visible()
    for width, scheme in ((360, "light"), (1000, "dark"), (1920, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = [tile.bounding_box() for tile in page.locator(".numbers > div:not([hidden])").all()]
        assert len({box["y"] for box in boxes[1:]}) == 2, width  # two rows of three beside or below the accuracy
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert shade == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
        assert violations(page) == [], width


def test_everything_is_reached_by_keys(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    reached = set()
    page.keyboard.press("Tab")
    for _ in range(80):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        page.keyboard.press("Tab")
    wanted = {
        "again",
        "data",
        "knob-loss",
        "knob-l2",
        "typed-l2",
        "reset",
        "copy",
        "keep-name",
        "keep-now",
        "view-signed",
    }
    assert wanted | {"show-mistakes", "pick", "draw", "camera"} <= reached
    page.locator("#copy").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#copied")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == page.locator("#command").inner_text()
    page.locator(".confusion button").first.focus()
    for key in ("ArrowRight", *["ArrowDown"] * 3, "ArrowUp", "ArrowLeft", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#cell-images h3")).to_be_focused()
    expect(page.locator("#cell-images h3")).to_contain_text("bird taken for airplane")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#cell-images")).to_be_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("bird taken for airplane")


def test_the_file_that_opens_the_browser_leads_to_the_page(browser, server):
    page = browser.new_page()
    with redirect_to(server.address) as file:
        page.goto(file.as_uri())
        page.wait_for_url(server.address)
        trained(page)
    assert not file.parent.exists()
    page.close()


def test_a_stopped_server_is_announced_and_found_again(opened, server):
    page, other = opened(), opened()
    page.locator("#typed-l2").fill("0.1")
    page.keyboard.press("Enter")
    trained(page)
    page.locator("#teach-title").click()
    for name in ("red", "blue"):
        page.locator("#class-name").fill(name)
        page.keyboard.press("Enter")
        card(page, name).locator("input[type=file]").set_input_files([png(name), png(f"dark{name}")] * 2)
        expect(card(page, name).locator(".titled span")).to_have_text("4 images")
    page.locator("#train-taught").click()
    expect(page.locator("#about-data")).to_contain_text("2 classes")
    trained(page)
    server.stop()
    for each in (page, other):
        expect(each.locator("#lost")).to_be_visible()
        expect(each.locator("#lost-words")).to_contain_text("has stopped")
        expect(each.locator("#state")).to_have_text("no server")
    server.start()
    page.locator("#retry").click()
    expect(page.locator("#lost")).to_be_hidden(timeout=10_000)
    trained(page)
    for name in ("red", "blue"):  # the page sent them again
        expect(card(page, name).locator(".titled span")).to_have_text("4 images")
    assert (server.folder / "taught-2" / "blue").is_dir()
    expect(page.locator("#command")).to_contain_text("--l2 0.1")
    expect(other.locator("#lost")).to_be_hidden(timeout=12_000)  # by itself
    stranger = page.context.new_page()
    stranger.goto(server.address.replace(TOKEN, "another"))
    expect(stranger.locator("#lost-words")).to_contain_text("does not know this page")
    opened.said[:] = [line for line in opened.said if "ERR_CONNECTION_REFUSED" not in line]  # the browser's own words


ORDINARY = {"epoch": 1, "rate": 0.1, "accuracy": {"train": [0.5, 0.4, 0.6], "validation": [0.4, 0.3, 0.5]}}


def canned(browser, server, data, message, arrays):
    """A page whose engine is this test: it sends one epoch of these arrays."""
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    described = {
        "name": "given",
        "title": "made",
        "fingerprint": "f",
        "sizes": {"train": 9, "validation": 9, "test": 0},
    }
    described |= data
    welcome = {"type": "welcome", "engine": "server", "version": "1", "data": [described], "knobs": welcome_knobs()}
    limits = {"most_bytes": 10**6}
    started = {"type": "started", "run": 1, "command": "onelayer train", "data": described, "mistakes": [], "epochs": 1}
    row = [1, 0.1, 1.0, 1.0, 0.5, 1.0, 1.0, 0.4]
    epoch = ORDINARY | {"type": "epoch", "run": 1, "weights_norm": 2.0, "history": [row]} | message

    def answer(socket):
        def on_message(text):
            kind = json.loads(text)["type"]
            if kind == "hello":
                socket.send(write_text(welcome | {"limits": limits}))
            elif kind == "train":
                socket.send(write_text(started | {"columns": HISTORY}))
                socket.send(pack(epoch, arrays))
                socket.send(write_text({"type": "ended", "run": 1, "why": "all 1 epochs are done", "epoch": 1}))

        socket.on_message(on_message)

    page.route_web_socket("**/socket", answer)
    page.goto(server.address)
    trained(page, 1)
    return page, said


def test_many_classes_scroll_and_do_not_freeze_the_page(browser, server):
    K = 200
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (K, K)).astype(np.int32)
    counts[3, 5] = 77
    pictures = rng.integers(0, 256, (K, 8, 8, 3)).astype(np.uint8)
    codes = rng.integers(0, 256, (K, 3, 8, 8)).astype(np.uint8)
    data = {"classes": [f"species {k}" for k in range(K)], "image_shape": [3, 8, 8]}
    arrays = {"learnt": pictures, "signed": codes, "confusion": counts, "reliability": np.ones((3, 10), np.float32)}
    page, said = canned(browser, server, data, {"signed": {"limit": 0.1, "beyond": 0.0}}, arrays)
    expect(page.locator("#template-tiles figure")).to_have_count(K)
    assert (pixels(page, "#template-tiles figure:nth-child(150) canvas")[..., :3] == pictures[149]).all()
    assert page.locator("#template-tiles").bounding_box()["height"] < 700
    expect(page.locator(".confusions button").first).to_have_text("77: species 3 taken for species 5")
    assert page.locator("button").count() < 100
    assert page.evaluate("document.documentElement.scrollWidth") == 1400
    assert violations(page, "#rights") == []  # 200 templates take long
    assert said == []
    page.context.close()


def test_patch_features_have_their_patches_instead_of_templates(browser, server):
    examples = np.random.default_rng(3).integers(0, 256, (2, 8, 10, 3)).astype(np.uint8)
    where = {"example": 1, "row": 2, "column": 5, "size": 4, "label": 1}
    of_windows = {"weight": 0.25, "windows": [[0, -0.5, 0.1], [0, 0, 0.25], [0.1, 0, 0]], "window": [1, 2]}
    speaking = [[[where | of_windows], []], [[], [where | {"example": 0} | of_windows | {"weight": -0.5}]]]
    data = {"classes": ["low", "high"], "image_shape": [3, 8, 10]}
    message = {"speaking": speaking, "speaking_limit": 0.5, "mirrored": True}
    page, said = canned(browser, server, data, message, {"examples": examples})
    figures = page.locator("#template-patches figure")
    expect(figures).to_have_count(2)
    assert figures.locator("figcaption").all_inner_texts() == ["+0.25, high", f"{MINUS}0.5, high"]
    for place, number in ((0, 1), (1, 0)):
        patch = examples[number, 2:6, 5:9].astype(int)
        stretched = np.rint(255 * (patch - patch.min()) / (patch.max() - patch.min()))
        parts = f"#template-patches figure >> nth={place} >> canvas"
        assert np.abs(pixels(page, f"{parts} >> nth=0")[..., :3] - stretched).max() <= 1
        assert (pixels(page, f"{parts} >> nth=1")[..., :3] == examples[number]).all()
    window = pixels(page, "#template-patches canvas >> nth=2")[..., :3].astype(int)
    assert window.shape == (3, 3, 3)
    assert (window[0, 1] == (45, 0, 75)).all()  # where the scale ends, against the class
    assert window[1, 2, 0] > 200 > window[1, 2, 2]  # orange, for it
    image, frame = (
        figures.first.locator("canvas").nth(1).bounding_box(),
        figures.first.locator("i").first.bounding_box(),
    )
    assert (frame["x"] - image["x"]) / image["width"] == pytest.approx(5 / 10, abs=0.01)
    assert (frame["y"] - image["y"]) / image["height"] == pytest.approx(2 / 8, abs=0.01)
    assert frame["height"] / image["height"] == pytest.approx(4 / 8, abs=0.01)
    expect(page.locator("#template-tiles")).to_be_hidden()
    expect(page.locator("#signed-limit")).to_have_text("±0.5 a standard deviation")
    assert violations(page, "#learns") == []
    assert said == []
    page.context.close()


def test_vectors_have_their_strongest_weights_instead_of_templates(browser, server):
    data = {"classes": ["low", "high"], "image_shape": None}
    strongest = [[[4, -0.5], [7, 0.25]], [[4, 0.5]]]
    arrays = {"confusion": np.array([[5, 1], [2, 4]], np.int32), "reliability": np.ones((3, 10), np.float32)}
    page, said = canned(browser, server, data, {"strongest": strongest, "largest": 0.5}, arrays)
    expect(page.locator("#template-tiles")).to_be_hidden()
    tables = page.locator("#template-bars table")
    assert [text.split() for text in tables.all_inner_texts()] == [
        ["low", "feature", "4", f"{MINUS}0.5", "feature", "7", "+0.25"],
        ["high", "feature", "4", "+0.5"],
    ]
    widths = [bar.bounding_box()["width"] for bar in page.locator("#template-bars i").all()]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.02)
    expect(page.locator("#yours-none")).to_be_visible()
    expect(page.locator("#pick + label")).to_be_hidden()
    assert violations(page) == []
    assert said == []
    page.context.close()
