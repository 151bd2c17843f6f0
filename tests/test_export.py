"""Exported models answer as the model does: onnxruntime, NumPy in a process without onelayer, scikit-learn."""

import ast
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from helpers import MODEL_NAMES, SHAPE, coursework, model_of, rows_for, toy_splits
from hypothesis import strategies as st

from onelayer import SplitConfig, load_splits, train
from onelayer.errors import ConfigError, DataError, OnelayerError
from onelayer.export import to_logistic_regression, to_numpy, to_onnx, write
from onelayer.features.units import FAR_OFF, SCALED_DOWN
from onelayer.model import Model

ROUNDING = 3e-6  # what float32 leaves of a probability


def with_logits(bias):
    """A model of sigmoids with these logits for any row, above 17 of them with the same probability in float32."""
    model = model_of("sigmoid")
    model.layer.weights[...] = 0
    model.layer.bias[...] = bias
    return model


def formula(model, rows):
    """Probabilities as docs/run-directory.md says, in float64."""
    W, b = model.layer.weights.astype(float), model.layer.bias.astype(float)
    S = (rows.astype(float) - model.standardizer.mean) / model.standardizer.scale @ W + b
    if model.layer.loss.name == "sigmoid":
        return 1 / (1 + np.exp(-S))
    return np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _packages(self):
        self.onnx = pytest.importorskip("onnx")
        self.runtime = pytest.importorskip("onnxruntime")

    def run(self, content, rows, batch):
        session = self.runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        rows = rows.reshape(-1, *given.shape[1:])
        batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        return np.concatenate([session.run(["probabilities"], {given.name: part})[0] for part in batches])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("shape", [SHAPE, (1, 12, 5), None])
    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_probabilities(self, loss, shape, dtype):
        model = model_of(loss, shape, dtype=dtype)
        rows, content = rows_for(model), to_onnx(model)
        own = model.probabilities(rows)
        assert np.ptp(own, axis=0).min() > 0.3
        for batch in (1, 7, 200):
            found = self.run(content, rows, batch)
            assert found.dtype == np.float32
            assert found == pytest.approx(own, abs=ROUNDING)
            assert found == pytest.approx(formula(model, rows), abs=ROUNDING)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("mean", [1e2, 1e4, -1e6])
    def test_features_far_from_zero(self, mean, dtype):
        model = model_of(shape=None, mean=mean, scale=1.0, dtype=dtype)
        rows = rows_for(model)
        own = model.probabilities(rows)
        assert np.ptp(own, axis=0).min() > 0.3
        assert self.run(to_onnx(model), rows, 200) == pytest.approx(own, abs=ROUNDING)

    def test_what_goes_in_and_out(self):
        made = self.onnx.load_from_string(to_onnx(model_of()))
        self.onnx.checker.check_model(made, full_check=True)
        session = self.runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        (given,), (answer, label, logits) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, 4, 5])
        assert (answer.name, answer.type, answer.shape) == ("probabilities", "tensor(float)", ["batch", 6])
        assert (label.name, label.type, label.shape) == ("label", "tensor(int64)", ["batch"])
        assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 6])
        metadata = session.get_modelmeta().custom_metadata_map
        assert tuple(json.loads(metadata["class_names"])) == MODEL_NAMES
        assert json.loads(metadata["image_shape"]) == [3, 4, 5]
        assert metadata["loss"] == "softmax"
        assert (made.producer_name, made.ir_version, made.opset_import[0].version) == ("onelayer", 7, 13)
        nothing = session.run(None, {"images": np.zeros((0, 3, 4, 5), np.uint8)})
        assert [found.shape for found in nothing] == [(0, 6), (0,), (0, 6)]
        vectors = self.runtime.InferenceSession(to_onnx(model_of(shape=None)), providers=["CPUExecutionProvider"])
        (given,) = vectors.get_inputs()
        assert (given.name, given.type, given.shape) == ("features", "tensor(float)", ["batch", 60])

    def test_images_that_are_not_pixels(self):
        model = replace(model_of(mean=0.5, scale=0.2), pixels=None)
        assert not model.pixels
        rows = np.random.default_rng(0).random((20, 60), dtype=np.float32)
        session = self.runtime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["batch", 3, 4, 5])
        assert self.run(to_onnx(model), rows, 20) == pytest.approx(model.probabilities(rows), abs=ROUNDING)

    def test_the_same_model_gives_the_same_bytes(self, tmp_path):
        (tmp_path / "model").write_bytes(model_of().to_bytes())
        assert to_onnx(Model.load(tmp_path / "model")) == to_onnx(model_of())
        assert to_onnx(model_of(seed=1)) != to_onnx(model_of())

    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_label_and_logits(self, loss):
        model = model_of(loss)
        rows, S = rows_for(model), model.logits(rows_for(model))
        session = self.runtime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        label, logits = session.run(["label", "logits"], {"images": rows.reshape(-1, *SHAPE)})
        assert logits == pytest.approx(S, abs=1e-4)
        assert label.tolist() == [max(range(6), key=lambda k: s[k]) for s in S]
        assert len(set(label.tolist())) > 2

    @pytest.mark.parametrize(("bias", "expected"), [([18, 30, 17, 40, 25, 40], 3), ([7, -1, 7, 7, 0, 0], 0)])
    def test_the_label_goes_by_logits_and_of_equal_ones_to_the_first(self, bias, expected):
        model = with_logits(bias)
        session = self.runtime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        images = rows_for(model, 2).reshape(-1, *SHAPE)
        assert session.run(["label"], {"images": images})[0].tolist() == [expected, expected]

    @hypothesis.settings(max_examples=12, deadline=None)
    @hypothesis.given(
        st.permutations(range(5)),
        st.sampled_from(["softmax", "sigmoid"]),
        st.sampled_from([SHAPE, None]),
        st.sampled_from(["auto", "numpy"]),
        st.integers(0, 1000),
    )
    def test_permuted_classes_give_permuted_answers(self, order, loss, shape, backend, seed):
        """From training to what another program makes of the file; the initial weights are 0, alike for all classes."""
        splits = toy_splits(n=120, K=5, image_shape=shape, seed=seed)
        dataset, order = splits.dataset, np.array(order)
        config = coursework(epochs=3, learning_rate=0.05, batch_size=20, init_std=0, loss=loss, backend=backend)
        names = tuple(dataset.class_names[k] for k in order)
        permuted = replace(dataset, labels=np.argsort(order)[dataset.labels], class_names=names)
        parts = {part.name: replace(part, dataset=permuted) for part in splits}
        rows = splits.test.rows(slice(None)).astype(np.uint8 if shape else np.float32)
        answers = []
        for some in (splits, replace(splits, **parts)):
            content = to_onnx(train(some, config).model)
            session = self.runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
            (given,) = session.get_inputs()
            found = session.run(None, {given.name: rows.reshape(-1, *given.shape[1:])})
            answers.append([*found, json.loads(session.get_modelmeta().custom_metadata_map["class_names"])])
        (P, label, S, _), (permuted_P, permuted_label, permuted_S, permuted_names) = answers
        assert tuple(permuted_names) == names
        assert np.ptp(P, axis=0).min() > 0.02
        assert permuted_P == pytest.approx(P[:, order], abs=ROUNDING)
        assert permuted_S == pytest.approx(S[:, order], abs=3e-5)
        top = np.sort(S, axis=1)
        clear = top[:, -1] - top[:, -2] > 1e-4
        assert order[permuted_label[clear]].tolist() == label[clear].tolist()
        assert len(set(label[clear].tolist())) > 1

    def test_the_whole_test_set_of_cifar(self, cifar):
        splits = load_splits(str(cifar), SplitConfig())
        rows = splits.test.rows(slice(None))
        for loss, rate in (("softmax", 0.001), ("sigmoid", 0.01)):
            model = train(splits, coursework(epochs=5, learning_rate=rate, loss=loss)).model
            content, own = to_onnx(model), model.probabilities(rows)
            for batch in (7, 10_000):
                assert np.abs(self.run(content, rows, batch) - own).max() <= 1e-5


