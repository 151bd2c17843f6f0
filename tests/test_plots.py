"""Results, runs, models and estimators plot themselves, into axes that are given or on figures of their own."""

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import finished_run, toy_dataset, toy_splits
from matplotlib.figure import Figure
from PIL import Image

import onelayer
from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data import split
from onelayer.errors import DataError
from onelayer.training.train import train

CONFIG = TrainConfig(learning_rate=0.01, epochs=6, init_std=0.01, l2=0.1, decay_every=0, keep="best")


@pytest.fixture(scope="module")
def splits():
    return toy_splits()


@pytest.fixture(scope="module")
def result(splits):
    return train(splits, CONFIG)


@pytest.fixture
def axes():
    return Figure(figsize=(6, 5)).add_subplot()


@pytest.mark.parametrize("what", ["loss", "cost", "accuracy"])
def test_curves_are_drawn_into_the_axes_that_are_given(result, axes, what):
    assert getattr(result, f"plot_{what}")(ax=axes) is axes
    factor = 100 if what == "accuracy" else 1
    for line, name in zip(axes.lines, ("train", "validation"), strict=False):
        np.testing.assert_array_equal(line.get_ydata(), factor * result.history[f"{name}_{what}"])
    ring = axes.lines[2]
    assert ring.get_xdata()[0] == result.kept_epoch
    assert ring.get_ydata()[0] == factor * result.history[f"validation_{what}"][result.kept_epoch - 1]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["train", "validation"]
    assert axes.get_title() == f"{what.capitalize()} by epoch"


def test_templates_show_what_was_learnt_above_the_weights(result, axes):
    learnt = result.learnt
    initial = CONFIG.init_std * np.random.default_rng(CONFIG.seed).standard_normal((4, 60)).T
    assert np.abs(learnt - result.model.layer.weights).max() > 0.5 * np.abs(initial).max()
    assert result.plot_templates(axes) is axes
    for k in range(4):
        for image, view in zip(axes.images[2 * k : 2 * k + 2], (learnt, result.model.layer.weights), strict=True):
            picture = np.asarray(view[:, k], float).reshape(3, 4, 5).transpose(1, 2, 0)
            np.testing.assert_allclose(image.get_array(), (picture - picture.min()) / np.ptp(picture), atol=1e-6)
    assert {"learnt", "weights"} <= {text.get_text() for text in axes.texts}


def test_a_model_alone_shows_its_weights_and_says_so(result, axes):
    assert len(result.model.plot_templates(axes).images) == 4
    figure = result.model.plot_templates().figure
    words = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "as they are, with what is left of the random numbers" in words
    assert "a model file does not hold their init_std" in words


def test_confusion_is_that_of_the_split(result, splits, axes):
    found = evaluate(result.model, splits.test)
    assert result.model.plot_confusion(splits.test, axes) is axes
    shares = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    again = result.plot_confusion(found)
    np.testing.assert_allclose(again.images[0].get_array(), shares)
    with pytest.raises(DataError, match="needs rows to classify; pass a split"):
        result.plot_confusion()


def test_vectors_have_bars(axes):
    result = train(split(toy_dataset(image_shape=None), SplitConfig()), CONFIG)
    assert result.plot_templates(axes) is axes
    assert sum(text.get_text().startswith("feature ") for text in axes.texts) == 40
    assert "<img" in result._repr_html_()


def test_a_run_plots_what_its_training_plotted(tmp_path, axes):
    run, _ = finished_run(tmp_path / "run")
    run.plot_loss(axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), run.history["train_loss"])
    assert axes.lines[2].get_xdata()[0] == run.kept_epoch
    assert run._repr_html_().count("<img") == 2


def test_an_estimator_plots_itself(axes):
    data = toy_dataset()
    found = onelayer.SoftmaxClassifier(learning_rate=0.01, epochs=5, random_state=0).fit(data.rows, data.labels)
    found.plot_loss(axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), found.history_["train_loss"])
    matrix = found.plot_confusion(data.rows, data.labels).images[0].get_array()
    expected = np.zeros((4, 4))
    np.add.at(expected, (data.labels, found.predict(data.rows)), 1)
    np.testing.assert_allclose(matrix, expected / expected.sum(axis=1, keepdims=True))
    with pytest.raises(ValueError, match="labels that fit has not seen: \\['9'\\]"):
        found.plot_confusion(data.rows[:1], [9])


def test_pictures_in_a_notebook_are_whole_and_small(result):
    html = result._repr_html_()
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(sources) == 2
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source))) as image:
            assert image.size[0] == 550
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert len(html) < 200_000


def test_names_in_html_are_escaped():
    wild = ("<script>", "a & b", "</table>", "d")
    named = train(split(replace(toy_dataset(), class_names=wild), SplitConfig()), CONFIG)
    assert "<script>" not in named._repr_html_() + named.model._repr_html_()


def test_matplotlib_is_loaded_by_the_first_plot():
    code = """
import sys, numpy as np, onelayer
rows = np.random.default_rng(0).integers(0, 256, (60, 4)).astype(np.uint8)
clf = onelayer.SoftmaxClassifier(epochs=2, learning_rate=0.1).fit(rows, np.arange(60) % 3)
repr(clf.model_)
assert "matplotlib" not in sys.modules
clf.plot_accuracy()
assert "matplotlib.pyplot" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"MPLBACKEND": "Agg"})
