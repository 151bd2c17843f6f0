"""The contributions of patch features: against loops over filters and positions, sums to the last bits, and twins."""

from dataclasses import replace

import numpy as np
import pytest
from drawings import drawn as words_of
from patched import drawn, images, model_of, responses, run_of

import onelayer.features.attribution
from onelayer import explain
from onelayer.analysis.explanation import CAVEAT
from onelayer.errors import DataError
from onelayer.features.attribution import by_position
from onelayer.features.pooling import Pool
from onelayer.pictures.explanation import explanation

SHAPES = [(3, 32, 32), (1, 24, 24), (3, 24, 40), (1, 8, 8), (3, 9, 17), (2, 3, 12)]


def thirds(length):
    """The windows along a side: first and last position."""
    count = min(3, length)
    stride = length // count
    return [(i * stride, i * stride + length - (count - 1) * stride) for i in range(count)]


def spelled_out(patches, image, V, mean):
    """Amounts of pixels (t, c, h, w) and windows (t, down, across): one feature and one position after another."""
    c, h, w = patches.image_shape
    shift = round(min(h, w) / 16) if patches.views == 5 else 0
    moves = [(0, 0), (-shift, -shift), (-shift, shift), (shift, -shift), (shift, shift)][: patches.views]
    codes = patches.transform(image.reshape(1, -1)).astype(float)
    pixels, windows, feature = np.zeros((V.shape[1], c, h, w)), {}, 0
    for bank in patches.banks:
        k, z = bank.filters.shape[2], responses(bank, image)
        filters = len(bank.filters) // (2 if patches.mirrored else 1)
        down, across = thirds(len(z) - 2 * shift), thirds(z.shape[1] - 2 * shift)
        for row, column, side, one in np.ndindex(len(down), len(across), 2, filters):
            for view, (a, b) in enumerate(moves):
                places = []  # window, position, activation
                for twin in range(2 if patches.mirrored else 1):
                    seen = len(across) - 1 - column if twin else column
                    for y in range(shift + a + down[row][0], shift + a + down[row][1]):
                        for x in range(shift + b + across[seen][0], shift + b + across[seen][1]):
                            u = max((1 - 2 * side) * z[y, x, twin * filters + one] - 0.5, 0)
                            places.append(((row, seen), y, x, u))
                total = sum(u for *_, u in places)
                for window, y, x, u in places:
                    share = u / total if total else 1 / len(places)
                    amount = (codes[view, feature] * share - mean[feature] / len(places)) * V[feature] / len(moves)
                    windows[window] = windows.get(window, 0) + amount
                    pixels[:, :, y : y + k, x : x + k] += amount[:, None, None, None] / (c * k * k)
            feature += 1
    assert feature == patches.d_out
    table = [[windows[row, column] for column in range(len(across))] for row in range(len(down))]
    return pixels, np.array(table).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_amounts_are_those_of_loops(shape, monkeypatch):
    patches = drawn(shape, filters=2)
    model, image = model_of(patches), images(shape, 1, seed=5)[0]
    classes = explain(model, image.ravel(), top=4).classes
    V = (model.layer.weights / model.standardizer.scale[:, None])[:, classes]
    pixels, windows = spelled_out(patches, image, V, model.standardizer.mean)
    assert abs(pixels).max() > 1e-3
    for at_once in (2**22, 1):
        monkeypatch.setattr(onelayer.features.attribution, "MOST_RESPONSES", at_once)
        found = explain(model, image.ravel(), top=4)
        assert windows.shape == found.windows.shape
        for amounts, expected in ((found.contributions, pixels.reshape(4, -1)), (found.windows, windows)):
            np.testing.assert_allclose(amounts, expected, atol=2e-6 * abs(expected).max())  # activations are float32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("views", [1, 5])
def test_sums_are_the_logits(shape, views):
    model = model_of(drawn(shape, views=views))
    assert model.features.views == (views if min(shape[1:]) > 8 else 1)
    for image in (*images(shape, 3, seed=5), np.full(shape, 7, np.uint8), np.zeros(shape, np.uint8)):
        found = explain(model, image.ravel(), top=4)
        logits = model.logits(image.reshape(1, -1))[0, found.classes]
        assert abs(logits - found.bias).max() > 0.1
        for amounts in (found.contributions, found.windows.reshape(4, -1)):
            size = abs(amounts).sum(axis=1).max()
            np.testing.assert_allclose(amounts.sum(axis=1) + found.bias, logits, rtol=0, atol=1e-14 * (10 + size))
        np.testing.assert_allclose(found.logits, logits, rtol=0, atol=1e-14 * (10 + size))


def test_a_mirrored_image_has_mirrored_amounts():
    patches = drawn((3, 32, 48))
    assert patches.mirrored
    model, image = model_of(patches), images((3, 32, 48), 1, seed=6)[0]
    found, turned = (explain(model, one.ravel()) for one in (image, image[..., ::-1]))
    assert found.classes.tolist() == turned.classes.tolist()
    pixels, expected = (one.contributions.reshape(3, 3, 32, 48) for one in (turned, found))
    # at most one code in a thousand rounds to the next grey level
    np.testing.assert_allclose(pixels, expected[..., ::-1], atol=0.02 * abs(expected).max())
    assert abs(pixels - expected).max() > 0.5 * abs(expected).max()
    np.testing.assert_allclose(turned.windows, found.windows[..., ::-1], atol=0.02)
    assert abs(turned.windows - found.windows).max() > 0.1


