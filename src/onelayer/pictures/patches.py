"""The picture of a model on patch features: the patches that speak for and against each class; not templates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from onelayer.analysis.evidence import MOST_IMAGES, MOST_WITH_PATCHES, ON_A_SIDE, Evidence, evidence
from onelayer.analysis.templates import picture, stretched
from onelayer.data.dataset import Split
from onelayer.features.patches import Patches
from onelayer.model import Model
from onelayer.pictures.colours import SIGNED
from onelayer.pictures.page import (
    GAP,
    INK,
    LABEL,
    LINE,
    MARGIN,
    RULE,
    SMALL,
    WIDTH,
    capped,
    fitted,
    new_page,
    outlines,
    page_of,
    place_axes,
    signed_bar,
)
from onelayer.pictures.templates import one_more, signed_number

WIDE, TIGHT, FRAME = 1.25 * WIDTH, 0.03, 0.01  # inches of the page, between parts of a filter, and around a patch
LARGEST = 0.5  # inches of a part
SPEAKING = "Patches that speak for and against each class"
FILTERS = "A model on patches has no templates. These are the filters with the largest weights"
SIDES = (("speak for the class", 0.85), ("speak against it", 0.15))  # and their colours
TEXT: dict[str, Any] = {"va": "baseline", "parse_math": False}


def speaking_patches(
    model: Model, weights: np.ndarray, images: Split | None, title: str, into: Axes | None = None
) -> Figure:
    """Draw the filters that speak for each class on the left, and against it on the right, the strongest first.

    A filter is shown by the patch that excites it most, by the training image with a frame around the patch, and by its
    weights in the windows of the image, on one scale for all classes; a frame marks the window of the patch. Where
    there are no images, the filter itself is drawn, in its own range.

    Parameters
    ----------
    model : Model
        On patch features.
    weights : ndarray (d, K)
        Of the model, or those that were learnt; the first 12 classes are drawn, with 3 filters on a side.
    images : Split or None
        The training images.
    title : str
    into : Axes, optional
        Axes to draw into, instead of a page.
    """
    features = model.features
    assert isinstance(features, Patches)  # noqa: S101, for mypy
    found = evidence(features, weights[:, :MOST_WITH_PATCHES], images, ON_A_SIDE)
    width = WIDE if into is None else into.get_window_extent().width / page_of(into).dpi
    half = width / 2 - MARGIN - 2 * GAP
    each = (half - (ON_A_SIDE - 1) * 2 * GAP) / ON_A_SIDE
    parts = 2 if images is None else 3
    tile = min((each - (parts - 1) * TIGHT) / parts, LARGEST)
    head, block = LABEL * LINE + GAP, (LABEL + SMALL) * LINE + tile + 3 * GAP
    needed = head + len(found) * block
    if into is None:
        first, _, rest = capped(title, len(model.class_names), MOST_WITH_PATCHES).partition("\n")
        by = "." if images is None else ", shown by the patches of training images that excite them."
        figure, top = new_page(f"{first}\n{FILTERS}{by}\n{rest}".rstrip(), needed + 0.85, WIDE)
        height = figure.get_figheight()
        axes = place_axes(figure, 0, 0, WIDE, height)  # their unit is the inch
    else:
        figure, axes, top, height = page_of(into), into, 0.0, needed
        axes.set_title(title.partition("\n")[0], size=LABEL, color=INK, parse_math=False)
    limit = max((abs(one.weight) for sides in found for side in sides for one in side), default=0) or 1.0
    drawing = _Drawing(axes, features.image_shape[1:], tile, float(f"{limit:.2g}"))
    lefts = [MARGIN, width / 2 + 2 * GAP]
    for left, (words, colour) in zip(lefts, SIDES, strict=True):
        axes.text(left, top + LABEL * LINE, words, size=LABEL, color=SIGNED(colour), weight="bold", **TEXT)
    for number, (sides, name) in enumerate(zip(found, model.class_names, strict=False)):
        y = top + head + number * block
        axes.hlines(y, MARGIN, width - MARGIN, color=RULE, linewidth=0.6)
        axes.text(MARGIN, y + LABEL * LINE, fitted(name, half, LABEL, lines=1), size=LABEL, color=INK, **TEXT)
        for left, side in zip(lefts, sides, strict=True):
            drawing.draw_side(side, left, y + LABEL * LINE + GAP, each, model.class_names)
    drawing.finish(width, height)
    if into is not None:
        axes.set(aspect="equal", anchor="N")
    elif drawing.scales:
        meaning = f"what {one_more(model.standardizer)} adds to the logit"
        signed_bar(figure, drawing.scales[0], meaning, _notes(features, images), extend="neither")
    return figure


def no_picture(model: Model) -> str:
    """Return the reason why a model of images has neither templates nor patches to show; nothing for other rows."""
    if model.image_shape is None:
        return ""
    name = model.features.name
    return f"The features {name} are neither linear in the pixels nor responses to patches, so they have no picture."


def _notes(features: Patches, images: Split | None) -> list[str]:
    notes = ["filters, each in its own range, since no training images are at hand"]
    if images is not None:
        notes = [
            "left: the patch, in its own range, that excites a filter most in the framed window",
            f"middle: the image with the patch, of at most {MOST_IMAGES} training images",
            "right: the weights by window; below: the framed one, and the class of the image",
        ]
    return notes + ["a filter counts for its mirror image too, in the mirrored window"] * features.mirrored


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Filters that are drawn into axes whose unit is the inch.

    Parameters
    ----------
    axes : Axes
    image_size : (h, w)
    tile : float
        Inches of a part of a filter.
    limit : float
        The weight where the colours end.
    """

    axes: Axes
    image_size: tuple[int, ...]
    tile: float
    limit: float
    outlines: list[Rectangle] = field(default_factory=list)
    frames: list[Rectangle] = field(default_factory=list)
    scales: list[AxesImage] = field(default_factory=list)  # pictures of weights

    def draw_side(self, side: list[Evidence], x: float, y: float, each: float, names: Sequence[str]) -> None:
        """Draw filters side by side, each with its weight, and the class of the image with its patch."""
        for one in side:
            self._draw_filter(one, x, y)
            words = signed_number(one.weight, self.limit) + (f", {names[one.example.label]}" if one.example else "")
            words = fitted(words, each, SMALL, lines=1)
            self.axes.text(x, y + self.tile + SMALL * LINE, words, size=SMALL, color=INK, **TEXT)
            x += each + 2 * GAP

    def _draw_filter(self, one: Evidence, x: float, y: float) -> None:
        found, k, step = one.example, one.filter.shape[1], self.tile + TIGHT
        if found is None:
            self._draw_part(stretched(picture(one.filter)), (k, k), x, y)
        else:
            patch = found.image[:, found.row : found.row + k, found.column : found.column + k]
            self._draw_part(stretched(picture(patch)), (k, k), x, y)
            x += step
            frame = (found.column, found.row, k, k)
            self._draw_part(picture(found.image) / 255, self.image_size, x, y, frame)
        down, across = (length / count for length, count in zip(self.image_size, one.weights.shape, strict=True))
        frame = (one.place.x * across, one.place.y * down, across, down)
        style: dict[str, Any] = {"cmap": SIGNED, "vmin": -self.limit, "vmax": self.limit}
        self.scales.append(self._draw_part(one.weights, self.image_size, x + step, y, frame, **style))

    def _draw_part(
        self,
        pixels: np.ndarray,
        size: tuple[int, ...],
        x: float,
        y: float,
        frame: tuple[float, float, float, float] | None = None,
        **style: Any,
    ) -> AxesImage:
        """Draw pixels with the sides of a size (h, w), and a frame in its unit, given by place, width and height."""
        h, w = size
        one = self.tile / max(h, w)
        x, y = x + (self.tile - w * one) / 2, y + (self.tile - h * one) / 2
        style = style or {"cmap": "gray", "vmin": 0, "vmax": 1}
        extent = (x, x + w * one, y + h * one, y)
        image = self.axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto", **style)
        self.outlines.append(Rectangle((x, y), w * one, h * one))
        if frame is not None:
            column, row, wide, tall = (one * length for length in frame)
            corner = x + column - FRAME, y + row - FRAME
            self.frames.append(Rectangle(corner, wide + 2 * FRAME, tall + 2 * FRAME))
        return image

    def finish(self, width: float, height: float) -> None:
        """Draw all outlines, and let the axes show the page."""
        for rectangles, colour, linewidth in (
            (self.outlines, RULE, 0.5),
            (self.frames, "white", 2),
            (self.frames, INK, 1),
        ):
            self.axes.add_collection(outlines(rectangles, colour, linewidth))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0))
