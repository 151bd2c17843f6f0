"""Helpers for tests of pictures: names, histories and weights to draw, and a check of the words on a page."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from onelayer.analysis.explanation import Explanation
from onelayer.features.standardizer import Standardizer

TITLE = "CIFAR-10, softmax, learning rate 0.001, l2 0.1, batch 100, 40 epochs, seed 42"
LONG = "Cardigan Welsh corgi and other aquarium_fish"
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 4, 5)  # channels, height and width all differ, so that no mixed-up axis goes unseen


def names(K):
    return [LONG if k % 7 == 3 else f"{k} $\\no$" for k in range(K)]  # not a formula: parsing it would fail


def history(epochs, l2=True):
    """The columns of a history, with the lowest validation loss after epoch 5."""
    e = np.arange(1, epochs + 1)
    loss, validation = 1.6 + 0.4 / e, 1.7 + 0.3 / e + 0.01 * e
    return {
        "epoch": e,
        "train_loss": loss,
        "train_cost": loss + 0.1 * l2,
        "train_accuracy": 0.5 - 0.2 / e,
        "validation_loss": validation,
        "validation_cost": validation + 0.2 * l2,
        "validation_accuracy": 0.4 - 0.2 / e,
    }


def weights(K, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal((int(np.prod(shape)), K)).astype(np.float32)


def scaled(scale, constant=None):
    """A standardizer with this scale, which knows the constant features or, as in older files, does not."""
    scale = np.asarray(scale, float)
    return Standardizer(np.zeros(len(scale)), scale, constant)


def drawn(figure):
    """Check that all text is on the page as Agg draws it and none on other text, and return the words.

    All is laid out, but no pixel is painted, which would take as long again; `pixels` paints.
    """
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    off = _labels_off_axis(figure)
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in off]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]
    for word, box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, f"{word!r} is cut off"
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, f"{word!r} is cut off"
    low, high = (np.array([getattr(box, corner) for _, box in boxes]).reshape(-1, 2) for corner in ("min", "max"))
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # width and height common to two of them
    on = np.argwhere(np.triu(shared.min(axis=2) > 1, 1))
    assert not len(on), [f"{boxes[i][0]!r} lies on {boxes[j][0]!r}" for i, j in on]
    return [word for word, _ in boxes]


def _labels_off_axis(figure):
    """Labels that matplotlib keeps for ticks beyond the ends of an axis, and of invisible axes: none is drawn."""
    off = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            off |= {axis.label} if not axes.axison else set()
            low, high = sorted(axis.get_view_interval())
            near = 1e-6 * (high - low)
            for tick in axis.get_major_ticks():
                shown = axes.axison and low - near <= tick.get_loc() <= high + near
                off |= {label for label in (tick.label1, tick.label2) if not (shown and label.get_visible())}
    return off


def title_of(figure):
    return figure.get_suptitle().replace("\n", " ")


def pixels(figure, image):
    """Return the pixels that Agg painted over an image of a mosaic, (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left, right, bottom, top = (round(inches * figure.dpi) for inches in image.get_extent())
    return np.asarray(canvas.buffer_rgba())[top:bottom, left:right, :3]


def explained(t, shape, seed=0):
    rng = np.random.default_rng(seed)
    contributions, bias = rng.normal(0, 0.1, (t, int(np.prod(shape)))), rng.normal(0, 1, t)
    return Explanation(np.arange(t), np.linspace(0.5, 0.01, t), contributions, bias, contributions.sum(1) + bias)
