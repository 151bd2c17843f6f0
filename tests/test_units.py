"""Rows in another unit are noticed, and rows like those trained on never are, however odd their distribution."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits, load_wine

from onelayer import Model, OnelayerWarning, SoftmaxClassifier, SplitConfig, evaluate, explain, train
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.errors import UnitWarning
from onelayer.features.standardizer import Standardizer
from onelayer.features.units import FAR_OFF, SCALED_DOWN, SIXTEEN_GREYS
from onelayer.layer import SoftmaxLayer

RNG = np.random.default_rng(0)
PHOTOS = np.clip(RNG.normal(RNG.uniform(60, 180, (400, 1)), 50, (400, 192)), 0, 255).astype(np.uint8)
DIGITS = np.rint(np.pad(load_digits().data * (255 / 16), ((0, 0), (0, 20)))).astype(np.uint8)  # constant in 23 places
MASKS = (DIGITS > 127).astype(np.uint8)
GAUSS = RNG.normal(0, 1, (400, 30))
COUNTS = RNG.poisson(2 / np.arange(1, 1001), (1000, 1000)).astype(np.float32)  # most are 0, most columns rare
ONE_HOT = np.eye(3000)[RNG.zipf(1.5, 3000) % 3000].astype(np.float32)
RARE = np.column_stack([RNG.random((2000, 2)) < 1 / 700, np.full(2000, 5)]).astype(float)
TABLE = np.column_stack([RNG.lognormal(8, 1, (1000, 5)), np.eye(40)[RNG.integers(0, 40, 1000)]])  # and dummies
LOGNORMAL = RNG.lognormal(0, 2.5, (2000, 1))
CAUCHY = RNG.standard_cauchy((2000, 12))
MEASURES = load_wine().data
TRAINED_ON = {
    "photos": PHOTOS,
    "digits": DIGITS,
    "masks": MASKS,
    "standardised": GAUSS,
    "counts": COUNTS,
    "counts in bytes": RNG.poisson(0.3, (1000, 100)).astype(np.uint8),
    "codes in bytes": RNG.integers(0, 5, (1000, 20), np.uint8),
    "one hot": ONE_HOT,
    "rare": RARE,
    "table": TABLE,
    "lognormal": LOGNORMAL,
    "Cauchy": CAUCHY,
    "photos / 255": PHOTOS / np.float32(255),
    "digits / 255": DIGITS / np.float32(255),
    "greys of 16": (PHOTOS // 16).astype(np.float32),
    "measures": MEASURES,
    "one size": RNG.exponential(1, (400, 1)) * RNG.uniform(0.9, 1.1, (400, 30)),  # long and short rows
    "rectified": np.maximum(RNG.normal(1, 1, (400, 80)), 0),
}


def model_of(rows: np.ndarray, image_shape: tuple[int, int, int] | None = None) -> Model:
    """A model trained on the first nine tenths of rows, for no epochs."""
    labels = np.arange(len(rows)) % 2
    parts = {"train": slice(0, len(rows) * 9 // 10), "test": slice(len(rows) * 9 // 10, None)}
    dataset = Dataset(rows, labels, ("even", "odd"), image_shape, "toy", parts)
    return train(split(dataset, SplitConfig(protocol="given")), coursework(epochs=0, backend="numpy")).model


@pytest.mark.parametrize("name", TRAINED_ON)
def test_rows_like_those_trained_on_are_not_doubted(name):
    rows = TRAINED_ON[name]
    model = model_of(rows)
    held_out = rows[len(rows) * 9 // 10 :]
    for some in (rows, held_out, rows[:0], rows[np.argsort(rows.sum(axis=1))[-40:]]):
        assert model.doubt(some) is None
        assert model.doubt(some.astype(np.float64)) is None
    alone = [model.doubt(row[None]) is not None for row in rows]
    assert np.mean(alone) <= 1 / 200  # of any distribution
    if name not in ("one hot", "lognormal", "Cauchy"):
        assert not any(alone)


@settings(deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 32), st.integers(1, 6)),
        elements=st.one_of(st.sampled_from([0.0, 1.0, 255.0]), st.floats(-1e6, 1e6).map(lambda x: round(x, 3))),
    )
)
def test_a_model_does_not_doubt_the_rows_it_was_trained_on(rows):
    mean, deviation = rows.mean(axis=0), np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1)
    layer = SoftmaxLayer.initial(rows.shape[1], 2, RNG)
    assert Model(layer, Standardizer(mean, deviation), ("a", "b"), None, pixels=False).doubt(rows) is None


@pytest.mark.parametrize(
    "rows",
    [
        PHOTOS // 5,
        np.clip(PHOTOS.astype(int) + 120, 0, 255).astype(np.uint8),
        255 - PHOTOS,
        np.zeros((3, 192), np.uint8),
        np.full((3, 192), 255, np.uint8),
        np.eye(192, dtype=np.uint8),
        PHOTOS.astype(np.float32),
        np.zeros((3, 192)),
        np.ones((1, 192)),
        np.eye(192),
        PHOTOS[:7] / 255 + 0.5,  # beyond 1, and few, which may be dark
        PHOTOS[:7] / 255 - 0.5,
    ],
)
def test_other_pixels_are_not_doubted(rows):
    """Images of another brightness, black ones, and floats that are pixels all the same."""
    assert model_of(PHOTOS).doubt(rows) is None
    assert model_of(PHOTOS, (3, 8, 8)).doubt(rows[:1]) is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("trained_on", [PHOTOS, DIGITS, PHOTOS.astype(np.float64), DIGITS.astype(np.float32)])
def test_pixels_that_were_divided_by_255_are_noticed(trained_on, dtype):
    model = model_of(trained_on)
    rows = (trained_on[:300] / 255).astype(dtype)
    for some in (rows, rows[:1], rows[0:40:39]):
        doubt = model.doubt(some)
        assert isinstance(doubt, UnitWarning)
        assert str(doubt) == SCALED_DOWN
    rows[0, 3] = np.nan
    assert not isinstance(model.doubt(rows), UnitWarning)


def test_means_of_small_counts_are_not_taken_for_pixels():
    model = model_of(TRAINED_ON["counts in bytes"])
    assert model.doubt(RNG.uniform(0, 1, (40, 100)).astype(np.float32)) is None


def test_soft_masks_are_not_taken_for_pixels():
    soft = RNG.random((40, 84))
    assert model_of(MASKS).doubt(soft) is None
    assert isinstance(model_of(DIGITS).doubt(soft), UnitWarning)


@pytest.mark.parametrize(
    ("trained_on", "rows"),
    [
        ("photos / 255", PHOTOS),
        ("digits / 255", DIGITS),  # most numbers are 0 in both
        ("masks", 255 * MASKS),
        ("standardised", PHOTOS[:, :30]),
        ("standardised", 100 * GAUSS),
        ("standardised", GAUSS + 1000),
        ("table", np.column_stack([TABLE[:, :5] * 1e4, TABLE[:, 5:] * 255])),
        ("counts", COUNTS * 255),
        ("greys of 16", PHOTOS),
        ("measures", 16 * MEASURES),
    ],
)
def test_rows_in_another_unit_are_noticed(trained_on, rows):
    model = model_of(TRAINED_ON[trained_on])
    for some in (rows, rows[10:11], rows[::7]):
        assert str(model.doubt(some)) == FAR_OFF
        assert not isinstance(model.doubt(some), UnitWarning)


@pytest.mark.parametrize(
    ("trained_on", "factor"),
    [
        ("digits", 1 / 16),
        ("digits", 16 / 255),  # to the range of scikit-learn's
        ("greys of 16", 1 / 16),
        ("photos", 1 / 16),
        ("photos / 255", 1 / 16),
        ("measures", 1 / 16),
        ("rectified", 1 / 16),
    ],
)
def test_rows_that_were_divided_are_noticed(trained_on, factor):
    model, rows = model_of(TRAINED_ON[trained_on]), TRAINED_ON[trained_on] * factor
    for some in (rows, rows[::7], rows[40:60]):
        assert str(model.doubt(some)) == FAR_OFF
    assert model.doubt(rows[:7]) is None, "a few images may be dark"


def test_greys_from_0_to_16_are_noticed_in_a_single_row():
    digits = np.pad(load_digits().data, ((0, 0), (0, 20)))
    for rows in (digits, digits[:1], digits[5:9].astype(np.float32)):
        assert str(model_of(DIGITS).doubt(rows)) == SIXTEEN_GREYS
    assert model_of(DIGITS).doubt(np.rint(digits[:1] * (255 / 16))) is None
    assert model_of(DIGITS).doubt(digits[:1].astype(np.uint8)) is None, "it may be a dark image"
    assert model_of(digits.astype(np.uint8)).doubt(digits[:1]) is None
    assert model_of(digits).doubt(digits[:1]) is None


def test_standardised_rows_are_noticed_by_a_model_of_raw_ones():
    assert str(model_of(PHOTOS).doubt((PHOTOS - PHOTOS.mean(0)) / PHOTOS.std(0))) == FAR_OFF


def test_dark_rows_must_be_most_and_no_zeros():
    model, rows = model_of(PHOTOS), PHOTOS[:32].astype(float)
    rows[:24] /= 16
    assert model.doubt(rows) is None
    rows[24:26] /= 16
    assert str(model.doubt(rows)) == FAR_OFF
    rows[:, ::2] = 0
    rows[:, 1::40] = 0
    assert model.doubt(rows) is None


def test_features_far_from_zero_notice_standardised_rows():
    assert str(model_of(GAUSS + 1000).doubt(GAUSS)) == FAR_OFF


def test_rare_ones_are_not_doubted():
    one_hot = (np.arange(3000) % 1000 == 0).astype(float)[:, None]
    assert model_of(one_hot).doubt(np.ones((1, 1))) is None
    assert str(model_of(one_hot).doubt(np.full((1, 1), 255.0))) == FAR_OFF


def test_most_rows_must_be_far_off():
    model, rows = model_of(GAUSS), GAUSS[:32].copy()
    rows[:16] *= 1000
    assert model.doubt(rows) is None
    rows[:18] = 1000 * GAUSS[:18]
    assert str(model.doubt(rows)) == FAR_OFF


def test_columns_that_were_constant_say_nothing():
    rows = np.column_stack([GAUSS[:, :2], np.full((400, 50), 7.0)])
    other = np.column_stack([GAUSS[:, :2], np.full((400, 50), 1e6)])
    assert model_of(rows).doubt(other) is None
    assert str(model_of(rows).doubt(other * 1000)) == FAR_OFF
    assert model_of(np.full((20, 3), 7.0)).doubt(np.full((20, 3), 1e9)) is None


def test_the_ways_in_warn(recwarn):
    labels = np.arange(400) % 2
    dataset = Dataset(PHOTOS, labels, ("even", "odd"), (3, 8, 8), "photos")
    model = train(split(dataset, SplitConfig()), coursework(epochs=1)).model
    scaled = (PHOTOS / 255).astype(np.float32)
    other = replace(dataset, rows=scaled, name="scaled")
    for way in (model.logits, model.probabilities, lambda rows: explain(model, rows[0])):
        with pytest.warns(UnitWarning, match=f"^{SCALED_DOWN}$") as caught:
            way(scaled)
        assert [w.filename for w in caught] == [__file__]
        way(PHOTOS)
    with pytest.warns(UnitWarning, match=f"^scaled, all: {SCALED_DOWN}$") as caught:
        found = evaluate(model, other.everything)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings(action="ignore", category=OnelayerWarning):
        np.testing.assert_array_equal(found.predictions, model.logits(scaled).argmax(axis=1))
    evaluate(model, dataset.everything)
    assert not recwarn


def test_the_estimator_warns():
    labels = np.arange(400) % 2
    for standardize in (True, False):
        classifier = SoftmaxClassifier(random_state=0, epochs=2, standardize=standardize).fit(PHOTOS, labels)
        classifier.predict(PHOTOS)
        with pytest.warns(UnitWarning):
            classifier.predict(PHOTOS / 255)
    classifier = SoftmaxClassifier(random_state=0, epochs=2).fit(PHOTOS / 255, labels)
    with pytest.warns(OnelayerWarning, match=FAR_OFF):
        classifier.predict_proba(PHOTOS)


def test_what_the_training_rows_were_is_kept_in_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    for rows, pixels in ((PHOTOS, True), (PHOTOS.astype(float), True), (GAUSS, False), (PHOTOS / 255, False)):
        file.write_bytes(model_of(rows).to_bytes())
        assert Model.load(file).pixels is pixels
        old = replace(model_of(rows), pixels=None)  # as read from a file that does not tell
        assert old.pixels is False
    assert replace(model_of(PHOTOS, (3, 8, 8)), pixels=None).pixels is True
    assert replace(model_of(PHOTOS / 255, (3, 8, 8)), pixels=None).pixels is False
