"""The pictures show the numbers they were given: right values, right way up, every word readable and on the page."""

import io
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from drawings import CIFAR, LONG, SHAPE, TITLE, drawn, explained, history, names, pixels, scaled, title_of, weights
from helpers import coursework, toy_dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.protocols import split
from onelayer.pictures.confusion import confusion
from onelayer.pictures.curves import cost_note, curve, curves_of_settings
from onelayer.pictures.explanation import explanation
from onelayer.pictures.finished import figures_of_run
from onelayer.pictures.mistakes import mistakes
from onelayer.pictures.page import WIDTH, fitted, text_length
from onelayer.pictures.templates import signed_templates, strongest_weights, templates
from onelayer.training.train import train


def test_the_pictures_of_a_run_show_its_own_numbers():
    splits = split(toy_dataset(), SplitConfig())
    result = train(splits, coursework(epochs=5, learning_rate=0.003, l2=0.5))
    model, found = result.model, evaluate(result.model, splits.test)
    pictures = dict(figures_of_run(result.state.history, model, splits.test, found, "A run"))
    for what in ("loss", "cost", "accuracy"):
        (axes,) = pictures[what].axes
        assert axes.get_ylabel().startswith(what)
        assert title_of(pictures[what]) == f"{what.capitalize()} by epoch"
        factor = 100 if what == "accuracy" else 1
        for line, name in zip(axes.lines, ("train", "validation"), strict=False):
            expected = [factor * getattr(record, f"{name}_{what}") for record in result.state.history]
            assert list(line.get_ydata()) == expected
    V = model.layer.weights / model.standardizer.scale[:, np.newaxis]  # (d, K)
    V[7] = np.nan  # constant
    maps = [np.ma.filled(image.get_array(), np.nan) for image in pictures["templates_signed"].axes[0].images]
    np.testing.assert_allclose(maps, V.T.reshape(12, 4, 5))  # a picture for each class and channel
    shares = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    assert not np.array_equal(shares, shares.T)
    np.testing.assert_allclose(pictures["confusion"].axes[0].images[0].get_array(), shares)
    wrong = [row for row in range(len(found.labels)) if found.labels[row] != found.predictions[row]]
    wrong.sort(key=lambda row: -found.probabilities[row].max())
    words = drawn(pictures["mistakes"])
    captions = [word for word in words if word.startswith("predicted ")]
    assert captions == [
        f"predicted class {found.predictions[row]}, {100 * found.probabilities[row].max():.0f} %" for row in wrong[:12]
    ]
    assert [word for word in words if word.startswith("true ")] == [
        f"true class {found.labels[row]}" for row in wrong[:12]
    ]
    assert len(captions) > 4
    for image, row in zip(pictures["mistakes"].axes[0].images, wrong, strict=False):
        source = splits.test.rows(np.array([row])).reshape(3, 4, 5)
        np.testing.assert_allclose(image.get_array(), source.transpose(1, 2, 0) / 255)


