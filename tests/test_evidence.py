"""Patches that speak for and against classes: against loops, and in pictures, runs, notebooks and reports."""

import re
from dataclasses import replace

import numpy as np
import pytest
from drawings import drawn as words_of
from patched import CLASSES, drawn, model_of, run_of, splits_of

import onelayer.analysis.evidence
from onelayer.analysis.evidence import MOST_WITH_PATCHES, evidence
from onelayer.analysis.templates import stretched
from onelayer.pictures.colours import SIGNED
from onelayer.pictures.finished import draw_run
from onelayer.pictures.patches import speaking_patches
from onelayer.report.html import render
from onelayer.report.subject import read_subject
from onelayer.runs.directory import PICTURES
from onelayer.runs.plan import Plan


def model_for(patches, classes=CLASSES):
    model, K = model_of(patches), len(classes)
    W = np.random.default_rng(4).normal(0, 0.05, (patches.d_out, K))
    return replace(model, layer=replace(model.layer, weights=W, bias=np.zeros(K)), class_names=classes)


def features_of(patches):
    """Each feature as bank, sign, filter, window down and across, in the order that `Patches.transform` says."""
    for bank, one in enumerate(patches.banks):
        filters = len(one.filters) // (2 if patches.mirrored else 1)
        for y in range(3):
            for x in range(3):
                yield from ((bank, sign, number, y, x) for sign in (0, 1) for number in range(filters))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 40), (1, 9, 9)], ids=str)
def test_filters_are_those_with_the_largest_weights(shape):
    patches = drawn(shape)
    W = model_for(patches).layer.weights
    features = list(features_of(patches))
    assert len(features) == patches.d_out
    for column, sides in zip(W.T, evidence(patches, W, None, 4), strict=True):
        for sign, side in zip((1, -1), sides, strict=True):
            best = {}
            for weight, feature in sorted(zip(sign * column, features, strict=True), reverse=True):
                best.setdefault(feature[:3], (sign * weight, feature))
            expected = list(best.values())[:4]
            assert [(one.weight, tuple(one.place)) for one in side] == expected
            for one, (_, (bank, below, number, *_)) in zip(side, expected, strict=True):
                np.testing.assert_array_equal(one.filter, (-1) ** below * patches.banks[bank].filters[number])
                of_filter = [w for w, feature in zip(column, features, strict=True) if feature[:3] == one.place[:3]]
                np.testing.assert_array_equal(one.weights.ravel(), of_filter)
                assert one.example is None


