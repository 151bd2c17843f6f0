"""A function of Python as a feature map: it is trained on, and it is not in the model file."""

import functools

import numpy as np
import pytest
from helpers import toy_dataset, toy_splits

from onelayer import Model, evaluate, train
from onelayer.config import TrainConfig
from onelayer.errors import ConfigError, DataError, ModelFileError
from onelayer.features.function import Function
from onelayer.features.registry import FEATURE_MAPS

SHAPE = (3, 4, 5)
CONFIG = TrainConfig(epochs=20, learning_rate=0.05)
NOISE = np.random.default_rng(4)
A = np.random.default_rng(3).normal(size=(60, 9))


def embed(images):
    """Codes of images (n, h, w, c): |R A| with R in the order of rows, columns, channels."""
    assert (images.dtype, images.shape[1:], images.flags.c_contiguous) == (np.uint8, (4, 5, 3), True)
    return abs(images.reshape(len(images), -1) / 255 @ A)


def expected(R):
    return abs(R.reshape(-1, *SHAPE).transpose(0, 2, 3, 1).reshape(-1, 60) / 255 @ A)


class Encoder:
    cache_name = "random products, 9"

    def __call__(self, images):
        return embed(images).tolist()


@pytest.fixture(scope="module")
def trained():
    splits = toy_splits()
    return train(splits, CONFIG, features=embed), splits


def test_its_codes_are_the_features(trained):
    result, splits = trained
    R = toy_dataset(n=200).rows
    codes = result.model.features.transform(R)
    assert codes.dtype == np.float32
    assert codes == pytest.approx(expected(R), rel=1e-6)
    np.testing.assert_array_equal(Function.of(Encoder(), SHAPE).transform(R.astype(float)), codes)
    F = expected(splits.train.rows(slice(None)))
    assert result.model.standardizer.mean == pytest.approx(F.mean(axis=0), rel=1e-6)
    assert evaluate(result.model, splits.test).accuracy == result.scores["test"].accuracy > 0.5


def test_codes_may_be_kept_by_a_name():
    named, plain = Function.of(Encoder(), SHAPE), Function.of(embed, SHAPE)
    assert (named.keyed, named.facts()["label"], named.where) == (True, "random products, 9", "the function Encoder")
    assert (plain.keyed, plain.facts()["label"], plain.where) == (False, "", "the function embed")
    assert Function.of(functools.partial(embed), SHAPE).where == "the function partial"

    class Badly(Encoder):
        cache_name = "a\nb"

    with pytest.raises(ConfigError, match=r"^cache_name is 'a\\nb'; give a name that can be printed, or none$"):
        Function.of(Badly(), SHAPE)


def test_the_file_does_not_hold_it_and_says_so(trained, tmp_path):
    result, splits = trained
    path = tmp_path / "model.safetensors"
    result.model.save(path)
    words = r"model.safetensors: needs the function embed, which no model file holds; in Python, pass it: Model.load"
    with pytest.raises(ModelFileError, match=words):
        Model.load(path)
    R = splits.test.rows(slice(None))
    found = Model.load(path, function=embed)
    np.testing.assert_array_equal(found.logits(R), result.model.logits(R))
    assert found.to_bytes() == result.model.to_bytes()
    with pytest.raises(DataError, match=r"the function <lambda>: returns 2 numbers an image; the model needs 9$"):
        Model.load(path, function=lambda images: embed(images)[:, :2])
    train(splits, CONFIG).model.save(path)
    with pytest.raises(ConfigError, match=r"was not trained with a function; load it without one$"):
        Model.load(path, function=embed)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda images: embed(images) * np.nan, "a number for image 0 of 7 is not finite; correct the encoder"),
        (lambda images: embed(images)[:1], r"returned the shape \(1, 9\) for 7 images; expected \(7, 9\)"),
        (lambda images: embed(images).ravel(), r"returned the shape \(63,\) for 7 images; expected \(7, 63\)"),
        (lambda images: embed(images)[:, :0], r"returned the shape \(7, 0\) for 7 images; expected \(7, d\)"),
        (lambda images: embed(images) * 1e300, "a number for image 0 of 7 is not finite; correct the encoder"),
        (lambda images: [["a"]], r"did not return numbers \(could not convert string to float: 'a'\); return an array"),
        (lambda images: [[1], [1, 2]], r"did not return numbers \(.*inhomogeneous.*\); return an array of NumPy"),
        (lambda images: 3.0, r"returned the shape \(\) for 7 images; expected \(7, d\)"),
        (lambda images: embed(images) - embed(images).mean(axis=0), r"by themselves than in a batch of 7 \(by "),
        (lambda images: embed(images)[:, : 1 + len(images)], r"returned the shape \(1, 2\) for 1 images; expected"),
        (lambda images, rng=NOISE: embed(images) + rng.random(), "the second time; make it compute"),
    ],
)
def test_a_function_that_is_refused(function, words):
    with pytest.raises(DataError, match=f"^the function <lambda>: .*{words}"):
        Function.of(function, SHAPE)


def test_images_that_the_function_changes_stay_as_they_are():
    def brightened(images):
        images //= 2
        return images.reshape(len(images), -1)

    R = np.random.default_rng(0).integers(0, 256, (70, 20), np.uint8)
    encoder, before = Function.of(brightened, (1, 4, 5)), R.copy()
    np.testing.assert_array_equal(encoder.transform(R), before // 2)
    np.testing.assert_array_equal(R, before)


def test_an_array_that_the_function_fills_again_and_again():
    buffer = np.empty((64, 9), np.float32)

    def embed_into_buffer(images):
        np.copyto(buffer[: len(images)], embed(images))
        return buffer[: len(images)]

    R = toy_dataset(n=200).rows
    encoder = Function.of(embed_into_buffer, SHAPE)
    assert encoder.transform(R) == pytest.approx(expected(R), rel=1e-6)


def test_no_rows_have_no_codes():
    assert Function.of(embed, SHAPE).transform(np.empty((0, 60), np.uint8)).shape == (0, 9)


def test_codes_that_change_later():
    d = 9
    encoder = Function.of(lambda images: embed(images)[:, :d], SHAPE)
    R = toy_dataset(n=100).rows
    assert encoder.transform(R).shape == (100, 9)
    d = 8
    with pytest.raises(DataError, match=r"^the function .*: returned the shape \(100, 8\) for 100 images; expected"):
        encoder.transform(R)


def test_rows_that_it_cannot_take():
    with pytest.raises(ConfigError, match="a function takes images as features, and the rows are not images; pass"):
        train(toy_splits(image_shape=None, dtype="float32"), CONFIG, features=embed)
    with pytest.raises(
        DataError, match=r"^the features function are of pixels, whole numbers from 0 to 255; pass rows"
    ):
        Function.of(embed, SHAPE).transform(np.full((1, 60), 0.5))
    with pytest.raises(ConfigError, match=r"features is of the type int; pass .*a function of images"):
        train(toy_splits(), CONFIG, features=3)


@pytest.mark.parametrize(
    "change",
    [{"function": "a\nb"}, {"function": ""}, {"label": 3}, {"label": "a\n"}, {"shape": [3, 4]}, {"numbers": 0}],
)
def test_facts_that_make_no_sense(change):
    facts = Function.of(embed, SHAPE).facts()
    assert FEATURE_MAPS["function"]({}, facts).d_out == 9
    with pytest.raises(ValueError):
        FEATURE_MAPS["function"]({}, facts | change)
    with pytest.raises(DataError, match="does not hold the function that makes its features"):
        FEATURE_MAPS["function"]({}, facts).transform(toy_dataset().rows)