class TestCurves:
    @pytest.mark.parametrize("what", ["loss", "cost", "accuracy"])
    @pytest.mark.parametrize("epochs", [1, 40, 20_000])
    def test_lines_are_the_history(self, what, epochs):
        columns = history(epochs)
        figure = curve(columns, what, TITLE, kept_epoch=epochs)
        words = drawn(figure)
        (axes,) = figure.axes
        for line, name in zip(axes.lines, ("train", "validation"), strict=False):
            expected = columns[f"{name}_{what}"] * (100 if what == "accuracy" else 1)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, epochs + 1))
            np.testing.assert_array_equal(line.get_ydata(), expected)
            number = f"{expected[-1]:.2f} %" if what == "accuracy" else f"{expected[-1]:#.4g}"
            (text,) = (text for text in axes.texts if text.get_text() == f"{name} {number}")
            assert text.get_text() in words
            assert text.get_color() == line.get_color()
        assert title_of(figure) == TITLE
        assert what in axes.get_ylabel()
        assert ("%" if what == "accuracy" else "nats") in axes.get_ylabel()
        ticks = [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()]
        assert ticks == [f"{int(tick):,}" for tick in axes.get_xticks()]

    @pytest.mark.parametrize("kept", [5, 12])
    def test_the_ring_is_the_kept_epoch(self, kept):
        figure = curve(history(40), "loss", TITLE, kept_epoch=kept)
        ring = figure.axes[0].lines[2]
        expected = 1.7 + 0.3 / kept + 0.01 * kept
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (kept, pytest.approx(expected))
        assert f"the model: epoch {kept}, validation {expected:#.4g}" in drawn(figure)

    def test_without_a_kept_epoch_nothing_is_ringed(self):
        figure = curve(history(40), "loss", TITLE)
        assert len(figure.axes[0].lines) == 2
        assert "the model" not in " ".join(drawn(figure))

    @pytest.mark.parametrize("missing", ["none", "nan"])
    def test_a_split_without_figures_has_no_line(self, missing):
        columns = history(9)
        for name in [name for name in columns if name.startswith("validation")]:
            columns[name] = np.full(9, np.nan)
            if missing == "none":
                del columns[name]
        figure = curve(columns, "accuracy", TITLE, kept_epoch=9)
        line, ring = figure.axes[0].lines
        assert ring.get_ydata()[0] == line.get_ydata()[-1]
        assert "validation" not in " ".join(drawn(figure))

    def test_a_restart_from_the_best_epoch_is_marked(self):
        columns = history(9) | {"learning_rate": np.array([0.1] * 4 + [0.01] * 3 + [0.001] * 2)}
        marked, plain = (curve(columns, "loss", TITLE, kept_epoch=5, restarts=restarts) for restarts in (True, False))
        lines = marked.axes[0].lines[2:-1]
        assert [line.get_xdata()[0] for line in lines] == [4.5, 7.5]
        assert "rate / 10, from the best epoch" in drawn(marked)
        assert len(plain.axes[0].lines) == 3
        assert not any(word.startswith("rate") for word in drawn(plain))

    def test_a_single_epoch_is_a_visible_point(self):
        assert [line.get_marker() for line in curve(history(1), "loss", TITLE).axes[0].lines[:2]] == ["o", "o"]

    def test_huge_losses_are_written_short(self):
        columns = {"epoch": np.array([1]), "train_loss": np.array([1e300]), "validation_loss": np.array([2e300])}
        assert {"train 1.000e+300", "validation 2.000e+300"} <= set(drawn(curve(columns, "loss", TITLE)))

    @pytest.mark.parametrize("gap", [0, 1e-9, -1e-3])
    def test_names_of_lines_that_meet_do_not(self, gap):
        losses = {"train_loss": np.array([2.0, 1.5]), "validation_loss": np.array([2.0, 1.5 + gap])}
        drawn(curve({"epoch": np.array([1, 2]), **losses}, "loss", TITLE))

    def test_no_epoch_yet(self):
        assert TITLE in drawn(curve(history(0), "loss", TITLE))

    def test_a_cost_without_a_penalty_says_that_it_is_the_loss(self):
        assert (
            curve(history(9, l2=False), "cost", "").axes[0].get_ylabel().endswith("l2 is 0: the cost equals the loss")
        )
        assert "equals" not in curve(history(9), "cost", "").axes[0].get_ylabel()
        figure = cost_note(TITLE)
        assert figure.axes == []
        assert "l2 is 0: the cost equals the loss. Its curve is that of loss.png." in drawn(figure)

    @pytest.mark.parametrize("count", [1, 4])
    @pytest.mark.parametrize("worst", [1, 10])
    def test_settings_share_their_axes(self, count, worst):
        settings = {f"learning rate {k}, {LONG}": history(40, l2=k % 2 == 1) for k in range(count)}
        for name in ("train_loss", "train_cost"):
            settings[f"learning rate 0, {LONG}"][name] = history(40)["train_loss"] * worst
        figure = curves_of_settings(settings, f"Loss and cost by epoch\n{TITLE}")
        words = drawn(figure)
        assert len(figure.axes) == count
        assert len({(axes.get_xlim(), axes.get_ylim(), axes.get_yscale()) for axes in figure.axes}) == 1
        assert figure.axes[0].get_yscale() == ("log" if worst == 10 else "linear")
        for axes, (name, columns) in zip(figure.axes, settings.items(), strict=True):
            kinds = ["loss", "cost"] if "0," not in name and int(name[14]) % 2 else ["loss"]
            expected = [columns[f"{split}_{kind}"] for kind in kinds for split in ("train", "validation")]
            assert len(axes.lines) == len(expected)
            for line, values in zip(axes.lines, expected, strict=True):
                np.testing.assert_array_equal(line.get_ydata(), values)
            assert f"last loss: train {columns['train_loss'][-1]:#.4g}" in " ".join(words)
        assert ("cost = loss + l2 penalty" in words) == (count > 1)


