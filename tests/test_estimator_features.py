"""SoftmaxClassifier on features: the same bits as the engine and the command, and one line for what it refuses."""

import pickle

import numpy as np
import pytest
from networks import DIMENSIONS, written
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from onelayer import Model, OnelayerError, SoftmaxClassifier, SplitConfig, TrainConfig, train
from onelayer.cli.main import run_command
from onelayer.data import load_splits
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.map import FeatureMap
from onelayer.features.patches import Patches
from onelayer.runs.directory import Run

SHAPE = 1, 12, 14
SETTINGS = {"learning_rate": 0.02, "epochs": 3, "l2": 0.01}


def stripes(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are images of stripes, whose direction is the label, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    waves = np.stack([np.sin(x), np.sin(y), np.sin(x + y)])
    images = 128 + 30 * waves[labels] + rng.normal(0, 50, (n, *SHAPE[1:]))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8).reshape(n, -1), labels


def divided(X: np.ndarray, y: np.ndarray) -> Splits:
    dataset = Dataset(X, y, ("0", "1", "2"), SHAPE, "stripes")
    places = {"train": np.arange(len(X)), "validation": np.arange(0), "test": np.arange(0)}
    return Splits(**{name: Split(name, dataset, at) for name, at in places.items()}, protocol="all")


class Waves(FeatureMap):
    name, image_shape, d_in, d_out, linear = "waves", None, 168, 168, False

    def transform(self, R):
        return np.cos(R.astype(np.float64) / 40)


@pytest.mark.parametrize("settings", [SETTINGS, {"solver": "converged", "l2": 0.1}])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_patches_have_the_same_bits_as_the_engine(settings, dtype):
    X, y = stripes()
    result = train(divided(X, y), TrainConfig(**settings, seed=7, features="patches:6", features_seed=2))
    clf = SoftmaxClassifier(**settings, random_state=7, image_shape=SHAPE, features="patches:6", features_seed=2)
    clf.fit(X.astype(dtype), y)
    assert clf.model_.to_bytes() == result.model.to_bytes()
    drawn = Patches.drawn(X, np.arange(len(X)), SHAPE, filters=6, seed=2)
    by_map = clone(clf).set_params(features=drawn, features_seed=0).fit(X, y)
    assert by_map.model_.to_bytes() == result.model.to_bytes()
    assert clf.model_.features.views == 5
    assert clf.coef_.shape == (3, drawn.d_out)
    codes = drawn.transform(X).reshape(len(X), 5, -1).mean(axis=1)
    assert clf.decision_function(X) == pytest.approx(codes @ clf.coef_.T + clf.intercept_, abs=1e-6)
    X_test, y_test = stripes(seed=1)
    assert clf.score(X_test, y_test) > 0.8
    np.testing.assert_array_equal(clf.predict(X_test), result.model.logits(X_test).argmax(axis=1))


def test_patches_have_the_same_bits_as_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = stripes()
    np.savez("stripes.npz", X=X.reshape(90, *SHAPE[1:]), y=y)
    words = "train --data stripes.npz --features patches:5 --learning-rate 0.02 --l2 0.01 --epochs 3 --seed 9 --quiet"
    run_command([*words.split(), "--no-figures", "--out", "run"])
    rows = load_splits("stripes.npz", SplitConfig()).train
    clf = SoftmaxClassifier(**SETTINGS, random_state=9, image_shape=SHAPE, features="patches:5")
    clf.fit(rows.rows(slice(None)), rows.labels)
    model = Run.open("run").model
    assert clf.model_.layer.weights.tobytes() == model.layer.weights.tobytes()
    assert clf.model_.layer.bias.tobytes() == model.layer.bias.tobytes()
    assert abs(model.layer.weights).max() > 1e-3


def test_rows_held_out_and_weights_of_0_draw_no_filters():
    X, y = stripes()
    weights = np.ones(90)
    weights[::4] = 0
    clf = SoftmaxClassifier(**SETTINGS, random_state=0, image_shape=SHAPE, features="patches:5").fit(X, y, weights)
    kept = clone(clf).fit(X[weights > 0], y[weights > 0])
    assert clf.model_.features.tensors()["bias.4"].tolist() == kept.model_.features.tensors()["bias.4"].tolist()
    assert clf.model_.layer.weights == pytest.approx(kept.model_.layer.weights, rel=1e-4, abs=1e-6)
    stopped = clone(clf).set_params(epochs="auto", early_stopping=True).fit(X, y)
    assert stopped.history_["validation_accuracy"].max() > 0.6
    assert stopped.model_.features.tensors()["bias.4"].tolist() != kept.model_.features.tensors()["bias.4"].tolist()


