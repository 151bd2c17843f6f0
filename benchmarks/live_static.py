"""Time the page without a server in Chromium: the kernel that is compiled for browsers, and a training on the page.

    python benchmarks/live_static.py [--data SOURCE] [--epochs N]

It needs Playwright for Python and Chromium. It prints the size of the files, medians of an epoch and an evaluation of
10,000 random images of 3,072 pixels and 10 classes, and, for the rows of the page, the time from the message to the
first frame, and that of a whole training of 40 epochs.
"""

import argparse
import functools
import http.server
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

from onelayer.data import load_splits
from onelayer.live.static import write_static

KERNEL = """async epochs => {
  const {Kernel} = await import("./worker-kernel.js");
  const kernel = await Kernel.load("kernel.wasm.gz"), [n, d, K] = [10000, 3072, 10];
  const rows = new Uint8Array(n * d).map(() => 256 * Math.random());
  const labels = Int32Array.from({length: n}, (_, i) => i % K);
  kernel.open(rows, labels, {mean: new Float64Array(d).fill(127), scale: new Float64Array(d).fill(74)}, K);
  kernel.layer = {templates: new Float32Array(K * d), bias: new Float32Array(K)};
  const places = Int32Array.from({length: n}, (_, i) => i * 7919 % n), times = [[], []];
  const timed = (work, into) => {
    const began = performance.now();
    work();
    into.push(performance.now() - began);
  };
  for (let k = 0; k < epochs; k++) {
    timed(() => kernel.epoch(places, null, 0, {loss: "softmax", batch_size: 100, l2: 0}, 0.001), times[0]);
    timed(() => kernel.evaluate(places, "softmax"), times[1]);
  }
  return times.map(one => one.sort((a, b) => a - b)[one.length >> 1]);
}"""
TRAINING = """async () => {
  const {WorkerEngine} = await import("./worker-engine.js");
  const engine = new WorkerEngine(), times = [];
  await new Promise(resolve => {
    engine.onmessage = ({type}) => { if (type === "taught") resolve(); };
    engine.open();
  });
  for (let run = 0; run < 5; run++) times.push(await new Promise(resolve => {
    const began = performance.now();
    let first = 0;
    engine.onmessage = ({type, epoch}) => {
      if (type === "epoch") first ||= performance.now() - began;
      if (type === "ended") resolve([first, performance.now() - began]);
    };
    engine.send({type: "train", run, data: "given", settings: {epochs: 40}});
  }));
  const median = k => times.map(one => one[k]).sort((a, b) => a - b)[2];
  return [times[0][0], median(0), median(1)];
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a word."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure(page: Page, epochs: int) -> None:
    """Print the times of the kernel and of a training."""
    epoch, evaluation = page.evaluate(KERNEL, epochs)
    print(f"10,000 x 3,072 x 10: {epoch:.0f} ms an epoch, {evaluation:.0f} ms an evaluation")
    cold, first, whole = page.evaluate(TRAINING)
    warm = f"{first:.0f} ms to the first frame, {whole:.0f} ms in all"
    print(f"the rows of the page, 40 epochs: {warm}; {cold:.0f} ms to the first frame of the first training")


def main() -> None:
    """Write the page, serve it, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="auto")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    with TemporaryDirectory() as parent, sync_playwright() as driver:
        folder = Path(parent, "page")
        sizes = {file.name: file.stat().st_size for file in write_static(load_splits(options.data), folder)}
        data = sizes.pop("data.bin")
        code = sizes["kernel.wasm.gz"]
        print(f"{sum(sizes.values()):,} bytes without the data, {code:,} of them the kernel; {data:,} bytes of data")
        (folder / "empty.html").write_text("<!doctype html><title>empty</title>")
        handler = functools.partial(Handler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            print(f"Chromium {browser.version}")
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/empty.html")
            measure(page, options.epochs)
            browser.close()
            server.shutdown()


if __name__ == "__main__":
    main()
