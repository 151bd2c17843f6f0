"""Settings out of range, and the words for them."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from onelayer.config import COURSEWORK, SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError

BAD = [
    ("learning_rate", (0, 0.0, -1.0, math.nan, math.inf, "fast", True, None), "a positive number, or auto"),
    ("l2", (-1e-9, math.nan, math.inf), "zero or a positive number"),
    ("batch_size", (0, -5, 2.5, True), "a whole number of at least 1"),
    ("epochs", (-1, 1.5, "all", True), "a whole number of at least 0, or auto"),
    ("patience", (0, 1.5, True), "a whole number of at least 1"),
    ("keep", ("first", None), "best or last"),
    ("init_bias", (0, "random"), "frequencies or zero"),
    ("loss", ("hinge", None), "softmax or sigmoid"),
    ("decay_every", (-1, "never"), "a whole number of at least 0, or auto"),
    ("decay_factor", (0, -1, math.nan, 1.5), "in (0, 1]"),
    ("init_std", (-0.1, math.inf, 1e39), "a number from 0 to 1e6"),
    ("dtype", ("float16",), "float32 or float64"),
    ("seed", (-1, 0.5), "a whole number of at least 0"),
    ("flip", (1, "yes"), "true or false"),
    ("shuffle_blocks", (-1, 0.5, True, None), "a whole number of at least 0"),
    ("backend", ("gpu", None), "auto, native, numpy or torch"),
    ("device", ("gpu", "cuda:", "cuda:x", "cpu:0", "", None, 0), "auto, cpu, cuda, cuda:N for GPU number N, or mps"),
    ("precision", ("float16", None), "full, tf32 or bfloat16"),
    ("threads", (-1, 1.5, True), "a whole number of at least 0"),
]


@pytest.mark.parametrize(("name", "value", "words"), [(n, v, w) for n, values, w in BAD for v in values])
def test_a_bad_setting_is_named(name, value, words):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    shown = {0.0: "0", -1.0: "-1"}.get(value, repr(value)) if type(value) is float else repr(value)
    assert str(caught.value) == f"{name.replace('_', ' ')} {shown} is not {words}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("protocol", "random"), ("validation_size", 0), ("test_size", 1.5), ("test_size", math.nan), ("split_seed", -1)],
)
def test_a_bad_split_setting_is_named(name, value):
    with pytest.raises(ConfigError, match=f"^{name.replace('_', ' ')} {value!r} is not "):
        SplitConfig(**{name: value})


@pytest.mark.parametrize(
    ("size", "expected"), [(None, None), ("32", (32, 32)), ("48x32", (48, 32)), ("1", (1, 1)), ("4096x1", (4096, 1))]
)
def test_image_sizes(size, expected):
    assert SourceConfig(image_size=size).width_and_height == expected


@pytest.mark.parametrize("size", ["", "0", "x", "3x", "x3", "32 x 32", "-3", "4097", "3x0", "1.5", "٣", 32])
def test_image_sizes_that_are_none(size):
    with pytest.raises(ConfigError, match=r"^image size .* is not a size from 1 to 4096, as 32, or width x height"):
        SourceConfig(image_size=size)


def test_the_coursework():
    config = COURSEWORK
    assert (config.learning_rate, config.l2, config.batch_size, config.epochs, config.seed) == (0.001, 0, 100, 40, 42)
    assert (config.loss, config.flip, config.init_std, config.dtype) == ("softmax", False, 0.01, "float32")
    assert (config.init_bias, config.keep, config.decay_every, config.class_weight) == ("zero", "last", 0, "none")


def test_settings_in_words():
    assert TrainConfig().in_words() == "softmax, learning rate auto, l2 0, batches of 100, epochs auto, seed 42"
    assert COURSEWORK.in_words() == "softmax, learning rate 0.001, l2 0, batches of 100, 40 epochs, seed 42"
    words = replace(COURSEWORK, flip=True, decay_every=10, dtype="float64", loss="sigmoid").in_words()
    assert "batches of 2,000, 1,000 epochs" in TrainConfig(batch_size=2000, epochs=1000).in_words()
    assert words.startswith("sigmoid, learning rate 0.001, times 0.1 every 10 epochs, l2 0, batches of 100")
    assert words.endswith("40 epochs, flips, float64, seed 42")
    words = replace(COURSEWORK, shuffle_blocks=256, class_weight="balanced").in_words()
    assert words.endswith("40 epochs, shuffled by blocks of 256, class weight balanced, seed 42")


def test_numbers_of_numpy_are_taken_as_pythons():
    config = TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), flip=np.bool_(True))
    assert json.dumps(dataclasses.asdict(config)) == json.dumps(
        dataclasses.asdict(TrainConfig(epochs=3, learning_rate=0.5, flip=True))
    )
