"""Feature maps that are defined here go through everything that asks a model: nothing else knows what they compute."""

import inspect
import io
import re
import runpy
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import assert_one_line, coursework, plain_training, toy_dataset, toy_splits

from onelayer import Model, SplitConfig, evaluate, explain, load_splits, train
from onelayer.coded import coded
from onelayer.container import pack, unpack
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, ModelFileError, UnitWarning
from onelayer.export import to_logistic_regression, to_numpy, to_onnx, write
from onelayer.features.map import Attribution, FeatureMap, Identity
from onelayer.features.registry import FEATURE_MAPS
from onelayer.features.units import FAR_OFF
from onelayer.model import MODEL_ARRAYS
from onelayer.pictures.finished import figures_of_run
from onelayer.runs.directory import PICTURES, Run
from onelayer.runs.plan import Plan

SHAPE = (3, 4, 5)
PAIRS = 3 * 4 * 4  # of pixels side by side
GAINS = np.resize([1.0, 0.5, 2.0], PAIRS)  # with which differences of pixels are exact in float32
ROUNDING = 3e-6  # what float32 leaves of a probability
CONFIG = coursework(epochs=4, learning_rate=0.1, l2=0.01, batch_size=40, dtype="float64", backend="numpy")


def matrix():
    """A (60, 48), written down pair by pair: a pixel less its left neighbour, times the pair's gain."""
    A, pair = np.zeros((60, PAIRS)), 0
    for c in range(3):
        for y in range(4):
            for x in range(4):
                A[20 * c + 5 * y + x + 1, pair] = GAINS[pair]
                A[20 * c + 5 * y + x, pair] = -GAINS[pair]
                pair += 1
    return A


A = matrix()


@dataclass(frozen=True, eq=False)
class Differences(FeatureMap):
    """Each pixel less its left neighbour, times a gain: linear."""

    image_shape: tuple[int, int, int]
    gains: np.ndarray
    name = "differences"
    linear = True

    @property
    def d_in(self):
        return int(np.prod(self.image_shape))

    @property
    def d_out(self):
        return len(self.gains)

    def transform(self, R):
        images = R.reshape(-1, *self.image_shape).astype(np.float64)
        return np.diff(images, axis=3).reshape(len(R), -1) * self.gains

    def tensors(self):
        return {"gains": self.gains}

    def facts(self):
        return {"shape": self.image_shape}

    @classmethod
    def read(cls, tensors, facts):
        return cls(tuple(facts["shape"]), tensors["gains"])

    def pull_back(self, V):
        c, h, w = self.image_shape
        V = (V.T * self.gains).T.reshape(c, h, w - 1, -1)
        return (np.pad(V, ((0, 0), (0, 0), (1, 0), (0, 0))) - np.pad(V, ((0, 0), (0, 0), (0, 1), (0, 0)))).reshape(
            self.d_in, -1
        )


def features(R, tensors):
    return abs(R @ tensors["matrix"])


@dataclass(frozen=True, eq=False)
class Steps(FeatureMap):
    """Sizes of the differences: not linear, but each comes from two pixels."""

    name = "steps"
    image_shape = SHAPE
    d_in, d_out = 60, PAIRS
    linear = False

    def transform(self, R):
        return features(R, self.tensors())

    def tensors(self):
        return {"matrix": A}

    @classmethod
    def read(cls, tensors, facts):
        return cls()

    def attribute(self, V, mean, row):
        added = (self.transform(row[np.newaxis]) - mean) * V.T
        return Attribution(added @ (A != 0).T / 2)  # (t, d_in): each of the two pixels gets half

    def onnx_nodes(self, rows, features):
        from onnx import helper

        product = helper.make_node("MatMul", [rows, "features.matrix"], ["features.signed"])
        return [product, helper.make_node("Abs", ["features.signed"], [features])], {
            "features.matrix": A.astype(np.float32)
        }

    def numpy_source(self):
        return inspect.getsource(features)


@dataclass(frozen=True, eq=False)
class Squares(FeatureMap):
    """Each number squared: what a map is that defines no more than it must."""

    d_in: int = 60
    name = "squares"
    image_shape = None
    linear = False

    @property
    def d_out(self):
        return self.d_in

    def transform(self, R):
        return R.astype(np.float64) ** 2

    def facts(self):
        return {"d": self.d_in}

    @classmethod
    def read(cls, tensors, facts):
        return cls(facts["d"])