def test_a_map_of_ones_own_and_rows_that_are_not_images():
    X, y = stripes()
    result = train(divided(X, y), TrainConfig(**SETTINGS, seed=1), features=Waves())
    for rows in (X, X.astype(np.float64)):
        clf = SoftmaxClassifier(**SETTINGS, random_state=1, features=Waves()).fit(rows, y)
        assert clf.model_.layer.weights.tobytes() == result.model.layer.weights.tobytes()
    plain = clone(clf).set_params(standardize=False).fit(X, y)
    assert plain.model_.standardizer.scale.tolist() == [1] * 168
    assert plain.decision_function(X) == pytest.approx(np.cos(X / 40) @ plain.coef_.T + plain.intercept_, abs=1e-5)


def mean_colours(images):
    return images.reshape(len(images), 6, -1).mean(axis=2)


def test_a_function_of_images():
    X, y = stripes()
    result = train(divided(X, y), TrainConfig(**SETTINGS, seed=1), features=mean_colours)
    for rows in (X, X.astype(np.float64)):
        clf = SoftmaxClassifier(**SETTINGS, random_state=1, image_shape=SHAPE, features=mean_colours).fit(rows, y)
        assert clf.model_.layer.weights.tobytes() == result.model.layer.weights.tobytes()
    assert clf.coef_.shape == (3, 6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))


def test_an_encoder_in_a_file(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    X, y = stripes()
    word = f"onnx:{written(tmp_path)}"
    result = train(divided(X, y), TrainConfig(**SETTINGS, seed=1, features=word))
    clf = SoftmaxClassifier(**SETTINGS, random_state=1, image_shape=SHAPE, features=word).fit(X, y)
    assert clf.model_.to_bytes() == result.model.to_bytes()
    assert clf.coef_.shape == (3, DIMENSIONS)


def test_rows_that_are_not_pixels_are_a_value_error_in_predict():
    X, y = stripes()
    clf = SoftmaxClassifier(epochs=1, random_state=0, image_shape=SHAPE, features="patches:5").fit(X, y)
    with pytest.raises(ValueError, match="the features patches are of pixels"):
        clf.predict(X + 0.5)


def test_in_a_search_a_pickle_and_a_file(tmp_path):
    X, y = stripes()
    clf = SoftmaxClassifier(**SETTINGS, random_state=0, image_shape=SHAPE)
    search = GridSearchCV(clf, {"features": ["none", "patches:8"]}, cv=2).fit(X, y)
    assert search.best_params_ == {"features": "patches:8"}
    best = search.best_estimator_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(best)).predict_proba(X), best.predict_proba(X))
    best.model_.save(tmp_path / "m.safetensors")
    assert Model.load(tmp_path / "m.safetensors").probabilities(X) == pytest.approx(best.predict_proba(X), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "X", "words"),
    [
        ({"features": "patches"}, None, "features needs image_shape: channels, height and width of the images"),
        ({"features": "patch", "image_shape": SHAPE}, None, "features 'patch' is not none, patches, patches:K with"),
        ({"features": mean_colours}, None, "a function takes images as features, and the rows are not images"),
        ({"features": "onnx:no.onnx", "image_shape": SHAPE}, None, "no.onnx"),
        ({"features": 3}, None, "features is of the type int; pass a word such as 'patches', a function of"),
        ({"features": Waves(), "flip": True, "image_shape": SHAPE}, None, "flip needs images"),
        ({"features": "patches", "image_shape": SHAPE}, np.zeros((9, 168)), "the images are too plain for 128"),
        ({"features": "patches", "image_shape": SHAPE}, np.full((9, 168), 0.5), "features patches are of pixels"),
        ({"features": "patches", "features_seed": -1, "image_shape": SHAPE}, None, "features seed -1 is not a whole"),
        ({"features": Waves(), "warm_start": True}, None, "warm_start takes no features, .*; set it to False"),
        ({"features": Waves()}, np.zeros((9, 5)), "are for rows of 168 numbers, not for 5 numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(settings, X, words):
    X = stripes(9)[0] if X is None else X
    with pytest.raises(ValueError, match=words) as caught:
        SoftmaxClassifier(**settings).fit(X, np.arange(9) % 3)
    assert isinstance(caught.value, OnelayerError)
    assert "\n" not in str(caught.value)


def test_training_in_parts_takes_no_features():
    X, y = stripes()
    clf = SoftmaxClassifier(features=Waves(), epochs=1)
    with pytest.raises(ValueError, match=r"partial_fit takes no features, .* of one fit; call fit$"):
        clf.partial_fit(X, y, classes=[0, 1, 2])
    clf.fit(X, y).set_params(features=None)
    with pytest.raises(ValueError, match="partial_fit takes no features"):
        clf.partial_fit(X, y)
    with pytest.raises(ValueError, match="warm_start takes no features"):
        clf.set_params(warm_start=True).fit(X, y)
    clf.set_params(warm_start=False).fit(X, y).partial_fit(X, y)