class TestPage:
    def test_no_word_stands_alone(self):
        settings = "CIFAR-10, protocol batch: softmax, learning rate 0.001, l2 0, batches of 100, 40 epochs, seed 42"
        lines = fitted(settings, 5.5, 9, lines=9).split("\n")
        assert " ".join(lines) == settings
        assert len(lines) == 2
        assert min(map(len, lines)) > 0.8 * max(map(len, lines))

    def test_a_long_word_is_not_broken_to_balance_lines(self):
        assert fitted("automobiles are cars", 1, 9, lines=2).split("\n")[0] == "automobiles"

    @pytest.mark.parametrize("text", ["Wij", LONG, "0.001, l2 0: 39.13 %"])
    def test_lengths_are_those_of_matplotlib(self, text):
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path

        width = text_to_path.get_text_width_height_descent(text, FontProperties(size=9), ismath=False)[0]
        assert text_length(text, 9) == pytest.approx(width / 72, rel=0.03)

    def test_a_title_is_large_and_the_settings_below_it_small(self):
        figure = curve(history(5), "loss", f"Loss by epoch\n{TITLE}")
        drawn(figure)
        assert title_of(figure) == "Loss by epoch"
        (settings,) = (text for text in figure.texts if text.get_text().replace("\n", " ") == TITLE)
        (title,) = (text for text in figure.findobj(Text) if text.get_text() == "Loss by epoch")
        assert settings.get_size() < 0.7 * title.get_size()