DIFFERENCES, STEPS, SQUARES = Differences(SHAPE, GAINS), Steps(), Squares()
# The features of each map, by a formula of its own.
ORACLES = {DIFFERENCES: lambda R: R @ A, STEPS: lambda R: abs(R @ A), SQUARES: lambda R: R**2}
every_map = pytest.mark.parametrize("features", ORACLES, ids=lambda features: features.name)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for kind in (Differences, Steps, Squares):
        monkeypatch.setitem(FEATURE_MAPS, kind.name, kind.read)


@pytest.fixture(scope="module")
def trained():
    """A function: the result of training on toy images with a map, and the splits."""
    made = {}

    def of(features, **options):
        key = features.name, *options.items()
        if key not in made:
            splits = toy_splits()
            made[key] = train(splits, replace(CONFIG, **options), features=features), splits
        return made[key]

    return of


def probabilities(model, features, R):
    """Softmax of ((F(R) - m) / s) W + b, in float64."""
    F = ORACLES[features](R.astype(np.float64))
    S = (F - model.standardizer.mean) / model.standardizer.scale @ model.layer.weights.astype(float) + model.layer.bias
    E = np.exp(S - S.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)


def saved(model, path):
    path.write_bytes(model.to_bytes())
    return Model.load(path)


class TestTraining:
    @every_map
    def test_is_training_on_a_data_set_of_features(self, features, trained):
        result, splits = trained(features)
        dataset = splits.dataset
        F = ORACLES[features](dataset.rows.astype(np.float64))
        vectors = replace(dataset, rows=F, image_shape=None)
        parts = {part.name: replace(part, dataset=vectors) for part in splits}
        of_features = replace(splits, **parts)
        W, b = plain_training(of_features, CONFIG)
        assert abs(W).max() > 0.05
        assert result.model.layer.weights == pytest.approx(W, abs=1e-10)
        assert result.model.layer.bias == pytest.approx(b, abs=1e-10)
        R, F = dataset.rows[splits.train.indices].astype(float), F[splits.train.indices]
        assert result.model.standardizer.mean == pytest.approx(F.mean(0), rel=1e-12, abs=1e-9)
        assert result.model.standardizer.scale[F.std(0) > 0] == pytest.approx(F.std(0)[F.std(0) > 0], rel=1e-10)
        assert result.model.of_rows.mean == pytest.approx(R.mean(0), rel=1e-12)
        assert result.model.of_rows.scale[R.std(0) > 0] == pytest.approx(R.std(0)[R.std(0) > 0], rel=1e-12)
        assert (result.model.image_shape, result.model.pixels) == (SHAPE, True)

    def test_in_float32_by_either_backend(self, trained):
        exact = trained(DIFFERENCES)[0].model.layer.weights
        for backend in ("numpy", "auto"):
            found = trained(DIFFERENCES, dtype="float32", backend=backend)[0].model.layer.weights
            assert found.dtype == np.float32
            assert found == pytest.approx(exact, abs=1e-5)

    def test_goes_on_to_the_same_bits(self, trained):
        whole, splits = trained(STEPS)
        half = train(splits, replace(CONFIG, epochs=2), features=STEPS)
        found = train(splits, CONFIG, features=STEPS, start=half.state)
        assert found.model.to_bytes() == whole.model.to_bytes()

    def test_the_identity_changes_no_bit(self):
        for shape, dtype in ((SHAPE, "uint8"), (None, "float32")):
            splits = toy_splits(image_shape=shape, dtype=dtype)
            for options in ({}, {"dtype": "float32", "backend": "auto", "flip": shape is not None}):
                config = replace(CONFIG, **options)
                plain, named = train(splits, config), train(splits, config, features=Identity(60))
                assert named.model.to_bytes() == plain.model.to_bytes()
                assert b"features" not in plain.model.to_bytes()
                assert coded(splits, Identity(60)) is splits

    def test_what_does_not_fit_is_refused(self, monkeypatch, tmp_path):
        cache = tmp_path / "cache"
        monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: cache)
        vectors = toy_splits(image_shape=None, dtype="float32")
        with pytest.raises(ConfigError, match=r"^toy: the features steps are for images of the shape \(3, 4, 5\), not"):
            train(vectors, CONFIG, features=STEPS)
        with pytest.raises(ConfigError, match=r"\(3, 4, 5\), not for images of the shape \(1, 12, 5\); choose a map"):
            train(toy_splits(image_shape=(1, 12, 5)), CONFIG, features=DIFFERENCES)
        with pytest.raises(ConfigError, match=r"^toy: the features squares are for rows of 59 numbers, not for 60"):
            train(vectors, CONFIG, features=Squares(59))
        with pytest.raises(ConfigError, match=r"flip needs images.* of toy as steps"):
            train(toy_splits(), replace(CONFIG, flip=True), features=STEPS)
        rows = vectors.dataset.rows.copy()
        rows[131, 4] = 1e30
        large = split(replace(vectors.dataset, rows=rows), SplitConfig())
        with pytest.raises(DataError, match=r"^toy as squares: row 131 has a feature that is not finite in float32$"):
            train(large, CONFIG, features=SQUARES)
        assert not [path for path in cache.rglob("*") if path.is_file()]

    def test_features_take_no_room_once_they_are_not_used(self, monkeypatch, tmp_path):
        monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path)
        splits = coded(toy_splits(n=1300), DIFFERENCES)  # in several blocks
        assert isinstance(splits.dataset.rows, np.memmap)
        assert splits.dataset.rows.dtype == np.float32
        assert (splits.dataset.rows == toy_dataset(n=1300).rows.astype(float) @ A).all()
        assert [part.dataset is splits.dataset for part in splits] == [True] * 3
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@every_map
def test_predict_and_evaluate(features, trained):
    result, splits = trained(features)
    R, labels = splits.test.rows(slice(None)), splits.test.labels
    P = probabilities(result.model, features, R)
    assert np.ptp(P, axis=0).min() > 0.3
    assert result.model.probabilities(R) == pytest.approx(P, abs=1e-12)
    assert result.model.probabilities(R.astype(np.float64).tolist()) == pytest.approx(P, abs=1e-12)
    assert result.model.logits(R[:0]).shape == (0, 4)
    evaluation = evaluate(result.model, splits.test)
    assert evaluation.loss == pytest.approx(-np.log(P[np.arange(len(R)), labels]).mean(), rel=1e-12)
    assert evaluation.accuracy == np.mean(P.argmax(axis=1) == labels) == result.scores["test"].accuracy > 0.5
    assert result.scores["test"].loss == pytest.approx(evaluation.loss, rel=1e-6)  # of features in float32
    with pytest.raises(DataError, match=r"rows have the shape \(1, 48\); this model needs \(n, 60\)"):
        result.model.logits(np.zeros((1, PAIRS)))


