"""Time the page without a server in Chromium: the kernel that is compiled for browsers, and a training on the page.

    python benchmarks/live_static.py [--data SOURCE] [--epochs N]

It needs Playwright for Python and Chromium. It prints the size of the files; the CPU time of an epoch and of an
evaluation of 10,000 random images of 3,072 pixels and 10 classes, in Chromium and by the command's own kernel; and, for
the rows of the page, the median wall time from the message to the first frame, and that of 40 epochs.
"""

import argparse
import functools
import http.server
import shutil
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from onelayer.data import load_splits
from onelayer.kernel import kernel
from onelayer.live.static import write_static

N, D, K = 10_000, 3072, 10
OPEN = """async ([n, d, K]) => {
  const {Kernel} = await import("./worker-kernel.js");
  window.kernel = await Kernel.load("kernel.wasm.gz");
  const rows = new Uint8Array(n * d).map(() => 256 * Math.random());
  const labels = Int32Array.from({length: n}, (_, i) => i % K);
  kernel.open(rows, labels, {mean: new Float64Array(d).fill(127), scale: new Float64Array(d).fill(74)}, K);
  kernel.layer = {templates: new Float32Array(K * d), bias: new Float32Array(K)};
  window.places = Int32Array.from({length: n}, (_, i) => i * 7919 % n);
}"""
WORK = {
    "epoch": """count => {
  for (let k = 0; k < count; k++) kernel.epoch(places, null, 0, {loss: "softmax", batch_size: 100, l2: 0}, 0.001);
}""",
    "evaluation": 'count => { for (let k = 0; k < count; k++) kernel.evaluate(places, "softmax"); }',
}
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
    engine.onmessage = ({type}) => {
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


def in_chromium(browser: Browser, page: Page, epochs: int) -> dict[str, float]:
    """Return the CPU seconds of an epoch and of an evaluation by the kernel for browsers."""
    session, found = browser.new_browser_cdp_session(), {}

    def cpu_seconds() -> float:
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return sum(process["cpuTime"] for process in processes if process["type"] == "renderer")

    page.evaluate(OPEN, [N, D, K])
    for name, work in WORK.items():
        page.evaluate(work, 3)  # until it is compiled
        time.sleep(1)
        began = cpu_seconds()
        page.evaluate(work, epochs)
        found[name] = (cpu_seconds() - began) / epochs
    return found


def by_the_command(epochs: int) -> dict[str, float]:
    """Return the same of the command's own kernel."""
    rng = np.random.default_rng(0)
    rows, labels = rng.integers(0, 256, (N, D), dtype=np.uint8), np.arange(N) % K
    data = rows, labels, None, np.full(D, 127.0), np.full(D, 74.0), rng.permutation(N)
    layer = np.zeros((K, D), np.float32), np.zeros(K, np.float32)

    def epoch() -> None:
        kernel.run_epoch(*data, *layer, "softmax", None, 0, 100, 0.001, 0.0, 0.0, None, None, None)

    def evaluation() -> None:
        kernel.evaluate(*data, *layer, "softmax", None)

    found = {}
    for work in (epoch, evaluation):
        work()
        began = time.process_time()
        for _ in range(epochs):
            work()
        found[work.__name__] = (time.process_time() - began) / epochs
    return found


def measure(browser: Browser, page: Page, epochs: int) -> None:
    """Print the times of the kernels and of a training."""
    of_page, own = in_chromium(browser, page, epochs), by_the_command(epochs)
    for name in WORK:
        both = f"{1000 * of_page[name]:.0f} ms in Chromium, {1000 * own[name]:.0f} ms natively ({kernel.variant()})"
        print(f"CPU time of an {name} of {N:,} x {D:,} x {K}: {both}")
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
            measure(browser, page, options.epochs)
            browser.close()
            server.shutdown()


if __name__ == "__main__":
    main()
