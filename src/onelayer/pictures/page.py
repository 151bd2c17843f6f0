"""The page that a picture is drawn on: its title, the places of things in inches, and text that is made to fit."""

import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

INK, QUIET, RULE = "#222222", "#666666", "#d4d4d4"
WIDTH, MARGIN, GAP, DPI = 8.0, 0.15, 0.08, 150  # inches, and dots in one
TITLE, LABEL, SMALL, TINY = 11, 9, 8, 5  # points
FONTS = ("font.family", "font.sans-serif", "font.serif", "font.monospace")  # the user's, as for names in Chinese
LINE = 1.3 / 72  # inches of a line of text, per point of its size


def ignore_styles() -> None:
    """Let this process draw by matplotlib's own settings, with the user's fonts: for the commands.

    A matplotlibrc, which may lie in the working directory, is meant for other pictures, and can ask for LaTeX.
    """
    fonts = {name: value for name, value in mpl.rcParams.items() if name in FONTS}
    mpl.rcdefaults()
    mpl.rcParams.update(fonts)


def mosaic(
    stacks: Sequence[Sequence[np.ndarray]] | np.ndarray,
    captions: Sequence[str],
    title: str,
    columns: int,
    width: float = WIDTH,
    left: float = 0,
    below: float = 0,
    **style: Any,
) -> tuple[Figure, Axes, list[AxesImage]]:
    """Stacks of pictures (h, w) or (h, w, 3), each stack under its caption, side by side and row by row.

    All are in one Axes whose unit is the inch: an Axes for each would be slow.
    """
    h, w = stacks[0][0].shape[:2]
    tile = min((width - 2 * MARGIN - left - (columns - 1) * GAP) / columns, 2)
    tall = tile * float(np.clip(h / w, 0.25, 4))
    size = LABEL if tile > 1 else SMALL
    words = [fitted(caption, tile, size, lines=2) for caption in captions[: len(stacks)]]
    head = max(word.count("\n") + 1 for word in words) * size * LINE + 0.03
    block = head + len(stacks[0]) * (tall + GAP / 2) + GAP
    figure, top = new_page(title, -(-len(stacks) // columns) * block + below, width)
    height = figure.get_figheight()
    axes = place_axes(figure, 0, 0, width, height)
    axes.set_axis_off()
    images = []
    for place, (stack, word) in enumerate(zip(stacks, words, strict=True)):
        x, y = MARGIN + left + place % columns * (tile + GAP), top + place // columns * block + head
        axes.text(x, y - 0.07, word, size=size, color=INK, va="baseline", linespacing=1.2, parse_math=False)
        for k, picture in enumerate(stack):
            y0 = y + k * (tall + GAP / 2)
            extent = (x, x + tile, y0 + tall, y0)
            images.append(axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", **style))
    corners = [(image.get_extent()[0], image.get_extent()[3]) for image in images]
    axes.add_collection(outlines((Rectangle(corner, tile, tall) for corner in corners), RULE, 0.5))
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes, images


def new_page(title: str, below: float, width: float = WIDTH) -> tuple[Figure, float]:
    """A figure with a title, if any, and so many inches for what comes below, and how far down it comes."""
    lines = fitted(title, width - 2 * MARGIN, TITLE, lines=9)
    top = MARGIN + ((lines.count("\n") + 1) * TITLE * LINE + GAP if title else 0)
    height = top + below + MARGIN / 2
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    style: dict[str, Any] = {"size": TITLE, "color": INK, "ha": "left", "va": "top", "parse_math": False}
    figure.suptitle(lines, x=MARGIN / width, y=1 - MARGIN / height, **style)
    return figure, top


def place_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """New axes, placed in inches from the upper left: an engine that lays them out takes longer than the drawing."""
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H), facecolor="white")


def outlines(patches: Iterable[Rectangle], colour: str, linewidth: float) -> PatchCollection:
    return PatchCollection(list(patches), facecolor="none", edgecolor=colour, linewidth=linewidth)


def fitted(text: str, width: float, size: float, lines: int) -> str:
    """The text, each of its lines broken into at most so many of `width` inches, cut with an ellipsis if need be."""
    text = legible(text)
    if "\n" in text:
        return "\n".join(fitted(line, width, size, lines) for line in text.split("\n"))
    font = FontProperties(size=size)
    natural = text_length(text, font)
    if natural <= width:
        return text
    chars = int(1.2 * len(text) * width / natural)
    while chars > 1:
        rows = textwrap.wrap(text, chars, break_on_hyphens=False)
        if len(rows) > lines:
            rows = [*rows[: lines - 1], rows[lines - 1][: chars - 1].rstrip() + "…"]
        widest = max(text_length(row, font) for row in rows)
        if widest <= width:
            return "\n".join(rows)
        chars = min(chars - 1, int(1.05 * chars * width / widest))
    return "…"


def legible(text: str) -> str:
    """The text with a question mark for every letter that the font does not have."""
    return "".join(letter if letter == "\n" or ord(letter) in _letters() else "?" for letter in text)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def text_length(text: str, font: FontProperties) -> float:
    """Inches that a line of text is long."""
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