@pytest.mark.parametrize(("shape", "limit"), [((3, 32, 32), "images"), ((1, 24, 40), "numbers")], ids=str)
def test_examples_are_the_patches_that_excite_filters_most(shape, limit, monkeypatch):
    monkeypatch.setattr(onelayer.analysis.evidence, f"MOST_{limit.upper()}", 10 if limit == "images" else 10 * 24 * 40)
    patches, train_rows = drawn(shape), splits_of(shape).train
    found = evidence(patches, model_for(patches).layer.weights, train_rows, 2)
    step = -(-len(train_rows) // 10)
    assert step > 1
    places = np.arange(0, len(train_rows), step)
    for one in (one for sides in found for side in sides for one in side):
        bank, below, number, y, x = one.place
        A, b = patches.banks[bank].filters[number].astype(float), patches.banks[bank].bias[number]
        k = A.shape[1]
        shift = round(min(shape[1:]) / 16)
        spans = []
        for length, window in zip(shape[1:], (y, x), strict=True):
            inside = length - k + 1 - 2 * shift
            stride = inside // 3
            spans.append(range(shift + window * stride, shift + window * stride + inside - 2 * stride))
        best, expected = -np.inf, None
        for place in places:
            image = train_rows.rows(np.array([place])).reshape(shape)
            for row in spans[0]:
                for column in spans[1]:
                    patch = image[:, row : row + k, column : column + k].astype(float)
                    z = (-1) ** below * ((A * patch).sum() / np.sqrt(patch.var() + 10) + b)
                    if z > best:
                        best, expected = z, (place, row, column)
        place, row, column = expected
        assert (one.example.row, one.example.column) == (row, column)
        assert one.example.label == train_rows.labels[place]
        np.testing.assert_array_equal(one.example.image, train_rows.rows(np.array([place])).reshape(shape))


def test_weights_of_zero_speak_for_nothing():
    patches = drawn((1, 9, 9))
    W = np.zeros((patches.d_out, 2))
    W[5, 0] = 0.5
    ((only,), none), nothing = evidence(patches, W, None, 3)
    assert (only.weight, none, nothing) == (0.5, [], ([], []))
    model = model_for(patches, ("a", "b"))
    assert "+0.500" in words_of(speaking_patches(model, W, None, "title"))
    assert "speak against it" in words_of(speaking_patches(model, 0 * W, None, "title"))


def test_a_plain_patch_is_grey_and_not_black():
    np.testing.assert_array_equal(stretched(np.full((4, 4), 9, np.uint8)), 0.5)


class TestPicture:
    @pytest.mark.parametrize(("shape", "K"), [((3, 32, 32), 3), ((1, 24, 40), 2), ((1, 9, 9), 30)])
    @pytest.mark.parametrize("real", [True, False])
    def test_it_shows_patches_images_and_weights(self, shape, K, real):
        classes = tuple(f"{k}: a class with a long name, which must not lie on another" for k in range(K))
        patches, rows = drawn(shape), splits_of(shape, 3 * K + 20, classes).train
        model = model_for(patches, classes)
        figure = speaking_patches(model, model.layer.weights, rows if real else None, "Patches\nsettings")
        shown = min(K, MOST_WITH_PATCHES)
        parts = 3 if real else 2
        pictures = figure.axes[0].images
        assert len(pictures) == parts * 6 * shown
        words = " ".join(words_of(figure)).replace("\n", " ")
        assert "A model on patches has no templates" in words
        assert ("no training images are at hand" in words) != real
        assert ("patches of training images that excite them" in words) == real
        assert (f"the first {shown} of {K:,} classes" in words) == (shown < K)
        assert ("mirror image" in words) == patches.mirrored
        first = evidence(patches, model.layer.weights[:, :1], rows if real else None, 3)[0][0][0]
        weights = pictures[parts - 1]
        np.testing.assert_array_equal(weights.get_array(), first.weights)
        assert weights.cmap is SIGNED
        assert weights.get_clim()[0] == -weights.get_clim()[1] < 0
        if real:
            k, example = first.filter.shape[1], first.example
            patch = example.image[:, example.row : example.row + k, example.column : example.column + k]
            patch = patch.transpose(1, 2, 0) if len(patch) == 3 else patch[0]
            np.testing.assert_allclose(pictures[0].get_array(), (patch - patch.min()) / float(np.ptp(patch)))
            image = example.image.transpose(1, 2, 0) if len(example.image) == 3 else example.image[0]
            np.testing.assert_allclose(pictures[1].get_array(), image / 255)

    def test_small_weights_have_whole_numbers(self):
        model = model_for(drawn((1, 9, 9)))
        words = words_of(speaking_patches(model, 1e-3 * model.layer.weights, None, "Patches"))
        assert any(re.fullmatch(r"-0\.000\d\d", word) for word in words)

    def test_the_frames_are_around_the_patch_and_the_window(self):
        patches, rows = drawn((1, 24, 40)), splits_of((1, 24, 40)).train
        model = model_for(patches)
        figure = speaking_patches(model, model.layer.weights, rows, "Patches")
        first = evidence(patches, model.layer.weights, rows, 1)[0][0][0]
        _, _, frames = figure.axes[0].collections[-3:]
        of_patch, of_window = (path.get_extents() for path in frames.get_paths()[:2])
        _, image, weights = figure.axes[0].images[:3]
        left, right, _, top = image.get_extent()
        pixel = (right - left) / 40
        near = {"atol": 0.011}
        np.testing.assert_allclose(of_patch.x0, left + first.example.column * pixel, **near)
        np.testing.assert_allclose(of_patch.y0, top + first.example.row * pixel, **near)
        np.testing.assert_allclose(of_patch.width, first.filter.shape[1] * pixel, atol=0.021)
        left, right, bottom, top = weights.get_extent()
        np.testing.assert_allclose(of_window.x0, left + first.place.x * (right - left) / 3, **near)
        np.testing.assert_allclose(of_window.y0, top + first.place.y * (bottom - top) / 3, **near)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("patches") / "run", (3, 16, 16))