class TestFile:
    @every_map
    def test_is_read_back_the_same(self, features, trained, tmp_path):
        result, splits = trained(features)
        found = saved(result.model, tmp_path / "model")
        assert type(found.features) is type(features)
        assert found.to_bytes() == result.model.to_bytes()
        R = splits.test.rows(slice(None))
        np.testing.assert_array_equal(found.logits(R), result.model.logits(R))
        assert found.of_rows.mean.tobytes() == splits.standardizer.mean.tobytes()

    def test_what_it_holds(self, trained, tmp_path):
        saved(trained(DIFFERENCES)[0].model, tmp_path / "model")
        tensors, metadata = unpack(tmp_path / "model", kind="model", names=MODEL_ARRAYS)
        assert set(tensors) == {*MODEL_ARRAYS, "rows.mean", "rows.scale", "features.gains"}
        assert tensors["features.gains"].tobytes() == GAINS.tobytes()
        assert metadata["features"] == '{"shape": [3, 4, 5], "name": "differences"}'

    def test_a_map_that_is_not_known(self, trained, tmp_path, monkeypatch):
        model = trained(DIFFERENCES)[0].model
        saved(model, tmp_path / "model")
        monkeypatch.delitem(FEATURE_MAPS, "differences")
        known = "unit length, patches, onnx, function, steps, squares"
        with pytest.raises(ModelFileError, match=f"needs the features 'differences'; this onelayer has {known};"):
            Model.load(tmp_path / "model")
        with pytest.raises(ModelFileError, match="cannot be saved: its features differences are not in FEATURE_MAPS"):
            model.to_bytes()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"metadata": {"features": "{"}}, "the features are damaged"),
            ({"metadata": {"features": '["differences"]'}}, "the features are damaged"),
            ({"metadata": {"features": '{"name": []}'}}, "the features are damaged"),
            ({"metadata": {"features": '{"name": "differences"}'}}, "the features are damaged .*shape"),
            ({"metadata": {"features": '{"name": "\\u001b[1m"}'}}, r"needs the features '\\x1b\[1m'"),
            ({"metadata": {"features": '{"name": "squares", "d": 60}'}}, "squares do not fit weights for 48 features"),
            ({"metadata": {"features": '{"name": "differences", "shape": [1, 12, 5]}'}}, "are for images of the shape"),
            ({"metadata": {"image_shape": "[3, 5, 5]"}}, "rows of 60 numbers are not images"),
            ({"without": "features"}, "the features are damaged"),
            ({"without": "rows.mean"}, "the features are damaged .*rows.mean"),
            ({"without": "features.gains"}, "the features are damaged .*gains"),
            ({"tensors": {"rows.mean": np.zeros(48)}}, "differences do not fit weights for 48 features"),
            ({"tensors": {"rows.scale": np.zeros(60)}}, "differences do not fit weights for 48 features"),
            (
                {"tensors": {"features.gains": np.full(PAIRS, np.nan)}},
                "features.gains holds a number that is not",
            ),
            ({"tensors": {"gains": np.ones(PAIRS)}}, "holds .*'gains'.*, expected"),
        ],
    )
    def test_damage_is_one_line(self, change, words, trained, tmp_path):
        saved(trained(DIFFERENCES)[0].model, tmp_path / "model")
        tensors, metadata = unpack(tmp_path / "model", kind="model", names=MODEL_ARRAYS)
        tensors |= change.get("tensors", {})
        metadata |= change.get("metadata", {})
        for held in (tensors, metadata):
            held.pop(change.get("without"), None)
        (tmp_path / "model").write_bytes(pack(tensors, metadata, kind="model"))
        with pytest.raises(ModelFileError, match=words) as caught:
            Model.load(tmp_path / "model")
        assert "\n" not in str(caught.value)

    def test_a_model_of_a_map_needs_to_know_the_raw_rows(self, trained):
        model = trained(DIFFERENCES)[0].model
        with pytest.raises(ConfigError, match="a model of the features differences needs the mean and scale of the"):
            replace(model, row_standardizer=None)


