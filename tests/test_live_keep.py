"""Keeping what a page trained: a run with the very bits of the command."""

import csv
import json
import sys
import threading
import time

import numpy as np
import pytest
from helpers import write_image

from onelayer import load_run
from onelayer.data import load_splits
from onelayer.live.messages import read_text, unpack
from onelayer.live.session import Session
from onelayer.live.sources import Room
from onelayer.live.teaching import Taught
from onelayer.runs.directory import Run

SETTINGS = {"epochs": 4, "learning_rate": 0.05, "l2": 0.01, "seed": 7, "init_std": 0.01}


@pytest.fixture
def photos(tmp_path):
    """A folder of classes: two that differ in brightness."""
    folder = tmp_path / "photos"
    for number in range(40):
        write_image(folder / ("a", "b")[number % 2] / f"{number}.png", (6, 5))
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, which take most of the time."""
    monkeypatch.setattr("onelayer.pictures.finished.draw_run", lambda *_, **__: None)


@pytest.fixture
def page(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = threading.Event()
    session = Session(Room(load_splits(photos), Taught(tmp_path)), ready.set)
    yield session, ready
    assert session.close(5.0)


def until(page, *types: str) -> dict:
    session, ready = page
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ready.clear()
        taken = session.outbox.take()
        if taken is None:
            ready.wait(0.5)
            continue
        message = json.loads(taken) if isinstance(taken, str) else unpack(taken)[0]
        if message["type"] in types:
            return message
        assert message["type"] != "error", message
    raise AssertionError(types)


def trained(page, settings=SETTINGS) -> str:
    """Train, and return the command that does the same."""
    page[0].handle(read_text(json.dumps({"type": "train", "run": 1, "data": "given", "settings": settings})))
    command = until(page, "started")["command"]
    until(page, "ended")
    return command


def kept(page, **fields) -> dict:
    page[0].handle(read_text(json.dumps({"type": "keep", **fields})))
    return until(page, "kept", "error")


def history(run) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("settings", [SETTINGS, {"solver": "converged", "l2": 0.1}], ids=["sgd", "converged"])
def test_a_kept_run_is_that_of_the_command_bit_for_bit(page, undrawn, run_cli, tmp_path, settings):
    command = trained(page, settings)
    message = kept(page, name="mine")
    words = command.removeprefix("onelayer ").split()
    assert run_cli(*words, "--out", tmp_path / "commanded", "--no-figures", "--quiet")[0] == 0
    mine, commanded = tmp_path / "runs" / "mine", tmp_path / "commanded"
    assert message["run"] == "runs/mine"
    assert (mine / "model.safetensors").read_bytes() == (commanded / "model.safetensors").read_bytes()
    assert history(mine) == history(commanded)
    assert np.abs(load_run(mine).model.layer.weights).max() > 1e-3
    one, two = (Run.open(path).summary for path in (mine, commanded))
    for name in ("config", "data", "results", "seed", "backend"):
        assert one[name] == two[name], name
    assert set(one) == set(two)


def test_the_page_shows_the_accuracy_of_the_run_and_counts_that_test_rows_were_read(page, undrawn):
    page[0].handle(read_text(json.dumps({"type": "train", "run": 1, "data": "given", "settings": SETTINGS})))
    shown = until(page, "epoch")
    while shown["epoch"] < SETTINGS["epochs"] or "details_epoch" not in shown:
        shown = until(page, "epoch")
    until(page, "ended")
    message = kept(page)
    for split in ("train", "validation"):
        assert message["accuracy"][split] == shown["accuracy"][split][0]
    assert message["times_read"] == 1
    assert message["run"] == "runs/photos-1"
    assert kept(page)["run"] == "runs/photos-2"


def test_a_report_and_an_onnx_file_come_along(page, tmp_path):
    pytest.importorskip("onnx")
    trained(page)
    message = kept(page, name="mine", report=True, onnx=True)
    assert {"history.csv", "model.onnx", "model.safetensors", "report.html", "summary.json"} <= set(message["files"])
    assert {"templates.png", "confusion.png"} <= set(message["files"])
    assert (tmp_path / "runs" / "mine" / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".hidden", "a\nb", " ", " .hidden"])
def test_names_that_lead_elsewhere_are_refused(page, tmp_path, name):
    trained(page)
    assert "cannot be called" in kept(page, name=name)["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_run_that_is_there_is_left_alone(page, undrawn, tmp_path):
    trained(page)
    kept(page, name="mine")
    before = (tmp_path / "runs" / "mine" / "summary.json").read_bytes()
    assert kept(page, name="mine")["message"] == "there is a run mine already; choose another name"
    assert (tmp_path / "runs" / "mine" / "summary.json").read_bytes() == before


def test_without_onnx_a_line_says_what_to_install_before_anything_is_written(page, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    trained(page)
    assert "pip install onnx" in kept(page, onnx=True)["message"]
    assert not (tmp_path / "runs").exists()


def test_a_training_that_was_cancelled_is_not_kept(page):
    settings = SETTINGS | {"epochs": 1000, "batch_size": 1}
    page[0].handle(read_text(json.dumps({"type": "train", "run": 1, "data": "given", "settings": settings})))
    until(page, "epoch")
    assert "has not ended" in kept(page)["message"]
    page[0].handle(read_text('{"type": "cancel"}'))
    until(page, "ended")
    assert "did not come to its end" in kept(page)["message"]
