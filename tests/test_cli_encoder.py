"""``--features onnx:FILE``: an encoder goes through the commands, and a bad one ends in one line and loses nothing."""

import json

import numpy as np
import pytest
from helpers import assert_one_line
from networks import DIMENSIONS, SETTINGS, SIDE, network, oracle, prepared, written
from PIL import Image

from onelayer import Model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TRAIN = ("train", "--data", "images.npz", "--epochs", "20", "--learning-rate", "0.1", "--no-figures", "--out", "run")


@pytest.fixture
def images(tmp_path, run_cli):
    """Images of three colours, more or less; written as images.npz."""
    labels = np.arange(240) % 3
    noise = np.random.default_rng(0).normal(0, 40, (240, 3, SIDE, SIDE))
    R = np.clip(np.rint(100 + noise + 80 * np.eye(3)[labels][:, :, None, None]), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", X=R, y=labels)
    return R


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def node(operator, *inputs, **options):
    return onnx.helper.make_node(operator, list(inputs), ["codes"], **options)


def test_a_run_works_without_the_encoder(tmp_path, run_cli, images):
    path = written(tmp_path)
    code, _, err = run_cli(*TRAIN, "--features", "onnx:encoder.onnx")
    assert (code, err) == (0, "")
    path.unlink()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["config"]["features"] == "onnx:encoder.onnx"
    assert summary["results"]["test"]["accuracy"] > 0.9
    assert run_cli("evaluate", "run")[0] == 0
    assert run_cli("resume", "run", "--epochs", "21", "--no-figures")[0] == 0
    model = Model.load(tmp_path / "run" / "model.safetensors")
    F = oracle(prepared(images)).astype(np.float16)  # (n, d)
    S = (F - model.standardizer.mean) / model.standardizer.scale @ model.layer.weights.astype(float) + model.layer.bias
    assert model.features.d_out == DIMENSIONS
    assert model.logits(images.reshape(240, -1)) == pytest.approx(S, abs=0.01)
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "x.png")
    for command, words in (
        (
            ("explain", "run", "x.png"),
            "cannot be traced back to the numbers of a row; explain a model on pixels or patches, or use predict",
        ),
        (
            ("export", "run", "m.onnx"),
            "the features onnx cannot be exported for ONNX; use the model file by `onelayer predict`, or by",
        ),
        (
            ("export", "run", "m.py"),
            "the features onnx cannot be exported for NumPy; use the model file by `onelayer predict`, or by",
        ),
    ):
        assert_one_line(run_cli(*command), words)


def test_a_bad_encoder_loses_nothing(tmp_path, run_cli, images):
    """The run that it would have replaced stays as it was."""
    written(tmp_path)
    assert run_cli(*TRAIN, "--features", "onnx:encoder.onnx")[0] == 0
    before = contents(tmp_path / "run")
    bad = {
        "encoder.onnx: onnxruntime cannot load it .* upgrade it": {"opset": 99},
        "encoder.onnx: a number for image 0 of 7 is not finite": {"last": (node("Log", "F"),)},
        "encoder.onnx: images have other codes by themselves": {"last": (node("Softmax", "F", axis=0),)},
        "encoder.onnx: needs the operator com.x.Foo": {"last": (node("Foo", "F", domain="com.x"),), "domain": "com.x"},
        "encoder.onnx: how images are prepared for it is not known; write encoder.toml beside it": {"settings": None},
        "encoder.toml: size missing; correct it": {"settings": SETTINGS.replace(f"size = {SIDE}\n", "", 1)},
    }
    for words, options in bad.items():
        (tmp_path / "encoder.toml").unlink(missing_ok=True)
        written(tmp_path, **options)
        assert_one_line(run_cli(*TRAIN, "--features", "onnx:encoder.onnx", "--overwrite"), words)
        assert contents(tmp_path / "run") == before
    (tmp_path / "encoder.toml").write_text(SETTINGS)
    failing = network(last=(node("Gather", "F", "places"),))  # the runtime fails
    failing.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5000]), "places"))
    (tmp_path / "encoder.onnx").write_bytes(failing.SerializeToString())
    words = "encoder.onnx: onnxruntime cannot run it .*; export it again"
    assert_one_line(run_cli(*TRAIN, "--features", "onnx:encoder.onnx", "--overwrite"), words)
    assert contents(tmp_path / "run") == before


def test_rows_that_are_not_images(tmp_path, run_cli, images):
    written(tmp_path)
    np.savez(tmp_path / "images.npz", X=images.reshape(240, -1).astype(np.float32), y=np.arange(240) % 3)
    assert_one_line(
        run_cli(*TRAIN, "--features", "onnx:encoder.onnx"), "encoder.onnx: encodes images, and the rows are"
    )
