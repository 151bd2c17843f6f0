"""The commands that use a model, read data or check gradients: predict, explain, export, data and check."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, assert_one_line
from PIL import Image
from safetensors.numpy import load_file

from onelayer import Model
from onelayer.errors import ModelFileError
from onelayer.features.units import FAR_OFF


def test_a_damaged_model_is_one_line(run_cli, trained):
    model = trained / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    for command in (
        ["evaluate", trained],
        ["predict", trained, "x.png"],
        ["explain", trained, "x.png"],
        ["export", trained, "model.py"],
        ["figures", trained],
    ):
        assert_one_line(run_cli(*command), "model.safetensors: damaged")


def test_predict(run_cli, trained, tiny_batches, tmp_path):
    rows, _ = tiny_batches["test_batch"]
    for number in range(2):
        Image.fromarray(rows[number].reshape(3, 32, 32).transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide.png")
    code, out, err = run_cli("predict", trained, "0.png", "1.png", "wide.png", "--json", "--top", "10")
    assert (code, err) == (0, "")
    answers = json.loads(out)
    tensors = load_file(trained / "model.safetensors")
    for number, answer in enumerate(answers[:2]):
        X = (rows[number] - tensors["mean"]) / tensors["scale"]
        S = X @ tensors["weights"].astype(float) + tensors["bias"]
        P = np.exp(S) / np.exp(S).sum()
        found = answer["probabilities"]
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        assert [found[name] for name in names] == pytest.approx(P, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert answer["note"] is None
        assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert "distorts" in answers[2]["note"]
    code, out, _ = run_cli("predict", trained, "0.png")
    assert code == 0
    assert len(out.splitlines()) == 4


def test_predict_takes_images_as_rows(run_cli, trained, tiny_batches):
    rows, _ = tiny_batches["test_batch"]
    np.save("flat.npy", rows[:3])
    np.save("last.npy", rows[:3].reshape(3, 3, 32, 32).transpose(0, 2, 3, 1))
    answers = [json.loads(run_cli("predict", trained, f"{name}.npy", "--json")[1]) for name in ("flat", "last")]
    assert len(answers[0]) == 3
    assert [a["probabilities"] for a in answers[0]] == [a["probabilities"] for a in answers[1]]
    np.save("turned.npy", rows[:3].reshape(3, 64, 16, 3))
    assert_one_line(
        run_cli("predict", trained, "turned.npy"), "turned.npy: has images of 3 x 64 x 16 where the model is for 3 x 32"
    )


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_an_image_that_is_none_is_one_line(run_cli, trained, tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    for command in ("predict", "explain"):
        assert_one_line(run_cli(command, trained, "x.png"), "x.png")
        assert_one_line(run_cli(command, trained, "missing.png"), "missing.png")
        assert_one_line(run_cli(command, trained, "x.png", "--top", "0"), "top 0 is not a whole number of at least 1")
    assert not (tmp_path / "explanation.png").exists()


def test_explain(run_cli, trained, tiny_batches, tmp_path):
    rows, _ = tiny_batches["test_batch"]
    Image.fromarray(rows[0].reshape(3, 32, 32).transpose(1, 2, 0)).save(tmp_path / "0.png")
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide.png")
    code, out, err = run_cli("explain", trained, "0.png", "-o", "why.png", "--top", "4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["class", "probability", "logit", "=", "bias", "+", "pixels"]
    assert lines[-1] == "why.png"
    predicted = json.loads(run_cli("predict", trained, "0.png", "--json", "--top", "4")[1])[0]["probabilities"]
    for line, (name, p) in zip(lines[1:-1], predicted.items(), strict=True):
        word, percent, _, logit, bias, pixels = line.split()
        assert (word, percent) == (name, f"{100 * p:.2f}")
        assert float(bias) + float(pixels) == pytest.approx(float(logit), abs=1.1e-4)
    with Image.open(tmp_path / "why.png") as image:
        image.load()
        assert min(image.size) > 200
    assert "note: wide.png: 200 x 100 was squeezed" in run_cli("explain", trained, "wide.png")[1]
    assert (tmp_path / "explanation.png").exists()
    odd = (tmp_path / "0.png").rename(tmp_path / "\x1b[31m\n.png")
    assert run_cli("explain", trained, odd)[0] == 0
    odd.rename(tmp_path / "0.png")
    assert_one_line(
        run_cli("explain", trained, "0.png", "-o", "why.jpg"),
        r"why\.jpg: explain writes a PNG; choose a name that ends in \.png",
    )
    assert_one_line(run_cli("explain", trained, "0.png", "-o", "no/why.png"), r"cannot write no/why\.png: No such file")


def test_export(run_cli, trained, tmp_path):
    for words in (["predict.py"], ["model.joblib"], ["m.pickle", "--format", "sklearn"]):
        code, out, err = run_cli("export", trained, *words)
        assert (code, err) == (0, "")
        assert out.startswith(f"{words[0]}: ")
    assert {path.name for path in tmp_path.iterdir()} >= {"predict.py", "predict.npz", "model.joblib", "m.pickle"}
    assert (tmp_path / "model.joblib").read_bytes() == (tmp_path / "m.pickle").read_bytes()
    assert_one_line(run_cli("export", trained, "model.joblib"), r"model\.joblib exists; choose another name")


def test_export_for_onnx(run_cli, trained, tmp_path):
    pytest.importorskip("onnx")
    code, out, err = run_cli("export", trained, "model.onnx")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"model\.onnx: 1\d\d kB\n", out)
    for _ in range(2):  # its own file is replaced
        assert run_cli("export", trained, "again.bin", "--format", "onnx")[0] == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert_one_line(
        run_cli("export", trained, "notes.txt", "--format", "onnx"),
        "notes.txt is there, and does not say that this command wrote it",
    )
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_an_export_that_cannot_be_is_one_line(run_cli, trained, tmp_path, monkeypatch):
    before = {path.name for path in tmp_path.iterdir()}
    assert_one_line(run_cli("export", trained, "model.pt"), r"model\.pt: the suffix is not one of")
    assert_one_line(run_cli("export", trained, "model.onnx", "--format", "tf"), 'Invalid value "tf" for --format')
    assert_one_line(run_cli("export", trained, "no/model.joblib"), r"cannot write no/model\.joblib: No such file")
    assert_one_line(run_cli("export", trained, "no/model.py"), r"cannot write no/model\.py: No such file")
    assert_one_line(run_cli("export", trained, trained, "--format", "onnx"), "cannot write .*: Is a directory")
    assert_one_line(run_cli("export", trained, "model", "--format", "numpy"), "model: a Python script and a .npz")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_one_line(run_cli("export", trained, "model.onnx"), r"ONNX needs the package onnx: pip install onnx")
    (trained / "summary.json").unlink()
    assert_one_line(run_cli("export", trained, "model.py"), "run is not complete; go on with: onelayer resume")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_exported_script_has_no_traceback(run_cli, trained, tiny_batches, tmp_path):
    assert run_cli("export", trained, "model.py")[0] == 0
    np.save("rows.npy", np.tile(tiny_batches["test_batch"][0], (200, 1)))
    np.save("short.npy", np.zeros((3, 5)))
    np.save("one.npy", np.float64(1))
    np.savez("rows.npz", X=np.zeros((3, 3072)))
    Image.new("RGB", (32, 32)).save("a.png")
    for name in ("short.npy", "one.npy", "rows.npz", "a.png", "none.npy"):
        command = [sys.executable, "-I", "model.py", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{name}: is not a .npy file for this model ("), done.stderr
        assert name != "short.npy" or "expected rows of 3072 numbers, got float64 (3, 5)" in done.stderr
    command = f"{sys.executable} -I model.py rows.npy | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_is_no_run_or_no_model_is_told_apart(run_cli, trained):
    assert_one_line(
        run_cli("evaluate", trained / "model.safetensors"), "is a file, not a run directory; pass the folder"
    )
    with pytest.raises(
        ModelFileError, match=r"run: is a folder; pass the file of the model, such as .*model\.safetenso"
    ):
        Model.load(trained)
    (trained / "model.safetensors").rename("kept")
    remedy = "write it again with: onelayer resume"
    assert_one_line(run_cli("evaluate", trained), f"model.safetensors is missing; {remedy}")
    assert run_cli("resume", trained, "--no-figures", "--quiet")[0] == 0
    assert (trained / "model.safetensors").read_bytes() == Path("kept").read_bytes()
    (trained / "summary.json").write_text("{")
    assert_one_line(run_cli("evaluate", trained), rf"summary.json: damaged \(.*\); {remedy}")


def test_data_tells_what_a_source_holds(run_cli, tiny_cifar):
    code, out, _ = run_cli("data", tiny_cifar)
    assert code == 0
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines()[:5] if "  " in line)
    assert facts["rows"] == "360 of 3,072 uint8 numbers"
    assert facts["official"] == "no"
    assert re.search(r"image shape +3 x 32 x 32", out)
    assert re.search(r"fingerprint +[0-9a-f]{64}", out)
    assert re.search(r"\nairplane( +6){6}\n", out)
    assert re.search(r"\nall( +60){6}\n", out)


def test_check_agrees(run_cli):
    code, out, err = run_cli("check", "--data", "digits")
    assert (code, err) == (0, "")
    assert "all gradients agree with " in out
    rows = [line for line in out.splitlines() if line.startswith(("softmax", "sigmoid"))]
    oracles = ["PyTorch", "complex step", "central differences"]
    if importlib.util.find_spec("torch") is None:
        oracles.remove("PyTorch")
        assert "note: PyTorch is not installed" in out
    assert len(rows) == 2 * 2 * 2 * len(oracles)
    for row in rows:
        errors = [float(word) for word in re.findall(r"\d\.\de[+-]\d+", row)]
        assert len(errors) == 2
        assert max(errors) <= (1e-6 if "central differences" in row else 1e-14)


def test_check_takes_the_classes_that_the_data_have(run_cli):
    rows = np.random.default_rng(0).normal(size=(60, 12))
    np.savez("three.npz", X=rows, y=np.arange(60) % 3)
    assert "K = 3 classes" in run_cli("check", "--data", "three.npz")[1]
    words = "cannot take 3 rows of 10 features in 4 classes from three, which has 60 rows of 12 in 3 classes"
    assert_one_line(run_cli("check", "--data", "three.npz", "--classes", "4"), words)


def test_check_takes_a_set_without_its_first_batch_as_train_does(run_cli, tiny_cifar):
    (tiny_cifar / "data_batch_1").unlink()
    code, out, err = run_cli("check", "--data", tiny_cifar)
    assert (code, err) == (0, "")
    assert "all gradients agree" in out


def test_check_fails_when_a_gradient_is_wrong(run_cli, monkeypatch):
    from onelayer.layer import SoftmaxLayer

    right = SoftmaxLayer.gradients
    monkeypatch.setattr(SoftmaxLayer, "gradients", lambda self, X, y, l2=0.0: right(self, X, y, l2 / 2))
    code, out, _ = run_cli("check", "--data", "digits")
    assert code == 1
    assert re.search(r"dW\[\d+, \d+\] is .*relative error .*l2 0\.1", out)


def test_predict_answers_for_the_others_where_a_file_cannot_be_read(run_cli, trained, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = run_cli("predict", trained, "a.png", "bad.png", "none.png", "b.png")
    assert code == 2
    assert [line.split()[0] for line in out.splitlines() if line.endswith("probability")] == ["a.png", "b.png"]
    bad, none = err.splitlines()
    assert bad.startswith("left out: bad.png: is not an image that can be read")
    assert none.startswith("onelayer: none.png: ")
    code, out, _ = run_cli("predict", trained, "bad.png", "b.png", "--json")
    assert code == 2
    bad, good = json.loads(out)
    assert bad["error"].startswith("bad.png: is not an image")
    assert len(good["probabilities"]) == 3


def test_every_way_out_names_the_same_class(run_cli, tiny_cifar, tmp_path):
    """Sigmoids of such steps round to 1, several in a row; the logits still tell the classes apart."""
    settings = ["--loss", "sigmoid", "--learning-rate", "50", "--epochs", "5", "--no-figures", "--quiet"]
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", *settings)[0] == 0
    rows = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    np.save("noise.npy", rows)
    tensors, names = load_file("run/model.safetensors"), Model.load("run/model.safetensors").class_names
    W = tensors["weights"].astype(float) / tensors["scale"][:, None]
    S = rows @ W + (tensors["bias"] - tensors["mean"] @ W)
    expected = [names[k] for k in S.argmax(axis=1)]
    assert sum((1 / (1 + np.exp(-s)) == 1).sum() > 1 for s in S) > 20
    answers = json.loads(run_cli("predict", "run", "noise.npy", "--json", "--top", "10")[1])
    found = [list(answer["probabilities"]) for answer in answers]
    assert found == [[names[k] for k in np.argsort(-s, kind="stable")] for s in S]
    for row in (S.max(axis=1).argmax(), S.max(axis=1).argmin()):
        Image.fromarray(rows[row].reshape(3, 32, 32).transpose(1, 2, 0)).save("noise.png")
        assert run_cli("explain", "run", "noise.png")[1].splitlines()[1].split()[0] == expected[row]
    assert run_cli("export", "run", "model.py")[0] == 0
    script = subprocess.run([sys.executable, "-I", "model.py", "noise.npy"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in script.stdout.splitlines()] == expected
    runtime = pytest.importorskip("onnxruntime")
    assert run_cli("export", "run", "model.onnx")[0] == 0
    session = runtime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    probabilities, label, logits = session.run(None, {"images": rows.reshape(-1, 3, 32, 32)})
    assert [names[k] for k in label] == expected
    assert logits == pytest.approx(S, rel=1e-4, abs=1e-3)
    assert [names[k] for k in probabilities.argmax(axis=1)] != expected  # so there is something to tell apart


def test_rows_in_another_unit_are_refused_or_noted(run_cli, trained, tiny_batches, tmp_path):
    rows, labels = tiny_batches["test_batch"]
    scaled = (rows / 255).astype(np.float32)
    np.save("scaled.npy", scaled)
    np.save("pixels.npy", rows.astype(np.float32))
    assert_one_line(
        run_cli("predict", trained, "scaled.npy"), "scaled.npy: the rows lie in 0 to 1, the pixels trained on"
    )
    assert run_cli("predict", trained, "pixels.npy")[2] == ""
    answers = json.loads(run_cli("predict", trained, "scaled.npy", "pixels.npy", "--json")[1])
    assert "multiply the rows by 255" in answers[0]["error"]
    assert [answer["note"] for answer in answers[1:]] == [None] * 60

    np.savez("scaled.npz", X=scaled, y=labels)
    code, out, err = run_cli("train", "--data", "scaled.npz", "--out", "of scaled", *TINY)
    assert (code, err) == (0, "")
    assert FAR_OFF not in out
    np.save("rows.npy", rows)
    found = run_cli("predict", "of scaled", "rows.npy")[1].splitlines()
    assert found[0] == f"note: rows.npy: {FAR_OFF}"
    assert len(found) == 62
    assert FAR_OFF not in run_cli("predict", "of scaled", "scaled.npy")[1]