class TestLinear:
    def test_the_layer_on_raw_rows_gives_the_same_answers(self, trained):
        result, splits = trained(DIFFERENCES)
        model, R = result.model, splits.test.rows(slice(None))
        flat = model.on_raw_rows
        assert isinstance(flat.features, Identity)
        assert flat.logits(R) == pytest.approx(model.logits(R), abs=1e-11)
        assert model.template_shape == flat.template_shape == SHAPE
        # One grey level more of a pixel adds its weight, divided by its scale: no map is known here.
        row = R[:1].astype(float)
        added = model.unchecked_logits(row + np.eye(60)) - model.unchecked_logits(row)
        weights = flat.layer.weights.T / flat.standardizer.scale  # (4, 60)
        assert weights == pytest.approx(added.T, abs=1e-10)
        assert abs(added).max() > 1e-3

    def test_with_the_identity_it_is_the_model(self):
        model = train(toy_splits(), CONFIG).model
        assert model.on_raw_rows is model
        assert model.template_shape == SHAPE
        assert replace(model, image_shape=None).template_shape is None

    def test_explanation(self, trained):
        result, splits = trained(DIFFERENCES)
        model = result.model
        V = A @ (model.layer.weights / model.standardizer.scale[:, np.newaxis])  # (60, 4)
        for row in splits.test.rows(slice(0, 5)):
            found = explain(model, row)
            R = row.astype(float)
            expected = (R - splits.standardizer.mean) * V[:, found.classes].T
            assert found.contributions == pytest.approx(expected, abs=1e-11)
            assert abs(expected).max() > 0.05
            assert found.logits == pytest.approx(model.logits(row[np.newaxis])[0, found.classes], abs=1e-11)
            np.testing.assert_array_equal(found.probabilities, model.probabilities(row[np.newaxis])[0, found.classes])
        at_mean = explain(model, splits.standardizer.mean)
        assert (at_mean.contributions == 0).all()

    def test_templates_are_drawn_and_weights_are_not(self, trained):
        result, splits = trained(DIFFERENCES)
        evaluation = evaluate(result.model, splits.test)
        pictures = dict(figures_of_run(result.state.history, result.model, splits.test, evaluation, "toy"))
        assert set(pictures) == set(PICTURES) - {"weights", "patches"}
        drawn = [np.asarray(image.get_array()) for image in pictures["templates"].axes[0].images]
        expected = result.model.on_raw_rows.layer.weights[:, 0].reshape(SHAPE).transpose(1, 2, 0)
        expected = (expected - expected.min()) / np.ptp(expected)
        assert drawn[0].shape == (4, 5, 3)
        assert drawn[0] == pytest.approx(expected, abs=1e-6)


