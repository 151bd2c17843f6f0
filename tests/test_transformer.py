"""PatchFeatures against scikit-learn's own checks and the map that it fits, and in a pipeline."""

import doctest
import pickle
import runpy

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from onelayer import Model, OnelayerError, OnelayerWarning, PatchFeatures, SoftmaxClassifier, transformer
from onelayer.errors import ConfigError, DataError
from onelayer.export import write
from onelayer.features.map import UnitLength
from onelayer.features.patches import Patches
from onelayer.transformer import model_of

SHAPE = 3, 10, 9
NOT_AN_IMAGE = "one number is not an image, and the error says so in other words"


def images(n: int = 30, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


def as_images(estimator: object, X: np.ndarray, X_test: np.ndarray | None = None, **kernel: object) -> object:
    """Return the rows of one of scikit-learn's checks as images of 7 x 7 pixels, in which they are repeated."""

    def of(X: np.ndarray) -> np.ndarray:
        spread = float(X.max() - X.min())
        levels = np.rint((X - X.min()) * (255 / spread if spread else 0)).astype(X.dtype)
        return np.ascontiguousarray(np.tile(levels, (1, -(-49 // X.shape[1])))[:, :49])

    return of(X) if X_test is None else (of(X), of(X_test))


@parametrize_with_checks(
    [PatchFeatures(n_filters=3, image_shape=(1, 7, 7), mirror=True)],
    expected_failed_checks=lambda estimator: {"check_fit2d_1feature": NOT_AN_IMAGE},
    xfail_strict=True,
)
def test_scikit_learns_own_checks(estimator, check, monkeypatch):
    monkeypatch.setattr(estimator_checks, "_enforce_estimator_tags_X", as_images)
    check(estimator)


@pytest.mark.parametrize("mirror", [None, False])
@pytest.mark.parametrize("views", [1, 5])
def test_features_are_means_over_the_views_of_the_map(mirror, views):
    X = images()
    rows = X.reshape(len(X), -1)
    fitted = PatchFeatures(6, views=views, mirror=mirror, image_shape=SHAPE, random_state=3).fit(rows)
    patches = Patches.drawn(rows, np.arange(len(rows)), SHAPE, filters=6, seed=3, mirror=mirror, views=views)
    for name, tensor in patches.tensors().items():
        np.testing.assert_array_equal(fitted.patches_.tensors()[name], tensor)
    codes = patches.transform(rows).reshape(len(rows), views, -1).astype(np.int64)
    F = fitted.transform(rows)
    assert F.dtype == np.float32
    np.testing.assert_array_equal(F, (codes.sum(axis=1) / views).astype(np.float32))
    assert (F % 1 != 0).any() == (views == 5), "means are not rounded"
    assert F.std(axis=0).min() > 0
    assert fitted.get_feature_names_out().tolist() == [f"patchfeatures{j}" for j in range(patches.d_out)]


def test_images_may_have_their_channels_first_or_last_or_be_rows():
    X = images()
    rows = X.reshape(len(X), -1)
    expected = PatchFeatures(4, image_shape=SHAPE).fit_transform(rows)
    for given in (X, X.transpose(0, 2, 3, 1), X.astype(float), X.transpose(0, 2, 3, 1).tolist()):
        fitted = PatchFeatures(4)
        np.testing.assert_array_equal(fitted.fit_transform(given), expected)
        assert fitted.n_features_in_ == 270
        np.testing.assert_array_equal(fitted.transform(rows), expected)
    grey = images(shape=(10, 9))
    flat = PatchFeatures(4, image_shape=(1, 10, 9)).fit_transform(grey.reshape(30, -1))
    for given in (grey, grey[..., None], grey[:, None]):
        np.testing.assert_array_equal(PatchFeatures(4).fit_transform(given), flat)


def test_many_images_and_one_image_have_the_same_features():
    X = images(600, (10, 9))
    fitted = PatchFeatures(4).fit(X[:50])
    F = fitted.transform(X)
    for place in (0, 51, 599):
        np.testing.assert_array_equal(fitted.transform(X[place : place + 1])[0], F[place])


@pytest.mark.parametrize(
    ("settings", "X", "words"),
    [
        ({"n_filters": 0}, images(), "n_filters == 0, must be >= 1"),
        ({"views": 3}, images(), "views 3 is not 5 or 1"),
        ({"mirror": "auto"}, images(), "mirror 'auto' is not True, False or None"),
        ({"random_state": "one"}, images(), "'one' cannot be used to seed"),
        ({}, images().reshape(30, -1), r"rows of 270 numbers need image_shape: .* or pass X as images \(n, h, w\)"),
        ({"image_shape": (3, 4)}, images().reshape(30, -1), r"image_shape \(3, 4\) is not channels, height and width"),
        ({"image_shape": (3, 9, 10)}, images(), r"X holds images of the shape \(3, 10, 9\), not \(3, 9, 10\); pass"),
        ({}, images(shape=(4, 10, 9)), r"X has the shape \(30, 4, 10, 9\); images have 1 or 3 channels, first or last"),
        ({}, images() / 255, "the features patches are of pixels, whole numbers from 0 to 255"),
        ({}, images() * 2.0, "the features patches are of pixels, whole numbers from 0 to 255"),
        ({}, images() - 300.0, "Negative values in data passed to .*PatchFeatures"),
        ({}, np.full((9, 8, 8), np.nan), "Input X contains NaN"),
        ({}, np.zeros((9, 8, 8)), "the images are too plain for 128 filters"),
        ({}, images(shape=(2, 2)), "images of 2 x 2 pixels are smaller than a patch"),
        ({"n_filters": 500}, images(1, (8, 8)), "have 36 patches of 3 x 3, too few for 500 filters"),
    ],
)
def test_what_does_not_fit_is_a_value_error(settings, X, words):
    with pytest.raises(ValueError, match=words):
        PatchFeatures(**settings).fit(X)


def test_other_images_than_those_of_fit_are_refused():
    fitted = PatchFeatures(4).fit(images())
    with pytest.raises(OnelayerError, match=r"shape \(3, 9, 10\), not \(3, 10, 9\)"):
        fitted.transform(images(shape=(3, 9, 10)))
    with pytest.raises(ValueError, match="X has 90 features, but PatchFeatures is expecting 270 features"):
        fitted.transform(images(shape=(1, 10, 9)))


def test_in_a_pipeline_and_a_search():
    digits = load_digits()
    X, y = (digits.images * 255 / 16).round().astype(np.uint8)[:600], digits.target[:600]
    settings = {"epochs": 30, "random_state": 0}
    pipeline = make_pipeline(PatchFeatures(), SoftmaxClassifier(**settings))
    search = GridSearchCV(pipeline, {"patchfeatures__n_filters": [1, 16]}, cv=2).fit(X, y)
    assert search.best_params_ == {"patchfeatures__n_filters": 16}
    best = search.best_estimator_
    assert cross_val_score(best, X, y, cv=2).mean() == search.best_score_ > 0.85
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict_proba(X), best.predict_proba(X))


@pytest.fixture(scope="module")
def fitted():
    """Images, and a pipeline that was trained on them, with labels that are words, and five views."""
    X = images(60, (1, 10, 9))
    X[::2, :, :5] //= 3
    X[::3, :, :, :4] //= 4
    y = np.array(["even", "odd", "other"])[np.arange(60) % 2 + (np.arange(60) % 3 == 0)]
    return X, make_pipeline(PatchFeatures(6), SoftmaxClassifier(epochs=20, random_state=0)).fit(X, y)


def test_a_pipeline_becomes_a_model_that_answers_the_same(fitted, tmp_path):
    X, pipeline = fitted
    model = model_of(pipeline)
    model.save(tmp_path / "model.safetensors")
    expected = pipeline.predict_proba(X)
    assert expected.std(axis=0).min() > 0.1
    for one in (model, Model.load(tmp_path / "model.safetensors")):
        assert one.class_names == ("even", "odd", "other")
        assert (one.image_shape, one.pixels, one.features.views) == ((1, 10, 9), True, 5)
        np.testing.assert_allclose(one.probabilities(X.reshape(60, -1)), expected, atol=1e-5)
    with pytest.warns(OnelayerWarning, match="multiply the rows by 255"), pytest.raises(DataError, match="whole num"):
        model.warn_of(X.reshape(60, -1) / 255)
        model.logits(X.reshape(60, -1) / 255)


def test_a_pipeline_is_exported_for_onnx_and_numpy(fitted, tmp_path):
    X, pipeline = fitted
    expected = pipeline.predict_proba(X)
    write(model_of(pipeline), tmp_path / "predict.py")
    exported = runpy.run_path(str(tmp_path / "predict.py"))
    alike = np.abs(exported["probabilities"](X) - expected).max(axis=1) < 1e-5
    assert alike.mean() > 0.95  # in the others, a code differs by a grey level
    labels = exported["class_names"][exported["logits"](X).argmax(axis=1)]
    np.testing.assert_array_equal(labels[alike], pipeline.predict(X)[alike])
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    (file,) = write(model_of(pipeline), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    P, labels, _ = session.run(None, {"images": X})
    alike = np.abs(P - expected).max(axis=1) < 1e-5
    assert alike.mean() > 0.95
    np.testing.assert_array_equal(pipeline.classes_[labels][alike], pipeline.predict(X)[alike])


@pytest.mark.parametrize(
    ("pipeline", "found"),
    [
        (make_pipeline(StandardScaler(), SoftmaxClassifier()), "StandardScaler and SoftmaxClassifier"),
        (make_pipeline(PatchFeatures(), StandardScaler(), SoftmaxClassifier()), "PatchFeatures and StandardScaler and"),
        (make_pipeline(PatchFeatures(), LogisticRegression()), "PatchFeatures and LogisticRegression"),
        (SoftmaxClassifier(), "SoftmaxClassifier"),
    ],
)
def test_a_pipeline_of_other_steps_is_refused(pipeline, found):
    words = f"a Pipeline of PatchFeatures and SoftmaxClassifier, and nothing else, becomes a model; this is {found}"
    with pytest.raises(ConfigError, match=words):
        model_of(pipeline)


def test_a_classifier_with_features_of_its_own_is_refused(fitted):
    X, pipeline = fitted
    d = pipeline[0].patches_.d_out
    both = make_pipeline(PatchFeatures(6), SoftmaxClassifier(epochs=1, features=UnitLength(d))).fit(
        X, np.arange(60) % 2
    )
    with pytest.raises(ConfigError, match="the classifier has features of its own, unit length; leave one of both out"):
        model_of(both)


def test_a_pipeline_that_is_not_fitted_is_refused():
    with pytest.raises(ConfigError, match="the pipeline is not fitted; call its method fit first"):
        model_of(make_pipeline(PatchFeatures(), SoftmaxClassifier()))


def test_the_example_says_what_it_prints():
    results = doctest.testmod(transformer)
    assert results.attempted > 5
    assert results.failed == 0
