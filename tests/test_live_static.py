"""The page without a server, in Chromium: its engine trains as `onelayer train` does, with the kernel for browsers.

WebAssembly has no fused multiply-add, and vectors of four numbers, so the bits of the two differ.
"""

import base64
import functools
import http.server
import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import unfold, violations
from PIL import Image

import onelayer
from onelayer.analysis.estimates import fraction
from onelayer.analysis.evaluation import evaluate
from onelayer.analysis.explanation import explain
from onelayer.analysis.templates import signed_scale
from onelayer.config import TrainConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.errors import ConfigError
from onelayer.live import static
from onelayer.live.frames import as_picture
from onelayer.live.messages import BY_NAME, config_of
from onelayer.live.sources import Data
from onelayer.live.static import write_static
from onelayer.model import Model
from onelayer.training.train import solve

# What a page is to the engine; `said` holds all messages.
PAGE = """
<!doctype html><html><head><title>engine</title><link rel="icon" href="data:,"></head><body></body></html>
"""
OPEN = """async () => {
  const {WorkerEngine} = await import("./worker-engine.js");
  window.said = [];
  window.engine = new WorkerEngine();
  await new Promise(resolve => {
    engine.onmessage = (message, arrays) => {
      said.push([message, arrays]);
      if (message.type === "taught") resolve(); // it comes after welcome
    };
    engine.open();
  });
}"""
ASK = """async ([message, files, type]) => {
  const arrays = Object.fromEntries(Object.entries(files).map(([name, [text, shape]]) => {
    const data = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    return [name, {data, shape}];
  }));
  said.length = 0;
  engine.send(message, arrays);
  const ends = ({type: own, run}) => own === type && (own !== "ended" || run === message.run) || own === "error";
  const found = () => said.find(([one]) => ends(one));
  for (let k = 0; !found() && k < 6000; k++) await new Promise(resolve => setTimeout(resolve, 5));
  const listed = (name, {data, shape}) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    let text = "";
    for (let k = 0; k < bytes.length; k += 4096) text += String.fromCharCode(...bytes.subarray(k, k + 4096));
    return [name, [data.constructor.name.replace("Array", "").toLowerCase(), btoa(text), shape ?? [data.length]]];
  };
  return said.map(([message, arrays]) =>
    [message, Object.fromEntries(Object.entries(arrays).map(entry => listed(...entry)))]);
}"""


class Engine:
    """The engine of a page in a browser: `ask` sends a message and returns the first of a type that comes."""

    def __init__(self, page):
        self.page, self.heard = page, []
        page.evaluate(OPEN)

    def ask(self, message, type, **arrays):
        files = {name: [base64.b64encode(data.tobytes()).decode(), data.shape] for name, data in arrays.items()}
        self.heard = [
            (said, {name: _array(*array) for name, array in found.items()})
            for said, found in self.page.evaluate(ASK, [message, files, type])
        ]
        answer = next((one for one in self.heard[::-1] if one[0]["type"] in (type, "error")), None)
        assert answer, f"no answer to {message}"
        return answer

    def train(self, data="given", mistakes=(), run=1, **settings):
        """Train, and return the model that the page keeps, and the last frame."""
        message = {"type": "train", "run": run, "data": data, "settings": settings, "mistakes": list(mistakes)}
        ended, _ = self.ask(message, "ended")
        assert ended["type"] == "ended", ended
        return [one for one in self.heard if one[0]["type"] == "epoch"][-1]

    def model(self, path):
        kept, arrays = self.ask({"type": "keep", "name": "model"}, "kept")
        assert kept["files"] == ["model.safetensors"]
        path.write_bytes(arrays["file"].tobytes())
        return Model.load(path)


def _array(dtype, text, shape):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def serve(browser):
    """``serve(folder)`` -> a page at the folder, which `python -m http.server` would serve; it must not complain."""
    if not static.KERNEL.exists():
        pytest.skip("the kernel for browsers was not built: clang cannot make WebAssembly here")
    running, pages = [], []

    def start(folder, name):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        running.append(server)
        pages.append((said, asked, address))
        page.goto(address + name)
        return page

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
    for said, asked, address in pages:
        assert said == []
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)


