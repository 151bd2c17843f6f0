"""Pictures of answers: confusion, mistakes, explanations and probabilities show the numbers they were given."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from drawings import CIFAR, SHAPE, TITLE, drawn, explained, names, pixels, title_of
from matplotlib.text import Text

from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.explanation import Explanation
from onelayer.pictures.confusion import confusion
from onelayer.pictures.explanation import explanation
from onelayer.pictures.mistakes import mistakes
from onelayer.pictures.probabilities import probability_histogram, reliability


class TestConfusion:
    def test_percent_of_the_true_class(self):
        counts = np.array([[6, 2, 0], [0, 1, 3], [0, 0, 0]])
        figure = confusion(counts, ("cat", "dog", "eel"), TITLE)
        axes = figure.axes[0]
        cells = {text.get_position(): text.get_text() for text in axes.texts}
        assert cells == {(0, 0): "75", (1, 0): "25", (1, 1): "25", (2, 1): "75"}  # (column, row)
        image = axes.images[0]
        expected = np.array([[0.75, 0.25, 0], [0, 0.25, 0.75], [np.nan] * 3])
        np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), expected)
        assert image.get_clim() == (0, 0.75)  # the largest share
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cat (8)", "dog (4)", "eel (0)"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "eel"]
        words = {word.replace("\n", " ") for word in drawn(figure)}
        assert {TITLE, "true class (rows)", "predicted class"} <= words
        ends = figure.axes[1].get_tightbbox().x1 / figure.dpi
        assert 0 < figure.get_figwidth() - ends < 1.2, "no empty third"

    def test_numbers_contrast_with_their_cells(self):
        figure = confusion(np.array([[99, 1], [50, 50]]), ("cat", "dog"), TITLE)
        image = figure.axes[0].images[0]
        for text in figure.axes[0].texts:
            column, row = text.get_position()
            cell = np.mean(image.cmap(image.norm(image.get_array()[row, column]))[:3])
            ink = np.mean(mpl.colors.to_rgb(text.get_color()))
            assert abs(cell - ink) > 0.35

    @pytest.mark.parametrize(("K", "numbers"), [(20, 400), (21, 0), (30, 0)])
    def test_many_classes_have_no_numbers(self, K, numbers):
        assert len(confusion(np.full((K, K), 3), names(K), TITLE).axes[0].texts) == numbers

    @pytest.mark.parametrize("K", [31, 1000])
    def test_very_many_classes_are_listed_by_their_confusions_and_recalls(self, K):
        rng = np.random.default_rng(0)
        counts = np.diag(rng.integers(500, 9999, K)) + rng.integers(0, 3, (K, K))
        counts[3, 5], counts[5, 3], counts[7] = 2000, 1000, 0
        labels = names(K)
        figure = confusion(counts, labels, TITLE)
        words = drawn(figure)
        pairs, recalls = figure.axes
        bars = [bar.get_width() for bar in pairs.patches]
        assert bars[:2] == [2000, 1000]
        assert (len(bars), bars) == (20, sorted(bars, reverse=True))
        ticks = [label.get_text() for label in pairs.get_yticklabels()]
        assert ticks[1] == f"{labels[5]} → {ticks[0].partition(' → ')[0]}"
        total = counts[3].sum()
        assert f"2,000 of {total:,}, {100 * 2000 / total:.0f} %" in words
        totals = np.delete(counts.sum(axis=1), 7)  # it has no rows
        expected = np.sort(100 * np.delete(np.diagonal(counts), 7) / totals)[::-1]
        outline = recalls.collections[0].get_paths()[0].vertices
        for place in (1, 2, K - 1):
            assert outline[np.abs(outline[:, 0] - place) < 0.6][:, 1].max() >= expected[place - 1] - 1e-9
        assert f"mean recall {expected.mean():.1f} %" in words
        assert max(outline[:, 1]) == pytest.approx(expected[0])

    def test_very_many_classes_without_a_mistake(self):
        words = drawn(confusion(np.diag(np.arange(40)), names(40), TITLE))
        assert "no row was classified wrongly" in words


class TestMistakes:
    def test_pictures_and_captions(self):
        images = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8)
        images[0, 0, 0, 0] = 255
        figure = mistakes(images, CIFAR[:6] * 2, CIFAR[1:7] * 2, np.linspace(0.99, 0.5, 12), TITLE)
        for image, source in zip(figure.axes[0].images, images, strict=True):
            np.testing.assert_allclose(image.get_array(), source.transpose(1, 2, 0) / 255)
        assert len({image.get_extent()[0] for image in figure.axes[0].images}) == 4
        words = drawn(figure)
        assert words.count(TITLE) == 1
        assert "predicted automobile, 99 %\ntrue airplane" in "\n".join(words)
        assert "predicted frog, 50 %\ntrue dog" in "\n".join(words)

    def test_dark_pictures_stay_dark(self):
        image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
        shown = np.asarray(mistakes(image, ["1"], ["7"], np.array([0.9]), TITLE).axes[0].images[0].get_array())
        np.testing.assert_allclose(shown, image[0, 0] / 255)

    def test_none(self):
        figure = mistakes(np.zeros((0, *SHAPE), np.uint8), [], [], np.zeros(0), TITLE)
        assert drawn(figure) == [TITLE, "No mistakes."]

    def test_black_pictures(self):
        figure = mistakes(np.zeros((1, *SHAPE), np.uint8), ["cat"], ["dog"], np.array([1.0]), TITLE)
        assert (np.asarray(figure.axes[0].images[0].get_array()) == 0).all()


class TestExplanation:
    image = np.random.default_rng(3).integers(0, 256, SHAPE, np.uint8)

    def test_the_image_and_a_map_for_each_class_with_their_numbers(self):
        parts = explained(3, SHAPE)
        figure = explanation(self.image, parts, CIFAR[:3], TITLE)
        shown, *maps = figure.axes[0].images
        np.testing.assert_allclose(shown.get_array(), self.image.transpose(1, 2, 0) / 255)
        for one, terms in zip(maps, parts.contributions, strict=True):
            np.testing.assert_allclose(one.get_array(), terms.reshape(SHAPE).sum(axis=0))
        words = drawn(figure)
        for name, p, logit, bias in zip(CIFAR[:3], parts.probabilities, parts.logits, parts.bias, strict=True):
            first, second, third = f"{100 * p:.1f} %", f"logit {logit:+.3f}", f"pixels {logit - bias:+.3f}"
            assert f"{name}\n{first}, {second}\nbias {bias:+.3f}, {third}" in "\n".join(words)
        assert TITLE in words

    def test_one_symmetric_scale(self):
        parts = explained(4, (1, 20, 30))
        parts.contributions[2, 7] = -50  # an outlier sets no scale
        figure = explanation(np.zeros((1, 20, 30), np.uint8), parts, CIFAR[:4], TITLE)
        ((low, high),) = {image.get_clim() for image in figure.axes[0].images[1:]}
        assert low == -high
        sizes = np.abs(parts.contributions)
        np.testing.assert_allclose(high, np.quantile(sizes, 0.99), rtol=0.05)
        words = drawn(figure)
        assert {f"{low:+.3g}", "0", f"{high:+.3g}"} <= set(words)
        notes = "\n".join(words)
        assert f"{100 * (sizes > high).mean():.2g} % of the pixels lie beyond the scale" in notes
        assert "a pixel at its mean over the training rows adds 0" in notes
        assert "channels" not in notes

    def test_a_grey_image_is_grey_on_the_page(self):
        image = np.array([[[0, 255], [255, 0]]], np.uint8)
        figure = explanation(image, explained(2, (1, 2, 2)), names(2), TITLE)
        painted = pixels(figure, figure.axes[0].images[0])
        h, w = painted.shape[0] // 4, painted.shape[1] // 4
        np.testing.assert_array_equal(painted[h, w], [0, 0, 0])
        np.testing.assert_array_equal(painted[h, -w], [255, 255, 255])

    def test_no_contributions(self):
        nothing = Explanation(np.arange(2), np.full(2, 0.5), np.zeros((2, 60)), np.zeros(2), np.zeros(2))
        figure = explanation(self.image, nothing, names(2), TITLE)
        assert figure.axes[0].images[1].get_clim() == (-1, 1)
        assert "beyond" not in "".join(drawn(figure))
        assert f"{names(2)[0]}\n50.0 %, logit +0.000\nbias +0.000, pixels +0.000" in "\n".join(drawn(figure))

    def test_more_than_a_hundred_classes_are_capped_and_the_title_says_so(self):
        figure = explanation(np.zeros((1, 2, 3), np.uint8), explained(120, (1, 2, 3)), names(120), TITLE)
        assert len(figure.axes[0].images) == 101
        assert (title_of(figure), "the first 100 of 120 classes" in drawn(figure)) == (TITLE, True)


class TestProbabilities:
    @pytest.fixture
    def evaluation(self):
        rng = np.random.default_rng(0)
        P = rng.dirichlet(np.full(5, 0.4), 3000)
        return Evaluation(0, rng.integers(0, 5, 3000), P.argmax(1), P)

    @pytest.mark.parametrize("width", [4.3, 8.0])
    def test_reliability_has_a_bar_for_each_bin(self, evaluation, width):
        found = evaluation.reliability(bins=10)
        figure = reliability(found, TITLE, width)
        assert "right (%)" in drawn(figure)
        (words,) = figure.axes[0].texts
        figure.canvas.draw()
        above = words.get_window_extent().y0 - figure.axes[0].get_window_extent().y1
        assert above >= 0, "a bar could cover it"
        bars, rows = ([bar.get_height() for bar in axes.patches] for axes in figure.axes)
        assert bars == pytest.approx(np.nan_to_num(found.accuracy))
        assert sum(rows) == pytest.approx(100)
        assert bars[0] == 0
        assert max(bars) > 0.1

    @pytest.mark.parametrize("width", [4.3, 8.0])
    def test_histogram_sets_right_answers_apart(self, evaluation, width):
        figure = probability_histogram(evaluation, "", width, bins=20)
        right = evaluation.predictions == evaluation.labels
        words = drawn(figure)
        assert f"answered rightly: {right.sum():,}" in words
        assert f"answered wrongly: {(~right).sum():,}" in words
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        expected = np.zeros((2, 20))
        for kind, p in zip(right, evaluation.true_class_probabilities, strict=True):
            expected[0 if kind else 1, min(int(p * 20), 19)] += 1
        assert heights == expected.ravel().tolist()

    def test_rows_count_by_their_weights(self, evaluation):
        w = np.random.default_rng(1).integers(0, 4, 3000)
        weighted = replace(evaluation, weights=w.astype(float))
        fields = ("labels", "predictions", "probabilities")
        repeated = replace(evaluation, **{name: getattr(evaluation, name).repeat(w, axis=0) for name in fields})
        for draw in (
            lambda e: reliability(e.reliability(10), TITLE),
            lambda e: probability_histogram(e, TITLE, bins=20),
            lambda e: confusion(e.confusion, names(5), TITLE),
        ):
            ours, theirs, plain = (draw(e) for e in (weighted, repeated, evaluation))
            heights = [[bar.get_height() for axes in figure.axes for bar in axes.patches] for figure in (ours, theirs)]
            assert heights[0] == pytest.approx(heights[1], rel=1e-12)
            words = [
                [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]
                for figure in (ours, theirs, plain)
            ]
            words[0] = [word.removesuffix(".0").replace(".0)", ")") for word in words[0]]  # 12.0 rows
            assert words[0] == words[1]
            assert len(heights[0]) > 10 or words[1] != words[2]