class TestNotLinear:
    def test_there_is_no_layer_on_raw_rows_and_no_template(self, trained):
        result, splits = trained(STEPS)
        with pytest.raises(DataError, match="the features steps are not linear in the rows, so they have no weights"):
            result.model.on_raw_rows  # noqa: B018
        assert result.model.template_shape is None
        evaluation = evaluate(result.model, splits.test)
        pictures = dict(figures_of_run(result.state.history, result.model, splits.test, evaluation, "toy"))
        without = {"templates", "templates_signed", "patches"}
        assert set(pictures) == set(PICTURES) - without  # mistakes are still images
        words = " ".join(text.get_text() for text in pictures["weights"].texts).replace("\n", " ")
        assert "The features steps are neither linear in the pixels nor responses to patches, so they have no" in words

    def test_explanation_by_the_map(self, trained):
        result, splits = trained(STEPS)
        model, row = result.model, splits.test.rows(slice(3, 4))
        x = (abs(row.astype(float) @ A)[0] - model.standardizer.mean) / model.standardizer.scale
        found = explain(model, row[0])
        for terms, k in zip(found.contributions, found.classes, strict=True):
            expected = np.zeros(60)
            for pair in range(PAIRS):
                expected[np.flatnonzero(A[:, pair])] += x[pair] * model.layer.weights[pair, k] / 2
            assert terms == pytest.approx(expected, abs=1e-12)
        assert found.logits == pytest.approx(model.logits(row)[0, found.classes], abs=1e-12)
        assert abs(found.contributions).max() > 0.05

    def test_a_map_that_defines_no_more_than_it_must_refuses_in_words(self, trained, tmp_path):
        result, splits = trained(SQUARES)
        with pytest.raises(DataError, match="the features squares cannot be traced back to the numbers of a row"):
            explain(result.model, splits.test.rows(slice(0, 1))[0])
        with pytest.raises(DataError, match="LogisticRegression is linear, the features squares are not; export the m"):
            to_logistic_regression(result.model)
        with pytest.raises(DataError, match="the features squares cannot be exported for NumPy"):
            write(result.model, tmp_path / "model.py")
        pytest.importorskip("onnx")
        with pytest.raises(DataError, match="the features squares cannot be exported for ONNX"):
            write(result.model, tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())


class TestExport:
    @pytest.mark.parametrize("features", [DIFFERENCES, STEPS], ids=["linear", "not linear"])
    def test_onnx(self, features, trained):
        onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        result, splits = trained(features)
        content, R = to_onnx(result.model), splits.test.rows(slice(None))
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", *SHAPE])
        found = session.run(["probabilities"], {"images": R.reshape(-1, *SHAPE)})[0]
        assert found == pytest.approx(probabilities(result.model, features, R), abs=ROUNDING)

    @pytest.mark.parametrize("features", [DIFFERENCES, STEPS], ids=["linear", "not linear"])
    def test_numpy(self, features, trained, tmp_path):
        result, splits = trained(features)
        R = splits.test.rows(slice(None))
        write(result.model, tmp_path / "model.py")
        script = runpy.run_path(str(tmp_path / "model.py"))
        assert script["probabilities"](R) == pytest.approx(probabilities(result.model, features, R), abs=1e-12)
        with pytest.warns(UserWarning, match="lie in 0 to 1"):
            script["probabilities"](R / 255)
        text, numbers = to_numpy(result.model)
        assert "onelayer" not in text.replace("# onelayer export", "").replace("what onelayer learned", "")
        np.testing.assert_array_equal(np.load(io.BytesIO(numbers))["mean"], splits.standardizer.mean)
        kept = {"bias", "class_names", "mean", "scale", "weights"}
        assert set(np.load(io.BytesIO(numbers)).files) == kept | ({"features.matrix"} if features is STEPS else set())
        assert re.search(r"^rows.npy holds rows \(n, 60\): pixels 0 to 255 of images", text, re.MULTILINE)

    def test_scikit_learn(self, trained):
        result, splits = trained(DIFFERENCES)
        R = splits.test.rows(slice(None))
        found = to_logistic_regression(result.model).predict_proba(R)
        assert found == pytest.approx(probabilities(result.model, DIFFERENCES, R), abs=1e-10)