def test_a_plain_image_with_the_average_codes_adds_nothing():
    """The codes are the mean, and all activations are the same: at each position, they cancel."""
    patches = drawn((1, 8, 8))
    image = np.full(64, 9, np.uint8)
    codes = patches.transform(image[None])[0].astype(float)
    found = patches.attribute(np.ones((patches.d_out, 2)), codes, image)
    np.testing.assert_allclose(found.numbers, 0, atol=1e-12)
    np.testing.assert_allclose(found.windows, 0, atol=1e-12)


def test_a_bright_spot_has_the_amounts_of_the_patches_around_it():
    """Without means, a plain image with one bright spot owes all to the patches over the spot."""
    patches = drawn((1, 24, 24))
    quiet = replace(patches, banks=tuple(replace(bank, bias=np.zeros_like(bank.bias)) for bank in patches.banks))
    image = np.full((1, 24, 24), 90, np.uint8)
    image[0, 17, 5] = 250
    found = quiet.attribute(np.ones((quiet.d_out, 1)), np.zeros(quiet.d_out), image.ravel())
    amounts = found.numbers.reshape(24, 24)
    assert amounts[17, 5] == amounts.max() > 0
    near = np.zeros((24, 24), bool)
    near[17 - 5 : 17 + 6, 0 : 5 + 6] = True  # that share a patch of 6 x 6 with it
    assert (amounts[~near] == 0).all()
    assert found.windows[0, 2, 0] > 0.3 * found.windows.sum()
    assert found.windows[0, 0].max() == 0


def test_codes_without_activations_are_divided_evenly():
    """Codes of another instruction set may not be zero where NumPy sees no activation."""
    patches = drawn((1, 8, 8))
    (bank,) = patches.banks
    silent = Pool(replace(bank, bias=np.zeros_like(bank.bias)), patches.image_shape, patches.mirrored, 1)
    codes = np.full((silent.features, 1), 2.0)
    V = np.random.default_rng(0).normal(size=(silent.features, 3))
    positions, windows = by_position(silent, np.full((1, 8, 8), 50, np.uint8), codes, V, np.zeros(silent.features))
    np.testing.assert_allclose(positions.sum(axis=(0, 1)), 2 * V.sum(axis=0))
    np.testing.assert_allclose(windows, 2 * V.reshape(3, 3, -1, 3).sum(axis=2))
    np.testing.assert_allclose(positions[0, 0], windows[0, 0] / 4)  # a window of 2 x 2 positions that overlaps none


def test_rows_that_are_not_pixels_are_refused():
    patches = drawn((1, 8, 8))
    with pytest.raises(DataError, match="whole numbers from 0 to 255"):
        patches.attribute(np.ones((patches.d_out, 1)), np.zeros(patches.d_out), np.full(64, 0.5))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 24), (1, 8, 8), (3, 9, 17), (3, 24, 40)], ids=str)
@pytest.mark.parametrize("t", [1, 4])
def test_the_picture_shows_windows_and_pixels(shape, t):
    model, image = model_of(drawn(shape)), images(shape, 1, seed=8)[0]
    found = explain(model, image.ravel(), top=t)
    figure = explanation(image, found, [model.class_names[k] for k in found.classes], "why")
    words = "\n".join(words_of(figure))
    assert CAVEAT in words.replace("This", "this")
    for amounts in found.windows:
        for amount in amounts.ravel():
            assert f"{amount:+z.2f}" in words
    maps = figure.axes[0].images[2:]  # after the image, in colours and in grey
    assert len(maps) == 2 * t
    assert maps[0].get_array().shape == (*found.windows.shape[1:], 3)
    assert maps[1].get_array().shape == (*shape[1:], 3)
    sums = found.contributions[0].reshape(shape).sum(axis=0)
    orange, violet = (np.unravel_index(place, sums.shape) for place in (sums.argmax(), sums.argmin()))
    colours = np.asarray(maps[1].get_array())
    assert colours[orange][0] > colours[orange][2]
    assert colours[violet][0] < colours[violet][2]


def test_the_command_prints_windows(run_cli, tmp_path):
    from PIL import Image

    _, _, splits, result = run_of(tmp_path / "run", (1, 9, 9))
    row = splits.test.rows(slice(0, 1))[0]
    Image.fromarray(row.reshape(9, 9)).save(tmp_path / "image.png")
    code, out, err = run_cli("explain", "run", "image.png", "-o", "why.png")
    assert (code, err) == (0, "")
    found = explain(result.model, row)
    assert CAVEAT in out
    names = [result.model.class_names[k] for k in found.classes]
    assert out.splitlines()[6].split() == ["window", *names]
    left = next(line for line in out.splitlines() if line.startswith("middle left"))
    assert left.split()[2:] == [f"{amount:+z.4f}" for amount in found.windows[:, 1, 0]]
    assert (tmp_path / "why.png").exists()