class TestTemplates:
    def test_channels_come_last_and_each_class_is_stretched(self):
        W = weights(10) * np.linspace(0.1, 5, 10, dtype=np.float32) + 3
        figure = templates(W, CIFAR, SHAPE, TITLE)
        images = figure.axes[0].images
        assert len(images) == 10
        for k, image in enumerate(images):
            picture = np.asarray(image.get_array())
            assert picture.shape == (4, 5, 3)
            assert (picture.min(), picture.max()) == (0, 1)
            low, high = W[:, k].min(), W[:, k].max()
            for channel, row, column in np.ndindex(SHAPE):
                weight = W[channel * 20 + row * 5 + column, k]
                np.testing.assert_allclose(picture[row, column, channel], (weight - low) / (high - low), atol=1e-6)
        assert {*CIFAR, TITLE} <= set(drawn(figure))

    def test_two_rows_of_five_in_the_order_of_the_classes(self):
        figure = templates(weights(10), CIFAR, SHAPE, TITLE)
        places = [image.get_extent() for image in figure.axes[0].images]
        assert len({left for left, *_ in places}) == 5
        assert len({top for *_, top in places}) == 2
        for (left, _, _, top), label in zip(places, CIFAR, strict=True):
            (text,) = (text for text in figure.axes[0].texts if text.get_text() == label)
            x, y = text.get_position()
            assert x == left
            assert 0 < top - y < 0.1  # right above its picture, in inches

    def test_pixels_on_the_page_are_upright_and_sharp(self):
        W = np.zeros(SHAPE)
        W[0, 0, 0] = 1  # upper left: red
        W[2, 3, 4] = 1  # lower right: blue
        figure = templates(np.stack([W.ravel()] * 2, axis=1), names(2), SHAPE, TITLE)
        painted = pixels(figure, figure.axes[0].images[1])
        h, w = painted.shape[0] // 4, painted.shape[1] // 5
        np.testing.assert_array_equal(painted[h // 2, w // 2], [255, 0, 0])
        np.testing.assert_array_equal(painted[-h // 2, -w // 2], [0, 0, 255])
        inside = painted[5:-5, 5:-5].reshape(-1, 3)
        assert len(np.unique(inside, axis=0)) == 3  # no colour between two pixels' colours
        assert abs(w - h) <= 1  # square pixels

    def test_what_was_learnt_stands_above_the_weights(self):
        W, learnt = weights(10), weights(10, seed=1)
        figure = templates(W, CIFAR, SHAPE, TITLE, learnt)
        images = figure.axes[0].images
        assert len(images) == 20
        for k, (above, below) in enumerate(zip(images[::2], images[1::2], strict=True)):
            for image, view in ((above, learnt), (below, W)):
                picture = view[:, k].reshape(SHAPE).transpose(1, 2, 0)
                np.testing.assert_allclose(image.get_array(), (picture - picture.min()) / np.ptp(picture), atol=1e-6)
            assert above.get_extent()[:2] == below.get_extent()[:2]
            assert above.get_extent()[2] < below.get_extent()[3]  # the page's inches grow downwards
        words = drawn(figure)
        assert (words.count("learnt"), words.count("weights")) == (2, 2)

    def test_one_channel_is_grey(self):
        W = weights(2, (1, 4, 5))
        figure = templates(W, names(2), (1, 4, 5), TITLE)
        image = figure.axes[0].images[0]
        assert image.get_array().shape == (4, 5)
        assert (image.get_cmap().name, image.get_clim()) == ("gray", (0, 1))

    def test_other_numbers_of_channels_show_their_mean(self):
        W = weights(2, (4, 2, 3))
        picture = np.asarray(templates(W, names(2), (4, 2, 3), TITLE).axes[0].images[1].get_array())
        mean = W[:, 1].astype(np.float64).reshape(4, 6).mean(axis=0).reshape(2, 3)
        np.testing.assert_allclose(picture, (mean - mean.min()) / np.ptp(mean))

    def test_equal_weights_are_mid_grey(self):
        W = weights(2)
        W[:, 0] = 7
        assert (np.asarray(templates(W, names(2), SHAPE, TITLE).axes[0].images[0].get_array()) == 0.5).all()

    def test_more_than_a_hundred_classes_are_capped_and_the_title_says_so(self):
        W, shape = weights(120, (1, 2, 3)), (1, 2, 3)
        for figure in (
            templates(W, names(120), shape, TITLE),
            signed_templates(W, scaled(W[:, 0] ** 2), names(120), shape, TITLE),
        ):
            assert title_of(figure) == TITLE
            assert "the first 100 of 120 classes" in drawn(figure)
            assert len(figure.axes[0].images) == 100


class TestSignedTemplates:
    def test_weights_over_scale_by_class_and_channel(self):
        W, scale = weights(10), np.linspace(20, 90, 60)
        figure = signed_templates(W, scaled(scale), CIFAR, SHAPE, TITLE)
        images = figure.axes[0].images
        assert len(images) == 30
        for (k, channel), image in zip(np.ndindex(10, 3), images, strict=True):
            part = slice(20 * channel, 20 * channel + 20)
            np.testing.assert_allclose(image.get_array(), (W[part, k] / scale[part]).reshape(4, 5))
        lefts, tops = [image.get_extent()[0] for image in images], [image.get_extent()[3] for image in images]
        assert lefts == sorted(lefts)
        assert len(set(lefts)) == 10
        assert tops == tops[:3] * 10
        words = drawn(figure)
        assert {"R", "G", "B", TITLE, *CIFAR} <= set(words)
        assert any("logit per grey level" in word for word in words)

    def test_one_symmetric_scale_with_its_numbers_at_the_bar(self):
        W, scale = weights(10), np.full(60, 50.0)
        W[:, 3] *= 0.01
        W[7, 3] = 40.0  # an outlier sets no scale
        figure = signed_templates(W, scaled(scale), CIFAR, SHAPE, TITLE)
        ((low, high),) = {image.get_clim() for image in figure.axes[0].images}
        assert low == -high
        sizes = np.abs(W / 50)
        assert np.isclose(high, 3.5 * np.median(sizes), rtol=0.05)
        words = drawn(figure)
        assert {f"{low:+.3g}", "0", f"{high:+.3g}"} <= set(words)
        assert f"{100 * (sizes > high).mean():.2g} % of the weights lie beyond the scale" in words
        cmap = figure.axes[0].images[0].get_cmap()
        np.testing.assert_allclose(cmap(0.5)[:3], 0.97, atol=0.02)  # zero is all but white

    @pytest.mark.parametrize("others", [50.0, 1.0])
    def test_pixels_constant_in_training_are_grey_and_said_to_be(self, others):
        constant = np.arange(20) == 3
        standardizer = scaled(np.where(constant, 1, others), constant)
        figure = signed_templates(weights(2, (1, 4, 5)), standardizer, names(2), (1, 4, 5), TITLE)
        (row, column) = np.argwhere(np.ma.getmaskarray(figure.axes[0].images[0].get_array()))[0]
        assert (row, column) == (0, 3)
        assert "grey pixels: constant in training" in "\n".join(drawn(figure))

    def test_a_scale_of_1_says_so_in_older_files(self):
        figure = signed_templates(weights(2, (1, 4, 5)), scaled([1] + [50] * 19), names(2), (1, 4, 5), TITLE)
        grey = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
        assert np.argwhere(grey).tolist() == [[0, 0]]

    def test_where_every_feature_is_constant_all_is_grey(self):
        standardizer = scaled(np.ones(20), np.ones(20, bool))
        figure = signed_templates(np.zeros((20, 2)), standardizer, names(2), (1, 4, 5), TITLE)
        assert np.ma.getmaskarray(figure.axes[0].images[0].get_array()).all()
        drawn(strongest_weights(np.zeros((20, 2)), standardizer, names(2), TITLE))

    @pytest.mark.parametrize("scale", [np.ones(20), np.repeat([1, 1.0001], 10)])
    def test_features_that_came_standardised_are_not_constant(self, scale):
        figure = signed_templates(weights(2, (1, 4, 5)), scaled(scale), names(2), (1, 4, 5), TITLE)
        assert not np.ma.getmaskarray(figure.axes[0].images[0].get_array()).any()

    def test_zero_weights(self):
        figure = signed_templates(np.zeros((60, 2)), scaled(np.full(60, 50.0)), names(2), SHAPE, TITLE)
        assert figure.axes[0].images[0].get_clim() == (-1, 1)
        assert "beyond" not in "".join(drawn(figure))

    def test_arguments_are_left_as_they_were(self):
        W, scale = weights(2), np.full(60, 50.0)
        scale[0] = 1
        before = W.copy(), scale.copy()
        signed_templates(W, scaled(scale), names(2), SHAPE, TITLE)
        np.testing.assert_array_equal(W, before[0])
        np.testing.assert_array_equal(scale, before[1])


class TestStrongestWeights:
    def bars(self, figure):
        """Return for each row of the chart its feature, its number, and the left and right end of its bar."""
        axes = figure.axes[0]
        boxes = [path.get_extents() for bars in axes.collections[-2:] for path in bars.get_paths()]
        texts = [text for text in axes.texts if text.get_text().startswith(("feature ", "+", "-"))]
        found = []
        for label, number in zip(texts[::2], texts[1::2], strict=True):
            (left, y), (right, same) = label.get_position(), number.get_position()
            assert y == same
            (box,) = (box for box in boxes if box.y0 < y < box.y1 and left < box.x0 and box.x1 < right)
            found.append((int(label.get_text().removeprefix("feature ")), number.get_text(), box.x0, box.x1))
        return found

    def test_the_largest_weights_are_bars_on_one_scale(self):
        W = weights(2) * np.array([1, 4], np.float32)
        figure = strongest_weights(W, scaled(np.ones(60) * 3), ("cat", "dog"), TITLE)
        expected = [(j, W[j, k]) for k in range(2) for j in np.argsort(-np.abs(W[:, k]))[:10]]
        found = self.bars(figure)
        assert [feature for feature, *_ in found] == [j for j, _ in expected]
        per_inch = np.abs(W).max() / max(right - left for _, _, left, right in found)
        zeros = [
            right if weight < 0 else left for (_, _, left, right), (_, weight) in zip(found, expected, strict=True)
        ]
        assert zeros == pytest.approx([zeros[0]] * 10 + [zeros[-1]] * 10)
        assert zeros[0] < WIDTH / 2 < zeros[-1]
        for (_, number, left, right), (_, weight) in zip(found, expected, strict=True):
            assert number == f"{weight:+.2f}"
            assert right - left == pytest.approx(abs(weight) / per_inch, abs=1e-6)
        assert {TITLE, "cat", "dog"} <= set(drawn(figure))

    def test_for_and_against_have_colours_of_their_own(self):
        figure = strongest_weights(np.array([[1.0, -1.0], [-2.0, 2.0]]), scaled([2, 3]), ("cat", "dog"), TITLE)
        against, towards = (bars.get_facecolor()[0] for bars in figure.axes[0].collections[-2:])
        assert not np.allclose(against, towards)
        assert towards[0] > against[0]

    @pytest.mark.parametrize("K", [2, 7])
    @pytest.mark.parametrize("d", [1, 100_000])
    def test_every_word_is_on_the_page(self, K, d):
        W = np.random.default_rng(0).standard_normal((d, K))
        words = drawn(strongest_weights(W, scaled(np.full(d, 2.0)), names(K), TITLE))
        assert len([word for word in words if word.startswith("feature ")]) == K * min(d, 10)

    def test_more_classes_are_capped_and_the_title_says_so(self):
        figure = strongest_weights(weights(120), scaled(np.full(60, 2.0)), names(120), TITLE)
        assert "the first 24 of 120 classes" in drawn(figure)

    def test_constant_features_are_left_out(self):
        W, scale = np.full((6, 2), 0.1), np.array([30.0, 1, 20, 40, 1, 50])
        W[[1, 4]] = 9
        assert "feature 1" not in drawn(strongest_weights(W, scaled(scale), ("cat", "dog"), TITLE))
        drawn(strongest_weights(W[:1], scaled([0.5]), ("cat", "dog"), TITLE))

    def test_the_unit_of_a_bar_is_that_of_the_rows(self):
        for scale, unit in ((1, "unit of a feature, whatever its spread,"), (3, "standard deviation of a feature")):
            figure = strongest_weights(weights(2), scaled(np.full(60, scale)), ("cat", "dog"), TITLE)
            assert f"what one more {unit} adds to the class's logit; one scale for all" in drawn(figure)

    @pytest.mark.parametrize("size", [0, 1e-300, 1e-7, 1e30])
    def test_weights_of_any_size(self, size):
        drawn(strongest_weights(weights(3) * np.float64(size), scaled(np.full(60, 2.0)), names(3), TITLE))


def one_of_each(K, shape, title, labels):
    W, scale = weights(K, shape), np.full(int(np.prod(shape)), 50.0)
    images = np.random.default_rng(1).integers(0, 256, (12, *shape), np.uint8)
    said = [labels[k % K] for k in range(12)]
    yield curve(history(40), "loss", title, kept_epoch=4)
    yield templates(W, labels, shape, title)
    yield templates(W, labels, shape, title, learnt=W / 2)
    yield signed_templates(W, scaled(scale), labels, shape, title)
    yield confusion(np.random.default_rng(2).integers(0, 99, (K, K)), labels, title)
    yield mistakes(images, said, said[::-1], np.linspace(1, 0.3, 12), title)
    t = min(K, 10)
    yield explanation(images[0], explained(t, shape), labels[:t], title)


@pytest.mark.parametrize(
    ("K", "shape", "title"),
    [
        (2, SHAPE, ""),
        (10, SHAPE, f"{TITLE}, {TITLE}\n{TITLE}"),
        (31, SHAPE, "$\\no$ " + "W" * 300),
        (100, (1, 8, 8), TITLE),
    ],
)
def test_words_stay_on_the_page_and_apart(K, shape, title):
    for figure in one_of_each(K, shape, title, [LONG] * 2 if K == 2 else names(K)):
        words = drawn(figure)
        texts = "".join(
            "".join(text.split()) for text in (figure.get_suptitle(), *(t.get_text() for t in figure.texts))
        )
        assert "".join(title.split()) in "".join("".join(texts).split())
        assert len(words) >= 2
        assert figure.get_figwidth() * figure.dpi <= 1800


def test_nothing_global_changes():
    before = dict(mpl.rcParams)
    for figure in one_of_each(3, SHAPE, TITLE, names(3)):
        FigureCanvasAgg(figure).draw()
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_imported(tmp_path):
    program = """
import sys
import numpy as np
from onelayer.pictures.curves import curve
history = {"epoch": np.array([1]), "train_loss": np.array([2.0]), "validation_loss": np.array([2.1])}
curve(history, "loss", "t").savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, tmp_path / "loss.png"], check=True)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_other_seeds_are_drawn_faintly_and_count_for_the_range():
    others = [history(5) | {"train_loss": np.full(5, 5.0)}]
    figure = curve(history(5), "loss", "", 4.3, others)
    drawn(figure)
    (axes,) = figure.axes
    assert axes.get_ylim()[1] > 5
    assert [line.get_alpha() for line in axes.lines if len(line.get_xdata()) == 5] == [0.35, None, 0.35, None]


def test_the_curves_of_weighted_rows_say_so():
    splits = split(toy_dataset(), SplitConfig())
    for class_weight, words in (("none", ""), ("balanced", " (rows weighted by class)")):
        config = TrainConfig(epochs=1, class_weight=class_weight)
        result = train(splits, config)
        found = evaluate(result.model, splits.test)
        pictures = dict(figures_of_run(result.state.history, result.model, None, found, "A run", config=config))
        assert title_of(pictures["accuracy"]) == f"Accuracy by epoch{words}"


def test_letters_that_the_font_lacks_are_told_apart_by_numbers():
    names = ("飛行機", "鳥", "cat", "deer")
    splits = split(replace(toy_dataset(), class_names=names), SplitConfig())
    result = train(splits, coursework(epochs=1))
    for name, figure in figures_of_run(
        result.state.history, result.model, splits.test, evaluate(result.model, splits.test), "A run of 鳥"
    ):
        figure.savefig(io.BytesIO(), format="png")  # a glyph that is missing would be a warning, which is an error
        words = {text.get_text() for text in figure.findobj(Text)}
        if name == "templates":
            assert {"0: ???", "1: ?", "cat", "deer"} <= words