def test_a_finished_run_has_the_picture_and_no_other_of_its_weights(finished):
    run, plan, splits, result = finished
    draw_run(run, plan, result.state.history, result.model, splits, lambda *_: None)
    names = {file.stem for file in run.path.glob("*.png")}
    assert names == set(PICTURES) - {"templates", "templates_signed", "weights"}


def test_learnt_weights_are_drawn(finished):
    run, _, _, result = finished
    found = evidence(result.model.features, result.learnt, None, 1)[0][0][0]
    drawn_by_run = run.plot_templates().images[1]
    np.testing.assert_array_equal(drawn_by_run.get_array(), found.weights)
    alone = evidence(result.model.features, result.model.layer.weights, None, 1)[0][0][0]
    np.testing.assert_array_equal(result.model.plot_templates().images[1].get_array(), alone.weights)
    assert (alone.weights != found.weights).all()


def test_a_run_shows_real_patches_if_its_data_are_at_hand(finished, monkeypatch):
    run, _, splits, _ = finished
    assert len(run.plot_templates().images) == 2 * 18  # without, and no error
    monkeypatch.setattr(Plan, "load_splits", lambda *_: splits)
    assert len(run.plot_templates().images) == 3 * 18


def test_a_notebook_shows_filters(finished):
    for result in finished[0], finished[3], finished[3].model:
        assert "<img" in result._repr_html_()


def test_patches_are_drawn_into_the_axes_that_are_given(finished):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 5)).add_subplot()
    assert finished[3].plot_templates(axes) is axes
    assert axes.get_title() == "Patches that speak for and against each class"
    left, right = axes.get_xlim()
    assert all(left <= end <= right for image in axes.images for end in image.get_extent()[:2])


def test_a_report_shows_patches_and_no_templates(finished, monkeypatch):
    monkeypatch.setattr("onelayer.report.html.gradients", lambda dataset: {"reason": "not checked here"})
    run, _, splits, result = finished
    page = render(read_subject([run.path]), lambda plan: splits)
    sections = re.findall('<section aria-labelledby="([a-z]+)">', page)
    assert "patches" in sections
    assert not {"templates", "learnt", "formed", "weights"} & set(sections)
    part = page[page.index('<section aria-labelledby="patches">') : page.index('<section aria-labelledby="confusion">')]
    assert part.count("<figure>") == 3 * 6
    assert part.count("<img ") == 3 * 3 * 6
    assert "A model on patches has no templates." in part
    assert "<h3>&lt;b&gt;eel&lt;/b&gt;</h3>" in part
    assert "<b>eel" not in page
    found = evidence(result.model.features, result.learnt, splits.train, 3)[0][0][0]
    figure = part[part.index("<figure>") : part.index("</figure>")]
    frames = [
        [float(number) for number in re.findall(r": ([\d.]+)%", style)] for style in re.findall("<i style=.*?>", figure)
    ]
    k = found.filter.shape[1]
    expected = np.array([found.example.column, found.example.row, k, k]) * 100 / 16
    np.testing.assert_allclose(frames[0], expected, atol=0.006)
    np.testing.assert_allclose(frames[1], np.array([found.place.x, found.place.y, 1, 1]) * 100 / 3, atol=0.006)
    caption = re.search("<figcaption>(.*?)</figcaption>", figure)[1]
    assert caption.startswith(f"{found.weight:+.3f}"[:5])
    assert splits.dataset.class_names[found.example.label].replace("<", "&lt;").replace(">", "&gt;") in caption
