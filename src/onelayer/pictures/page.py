"""The page that a picture is drawn on: its title, the places of things in inches, and text that is made to fit."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

INK, QUIET, RULE = "#222222", "#666666", "#d4d4d4"
MOST_TEMPLATES = 100  # classes
WIDTH, MARGIN, GAP, DPI = 8.0, 0.15, 0.08, 150  # inches, and dots in one
TITLE, LABEL, SMALL, TINY = 13, 9, 8, 5  # points
FONTS = ("font.family", "font.sans-serif", "font.serif", "font.monospace")  # stay the user's, for names in Chinese
LINE = 1.3 / 72  # inches of a line of text, per point of its size


_new_figure: ContextVar[Callable[..., Figure]] = ContextVar("new_figure", default=Figure)


@contextmanager
def on_pages_of(new_figure: Callable[..., Figure]) -> Iterator[None]:
    """Draw pictures on figures that this function makes, such as those of pyplot."""
    token = _new_figure.set(new_figure)
    try:
        yield
    finally:
        _new_figure.reset(token)


def ignore_styles() -> None:
    """Let this process draw by matplotlib's own settings, with the user's fonts. The commands do so.

    A matplotlibrc, which may lie in the working directory, is meant for other pictures and can ask for LaTeX.
    """
    styles: Any = mpl.rcParams  # whose names are literals for type checkers
    fonts = {name: styles[name] for name in FONTS}
    mpl.rcdefaults()
    styles.update(fonts)


def mosaic(
    stacks: Sequence[Sequence[np.ndarray]] | np.ndarray,
    captions: Sequence[str],
    title: str,
    columns: int,
    width: float = WIDTH,
    sides: Sequence[str] = (),
    below: float = 0,
    into: Axes | None = None,
    **style: Any,
) -> tuple[Figure, Axes, list[AxesImage]]:
    """Draw stacks of pictures (h, w) or (h, w, 3), each stack under its caption, side by side and row by row.

    All are in one Axes, whose unit is the inch: an Axes for each would be slow. `sides` names the pictures of a stack,
    beside the first stack of each row. With `into`, they are drawn into these axes instead of on a page.
    """
    if into is not None:
        width = into.get_window_extent().width / page_of(into).dpi
    h, w = stacks[0][0].shape[:2]
    left = 0.2 if sides else 0.0
    tile = min((width - 2 * MARGIN - left - (columns - 1) * GAP) / columns, 2)
    tall = tile * float(np.clip(h / w, 0.25, 4))
    size = LABEL if tile > 1 else SMALL
    words = [fitted(caption, tile, size, lines=2) for caption in captions[: len(stacks)]]
    head = max(word.count("\n") + 1 for word in words) * size * LINE + 0.03
    block = head + len(stacks[0]) * (tall + GAP / 2) + GAP
    needed = -(-len(stacks) // columns) * block
    if into is None:
        figure, top = new_page(title, needed + below, width)
        height = figure.get_figheight()
        axes = place_axes(figure, 0, 0, width, height)
    else:
        figure, axes, top, height = page_of(into), into, 0.0, needed
        axes.set_title(title.partition("\n")[0], size=LABEL, color=INK, parse_math=False)
    axes.set_axis_off()
    images = []
    for place, (stack, word) in enumerate(zip(stacks, words, strict=True)):
        x, y = MARGIN + left + place % columns * (tile + GAP), top + place // columns * block + head
        lines = word.split("\n")
        for below_it, line in zip(range(len(lines))[::-1], lines, strict=True):  # alone: letters below it shift others
            axes.text(x, y - 0.07 - below_it * size * LINE, line, size=size, color=INK, va="baseline", parse_math=False)
        for k, picture in enumerate(stack):
            y0 = y + k * (tall + GAP / 2)
            extent = (x, x + tile, y0 + tall, y0)
            images.append(axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", **style))
            if sides and place % columns == 0:
                side: dict[str, Any] = {"va": "center", "rotation": 90 if len(sides[k]) > 1 else 0}
                axes.text(x - GAP, y0 + tall / 2, sides[k], size=size, color=INK, ha="right", **side)
    corners = [(image.get_extent()[0], image.get_extent()[3]) for image in images]
    axes.add_collection(outlines((Rectangle(corner, tile, tall) for corner in corners), RULE, 0.5))
    axes.set(xlim=(0, width), ylim=(height, 0))
    if into is not None:
        axes.set(aspect="equal", anchor="N")
    return figure, axes, images


def new_page(title: str, below: float, width: float = WIDTH) -> tuple[Figure, float]:
    """Return a figure with a title and `below` inches for the rest, and the distance of the rest from the top.

    The first line of the title is large; the lines after it, such as the settings, are small.
    """
    first, _, rest = title.partition("\n")
    head = fitted(first, width - 2 * MARGIN, TITLE, lines=9)
    small = fitted(rest, width - 2 * MARGIN, SMALL, lines=9)
    under = MARGIN + (head.count("\n") + 1) * TITLE * LINE if title else MARGIN
    top = under + ((small.count("\n") + 1) * SMALL * LINE if rest else 0) + (GAP if title else 0)
    height = top + below + MARGIN / 2
    figure = _new_figure.get()(figsize=(width, height), dpi=DPI, facecolor="white")
    style: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False}
    figure.suptitle(head, x=MARGIN / width, y=1 - MARGIN / height, size=TITLE, color=INK, **style)
    figure.text(MARGIN / width, 1 - under / height, small, size=SMALL, color=QUIET, **style)
    return figure, top


def place_axes(figure: Figure, left: float, top: float, width: float, height: float, share: Axes | None = None) -> Axes:
    """Return new axes, placed in inches from the upper left; a layout engine would take longer than the drawing."""
    W, H = figure.get_size_inches()
    place = (left / W, 1 - (top + height) / H, width / W, height / H)
    return figure.add_axes(place, facecolor="white", sharex=share, sharey=share)


def page_of(axes: Axes) -> Figure:
    """Return the figure of axes, which may be in a part of it."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes are in no figure; pass axes that are in one")
    return figure


