"""Time the live page in headless Chromium, drawing, against `onelayer train`'s own training, in turns in one run.

    python benchmarks/live_page.py [--data SOURCE] [--repeats N]

It prints medians: from the turn of the knob to the first templates on the page, the templates drawn a second while it
trains, and the wall time of 40 epochs with the page and without it. Server and browser share the cores.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from playwright.sync_api import sync_playwright

from onelayer.config import TrainConfig
from onelayer.data import load_splits
from onelayer.live.server import Live, listen, serve
from onelayer.training.train import train

EPOCHS = 40
# Note the moments at which the first template is drawn, and that at which the training has ended.
WATCH = """
window.drawn = [];
const put = CanvasRenderingContext2D.prototype.putImageData;
CanvasRenderingContext2D.prototype.putImageData = function (...args) {
  if (this.canvas === document.querySelector(".views canvas")) window.drawn.push(performance.now());
  return put.apply(this, args);
};
"""
TURN = """l2 => new Promise(done => {
  const typed = document.getElementById("typed-l2"), state = document.getElementById("state");
  typed.value = l2;
  window.drawn = [];
  const begun = performance.now();
  let started = false;
  new MutationObserver((_, watch) => {
    started ||= state.textContent === "training";
    if (!started || !state.textContent.endsWith("are done")) return;
    watch.disconnect();
    done({ended: performance.now() - begun, drawn: window.drawn.map(moment => moment - begun)});
  }).observe(state, {childList: true, characterData: true, subtree: true});
  typed.dispatchEvent(new Event("change"));
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    splits = load_splits(args.data)
    firsts, rates, paged, alone = [], [], [], []
    with TemporaryDirectory() as folder, listen(0) as listening, sync_playwright() as driver:
        live = Live(splits, Path(folder))
        Thread(target=serve, args=(live, listening, lambda: None), daemon=True).start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.add_init_script(WATCH)
        page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/#{live.token}")
        page.locator("#state", has_text="are done").wait_for(timeout=120_000)
        page.locator("#typed-learning_rate").fill("0.001")  # a measured one takes longer, once
        page.locator("#typed-learning_rate").press("Enter")
        page.locator("#command", has_text="0.001").wait_for()
        page.locator("#state", has_text="are done").wait_for(timeout=120_000)
        for k in range(args.repeats + 1):
            l2 = 0.5 + k / 100
            found = page.evaluate(TURN, str(l2))
            page.locator("#best-cost").wait_for(timeout=120_000)  # the optimum is sought while the page is idle
            begun = time.perf_counter()
            train(splits, TrainConfig(learning_rate=0.001, l2=l2, epochs=EPOCHS, decay_every=0, keep="last"))
            if k:  # the first does not count
                alone.append(time.perf_counter() - begun)
                paged.append(found["ended"] / 1000)
                firsts.append(found["drawn"][0])
                rates.append(len(found["drawn"]) / (found["drawn"][-1] - found["drawn"][0]) * 1000)
        browser.close()
    ratio = statistics.median(a / b for a, b in zip(paged, alone, strict=True))
    print(f"first templates        {statistics.median(firsts):.0f} ms")
    print(f"templates a second     {statistics.median(rates):.1f}")
    print(f"40 epochs, page        {statistics.median(paged):.2f} s")
    print(f"40 epochs, no page     {statistics.median(alone):.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