def _read(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    content = file.read_bytes()
    length = int.from_bytes(content[:4], "little")
    header, start, arrays = json.loads(content[4 : 4 + length]), 4 + length, {}
    for array in header["arrays"]:
        arrays[array["name"]] = np.frombuffer(content, array["dtype"], int(np.prod(array["shape"])), start)
        start += arrays[array["name"]].nbytes + -arrays[array["name"]].nbytes % 8
    assert start == len(content)
    return header, arrays


def splits_of(folder: Path) -> Splits:
    """Return the rows that a page has, read as it reads them."""
    header, arrays = _read(folder / "data.bin")
    given = header["data"][0]
    labels = arrays["given labels"].astype(np.int64)
    rows = arrays["given rows"].reshape(len(labels), -1)
    dataset = Dataset(
        name="given",
        rows=rows,
        labels=labels,
        class_names=tuple(given["classes"]),
        image_shape=tuple(given["image_shape"]),
    )
    ends = np.cumsum([0, *(given["sizes"][name] for name in ("train", "validation", "test"))])
    parts = {
        name: Split(name, dataset, np.arange(*ends[k : k + 2]))
        for k, name in enumerate(("train", "validation", "test"))
    }
    return Splits(**parts, protocol=given["protocol"])


class Site:
    def __init__(self, splits, folder, serve):
        write_static(splits, folder)
        self.folder, self.splits = folder, splits_of(folder)
        (folder / "engine.html").write_text(PAGE)
        self.engine = Engine(serve(folder, "engine.html"))


@pytest.fixture(scope="module")
def digits(serve, tmp_path_factory):
    return Site(load_splits("digits"), tmp_path_factory.mktemp("site") / "digits", serve)


@pytest.fixture(scope="module")
def of_cifar(cifar, serve, tmp_path_factory):
    return Site(load_splits(cifar), tmp_path_factory.mktemp("site") / "cifar", serve)


SHORT = {"epochs": 6}
SETTINGS = {
    "softmax": SHORT | {"l2": 0.01, "decay_every": 4, "decay_factor": 0.5, "init_std": 0.01, "seed": 7},
    "sigmoid": SHORT | {"loss": "sigmoid", "flip": True, "batch_size": 64, "learning_rate": 0.05},
    "one batch": SHORT | {"batch_size": 10_000, "init_std": 0.1, "l2": 0.1},
}


def near(found, expected, within=1e-4):
    return np.linalg.norm(found - expected) < within * np.linalg.norm(expected)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("site", ["digits", "of_cifar"])
def test_trains_as_the_command_does(site, settings, request, tmp_path):
    site = request.getfixturevalue(site)
    message, _ = site.engine.train(**settings)
    history, (started, _) = message["history"], site.engine.heard[0]
    rows = [row for said, _ in site.engine.heard if said["type"] == "epoch" for row in said["history"]]
    model = site.engine.model(tmp_path / "model.safetensors")
    config = config_of(settings)
    assert config.keep == "last"
    for own in (config, replace(config, dtype="float64", backend="numpy")):
        result = onelayer.train(site.splits, own)
        W = result.model.layer.weights
        assert near(model.layer.weights, W)
        assert near(model.layer.bias, result.model.layer.bias)
        # Random weights hide what was learnt: it must agree as well.
        learnt = W if result.learnt is None else result.learnt
        assert np.linalg.norm(learnt) > 1e-2
        for name, column in result.history.items():
            if name in started["columns"]:
                of_page = np.array([row[started["columns"].index(name)] for row in rows], np.float64)
                np.testing.assert_allclose(of_page, column, rtol=1e-4, atol=1e-7, err_msg=name)
    assert len(rows) == SHORT["epochs"]
    assert history[-1][0] == SHORT["epochs"]
    assert np.isclose(started["rate"], result.state.first_rate, rtol=1e-9)
    assert model.class_names == site.splits.dataset.class_names
    assert model.image_shape == site.splits.dataset.image_shape


@pytest.mark.parametrize(("l2", "learning_rate"), [(0.01, 0.3), (0.02, 0.1)])  # the loss rises; it falls too little
def test_auto_decides_as_the_command_does(digits, tmp_path, l2, learning_rate):
    """It cuts the learning rate, goes back to the best epoch, and ends, after the same epochs."""
    settings = {"epochs": "auto", "decay_every": "auto", "init_std": 0.1, "l2": l2, "learning_rate": learning_rate}
    _, arrays = digits.engine.train(**settings)
    (started, _), (ended, _) = digits.engine.heard[0], digits.engine.heard[-1]
    rows = [row for said, _ in digits.engine.heard if said["type"] == "epoch" for row in said["history"]]
    of_page = dict(zip(started["columns"], np.array(rows, np.float64).T, strict=True))
    model = digits.engine.model(tmp_path / "model.safetensors")
    result = onelayer.train(digits.splits, config_of(settings))
    assert (ended["why"], ended["epoch"]) == (result.ended, result.state.epoch)
    np.testing.assert_allclose(of_page["learning_rate"], result.history["learning_rate"], rtol=1e-12)
    assert len(set(of_page["learning_rate"])) == 3
    for name in ("train_cost", "validation_loss"):
        np.testing.assert_allclose(of_page[name], result.history[name], rtol=1e-4)
    assert near(model.layer.weights, result.model.layer.weights)
    learnt = np.stack([as_picture(column.reshape(1, 8, 8)) for column in result.learnt.T])
    assert np.abs(arrays["learnt"].astype(int) - learnt).max() <= 1
    digits.engine.train(**settings | {"decay_every": 0})
    plain = onelayer.train(digits.splits, config_of(settings | {"decay_every": 0}))
    assert digits.engine.heard[-1][0]["epoch"] == plain.state.epoch


def test_no_shuffling_and_pixels_as_they_are(digits):
    mistakes = frozenset({"no-shuffle", "raw-pixels"})
    settings = {**SHORT, "learning_rate": "auto", "flip": True}
    message, _ = digits.engine.train(mistakes=mistakes, **settings)
    data = Data("given", digits.splits)
    problem = data.problem(config_of(settings), mistakes, lambda *_: None, bool)
    result = solve(problem, data.begin(problem, mistakes))
    record = result.state.history[-1]
    assert np.isclose(message["history"][-1][2], record.train_loss, rtol=1e-4)
    assert message["history"][-1][7] == record.validation_accuracy
    shuffled = onelayer.train(digits.splits, config_of(settings)).state.history[-1].train_loss
    assert not np.isclose(message["history"][-1][2], shuffled, rtol=1e-2)
    refused, _ = digits.engine.ask({"type": "keep", "name": "x"}, "kept")
    assert "mistake" in refused["message"]


DRAWS = """async seed => {
  const {Random} = await import("./worker-random.js");
  const random = new Random(seed);
  const normal = Array.from({length: 20000}, () => random.normal());
  const order = [...random.permutation(1999)], uniform = random.uniform();
  return [normal, order, uniform, [...random.permutation(1)], [...random.permutation(64)]];
}"""


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_draws_are_those_of_numpy(digits, seed):
    normal, order, uniform, one, short = digits.engine.page.evaluate(DRAWS, seed)
    rng = np.random.default_rng(seed)
    np.testing.assert_allclose(normal, rng.standard_normal(20000), rtol=1e-13)
    np.testing.assert_array_equal(order, rng.permutation(1999))
    assert uniform == rng.random()
    np.testing.assert_array_equal(one, rng.permutation(1))
    np.testing.assert_array_equal(short, rng.permutation(64))


@pytest.fixture
def trained(digits, tmp_path):
    """The last frame of a training on the digits, and its model."""
    message, arrays = digits.engine.train(epochs=5, init_std=0.05, l2=0.01)
    return message, arrays, digits.engine.model(tmp_path / "model.safetensors")


def test_figures_of_a_frame(digits, trained):
    message, arrays, model = trained
    splits, config = digits.splits, config_of({"epochs": 5, "init_std": 0.05, "l2": 0.01})
    answers = evaluate(model, splits.validation)
    np.testing.assert_array_equal(arrays["confusion"], np.rint(answers.confusion))
    bins = answers.reliability(10)
    np.testing.assert_array_equal(arrays["reliability"][0], bins.counts)
    np.testing.assert_allclose(arrays["reliability"][1:], [bins.confidence, bins.accuracy], rtol=1e-5)
    expected = fraction(answers.accuracy, len(splits.validation))
    np.testing.assert_allclose(message["accuracy"]["validation"], [expected.value, expected.low, expected.high])
    W, result = model.layer.weights.astype(np.float64), onelayer.train(splits, config)
    assert np.isclose(message["weights_norm"], np.linalg.norm(W))
    X = model.standardizer.transform(splits.train.rows(slice(None)))
    dW, db = model.in_float64().layer.gradients(X, splits.train.labels, config.l2)
    assert np.isclose(message["gradient_norm"], np.sqrt((dW**2).sum() + (db**2).sum()), rtol=1e-3)
    for name, weights in (("weights", W), ("learnt", result.learnt)):
        assert arrays[name].shape == (10, 8, 8, 3)
        low, high = weights.min(axis=0), weights.max(axis=0)
        expected = (255 * (weights - low) / (high - low)).T.reshape(10, 8, 8, 1)
        assert np.abs(arrays[name] - expected).max() < 1
    constant = model.standardizer.constant.reshape(1, 8, 8)
    assert constant.any()
    assert ((arrays["signed"] == 0) == constant).all()
    V, limit, beyond = signed_scale(W, model.standardizer)
    assert (message["signed"]["limit"], np.isclose(message["signed"]["beyond"], beyond)) == (limit, True)
    expected = np.where(constant, 0, 128 + 127 * np.clip(V.T.reshape(10, 1, 8, 8) / limit, -1, 1))
    assert np.abs(arrays["signed"] - expected).max() < 1


def test_an_image(digits, trained):
    _, _, model = trained
    row = digits.splits.validation.rows(slice(3, 4))
    file = io.BytesIO()
    Image.fromarray(row.reshape(8, 8)).save(file, "PNG")
    content = np.frombuffer(file.getvalue(), np.uint8)
    answer, arrays = digits.engine.ask({"type": "image", "id": 7}, "answer", file=content)
    np.testing.assert_allclose(answer["logits"], model.logits(row)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer["probabilities"], model.probabilities(row)[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(arrays["seen"], np.repeat(row.reshape(8, 8, 1), 3, axis=2))
    told, arrays = digits.engine.ask({"type": "explain", "id": 7}, "contributions")
    expected = explain(model, row[0], 10)
    assert told["classes"] == expected.classes.tolist()
    np.testing.assert_allclose(arrays["contributions"].reshape(10, 64), expected.contributions, rtol=1e-4, atol=1e-5)
    sums = arrays["contributions"].sum(axis=(1, 2)) + told["bias"]
    np.testing.assert_allclose(sums, told["logits"], rtol=1e-4, atol=1e-4)
    wrong, _ = digits.engine.ask({"type": "image", "id": 8}, "answer", file=content[:20])
    assert (wrong["type"], wrong["about"], wrong["id"]) == ("error", "image", 8)
    assert "cannot be read" in wrong["message"]


def test_rows_behind_the_figures(digits, trained):
    _, arrays, model = trained
    engine, splits = digits.engine, digits.splits
    answers = evaluate(model, splits.validation)
    true, predicted = np.argwhere(arrays["confusion"] * (1 - np.eye(10)) > 0)[0].tolist()
    cell, images = engine.ask({"type": "cell", "true": true, "predicted": predicted, "split": "validation"}, "images")
    chosen = np.flatnonzero((answers.labels == true) & (answers.predictions == predicted))
    assert cell["total"] == len(chosen)
    assert {row["row"] for row in cell["rows"]} == set(splits.validation.indices[chosen].tolist())
    rows = splits.dataset.rows[[row["row"] for row in cell["rows"]]]
    np.testing.assert_array_equal(images["images"], np.repeat(rows.reshape(-1, 8, 8, 1), 3, axis=3))
    worst, _ = engine.ask({"type": "mistakes", "split": "validation"}, "images")
    places = answers.worst_mistakes(40)
    assert [row["row"] for row in worst["rows"]] == splits.validation.indices[places].tolist()
    closed, _ = engine.ask({"type": "mistakes", "split": "test"}, "images")
    assert closed["type"] == "error"
    before = engine.ask({"type": "open-test"}, "test")[0]["times_read"]
    test, of_test = engine.ask({"type": "open-test"}, "test")
    assert test["times_read"] == before + 1
    answers = evaluate(model, splits.test)
    assert test["accuracy"][0] == answers.accuracy
    assert np.isclose(test["loss"], answers.loss, rtol=1e-5)
    np.testing.assert_array_equal(of_test["confusion"], np.rint(answers.confusion))
    opened, _ = engine.ask({"type": "mistakes", "split": "test"}, "images")
    assert opened["total"] == (~answers.right).sum()
    engine.train(mistakes=["test-on-train"], epochs=1)
    test, _ = engine.ask({"type": "open-test"}, "test")
    assert (test["of_train"], test["rows"], test["times_read"]) == (True, len(splits.train), before + 1)


@pytest.mark.parametrize(
    ("message", "about", "words"),
    [
        ({"type": "no such"}, "message", "no such"),
        ({"type": "constructor"}, "message", "constructor"),
        ({}, "message", "undefined"),
        ({"type": "train", "run": 3, "data": "nothing", "settings": {}}, "train", "nothing"),
        ({"type": "train", "run": 3, "data": "given", "settings": {"learning_rate": -1}}, "train", "learning_rate"),
        ({"type": "train", "run": 3, "data": "given", "settings": {"epochs": 1.5}}, "train", "epochs"),
        ({"type": "train", "run": 3, "data": "given", "settings": {"loss": "hinge"}}, "train", "loss"),
        ({"type": "train", "run": 3, "data": "given", "settings": {"solver": "converged"}}, "train", "solver"),
        ({"type": "train", "run": 3, "data": "taught", "settings": {}}, "train", "two classes"),
        ({"type": "cell", "true": 0, "predicted": 0, "split": "train"}, "cell", "split"),
        ({"type": "explain", "id": 99}, "explain", "no such image"),
        ({"type": "teach", "op": "rename-class", "class": "cat", "name": "dog"}, "teach", "cat"),
        ({"type": "teach", "op": "add-class", "class": ""}, "teach", "name"),
    ],
)
def test_a_message_of_the_wrong_kind(digits, trained, message, about, words):
    error, arrays = digits.engine.ask(message, "error")
    assert (error["type"], error["about"], arrays) == ("error", about, {})
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_a_new_setting_ends_the_training(digits):
    engine = digits.engine
    engine.page.evaluate("said.length = 0")
    forever = {"type": "train", "run": 11, "data": "given", "settings": {"epochs": 1000}}
    engine.page.evaluate("message => engine.send(message)", forever)
    engine.page.wait_for_function("said.some(([{type}]) => type === 'epoch')")
    engine.train(run=12, epochs=1)
    ended = {said["run"]: said for said, _ in engine.heard if said["type"] == "ended"}
    assert ended[11]["why"] == "cancelled"
    assert ended[11]["epoch"] < 1000
    assert ended[12]["why"] == "the one epoch is done"
    engine.page.evaluate("message => engine.send(message)", forever | {"run": 13})
    engine.page.wait_for_function("said.some(([{run, type}]) => type === 'epoch' && run === 13)")
    stopped, _ = engine.ask({"type": "cancel", "run": 13}, "ended")
    assert (stopped["run"], stopped["why"]) == (13, "cancelled")


def test_steps_that_are_too_long(digits):
    ended, _ = digits.engine.ask(
        {"type": "train", "run": 1, "data": "given", "settings": {"learning_rate": 10, "l2": 10, "epochs": 50}}, "ended"
    )
    assert "not a finite number" in ended["why"]


def test_classes_that_are_taught(digits, tmp_path):
    engine, rng = digits.engine, np.random.default_rng(0)
    for name in ("dark", "bright"):
        engine.ask({"type": "teach", "op": "add-class", "class": name}, "taught")
        for id in range(5):
            pixels = rng.integers(0, 100, (20, 30, 4), np.uint8) + np.uint8(150 * (name == "bright"))
            pixels[..., 3] = 255
            number = id + 10 * (name == "bright")
            taught, _ = engine.ask(
                {"type": "teach", "op": "add-image", "class": name, "id": number}, "taught", pixels=pixels
            )
    assert taught == {"type": "taught", "op": "add-image", "class": "bright", "id": 14, "count": 5}
    again, _ = engine.ask({"type": "teach", "op": "add-class", "class": "Dark"}, "taught")
    assert again["type"] == "error"
    engine.ask({"type": "teach", "op": "rename-class", "class": "dark", "name": "night"}, "taught")
    message, _ = engine.train("taught", epochs=20)
    data = engine.heard[0][0]["data"]
    assert (data["classes"], data["sizes"]) == (["night", "bright"], {"train": 8, "validation": 2, "test": 0})
    assert message["accuracy"]["validation"][0] == 1
    model = engine.model(tmp_path / "model.safetensors")
    assert model.image_shape == (3, 32, 32)
    assert model.logits(np.full((1, 3072), 250, np.uint8)).argmax() == 1
    removed, _ = engine.ask({"type": "teach", "op": "remove-class", "class": "night"}, "taught")
    assert removed["classes"] == [{"name": "bright", "count": 5}]


def test_rows_are_spread_over_the_set(of_cifar, cifar):
    splits = load_splits(cifar)
    assert [len(split) for split in of_cifar.splits] == [2000, 500, 500]
    train = of_cifar.splits.train
    for place, row in ((0, 0), (1999, len(splits.train) - 1), (1, round((len(splits.train) - 1) / 1999))):
        np.testing.assert_array_equal(train.rows(slice(place, place + 1)), splits.train.rows(slice(row, row + 1)))
        assert train.labels[place] == splits.train.labels[row]


def test_vectors(serve, tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    rows = (rng.normal(size=(300, 7)) + 3 * labels[:, None] + 1000).astype(np.float16)
    rows[:, 2] = 5
    dataset = Dataset(
        name="vectors",
        rows=rows,
        labels=labels,
        class_names=("a", "b", "c"),
        image_shape=None,
        source="/home/me/my rows.npz",
    )
    parts = {name: Split(name, dataset, np.arange(k, 300, 3)) for k, name in enumerate(("train", "validation", "test"))}
    splits = Splits(**parts, protocol="mine")
    write_static(splits, tmp_path / "site")
    (tmp_path / "site" / "engine.html").write_text(PAGE)
    engine = Engine(serve(tmp_path / "site", "engine.html"))
    message, arrays = engine.train(**SHORT)
    assert set(arrays) == {"confusion", "reliability"}
    started = engine.heard[0][0]
    model = engine.model(tmp_path / "model.safetensors")
    expected = onelayer.train(splits, config_of(SHORT)).model
    assert near(model.layer.weights, expected.layer.weights)
    assert not model.layer.weights[2].any()
    strongest = np.abs(expected.layer.weights[:, 0]).argmax()
    assert message["strongest"][0][0][0] == strongest
    assert started["data"]["image_shape"] is None
    assert started["command"].startswith("onelayer train --data 'my rows.npz' --epochs 6")
    assert b"/home" not in (tmp_path / "site" / "data.bin").read_bytes()


def test_the_page_itself(serve, tmp_path):
    """All files of the page without its data take less than 150 kB; it begins to train when it is opened."""
    files = write_static(load_splits("digits"), tmp_path / "site")
    assert sum(file.stat().st_size for file in files if file.name != "data.bin") < 150_000
    assert write_static(load_splits("digits"), tmp_path / "site") == files  # over its own files
    page = serve(tmp_path / "site", "index.html")
    policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "default-src 'self'" in policy
    page.locator("#state", has_text="all 40 epochs are done").wait_for()
    expected = onelayer.train(splits_of(tmp_path / "site"), config_of({}))
    shown = float(re.match("[0-9.]+", page.inner_text("#accuracy"))[0])
    assert abs(shown - 100 * expected.state.history[-1].validation_accuracy) < 0.01
    assert page.locator("#knob-learning_rate").is_visible()
    assert page.locator("#knob-solver").count() == 0
    page.click("#test-rows summary")
    page.click("#open-test")
    page.locator("#test-result", has_text="were read 1 time since this page was opened").wait_for()
    of_test = page.locator("#test-confusion button").all_inner_texts()
    assert sum(int(text) for text in of_test) == int(
        re.search("of ([0-9]+) test rows", page.inner_text("#test-result"))[1]
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_for_everybody(digits, serve, scheme):
    page = serve(digits.folder, "index.html")
    page.set_viewport_size({"width": 1000, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.locator("#state", has_text="all 40 epochs are done").wait_for()
    content = io.BytesIO()
    Image.new("RGB", (24, 24), "#7090d0").save(content, "PNG")
    page.set_input_files("#pick", {"name": "sky.png", "mimeType": "image/png", "buffer": content.getvalue()})
    page.locator("#confusion button").nth(1).click()
    page.locator("#show-mistakes").click()
    unfold(page)
    page.click("#open-test")
    page.fill("#class-name", "cat")
    page.press("#class-name", "Enter")
    parts = ("#cell-images h3", "#mistake-images canvas", "#test-confusion button", "#contributions canvas", ".card")
    for shown in parts:
        page.locator(shown).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 1000
    assert violations(page) == []


def test_the_command_that_writes_it(run_cli, tmp_path, monkeypatch):
    (tmp_path / "kernel").write_bytes(b"code")
    monkeypatch.setattr(static, "KERNEL", tmp_path / "kernel")
    code, out, err = run_cli("live", "--data", "digits", "--static", "my site")
    assert (code, err) == (0, "")
    assert out.endswith("  python -m http.server --bind 127.0.0.1 --directory 'my site'\n")
    assert {"index.html", "page.js", "worker.js", "data.bin"} < {file.name for file in (tmp_path / "my site").iterdir()}
    for option in (["--port", "80"], ["--no-browser"]):
        code, _, err = run_cli("live", "--data", "digits", "--static", "other", *option)
        assert (code, err) == (2, "onelayer: --static starts no server; leave --port and --no-browser out\n")


def test_what_is_refused(tmp_path, monkeypatch):
    splits = load_splits("digits")
    (tmp_path / "other").write_text("mine")
    weighted = replace(splits.dataset, row_weights=np.ones(len(splits.dataset.rows)))
    of_weights = replace(splits, train=replace(splits.train, dataset=weighted))
    with monkeypatch.context() as patch:
        patch.setattr(static, "KERNEL", tmp_path / "other")
        with pytest.raises(ConfigError, match="weights"):
            write_static(of_weights, tmp_path / "site")
        with pytest.raises(ConfigError, match="other files; pass a new folder"):
            write_static(splits, tmp_path)
        patch.setattr(static, "KERNEL", tmp_path / "missing")
        with pytest.raises(ConfigError, match="install clang and lld"):
            write_static(splits, tmp_path / "site")
    assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "site").exists()


def test_defaults_of_knobs(digits):
    """The command on the page names the settings that differ from those of the command line."""
    digits.engine.train(epochs=3, l2=0.5, flip=True)
    command = digits.engine.heard[0][0]["command"].split()
    config = config_of({"epochs": 3, "l2": 0.5, "flip": True})
    named = {word.removeprefix("--").replace("-", "_") for word in command if word.startswith("--")} - {"data"}
    apart = {name for name in (*BY_NAME, "keep") if getattr(config, name) != getattr(TrainConfig(), name)}
    assert named == apart
    assert command[:4] == ["onelayer", "train", "--data", "digits"]