def outlines(patches: Iterable[Rectangle], colour: str, linewidth: float) -> PatchCollection:
    """Return rectangles without a filling."""
    return PatchCollection(list(patches), facecolor="none", edgecolor=colour, linewidth=linewidth)


def fitted(text: str, width: float, size: float, lines: int) -> str:
    """Return the text, each line broken into at most `lines` lines of `width` inches; an ellipsis replaces the rest.

    The lines that one is broken into are about equally long, so that no word stands alone.
    """
    text = legible(text)
    if "\n" in text:
        return "\n".join(fitted(line, width, size, lines) for line in text.split("\n"))
    natural = text_length(text, size)
    if natural <= width:
        return text
    chars = int(1.2 * len(text) * width / natural)
    while chars > 1:
        rows = textwrap.wrap(text, chars, break_on_hyphens=False)
        cut = len(rows) > lines
        if cut:
            rows = [*rows[: lines - 1], rows[lines - 1][: chars - 1].rstrip() + "…"]
        widest = max(text_length(row, size) for row in rows)
        if widest <= width:
            return "\n".join(rows if cut else _balanced(rows))
        chars = min(chars - 1, int(1.05 * chars * width / widest))
    return "…"


def _balanced(rows: list[str]) -> list[str]:
    """Return as many rows of the same words, the longest as short as it can be."""
    while len(rows) > 1:
        chars = max(map(len, rows)) - 1
        shorter = textwrap.wrap(" ".join(rows), chars, break_long_words=False, break_on_hyphens=False)
        if len(shorter) > len(rows) or max(map(len, shorter)) > chars:
            break
        rows = shorter
    return rows


def legible(text: str) -> str:
    """Return the text with a question mark for every letter that the font does not have."""
    return "".join(letter if letter == "\n" or ord(letter) in _letters() else "?" for letter in text)


def _font() -> FT2Font:
    return get_font(findfont(FontProperties()))


@cache
def _letters() -> frozenset[int]:
    """Return the code points of the letters that the font has."""
    return frozenset(_font().get_charmap())


def text_length(text: str, size: float) -> float:
    """Return the length of a line of text of `size` points in inches, without the kerning.

    The lengths of the letters are added, since matplotlib takes a millisecond to lay out a text.
    """
    return size / 72 * sum(map(_advance, text))


@cache
def _advance(letter: str) -> float:
    """Return the length of a letter in units of the font's size."""
    font = _font()
    font.set_size(1000, 72)
    return font.load_char(ord(letter), LoadFlags.NO_HINTING).linearHoriAdvance / 65536 / 1000


def plain_axes(axes: Axes) -> None:
    """Give axes small labels, horizontal grid lines and no frame."""
    axes.tick_params(labelsize=LABEL, color=RULE, labelcolor=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)


def signed_bar(figure: Figure, image: AxesImage, unit: str, notes: list[str], extend: str) -> None:
    """Draw the meaning of the colours of signed pictures at the foot of the page."""
    height = figure.get_figheight()
    bar = place_axes(figure, 0.3, height - 0.6, 4.3, 0.11)  # with room for the first tick
    figure.colorbar(image, cax=bar, orientation="horizontal", extend=extend)
    limit = image.get_clim()[1]
    ticks = np.linspace(-limit, limit, 5)
    bar.set_xticks(ticks, [f"{tick:+.3g}" if tick else "0" for tick in ticks], size=SMALL, color=INK)
    bar.set_xlabel(unit, size=SMALL, color=INK)
    bar.tick_params(length=2, color=QUIET)
    figure.text(5.0 / figure.get_figwidth(), 0.6 / height, "\n".join(notes), size=SMALL, color=QUIET, va="top")


def capped(title: str, K: int, most: int = MOST_TEMPLATES) -> str:
    """Return a title that says so where only the first `most` of K classes are drawn."""
    return title if most >= K else f"{title}\nthe first {most} of {K:,} classes"