def test_without_onnx_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"^ONNX needs the package onnx: pip install onnx"):
        write(model_of(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class TestNumpy:
    def answers(self, folder, rows):
        """Run predict.py in a fresh Python, without onelayer and without a warning."""
        np.save(folder / "rows.npy", rows)
        program = (
            "import sys, runpy, numpy as np; sys.modules['onelayer'] = None; "
            "np.save(sys.argv[3], runpy.run_path(sys.argv[1])['probabilities'](np.load(sys.argv[2])))"
        )
        files = [folder / name for name in ("predict.py", "rows.npy", "answers.npy")]
        python = [sys.executable, "-I", "-W", "error"]
        subprocess.run([*python, "-c", program, *files], check=True)
        said = subprocess.run([*python, *files[:2]], check=True, capture_output=True, encoding="utf-8")
        return np.load(files[2]), said.stdout.splitlines()

    @pytest.mark.parametrize("shape", [SHAPE, None])
    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_probabilities(self, loss, shape, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
        model = model_of(loss, shape)
        rows = rows_for(model)
        assert write(model, tmp_path / "predict.py") == [tmp_path / "predict.py", tmp_path / "predict.npz"]
        found, said = self.answers(tmp_path, rows)
        assert found == pytest.approx(model.probabilities(rows), abs=ROUNDING)
        assert found == pytest.approx(formula(model, rows), abs=ROUNDING)
        best = model.probabilities(rows).argmax(axis=1)
        assert [line.rsplit(" ", 2)[0] for line in said] == [MODEL_NAMES[k] for k in best]
        assert float(said[0].split()[-2]) == pytest.approx(100 * found[0].max(), abs=0.006)

    @pytest.mark.parametrize(("bias", "name"), [([40, 50, 0, 60, 50, 60], "9"), ([7, -1, 7, 7, 0, 0], "horse")])
    def test_the_class_goes_by_logits_and_of_equal_ones_to_the_first(self, bias, name, tmp_path):
        model = with_logits(bias)
        write(model, tmp_path / "predict.py")
        found, said = self.answers(tmp_path, rows_for(model, 2))
        assert [line.rsplit(" ", 2)[0] for line in said] == [name, name]
        assert float(said[0].split()[-2]) == pytest.approx(100 * found[0].max(), abs=0.006)

    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_enormous_logits(self, loss, tmp_path):
        model = model_of(loss)
        model.layer.weights[...] *= 1e5
        write(model, tmp_path / "predict.py")
        found, _ = self.answers(tmp_path, rows_for(model))
        assert np.isfinite(found).all()
        assert found.max() == 1

    def test_rows_in_another_unit(self, tmp_path):
        """A line on standard error, the same for a script's user and for who imports it; and the answers."""
        pixels, features = model_of(), model_of(shape=None, mean=0.5, scale=0.2)
        cases = (
            (pixels, rows_for(pixels), None),
            (pixels, rows_for(pixels) / 255, SCALED_DOWN),
            (pixels, rows_for(pixels)[:1] / np.float32(255), SCALED_DOWN),
            (features, rows_for(features), None),
            (features, rows_for(pixels), FAR_OFF),
        )
        for model, rows, words in cases:
            write(model, tmp_path / "predict.py")
            np.save(tmp_path / "rows.npy", rows)
            python = [sys.executable, "-I"]
            program = "import runpy; runpy.run_path('predict.py')['probabilities'](np.load('rows.npy'))"
            for command in (["predict.py", "rows.npy"], ["-c", f"import numpy as np; {program}"]):
                done = subprocess.run([*python, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
                assert len(done.stdout.splitlines()) == (len(rows) if len(command) == 2 and "-c" not in command else 0)
                if words is None:
                    assert done.stderr == ""
                else:
                    assert f"UserWarning: {words}\n" in done.stderr
                    assert len(done.stderr.splitlines()) <= 2

    def test_features_far_from_zero(self):
        model = model_of(shape=None, mean=1e4, scale=1.0)
        rows = rows_for(model)
        numbers = np.load(io.BytesIO(to_numpy(model)[1]))
        logits = rows @ numbers["weights"] + numbers["bias"]
        assert logits == pytest.approx(model.logits(rows), abs=1e-5)

    def test_it_is_short_and_needs_numpy_alone(self):
        for model in (model_of(), model_of("sigmoid", None)):
            script, numbers = to_numpy(model)
            tree = ast.parse(script)
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert {ast.unparse(node) for node in imports} == {
                "import os",
                "import sys",
                "import warnings",
                "from pathlib import Path",
                "import numpy as np",
            }
            code = script.replace(f'"""{ast.get_docstring(tree, clean=False)}"""', "")
            assert len([line for line in code.splitlines() if line]) <= 55
            assert max(map(len, script.splitlines())) <= 120
            assert sorted(np.load(io.BytesIO(numbers)).files) == ["bias", "class_names", "mean", "scale", "weights"]
        assert to_numpy(model_of()) == to_numpy(model_of())

    def test_without_rows_it_says_how_it_is_used(self, tmp_path):
        write(model_of(), tmp_path / "predict.py")
        done = subprocess.run([sys.executable, "-I", tmp_path / "predict.py"], capture_output=True, text=True)
        assert done.returncode == 1
        assert "python predict.py rows.npy" in done.stderr
        assert "(n, 60): pixels 0 to 255 of images, flattened from (3, 4, 5)" in done.stderr

    @pytest.mark.parametrize(
        "rows",
        [np.zeros((3, 5)), np.zeros(60), np.zeros((0, 60)), np.array(1.0), np.full((2, 60), "a")],
        ids=["narrow", "one row", "none", "a number", "words"],
    )
    def test_other_arrays_are_refused_in_a_line(self, rows, tmp_path):
        write(model_of(), tmp_path / "predict.py")
        np.save(tmp_path / "rows.npy", rows)
        command = [sys.executable, "-I", "predict.py", "rows.npy"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        expected = f"expected rows of 60 numbers, got {rows.dtype} {rows.shape}"
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"rows.npy: is not a .npy file for this model ({expected})\n"

    @pytest.mark.parametrize("name", ["predict.py", "predict.npz"])
    def test_only_its_own_files_are_replaced(self, name, tmp_path):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OnelayerError, match=rf"{name} is there, and .*; choose another name"):
            write(model_of(), tmp_path / "predict.py")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
        (tmp_path / name).unlink()
        for model in (model_of("sigmoid"), model_of()):
            write(model, tmp_path / "predict.py")
        assert (tmp_path / "predict.py").read_text() == to_numpy(model_of())[0]
        assert (tmp_path / "predict.npz").read_bytes() == to_numpy(model_of())[1]

    def test_a_script_has_a_scripts_name(self, tmp_path):
        with pytest.raises(ConfigError, match=r"predict\.npz: a Python script and a \.npz beside it are written"):
            write(model_of(), tmp_path / "predict.npz", "numpy")


class TestLogisticRegression:
    @pytest.mark.parametrize("K", [2, 3, 6])
    @pytest.mark.parametrize("shape", [SHAPE, None])
    def test_probabilities(self, shape, K):
        model = model_of(shape=shape, K=K)
        rows = rows_for(model)
        classifier = to_logistic_regression(model)
        own = model.probabilities(rows)
        assert np.ptp(own, axis=0).min() > 0.3
        assert list(classifier.classes_) == sorted(model.class_names)
        columns = [list(classifier.classes_).index(name) for name in model.class_names]
        for given in (rows, rows.astype(np.float32), rows.astype(np.float64)):
            assert classifier.predict_proba(given)[:, columns] == pytest.approx(own, abs=ROUNDING)
            assert list(classifier.predict(given)) == [model.class_names[k] for k in own.argmax(axis=1)]
        assert classifier.score(rows, np.array(model.class_names)[own.argmax(axis=1)]) == 1
        assert classifier.coef_.shape == (1 if K == 2 else K, 60)
        assert classifier.n_features_in_ == 60
        with pytest.raises(ValueError, match="60 features"):
            classifier.predict(rows[:, :59])

    def test_features_far_from_zero(self):
        model = model_of(shape=None, mean=1e4, scale=1.0)
        rows = rows_for(model)
        columns = np.argsort(np.argsort(model.class_names))
        found = to_logistic_regression(model).predict_proba(rows)[:, columns]
        assert found == pytest.approx(model.probabilities(rows), abs=ROUNDING)

    def test_the_file(self, tmp_path):
        joblib = pytest.importorskip("joblib")
        model = model_of()
        assert write(model, tmp_path / "model.joblib") == [tmp_path / "model.joblib"]
        found = joblib.load(tmp_path / "model.joblib").predict_proba(rows_for(model))
        np.testing.assert_array_equal(found, to_logistic_regression(model).predict_proba(rows_for(model)))

    def test_what_it_cannot_be(self):
        with pytest.raises(
            DataError,
            match="LogisticRegression is a softmax of the logits, and the loss sigmoid has other",
        ):
            to_logistic_regression(model_of("sigmoid"))
        with pytest.raises(DataError, match="needs at least two classes, this model has one"):
            to_logistic_regression(model_of(K=1))


@pytest.mark.parametrize("name", ["model.pt", "model", "model.npz"])
def test_a_name_that_says_no_format(name):
    with pytest.raises(ConfigError, match=r"the suffix is not one of \.onnx \(onnx\), \.py"):
        write(model_of(), Path(name))