class TestUnits:
    """Doubts are about raw rows, so a map must not change them."""

    @every_map
    def test_pixels(self, features, trained):
        result, splits = trained(features)
        R = splits.test.rows(slice(None))
        for rows in (R, R.astype(float), 255 - R, R[:1]):
            assert result.model.doubt(rows) is None
        assert isinstance(result.model.doubt(R / 255), UnitWarning)
        with pytest.warns(UnitWarning, match="multiply the rows by 255"):
            result.model.probabilities(R / 255)

    def test_vectors(self):
        rng = np.random.default_rng(0)
        rows = rng.normal(1000, 3, (200, 6)).astype(np.float32)
        splits = split(Dataset(rows, np.arange(200) % 2, ("a", "b"), None, "far"), SplitConfig())
        model = train(splits, replace(CONFIG, epochs=1), features=Squares(6)).model
        assert model.doubt(rows) is None
        # Numbers that would be usual features, and are not usual rows.
        assert str(model.doubt(rows.astype(float) ** 2)) == FAR_OFF


@pytest.fixture(params=[DIFFERENCES, STEPS], ids=["linear", "not linear"])
def run_of_images(request, trained, tmp_path):
    """A run directory of a model with a map, its result, its splits, and an image to classify."""
    from PIL import Image

    features = request.param
    dataset = toy_dataset()
    images = dataset.rows.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "toy.npz", images=images, labels=dataset.labels)
    splits = load_splits(str(tmp_path / "toy.npz"), SplitConfig())
    result = train(splits, CONFIG, features=features)
    run = Run.create(tmp_path / "run")
    run.write_result(Plan(CONFIG, SplitConfig(), splits.dataset.source, splits.dataset.fingerprint), splits, result)
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    return run, result, splits, dataset.rows[:1]


def test_every_command_that_reads_a_run(run_of_images, run_cli, tmp_path):
    pytest.importorskip("onnx")
    _, result, splits, row = run_of_images
    model = result.model
    accuracy = evaluate(model, splits.test).estimates["accuracy"].number()
    code, out, err = run_cli("evaluate", "run")
    assert (code, err) == (0, "")
    assert accuracy in out
    likeliest = model.class_names[model.logits(row)[0].argmax()]
    code, out, err = run_cli("predict", "run", "image.png", "--top", "1")
    assert (code, err) == (0, "")
    assert f"{likeliest} " in out
    assert f"{100 * model.probabilities(row).max():.2f} %" in out
    for command in (
        ["explain", "run", "image.png", "-o", "why.png"],
        ["export", "run", "model.onnx"],
        ["figures", "run"],
        ["report", "run", "-o", "report.html"],
    ):
        code, _, err = run_cli(*command)
        assert (code, err) == (0, ""), command
    drawn = {file.stem for file in (tmp_path / "run").glob("*.png")}
    page = (tmp_path / "report.html").read_text()
    without = {"patches", *(["weights"] if model.features.linear else ["templates", "templates_signed"])}
    assert drawn == set(PICTURES) - without
    assert ("steps are neither linear in the pixels" in page) != model.features.linear
    assert '<section aria-labelledby="patches">' not in page
    for section in ("templates", "formed", "weights", "mistakes"):
        expected = section == "mistakes" or (section == "weights") != model.features.linear
        assert (f'<section aria-labelledby="{section}">' in page) == expected
    assert re.search('alt="[0-9]+ images? of [0-3], ', page)
    if model.features.linear:
        assert "it ended with the same bits" in page


def test_a_command_that_a_map_refuses_is_one_line(trained, run_cli, tmp_path):
    result, splits = trained(SQUARES)
    run = Run.create(tmp_path / "run")
    run.write_result(Plan(CONFIG, SplitConfig(), "toy", splits.dataset.fingerprint), splits, result)
    from PIL import Image

    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "image.png")
    assert_one_line(run_cli("explain", "run", "image.png"), "squares cannot be traced back to the numbers of a row")
    assert_one_line(run_cli("export", "run", "model.joblib"), "squares are not; export the model for ONNX or NumPy")
