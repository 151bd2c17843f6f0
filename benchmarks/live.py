"""Time the page's server against `onelayer train`'s own training, in one run, with a client that does not draw.

    python benchmarks/live.py [--data SOURCE] [--repeats N]

It prints medians: from the knob to the first frame at the client, the whole training of 40 epochs and the frames a
second in it, from a cancel to the end of the training, from a new setting in the middle of a training to the start of
the next, and the same 40 epochs without a page, in wall time and in CPU time of the whole process. The client is a
process of its own. Numbers of one machine under load mean little: compare the two trainings of the same run.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import websockets

from onelayer.config import TrainConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Splits
from onelayer.live.messages import unpack
from onelayer.live.server import Live, listen, serve
from onelayer.training.train import train

EPOCHS = 40
SETTINGS = {"learning_rate": 0.001, "epochs": EPOCHS}


def client(address: str, token: str, repeats: int, cancels: bool, results: Any) -> None:
    """Turn a knob again and again, in a process of its own, and put the times into a queue."""
    results.put(asyncio.run(turn_knobs(address, token, repeats, cancels)))


async def turn_knobs(address: str, token: str, repeats: int, cancels: bool) -> dict[str, list[float]]:
    """Return the seconds to the first frame and of the whole training, and its frames a second; or those of cancels."""
    found: dict[str, list[float]] = {"first": [], "whole": [], "frames": [], "cancel": [], "next": []}
    async with websockets.connect(f"ws://{address}/socket", origin=f"http://{address}", max_size=2**26) as socket:
        await socket.send(json.dumps({"type": "hello", "token": token}))
        run = 0

        async def turn(**settings: object) -> float:
            nonlocal run
            run += 1
            began = time.perf_counter()
            message = {"type": "train", "run": run, "data": "given", "settings": SETTINGS | settings}
            await socket.send(json.dumps(message))
            return began

        async def until(*kinds: str) -> dict[str, Any]:
            while True:
                received = await socket.recv()
                message = json.loads(received) if isinstance(received, str) else unpack(received)[0]
                if message["type"] == "error":
                    raise RuntimeError(message["message"])
                if message["type"] in kinds and message.get("run", run) == run:
                    return message

        for _ in range(0 if cancels else repeats + 1):
            began, count, first = await turn(seed=run), 0, 0.0
            while (await until("epoch", "ended"))["type"] == "epoch":
                count += 1
                first = first or time.perf_counter() - began
            whole = time.perf_counter() - began
            found["first"].append(first)
            found["whole"].append(whole)
            found["frames"].append(count / whole)
        for _ in range(repeats + 1 if cancels else 0):
            await turn(epochs=1000)
            for _ in range(3):
                await until("epoch")
            began = await turn(epochs=1000)
            await until("started")
            found["next"].append(time.perf_counter() - began)
            for _ in range(3):
                await until("epoch")
            began = time.perf_counter()
            await socket.send(json.dumps({"type": "cancel"}))
            await until("ended")
            found["cancel"].append(time.perf_counter() - began)
            await asyncio.sleep(0.05)
    return {name: times[1:] for name, times in found.items()}  # the first is cold


def from_client(address: str, token: str, repeats: int, cancels: bool, results: Any) -> dict[str, list[float]]:
    """Return what a client in a process of its own measured."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=client, args=(address, token, repeats, cancels, results))
    process.start()
    times: dict[str, list[float]] = results.get()
    process.join()
    return times


def alone(splits: Splits, repeats: int) -> tuple[list[float], list[float]]:
    """Return wall and CPU seconds of the same trainings without a page."""
    wall, cpu = [], []
    for seed in range(repeats + 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        train(splits, TrainConfig(learning_rate=0.001, epochs=EPOCHS, keep="last", decay_every=0, seed=seed))
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return wall[1:], cpu[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    splits = load_splits(arguments.data)
    started, results = Event(), multiprocessing.get_context("spawn").Queue()
    with TemporaryDirectory() as folder, listen(0) as listening:
        live = Live(splits, Path(folder))
        Thread(target=serve, args=(live, listening, started.set), daemon=True).start()
        started.wait()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        wall_before, cpu_before = alone(splits, arguments.repeats)
        began_cpu = time.process_time()
        times = from_client(address, live.token, arguments.repeats, False, results)
        cpu_of_page = (time.process_time() - began_cpu) / (arguments.repeats + 1)
        wall_after, cpu_after = alone(splits, arguments.repeats)
        cancels = from_client(address, live.token, arguments.repeats, True, results)
    whole, own = statistics.median(times["whole"]), statistics.median(wall_before + wall_after)
    cpu = statistics.median(cpu_before + cpu_after)
    print(
        f"{splits.dataset.name}: {len(splits.train):,} training rows, {arguments.repeats} trainings of {EPOCHS} epochs"
    )
    print(f"from the knob to the first frame  {1000 * statistics.median(times['first']):6.0f} ms")
    print(f"the whole training, on the page   {1000 * whole:6.0f} ms, {whole / own:.2f} times that without it")
    print(f"the same without the page         {1000 * own:6.0f} ms")
    print(
        f"CPU time of it, on the page       {1000 * cpu_of_page:6.0f} ms, {cpu_of_page / cpu:.2f} times that without it"
    )
    print(f"frames a second                   {statistics.median(times['frames']):6.1f}")
    print(f"from a cancel to its end          {1000 * statistics.median(cancels['cancel']):6.0f} ms")
    print(f"from a new setting to its start   {1000 * statistics.median(cancels['next']):6.0f} ms")


if __name__ == "__main__":
    main()
